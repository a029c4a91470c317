//! Guest memory: a memfd shared with the daemon. Every access is an atomic or a raw copy, since the daemon writes too.

use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::dup;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Shared memory. Offsets are guest addresses as well.
pub(crate) struct GuestMemory {
    file: OwnedFd,
    base: NonNull<u8>,
    size: usize,
}

impl GuestMemory {
    /// Zeroed memory, all of it resident.
    pub(crate) fn new(size: usize) -> Result<Self> {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).context("cannot create a memfd")?;
        ftruncate(&file, size as u64)?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice; `drop` alone unmaps it.
        let base = unsafe { mmap(null_mut(), size, protection, flags, &file, 0) };
        let base = NonNull::new(base.context("cannot map guest memory")?.cast()).context("mapped at 0")?;
        Ok(Self { file, base, size })
    }

    pub(crate) fn file(&self) -> Result<OwnedFd> {
        Ok(dup(&self.file)?)
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The address of the first byte in this process.
    pub(crate) fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    pub(crate) fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: `at` gives an aligned address inside the mapping, which lives as long as `self`; all access to it from
        // here is atomic or by raw copies.
        unsafe { AtomicU16::from_ptr(self.at(offset)) }
    }

    pub(crate) fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `u16`.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    pub(crate) fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `u16`.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// Copies bytes in. The daemon must not use them meanwhile.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.size), "outside guest memory");
        // SAFETY: the target lies inside the mapping (checked above), which no Rust reference covers.
        unsafe { self.base.add(offset).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.size), "outside guest memory");
        assert!(offset.is_multiple_of(align_of::<T>()), "unaligned");
        // SAFETY: the offset lies inside the mapping.
        unsafe { self.base.add(offset) }.cast().as_ptr()
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range; no reference outlives `self`.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn bytes_and_words_are_the_same_memory() {
        let memory = GuestMemory::new(8192).unwrap();
        memory.write(4090, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(memory.u16(4090).load(Relaxed).to_le(), 0x0201);
        assert_eq!(memory.u32(4092).load(Relaxed).to_le(), 0x0605_0403);
        assert_eq!(memory.u64(8184).load(Relaxed), 0);
    }

    #[test]
    #[should_panic(expected = "outside guest memory")]
    fn the_last_word_ends_with_the_memory() {
        GuestMemory::new(4096).unwrap().u32(4093);
    }

    #[test]
    #[should_panic(expected = "outside guest memory")]
    fn bytes_end_with_the_memory() {
        GuestMemory::new(4096).unwrap().write(4095, &[0; 2]);
    }
}
