//! Scatter-gather lists over memory that others may change at any time.
//!
//! Bytes of a guest are never seen as a Rust slice: the guest may write them while we read. A [`Seg`] is an address and a
//! length, and bytes only move by copying.

use std::fmt;

/// One run of bytes: an address and a length in bytes, laid out as the kernel's `struct iovec`.
///
/// The bytes may be read and written by others (a guest, the kernel) while this process does the same.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Seg {
    address: *mut u8,
    length: usize,
}

// SAFETY: the bytes may be used from any thread: `Seg::new` promises that they stay mapped until the operation has completed
// and that no reference to them is in use.
unsafe impl Send for Seg {}

impl Seg {
    /// A run of `length` bytes at `address`.
    ///
    /// # Safety
    /// From now until the last operation that was given this segment has completed, the bytes must stay mapped, readable
    /// and writable, and no Rust reference to them may be used meanwhile.
    pub const unsafe fn new(address: *mut u8, length: usize) -> Self {
        Self { address, length }
    }

    /// The first byte's address.
    pub const fn address(self) -> *mut u8 {
        self.address
    }

    /// How many bytes.
    pub const fn len(self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// The part from byte `from`, at most `length` bytes long; empty when `from` lies beyond the end.
    pub fn part(self, from: usize, length: usize) -> Self {
        let from = from.min(self.length);
        Self { address: self.address.wrapping_add(from), length: length.min(self.length - from) }
    }

    fn copy_in(self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.length);
        // SAFETY: `Seg::new` promises that the destination is mapped and writable and that no reference to it is in
        // use, so the two runs do not overlap; the length was limited by the callers in this module.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address, bytes.len()) }
    }

    fn copy_out(self, bytes: &mut [u8]) {
        debug_assert!(bytes.len() <= self.length);
        // SAFETY: as in `copy_in`, with source and destination exchanged.
        unsafe { std::ptr::copy_nonoverlapping(self.address.cast_const(), bytes.as_mut_ptr(), bytes.len()) }
    }
}

impl fmt::Debug for Seg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}+{:#x}", self.address, self.length)
    }
}

/// A borrowed scatter-gather list: `len()` bytes of `segs`, starting `skip` bytes into the first one.
#[derive(Clone, Copy, Default)]
pub struct Sg<'a> {
    segs: &'a [Seg],
    skip: usize,
    length: u64,
}

impl<'a> Sg<'a> {
    /// All bytes of `segs`.
    pub fn new(segs: &'a [Seg]) -> Self {
        Self { segs, skip: 0, length: segs.iter().map(|s| s.len() as u64).sum() }
    }

    /// All bytes of `segs`, whose number is known.
    #[inline]
    pub fn of_length(segs: &'a [Seg], length: u64) -> Self {
        debug_assert_eq!(length, Self::new(segs).length);
        Self { segs, skip: 0, length }
    }

    /// No bytes.
    pub const fn empty() -> Self {
        Self { segs: &[], skip: 0, length: 0 }
    }

    /// How many bytes.
    pub const fn len(&self) -> u64 {
        self.length
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The part from byte `from`, at most `length` bytes long; empty when `from` lies beyond the end.
    pub fn part(&self, from: u64, length: u64) -> Self {
        if from >= self.length {
            return Self::empty();
        }
        let length = length.min(self.length - from);
        if from == 0 {
            return Self { length, ..*self };
        }
        let mut skip = self.skip as u64 + from;
        let mut segs = self.segs;
        while let Some((first, rest)) = segs.split_first()
            && skip >= first.len() as u64
        {
            skip -= first.len() as u64;
            segs = rest;
        }
        Self { segs, skip: skip as usize, length }
    }

    /// The runs of bytes, trimmed to this list, empty ones left out.
    pub fn iter(&self) -> impl Iterator<Item = Seg> + 'a {
        let (mut skip, mut left) = (self.skip, self.length);
        self.segs
            .iter()
            .map_while(move |seg| {
                if left == 0 {
                    return None;
                }
                let part = seg.part(skip, usize::try_from(left).unwrap_or(usize::MAX));
                skip = 0;
                left -= part.len() as u64;
                Some(part)
            })
            .filter(|seg| !seg.is_empty())
    }

