//! One region of guest memory in this process.

use super::guard::Watched;
use lunette_vhost_user::{MemoryRegion, SharedRegion};
use rustix::fs::{FileType, fstat, fstatfs};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// Why guest memory cannot be mapped.
#[derive(Debug, Error)]
pub(crate) enum MapError {
    #[error("the file behind guest address {guest:#x} ends at {actual:#x}, the region needs {needed:#x}")]
    FileTooShort { guest: u64, needed: u64, actual: u64 },
    #[error("what is behind guest address {guest:#x} is neither a file nor memory of a device")]
    NotAFile { guest: u64 },
    #[error("the region at guest address {guest:#x} is too large for this machine")]
    TooLarge { guest: u64 },
    #[error("cannot map the region at guest address {guest:#x}: {source}")]
    Map { guest: u64, source: io::Error },
}

/// Whether mappings lie between pages that nobody may access, as fuzzers want it: a step outside is found at once.
pub(crate) static FENCED: AtomicBool = AtomicBool::new(false);

/// One `mmap`, undone when the last map that uses it goes. That may take long, so it is not done on a reactor.
#[derive(Debug)]
struct Mapping {
    address: NonNull<c_void>,
    length: usize,
    watched: Option<Watched>,
    /// Bytes on either side that nobody may access.
    fence: usize,
    /// Whether pinning was tried.
    pinned: AtomicBool,
}

// SAFETY: the value is an address and a length; the memory behind them belongs to no thread and is only accessed through
// raw pointers, by rules that do not depend on the thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared reference gives away nothing but the two numbers.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: &OwnedFd, start: u64, length: usize, page: usize) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        let fence = if FENCED.load(Ordering::Relaxed) { FENCE } else { 0 };
        let at = if fence > 0 { between_fences(length)? } else { ptr::null_mut() };
        let place = if fence > 0 { MapFlags::FIXED } else { MapFlags::empty() };
        // SAFETY: the kernel chooses an address range that is not in use; or it is one between fences, which is ours.
        let address = unsafe { mmap(at, length, access, flags | place, fd, start) };
        let address = address.inspect_err(|_| {
            if fence > 0 {
                // SAFETY: as much as `between_fences` has mapped, which nobody uses.
                let _ = unsafe { munmap(at.byte_sub(FENCE), length + 2 * FENCE) };
            }
        })?;
        let address = NonNull::new(address).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut mapping = Self { address, length, watched: None, fence, pinned: AtomicBool::new(false) };
        // SAFETY: the range has just been mapped; no reference to guest memory is ever made, and its users bear any content.
        mapping.watched = Some(unsafe { Watched::new(address, length, page) }?);
        // SAFETY: the range is ours; leaving it out of core dumps changes none of its bytes.
        let _ = unsafe { madvise(address.as_ptr(), length, Advice::LinuxDontDump) };
        Ok(mapping)
    }

    /// Has every page in memory and keeps it there. Tried once.
    fn pin(&self) -> io::Result<()> {
        if self.pinned.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        // SAFETY: the range is mapped; touching its pages changes none of its bytes.
        unsafe { madvise(self.address.as_ptr(), self.length, Advice::LinuxPopulateWrite) }?;
        // SAFETY: the range is mapped.
        unsafe { mlock(self.address.as_ptr(), self.length) }?;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Its place must be free before the range is.
        self.watched = None;
        // SAFETY: the range was mapped by `new` for this value alone, with its fences, and whoever holds a segment of it
        // holds the memory map that owns the value.
        let unmapped =
            unsafe { munmap(self.address.as_ptr().byte_sub(self.fence), self.length + 2 * self.fence) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "cannot unmap guest memory");
        }
    }
}

/// Size of a fence: no descriptor index of 16 bits leads over it.
const FENCE: usize = 1 << 20;

