//! Guest memory, shared with the daemon. Every access is atomic, since the daemon and other threads use it too.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use lunette_vhost_user::MemoryRegion;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::dup;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::error::Error;

/// What holds the bytes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing<'a> {
    /// Memory without a name.
    Memfd,
    /// The same in pages of 2 MiB; the machine must have reserved some.
    HugePages,
    /// A file, which is made or extended where needed.
    File(&'a Path),
}

impl Backing<'_> {
    fn open(&self) -> Result<OwnedFd, Error> {
        let memfd = |flags| memfd_create("guest", flags).map_err(Error::system("create a memfd"));
        match self {
            Self::Memfd => memfd(MemfdFlags::CLOEXEC),
            Self::HugePages => memfd(MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB),
            Self::File(path) => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false);
                Ok(options.open(path).map_err(Error::system("open a file for guest memory"))?.into())
            }
        }
    }
}

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// A range of guest addresses with memory behind it.
#[derive(Debug)]
struct Region {
    address: u64,
    size: usize,
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to the region alone and is only used through atomics.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn map(address: u64, size: usize, file: &OwnedFd, offset: u64) -> Result<Arc<Self>, Error> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice; `drop` alone unmaps it.
        let base = unsafe { mmap(null_mut(), size, protection, flags, file, offset) };
        let base = base.map_err(Error::system("map guest memory"))?;
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at 0 by itself");
        Ok(Arc::new(Self { address, size, base }))
    }

    /// Has other bytes behind the same addresses.
    fn replace(&self, file: &OwnedFd, offset: u64) -> Result<(), Error> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: the range is this region's own, all access to it is atomic, and any bytes may be there.
        let base = unsafe { mmap(self.base.as_ptr().cast(), self.size, protection, flags, file, offset) };
        base.map(drop).map_err(Error::system("map other memory"))
    }

    fn user_address(&self) -> u64 {
        self.base.as_ptr() as u64
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `map` mapped exactly this range, and nothing that points into it outlives the region.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size) };
    }
}

/// All memory of a guest.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Vec<Part>,
}

/// A region and what is behind it.
#[derive(Debug)]
struct Part {
    region: Arc<Region>,
    file: OwnedFd,
    offset: u64,
    /// Bytes handed out.
    taken: usize,
}

impl Part {
    fn shared(&self) -> MemoryRegion {
        MemoryRegion {
            guest_address: self.region.address,
            size: self.region.size as u64,
            user_address: self.region.user_address(),
            mmap_offset: self.offset,
        }
    }
}

impl GuestMemory {
    /// No memory at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// One region from guest address 0 on.
    pub fn with_size(size: usize) -> Result<Self, Error> {
        let mut memory = Self::new();
        memory.add(0, size, Backing::Memfd)?;
        Ok(memory)
    }

    /// Adds a region of `size` bytes, all of them zero unless a file says otherwise.
    pub fn add(&mut self, address: u64, size: usize, backing: Backing<'_>) -> Result<(), Error> {
        let file = backing.open()?;
        ftruncate(&file, size as u64).map_err(Error::system("set the size of guest memory"))?;
        self.add_file(address, size, file, 0)
    }

    /// Adds `size` bytes of an open file from `offset` on, which is a multiple of the page size.
    pub fn add_file(&mut self, address: u64, size: usize, file: OwnedFd, offset: u64) -> Result<(), Error> {
        let region = Region::map(address, size, &file, offset)?;
        self.regions.push(Part { region, file, offset, taken: 0 });
        Ok(())
    }

    /// Forgets the region that begins at `address`. It stays mapped here as long as a [`View`] shows it.
    pub fn remove(&mut self, address: u64) -> Result<MemoryRegion, Error> {
        let found = self.regions.iter().position(|part| part.region.address == address);
        let found = found.ok_or(Error::NoMemory { address, length: 0 })?;
        Ok(self.regions.remove(found).shared())
    }

    /// The regions as a front end announces them.
    pub fn regions(&self) -> Result<Vec<(MemoryRegion, OwnedFd)>, Error> {
        let copy = |part: &Part| {
            let file = dup(&part.file).map_err(Error::system("copy a descriptor"))?;
            Ok((part.shared(), file))
        };
        self.regions.iter().map(copy).collect()
    }

    /// The bytes from a guest address on, which must lie in one region.
    pub fn view(&self, address: u64, length: usize) -> Result<View, Error> {
        let inside = |region: &Region| {
            let start = usize::try_from(address.checked_sub(region.address)?).ok()?;
            (start.checked_add(length)? <= region.size).then_some(start)
        };
        let found = self
            .regions
            .iter()
            .find_map(|part| inside(&part.region).map(|start| View::new(&part.region, start, length)));
        found.ok_or(Error::NoMemory { address, length: length as u64 })
    }

    /// Memory that nobody else gets. `alignment` is a power of two.
    pub fn allocate(&mut self, length: usize, alignment: usize) -> Result<View, Error> {
        for Part { region, taken, .. } in &mut self.regions {
            let start = taken.next_multiple_of(alignment);
            if start.checked_add(length).is_some_and(|end| end <= region.size) {
                *taken = start + length;
                return Ok(View::new(region, start, length));
            }
        }
        Err(Error::NoMemory { address: 0, length: length as u64 })
    }