    /// The only run of bytes, when there is just one: the common case, which needs no list.
    pub fn single(&self) -> Option<Seg> {
        let first = self.segs.first()?.part(self.skip, usize::try_from(self.length).ok()?);
        (first.len() as u64 == self.length).then_some(first)
    }

    /// Copies `bytes` into the list, beginning at byte `at`; returns how many found room.
    pub fn copy_in(&self, at: u64, bytes: &[u8]) -> usize {
        let part = self.part(at, bytes.len() as u64);
        if let Some(seg) = part.single() {
            seg.copy_in(&bytes[..seg.len()]);
            return seg.len();
        }
        let mut done = 0;
        for seg in part.iter() {
            seg.copy_in(&bytes[done..done + seg.len()]);
            done += seg.len();
        }
        done
    }

    /// Copies bytes from position `at` of the list into `bytes`; returns how many there were.
    pub fn copy_out(&self, at: u64, bytes: &mut [u8]) -> usize {
        let part = self.part(at, bytes.len() as u64);
        if let Some(seg) = part.single() {
            seg.copy_out(&mut bytes[..seg.len()]);
            return seg.len();
        }
        let mut done = 0;
        for seg in part.iter() {
            seg.copy_out(&mut bytes[done..done + seg.len()]);
            done += seg.len();
        }
        done
    }

    /// Copies to the start of `to`, as many bytes as both lists have; returns how many. The two may overlap, and then mix.
    pub fn copy_to(&self, to: Sg<'_>) -> u64 {
        let mut done = 0;
        for seg in self.iter() {
            let mut copied = 0;
            for part in to.part(done, seg.len() as u64).iter() {
                let from = seg.part(copied, part.len());
                // SAFETY: both runs are mapped (`Seg::new`) and of the same length.
                unsafe { std::ptr::copy(from.address().cast_const(), part.address(), part.len()) };
                copied += part.len();
            }
            done += copied as u64;
        }
        done
    }

    /// A private copy of up to `limit` bytes from the start: what every parameter list needs before it is parsed.
    pub fn to_vec(&self, limit: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.length.min(limit) as usize];
        self.copy_out(0, &mut bytes);
        bytes
    }
}

impl fmt::Debug for Sg<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// An owned scatter-gather list whose room is kept when it is cleared.
#[derive(Default, Debug, Clone)]
pub struct SgList {
    segs: Vec<Seg>,
}

impl SgList {
    /// An empty list.
    pub const fn new() -> Self {
        Self { segs: Vec::new() }
    }

    /// Appends a run of bytes.
    pub fn push(&mut self, seg: Seg) {
        self.segs.push(seg);
    }

    /// Forgets all runs and keeps the room for them.
    pub fn clear(&mut self) {
        self.segs.clear();
    }

    /// Replaces the content by that of `sg`.
    pub fn assign(&mut self, sg: Sg<'_>) {
        self.segs.clear();
        self.segs.extend(sg.iter());
    }

    /// For how many runs there is room.
    pub fn room(&self) -> usize {
        self.segs.capacity()
    }

    /// The list, to read from or write to.
    pub fn as_sg(&self) -> Sg<'_> {
        Sg::new(&self.segs)
    }

    /// The runs of bytes.
    pub fn segs(&self) -> &[Seg] {
        &self.segs
    }
}

/// Memory of our own behind a scatter-gather list: for bounce buffers, parameter data and tests.
///
/// The bytes are page-aligned and begin as zeroes. The owner must keep the value until every operation on it has completed.
#[derive(Debug)]
pub struct Memory {
    address: *mut u8,
    length: usize,
}