/// Finds room for a mapping, with fences around it.
fn between_fences(length: usize) -> io::Result<*mut c_void> {
    let (access, flags) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
    let all = length.checked_add(2 * FENCE).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: the kernel chooses an address range that is not in use.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), all, access, flags) }?;
    // SAFETY: the range is longer than that.
    Ok(unsafe { start.byte_add(FENCE) })
}

/// A run of guest addresses and where they are in this process.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) guest: u64,
    pub(super) user: u64,
    pub(super) size: u64,
    host: NonNull<u8>,
    /// Keeps `host` mapped.
    mapping: Arc<Mapping>,
}

// SAFETY: `host` points into `mapping`, for which the same holds.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(super) fn map(shared: &SharedRegion) -> Result<Self, MapError> {
        let SharedRegion { region, fd } = shared;
        let MemoryRegion { guest_address: guest, user_address: user, size, mmap_offset } = *region;
        let too_large = MapError::TooLarge { guest };
        let end = mmap_offset.checked_add(size).ok_or(MapError::TooLarge { guest })?;
        check_file(fd, guest, end)?;
        // Files of huge pages are mapped and unmapped in whole pages.
        let page = page_size(fd).map_err(|source| MapError::Map { guest, source })?;
        let start = mmap_offset - mmap_offset % page;
        let length = (end - start).checked_next_multiple_of(page).and_then(|n| usize::try_from(n).ok());
        let length = length.filter(|&n| n <= isize::MAX as usize).ok_or(too_large)?;
        let mapping = Mapping::new(fd, start, length, page as usize)
            .map_err(|source| MapError::Map { guest, source })?;
        // SAFETY: `mmap_offset - start` is less than a page and the region is not empty, so this is within the mapping.
        let host = unsafe { mapping.address.cast::<u8>().add((mmap_offset - start) as usize) };
        Ok(Self { guest, user, size, host, mapping: Arc::new(mapping) })
    }

    /// Has every page in memory, and keeps it there.
    pub(super) fn pin(&self) -> io::Result<()> {
        self.mapping.pin()
    }

    /// Whether an access has found the memory gone.
    pub(super) fn is_lost(&self) -> bool {
        self.mapping.watched.as_ref().is_some_and(Watched::is_lost)
    }

    /// The guest address of a byte that is mapped here.
    pub(super) fn guest_address(&self, host: *const u8) -> Option<u64> {
        let offset = (host.addr() as u64).checked_sub(self.host.addr().get() as u64)?;
        (offset < self.size).then(|| self.guest + offset)
    }

    /// The bytes from `offset`, at most `length` and never beyond the region. `offset` is less than the size.
    #[inline]
    pub(super) fn part(&self, offset: u64, length: u64) -> (NonNull<u8>, u64) {
        debug_assert!(offset < self.size);
        // SAFETY: the offset is less than the region's size, all of which is mapped.
        (unsafe { self.host.add(offset as usize) }, length.min(self.size - offset))
    }
}

/// The file must be as long as the region says, or the first access behind its end would be the last.
fn check_file(fd: &OwnedFd, guest: u64, needed: u64) -> Result<(), MapError> {
    let stat = fstat(fd).map_err(|error| MapError::Map { guest, source: error.into() })?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        // Devices that can be mapped (DAX) have no size here; the kernel checks their ranges.
        FileType::CharacterDevice => return Ok(()),
        _ => return Err(MapError::NotAFile { guest }),
    }
    let actual = u64::try_from(stat.st_size).unwrap_or(0);
    if actual < needed { Err(MapError::FileTooShort { guest, needed, actual }) } else { Ok(()) }
}

fn page_size(fd: &OwnedFd) -> io::Result<u64> {
    const HUGETLBFS_MAGIC: u32 = 0x958458f6;
    let file_system = fstatfs(fd)?;
    let block = u64::try_from(file_system.f_bsize).unwrap_or(0);
    // SAFETY: the call only returns a number. (rustix's own way to it does not run under Valgrind.)
    let ours = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    Ok(if file_system.f_type as u32 == HUGETLBFS_MAGIC && block.is_power_of_two() {
        block.max(ours)
    } else {
        ours
    })
}