    /// Goes on with the bytes of `other`, at the same addresses of this process; what was there is in `other` then. Nobody
    /// who has mapped the one sees the other. Both have the same regions.
    pub fn exchange(&mut self, other: &mut Self) -> Result<(), Error> {
        let shapes = |memory: &Self| -> Vec<_> {
            memory.regions.iter().map(|part| (part.region.address, part.region.size)).collect()
        };
        assert_eq!(shapes(self), shapes(other), "memory of another shape");
        for (ours, theirs) in self.regions.iter_mut().zip(&mut other.regions) {
            std::mem::swap(&mut ours.file, &mut theirs.file);
            std::mem::swap(&mut ours.offset, &mut theirs.offset);
            ours.region.replace(&ours.file, ours.offset)?;
            theirs.region.replace(&theirs.file, theirs.offset)?;
        }
        Ok(())
    }

    /// Writes bytes, which may lie in several regions.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.pieces(address, bytes.len(), |view, at| view.write(0, &bytes[at..at + view.length]))
    }

    /// Reads bytes, which may lie in several regions.
    pub fn read(&self, address: u64, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        self.pieces(address, length, |view, at| view.read(0, &mut bytes[at..at + view.length]))?;
        Ok(bytes)
    }

    fn pieces(&self, address: u64, length: usize, mut act: impl FnMut(&View, usize)) -> Result<(), Error> {
        let mut done = 0;
        while done < length {
            let (at, missing) = (address.wrapping_add(done as u64), length - done);
            let regions = self.regions.iter().map(|part| &part.region);
            let room = regions.filter_map(|region| {
                let start = at.checked_sub(region.address)?;
                (region.size as u64).checked_sub(start).filter(|&room| room > 0)
            });
            let room = room.max().ok_or(Error::NoMemory { address: at, length: missing as u64 })?;
            let view = self.view(at, missing.min(usize::try_from(room).unwrap_or(usize::MAX)))?;
            act(&view, done);
            done += view.length;
        }
        Ok(())
    }
}

/// Some bytes of one region. Offsets beyond its end, and unaligned words, panic.
#[derive(Clone, Debug)]
pub struct View {
    /// Keeps the mapping.
    region: Arc<Region>,
    start: usize,
    length: usize,
    /// Its first byte.
    base: NonNull<u8>,
}