const PAGE: usize = 4096;

impl Memory {
    /// `length` zero bytes, aligned to 4096.
    pub fn zeroed(length: usize) -> Self {
        let layout = Self::layout(length);
        // SAFETY: the layout's size is not zero.
        let address = unsafe { std::alloc::alloc_zeroed(layout) };
        if address.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Self { address, length }
    }

    /// A copy of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let memory = Self::zeroed(bytes.len());
        memory.seg().copy_in(bytes);
        memory
    }

    /// The memory as one segment.
    pub fn seg(&self) -> Seg {
        // SAFETY: the memory lives as long as `self`, which the owner keeps until the operations on it have completed,
        // and no reference to its bytes is ever handed out.
        unsafe { Seg::new(self.address, self.length) }
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        Sg::new(&[self.seg()]).to_vec(self.length as u64)
    }

    /// How many bytes.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn layout(length: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(length.max(1), PAGE).expect("a length below isize::MAX")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the same layout, freed once.
        unsafe { std::alloc::dealloc(self.address, Self::layout(self.length)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(parts: &[Memory]) -> Vec<Seg> {
        parts.iter().map(Memory::seg).collect()
    }

    proptest! {
        #[test]
        fn parts_and_copies_agree_with_a_plain_vector(
            lengths in proptest::collection::vec(0usize..40, 0..8),
            cuts in proptest::collection::vec((0u64..200, 0u64..200), 0..4),
        ) {
            let mut next = 0u8;
            let mut model = Vec::new();
            let memories: Vec<Memory> = lengths.iter().map(|&n| {
                let bytes: Vec<u8> = (0..n).map(|_| { next = next.wrapping_add(1); next }).collect();
                model.extend_from_slice(&bytes);
                Memory::from_bytes(&bytes)
            }).collect();
            let segs = list(&memories);
            let mut sg = Sg::new(&segs);
            let mut view = 0..model.len();
            for (from, length) in cuts {
                sg = sg.part(from, length);
                let start = (view.start + from as usize).min(view.end);
                view = start..(start + length as usize).min(view.end);
            }
            prop_assert_eq!(sg.len() as usize, view.len());
            prop_assert_eq!(sg.to_vec(u64::MAX), &model[view.clone()]);
            prop_assert_eq!(sg.iter().map(|s| s.len()).sum::<usize>(), view.len());
            if let Some(one) = sg.single() {
                prop_assert_eq!(one.len(), view.len());
            }
            let new: Vec<u8> = view.clone().map(|n| (n * 7) as u8).collect();
            prop_assert_eq!(sg.copy_in(0, &new), new.len());
            prop_assert_eq!(sg.to_vec(u64::MAX), new);
        }
    }

    #[test]
    fn lists_are_copied_across_their_seams() {
        let bytes: Vec<u8> = (0..100).collect();
        let cut = |memory: &Memory, at: &[usize]| -> Vec<Seg> {
            let mut from = 0;
            at.iter()
                .map(|to| {
                    let seg = memory.seg().part(from, to - from);
                    from = *to;
                    seg
                })
                .collect()
        };
        let source = Memory::from_bytes(&bytes);
        let target = Memory::zeroed(90);
        let from = cut(&source, &[10, 10, 35, 80, 100]);
        let to = cut(&target, &[20, 35, 36, 90]);
        assert_eq!(Sg::new(&from).copy_to(Sg::new(&to)), 90);
        assert_eq!(target.to_vec(), bytes[..90]);
        assert_eq!(Sg::new(&from).part(50, 5).copy_to(Sg::new(&to)), 5);
        assert_eq!(target.to_vec()[..6], [50, 51, 52, 53, 54, 5]);
    }

    #[test]
    fn memory_is_page_aligned() {
        assert_eq!(Memory::zeroed(3).seg().address() as usize % PAGE, 0);
    }
}
