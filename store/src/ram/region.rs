//! The mappings of a memory file that grows.

use super::touched::{CHUNK, Touched};
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

/// Bytes `start..end` of a memory file, whole chunks, and those that follow. What is mapped stays where it is, so nobody has to
/// be told when the file grows; positions are those in the file.
#[derive(Debug)]
pub(super) struct Region {
    start: usize,
    length: usize,
    address: *mut c_void,
    touched: Touched,
    pub(super) next: OnceLock<Box<Region>>,
}

// SAFETY: the address is only used to copy bytes in and out, as with memory that a guest shares with us: concurrent
// operations on overlapping ranges may mix their bytes, which is what SCSI says of such commands.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `length` bytes from `start` on, a multiple of the chunk, or a few more. The file may end before; nothing is to
    /// be read or written there as long as it does.
    pub(super) fn map(file: BorrowedFd<'_>, start: u64, length: u64) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let length = length.checked_next_multiple_of(CHUNK as u64).ok_or_else(too_large)?;
        start.checked_add(length).filter(|end| isize::try_from(*end).is_ok()).ok_or_else(too_large)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file,
                start,
            )?
        };
        let touched = Touched::new(length);
        Ok(Self { start: start as usize, length: length as usize, address, touched, next: OnceLock::new() })
    }

    /// The byte after the last one.
    pub(super) fn end(&self) -> usize {
        self.start + self.length
    }

    /// The region that has byte `at`: this one, or one that follows.
    #[inline]
    pub(super) fn of(&self, at: usize) -> &Self {
        let mut region = self;
        while at >= region.end() {
            region = region.next.get().expect("the range was checked");
        }
        region
    }

    /// The last one.
    pub(super) fn last(&self) -> &Self {
        std::iter::successors(Some(self), |region| region.next.get().map(|next| &**next))
            .last()
            .unwrap_or(self)
    }

    /// The address of byte `at`, of which `length` follow.
    #[inline]
    pub(super) fn at(&self, at: usize, length: usize) -> *mut u8 {
        let offset = at - self.start;
        assert!(offset + length <= self.length);
        self.address.cast::<u8>().wrapping_add(offset)
    }

    /// Whether the chunk of byte `at` may hold something else than zeroes.
    pub(super) fn holds(&self, at: usize) -> bool {
        self.touched.contains(at - self.start)
    }

    /// Something was written to `bytes`.
    pub(super) fn touch(&self, bytes: Range<usize>) {
        self.touched.insert(bytes.start - self.start, bytes.end - self.start);
    }

    /// What is in `bytes` is about to be given back.
    pub(super) fn forget(&self, bytes: Range<usize>) {
        self.touched.remove(bytes.start - self.start, bytes.end - self.start);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `Region::map` with this length; the last user of the mapping is gone.
        let _ = unsafe { rustix::mm::munmap(self.address, self.length) };
    }
}