// SAFETY: the address lies in the region, which may be shared and is only used through atomics.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// The guest address of its first byte.
    pub fn address(&self) -> u64 {
        self.region.address + self.start as u64
    }

    /// The address of its first byte in this process: a user address of vhost-user.
    pub fn user_address(&self) -> u64 {
        self.region.user_address() + self.start as u64
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// A part of it.
    pub fn part(&self, offset: usize, length: usize) -> Self {
        self.check(offset, length);
        Self::new(&self.region, self.start + offset, length)
    }

    /// The range lies inside the region.
    fn new(region: &Arc<Region>, start: usize, length: usize) -> Self {
        assert!(start.checked_add(length).is_some_and(|end| end <= region.size));
        // SAFETY: the offset lies inside the mapping, or at its end.
        let base = unsafe { region.base.add(start) };
        Self { region: Arc::clone(region), start, length, base }
    }

    /// A byte.
    pub fn u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: `at` gives an aligned address inside the mapping, which lives as long as `self` and is only used through
        // atomics.
        unsafe { AtomicU8::from_ptr(self.at(offset)) }
    }

    /// Two bytes.
    pub fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as in `u8`.
        unsafe { AtomicU16::from_ptr(self.at(offset)) }
    }

    /// Four bytes.
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `u8`.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    /// Eight bytes.
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `u8`.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// Writes bytes.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        let (head, rest) = bytes.split_at(self.to_alignment(offset).min(bytes.len()));
        let (words, tail) = rest.as_chunks::<{ size_of::<u64>() }>();
        // SAFETY: `check` has passed for all bytes, so every address from here on lies inside the mapping; those of words
        // are aligned, as `head` ends where a word begins. All access is atomic.
        unsafe {
            let at = self.base.add(offset).as_ptr();
            for (index, byte) in head.iter().enumerate() {
                AtomicU8::from_ptr(at.add(index)).store(*byte, Relaxed);
            }
            let at = at.add(head.len());
            for (index, word) in words.iter().enumerate() {
                AtomicU64::from_ptr(at.cast::<u64>().add(index)).store(u64::from_ne_bytes(*word), Relaxed);
            }
            let at = at.add(rest.len() - tail.len());
            for (index, byte) in tail.iter().enumerate() {
                AtomicU8::from_ptr(at.add(index)).store(*byte, Relaxed);
            }
        }
    }

    /// Reads bytes.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        let (head, words) = bytes.split_at_mut(self.to_alignment(offset).min(bytes.len()));
        let load = |at: usize, bytes: &mut [u8]| {
            bytes.iter_mut().zip(at..).for_each(|(byte, at)| *byte = self.u8(at).load(Relaxed));
        };
        load(offset, head);
        let mut at = offset + head.len();
        let mut words = words.chunks_exact_mut(size_of::<u64>());
        for word in &mut words {
            word.copy_from_slice(&self.u64(at).load(Relaxed).to_ne_bytes());
            at += size_of::<u64>();
        }
        load(at, words.into_remainder());
    }

    /// Reads `length` bytes.
    pub fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read(offset, &mut bytes);
        bytes
    }

    /// Sets all bytes.
    pub fn fill(&self, byte: u8) {
        self.write(0, &vec![byte; self.length]);
    }

    /// Bytes up to the next word.
    fn to_alignment(&self, offset: usize) -> usize {
        (self.start + offset).wrapping_neg() % align_of::<u64>()
    }

    fn check(&self, offset: usize, length: usize) {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.length), "outside the view");
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        self.check(offset, size_of::<T>());
        // Mappings begin at pages.
        assert!((self.start + offset).is_multiple_of(align_of::<T>()), "unaligned");
        // SAFETY: the view lies inside the mapping, and the offset inside the view.
        unsafe { self.base.add(offset) }.cast().as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_words_are_the_same_memory() {
        let memory = GuestMemory::with_size(8192).unwrap();
        let view = memory.view(0, 8192).unwrap();
        let bytes: Vec<u8> = (1..=40).collect();
        for at in 4080..4090 {
            view.fill(0);
            view.write(at, &bytes);
            assert_eq!(view.bytes(at - 1, 42), [&[0], &bytes[..], &[0]].concat());
            assert_eq!(memory.read(at as u64, 40).unwrap(), bytes);
            assert_eq!(view.u8(at + 3).load(Relaxed), 4);
        }
        view.write(64, &0x0102_0304_0506_0708u64.to_le_bytes());
        assert_eq!(view.u64(64).load(Relaxed).to_le(), 0x0102_0304_0506_0708);
        assert_eq!(view.u32(68).load(Relaxed).to_le(), 0x0102_0304);
        assert_eq!(view.u16(70).load(Relaxed).to_le(), 0x0102);
    }

    #[test]
    fn bytes_may_lie_across_regions_that_touch() {
        let mut memory = GuestMemory::new();
        memory.add(0x1000, 4096, Backing::Memfd).unwrap();
        memory.add(0x2000, 4096, Backing::Memfd).unwrap();
        memory.write(0x1ffe, &[1, 2, 3, 4]).unwrap();
        assert_eq!(memory.read(0x1fff, 2).unwrap(), [2, 3]);
        assert!(memory.write(0x2fff, &[1, 2]).is_err());
        assert!(memory.read(0xfff, 1).is_err());
        assert!(memory.view(0x1fff, 2).is_err());
    }

    #[test]
    fn a_file_is_the_memory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut memory = GuestMemory::new();
        memory.add(0, 8192, Backing::File(file.path())).unwrap();
        memory.write(5000, b"here").unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap()[5000..5004], *b"here");
    }

    #[test]
    fn allocations_do_not_overlap_and_end_with_the_memory() {
        let mut memory = GuestMemory::with_size(4096).unwrap();
        let first = memory.allocate(10, 16).unwrap();
        let second = memory.allocate(10, 64).unwrap();
        assert_eq!((first.address(), second.address()), (0, 64));
        assert!(matches!(memory.allocate(4096, 1), Err(Error::NoMemory { .. })));
        memory.add(1 << 30, 4096, Backing::Memfd).unwrap();
        assert_eq!(memory.allocate(4096, 1).unwrap().address(), 1 << 30);
    }

    #[test]
    fn views_see_the_bytes_that_memory_goes_on_with() {
        let (mut here, mut there) =
            (GuestMemory::with_size(8192).unwrap(), GuestMemory::with_size(8192).unwrap());
        let (view, other) = (here.allocate(8, 8).unwrap(), there.view(0, 8).unwrap());
        view.write(0, &[1; 8]);
        there.write(0, &[2; 8]).unwrap();
        let user = view.user_address();
        here.exchange(&mut there).unwrap();
        assert_eq!((view.bytes(0, 8), other.bytes(0, 8)), (vec![2; 8], vec![1; 8]));
        assert_eq!(here.regions().unwrap()[0].0.user_address, user);
    }

    #[test]
    fn a_view_outlives_its_region() {
        let mut memory = GuestMemory::with_size(4096).unwrap();
        let view = memory.view(100, 4).unwrap();
        assert_eq!(memory.remove(0).unwrap().size, 4096);
        view.write(0, &[1, 2, 3, 4]);
        assert_eq!(view.bytes(0, 4), [1, 2, 3, 4]);
        assert!(memory.remove(0).is_err());
    }

    #[test]
    #[should_panic(expected = "outside the view")]
    fn the_last_word_ends_with_the_view() {
        GuestMemory::with_size(4096).unwrap().view(0, 100).unwrap().u32(97);
    }

    #[test]
    #[should_panic(expected = "unaligned")]
    fn words_are_aligned_in_memory_not_in_the_view() {
        GuestMemory::with_size(4096).unwrap().view(2, 100).unwrap().u32(4);
    }
}
