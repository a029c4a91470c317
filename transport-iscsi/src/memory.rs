//! Slices of pool buffers, for the socket and for digests: the only `unsafe` of this crate.
//!
//! A buffer of a command is used by one party at a time: by the socket until the command starts, by the store while it
//! runs, by the socket again when it has ended. Only in the first and the last of these times are there slices.

use lunette_store::{Seg, Sg};
use std::io::{IoSlice, IoSliceMut};

/// The bytes of `seg`.
///
/// # Safety
/// For `'a` the bytes stay mapped and are not written.
pub(crate) unsafe fn bytes<'a>(seg: Seg) -> &'a [u8] {
    // SAFETY: the address is not null, by `Seg::new` the bytes are mapped, and the caller keeps them as they are.
    unsafe { std::slice::from_raw_parts(seg.address(), seg.len()) }
}

/// The bytes of `seg`, to be filled.
///
/// # Safety
/// For `'a` the bytes stay mapped and nobody else reads or writes them.
pub(crate) unsafe fn bytes_mut<'a>(seg: Seg) -> &'a mut [u8] {
    // SAFETY: as above, and the caller is alone with them.
    unsafe { std::slice::from_raw_parts_mut(seg.address(), seg.len()) }
}

/// Fills `to` with the runs of bytes of `sg`, as many as fit; returns how many.
///
/// # Safety
/// As for [`bytes`].
pub(crate) unsafe fn gather<'a>(sg: Sg<'_>, to: &mut [IoSlice<'a>]) -> usize {
    let mut count = 0;
    for (place, seg) in to.iter_mut().zip(sg.iter()) {
        // SAFETY: the caller promises the same for all of them.
        *place = IoSlice::new(unsafe { bytes(seg) });
        count += 1;
    }
    count
}

/// The same for bytes to be filled; `None` if there are more runs than places.
///
/// # Safety
/// As for [`bytes_mut`], and the runs do not overlap.
pub(crate) unsafe fn scatter<'a>(sg: Sg<'_>, to: &mut [IoSliceMut<'a>]) -> Option<usize> {
    let mut count = 0;
    for seg in sg.iter() {
        // SAFETY: the caller promises the same for all of them.
        *to.get_mut(count)? = IoSliceMut::new(unsafe { bytes_mut(seg) });
        count += 1;
    }
    Some(count)
}
