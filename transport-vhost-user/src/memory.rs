//! Guest memory: the front end's files mapped, and guest addresses turned into segments.
//!
//! A [`MemoryMap`] never changes. Every change of the memory table makes a new one, which shares the mappings that stay.
//! Whoever has operations under way keeps the map that their addresses were translated by; the last owner unmaps.
//!
//! A front end that truncates its file makes our next access raise SIGBUS. Only a file sealed against shrinking excludes
//! that, and not every front end seals, so a missing seal is said in the log and tolerated.

use lunette_store::{Seg, SgList};
use lunette_vhost_user::{MemoryRegion, SharedRegion};
use rustix::fs::{FileType, SealFlags, fcntl_get_seals, fstat, fstatfs};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use thiserror::Error;

/// Why guest memory cannot be mapped.
#[derive(Debug, Error)]
pub(crate) enum MapError {
    #[error("the file behind guest address {guest:#x} ends at {actual:#x}, the region needs {needed:#x}")]
    FileTooShort { guest: u64, needed: u64, actual: u64 },
    #[error("the region at guest address {guest:#x} is too large for this machine")]
    TooLarge { guest: u64 },
    #[error("cannot map the region at guest address {guest:#x}: {source}")]
    Map { guest: u64, source: io::Error },
}

/// One `mmap`, undone when the last map that uses it goes.
#[derive(Debug)]
struct Mapping {
    address: NonNull<c_void>,
    length: usize,
}

// SAFETY: the value is an address and a length; the memory behind them belongs to no thread and is only accessed through
// raw pointers, by rules that do not depend on the thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared reference gives away nothing but the two numbers.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `Region::map` for this value alone, and whoever holds a segment of it holds the
        // memory map that owns the value.
        let unmapped = unsafe { munmap(self.address.as_ptr(), self.length) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "cannot unmap guest memory");
        }
    }
}

/// A run of guest addresses and where they are in this process.
#[derive(Clone, Debug)]
struct Region {
    guest: u64,
    user: u64,
    size: u64,
    host: NonNull<u8>,
    /// Keeps `host` mapped.
    _mapping: Arc<Mapping>,
}

// SAFETY: `host` points into `_mapping`, for which the same holds.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn map(shared: &SharedRegion) -> Result<Self, MapError> {
        let SharedRegion { region, fd } = shared;
        let MemoryRegion { guest_address: guest, user_address: user, size, mmap_offset } = *region;
        let source = |source: rustix::io::Errno| MapError::Map { guest, source: source.into() };
        let too_large = MapError::TooLarge { guest };
        let end = mmap_offset.checked_add(size).ok_or(MapError::TooLarge { guest })?;
        check_size(fd, guest, end).map_err(|error| error.unwrap_or_else(source))?;
        // Files of huge pages are mapped and unmapped in whole pages.
        let page = page_size(fd).map_err(source)?;
        let start = mmap_offset - mmap_offset % page;
        let length = (end - start).checked_next_multiple_of(page).and_then(|n| usize::try_from(n).ok());
        let length = length.filter(|&n| n <= isize::MAX as usize).ok_or(too_large)?;
        // SAFETY: the kernel chooses an address range that is not in use.
        let address = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                fd,
                start,
            )
        };
        let address = NonNull::new(address.map_err(source)?).ok_or(MapError::TooLarge { guest })?;
        let mapping = Arc::new(Mapping { address, length });
        // SAFETY: the range has just been mapped; leaving it out of core dumps changes none of its bytes.
        let _ = unsafe { madvise(address.as_ptr(), length, Advice::LinuxDontDump) };
        // SAFETY: `mmap_offset - start` is less than a page and the region is not empty, so this is within the mapping.
        let host = unsafe { address.cast::<u8>().add((mmap_offset - start) as usize) };
        Ok(Self { guest, user, size, host, _mapping: mapping })
    }

    /// The bytes from `offset`, at most `length` and never beyond the region. `offset` is less than the size.
    fn part(&self, offset: u64, length: u64) -> (NonNull<u8>, u64) {
        debug_assert!(offset < self.size);
        // SAFETY: the offset is less than the region's size, all of which is mapped.
        (unsafe { self.host.add(offset as usize) }, length.min(self.size - offset))
    }
}

/// The file must be as long as the region says, or the first access behind its end would kill us.
fn check_size(fd: &OwnedFd, guest: u64, needed: u64) -> Result<(), Result<MapError, rustix::io::Errno>> {
    let stat = fstat(fd).map_err(Err)?;
    // Devices that can be mapped (DAX) have no size here; the kernel checks their ranges.
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(());
    }
    let actual = u64::try_from(stat.st_size).unwrap_or(0);
    if actual < needed {
        return Err(Ok(MapError::FileTooShort { guest, needed, actual }));
    }
    if !fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
        tracing::debug!(
            guest,
            "guest memory is not sealed: if the front end truncates it, this process dies"
        );
    }
    Ok(())
}

fn page_size(fd: &OwnedFd) -> Result<u64, rustix::io::Errno> {
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

/// Guest memory as it is between two changes.
#[derive(Debug, Default)]
pub(crate) struct MemoryMap {
    /// By guest address; they do not overlap.
    regions: Vec<Region>,
}

impl MemoryMap {
    /// Maps a whole memory table.
    pub(crate) fn new(table: &[SharedRegion]) -> Result<Self, MapError> {
        let regions = table.iter().map(Region::map).collect::<Result<_, _>>()?;
        Ok(Self::sorted(regions))
    }

    /// This map and one region more.
    pub(crate) fn with(&self, region: &SharedRegion) -> Result<Self, MapError> {
        let mut regions = self.regions.clone();
        regions.push(Region::map(region)?);
        Ok(Self::sorted(regions))
    }

    /// This map without a region.
    pub(crate) fn without(&self, region: &MemoryRegion) -> Self {
        let mut regions = self.regions.clone();
        regions.retain(|other| other.guest != region.guest_address);
        Self { regions }
    }

    fn sorted(mut regions: Vec<Region>) -> Self {
        regions.sort_by_key(|region| region.guest);
        Self { regions }
    }

    /// Appends the bytes of a guest address range to `list`, in as many segments as it touches regions. `hint` is the
    /// region that is tried first and becomes the one that was found. Returns whether all of the range is memory.
    ///
    /// The segments are good for as long as the caller keeps this map.
    #[inline]
    pub(crate) fn append(&self, address: u64, length: u32, hint: &mut usize, list: &mut SgList) -> bool {
        if let Some(region) = self.regions.get(*hint) {
            let offset = address.wrapping_sub(region.guest);
            if offset < region.size && u64::from(length) <= region.size - offset && length > 0 {
                let (host, there) = region.part(offset, u64::from(length));
                // SAFETY: as in `append_parts`.
                list.push(unsafe { Seg::new(host.as_ptr(), there as usize) });
                return true;
            }
        }
        self.append_parts(address, length, hint, list)
    }

    #[cold]
    fn append_parts(&self, address: u64, length: u32, hint: &mut usize, list: &mut SgList) -> bool {
        let (mut address, mut left) = (address, u64::from(length));
        while left > 0 {
            let Some(region) = self.find(address, hint) else { return false };
            let (host, there) = region.part(address - region.guest, left);
            // SAFETY: the bytes are mapped for as long as this map lives, which the caller sees to, and no reference to
            // guest memory is ever made.
            list.push(unsafe { Seg::new(host.as_ptr(), there as usize) });
            left -= there;
            match address.checked_add(there) {
                Some(next) => address = next,
                None => return left == 0,
            }
        }
        true
    }

    /// The bytes of a guest address range, if they lie in one region. They are mapped for as long as this map lives.
    pub(crate) fn guest(&self, address: u64, length: u64, hint: &mut usize) -> Option<NonNull<u8>> {
        let region = self.find(address, hint)?;
        let (host, there) = region.part(address - region.guest, length);
        (there == length).then_some(host)
    }

    /// The bytes of a range of the front end's own addresses, if they lie in one region.
    pub(crate) fn user(&self, address: u64, length: u64) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.user).filter(|&offset| offset < region.size)?;
            let (host, there) = region.part(offset, length);
            (there == length).then_some(host)
        })
    }

    #[inline]
    fn find(&self, address: u64, hint: &mut usize) -> Option<&Region> {
        if let Some(region) = self.regions.get(*hint)
            && address.wrapping_sub(region.guest) < region.size
        {
            return Some(region);
        }
        let index = self.regions.partition_point(|region| region.guest <= address).checked_sub(1)?;
        let region = &self.regions[index];
        if address - region.guest >= region.size {
            return None;
        }
        *hint = index;
        Some(region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{memfd, region};
    use lunette_store::Sg;
    use proptest::prelude::*;

    fn shared(guest: u64, size: u64, fd: &OwnedFd, offset: u64) -> SharedRegion {
        SharedRegion { region: region(guest, size, offset), fd: fd.try_clone().unwrap() }
    }

    fn segments(map: &MemoryMap, address: u64, length: u32) -> Option<Vec<usize>> {
        let (mut hint, mut list) = (0, SgList::new());
        map.append(address, length, &mut hint, &mut list)
            .then(|| list.segs().iter().map(|seg| seg.len()).collect())
    }

    #[test]
    fn a_range_over_a_border_is_split_and_one_over_a_hole_refused() {
        let fd = memfd(0x4000);
        let table = [
            shared(0x1000, 0x1000, &fd, 0),
            shared(0x2000, 0x1000, &fd, 0x2000),
            shared(0x8000, 0x1000, &fd, 0x1000),
        ];
        let map = MemoryMap::new(&table).unwrap();
        assert_eq!(segments(&map, 0x1ff0, 0x20), Some(vec![0x10, 0x10]));
        assert_eq!(segments(&map, 0x1000, 0x2000), Some(vec![0x1000, 0x1000]));
        assert_eq!(segments(&map, 0x1000, 0x2001), None);
        assert_eq!(segments(&map, 0xfff, 1), None);
        assert_eq!(segments(&map, 0x8fff, 1), Some(vec![1]));
        assert_eq!(segments(&map, 0x9000, 1), None);
        assert_eq!(segments(&map, u64::MAX, u32::MAX), None);
        assert_eq!(segments(&map, 5, 0), Some(vec![]));
        assert!(map.guest(0x1ff0, 0x20, &mut 0).is_none());
        assert!(map.guest(0x1ff0, 0x10, &mut 0).is_some());
    }

    #[test]
    fn offsets_need_not_be_pages() {
        let fd = memfd(0x3000);
        let whole = MemoryMap::new(&[shared(0, 0x3000, &fd, 0)]).unwrap();
        let odd = MemoryMap::new(&[shared(0x100, 0x1000, &fd, 0x1234)]).unwrap();
        let (mut hint, mut list) = (7, SgList::new());
        assert!(whole.append(0x1234, 4, &mut hint, &mut list));
        list.as_sg().copy_in(0, b"here");
        list.clear();
        assert!(odd.append(0x100, 4, &mut hint, &mut list));
        assert_eq!(list.as_sg().to_vec(4), b"here");
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let fd = memfd(0x1fff);
        let error = MemoryMap::new(&[shared(0, 0x1000, &fd, 0x1000)]).unwrap_err();
        assert!(matches!(error, MapError::FileTooShort { needed: 0x2000, actual: 0x1fff, .. }), "{error}");
        assert!(MemoryMap::new(&[shared(0, 0xfff, &fd, 0x1000)]).is_ok());
        assert!(MemoryMap::new(&[shared(0, u64::MAX - 0x1000, &fd, 0x1000)]).is_err());
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let (pipe, _writer) = std::io::pipe().unwrap();
        let pipe = OwnedFd::from(pipe);
        assert!(matches!(MemoryMap::new(&[shared(0, 0x1000, &pipe, 0)]), Err(MapError::Map { .. })));
    }

    #[test]
    fn regions_come_and_go_and_mappings_stay() {
        let fd = memfd(0x2000);
        let one = MemoryMap::new(&[shared(0x10000, 0x1000, &fd, 0)]).unwrap();
        let two = one.with(&shared(0, 0x1000, &fd, 0x1000)).unwrap();
        let list = |map: &MemoryMap, address| {
            let mut list = SgList::new();
            map.append(address, 8, &mut 0, &mut list).then_some(list)
        };
        let kept = list(&one, 0x10000).unwrap();
        assert!(list(&one, 0).is_none());
        let three = two.without(&region(0, 0x1000, 0x1000));
        drop((one, two));
        assert!(list(&three, 0).is_none());
        kept.as_sg().copy_in(0, b"still on");
        assert_eq!(list(&three, 0x10000).unwrap().as_sg().to_vec(8), b"still on");
    }

    #[test]
    fn user_addresses_are_translated_too() {
        let fd = memfd(0x2000);
        let map = MemoryMap::new(&[shared(0x5000, 0x2000, &fd, 0)]).unwrap();
        let user = region(0x5000, 0x2000, 0).user_address;
        assert_eq!(map.user(user + 0x10, 0x10), map.guest(0x5010, 0x10, &mut 0));
        assert!(map.user(user + 0x10, 0x2000).is_none());
        assert!(map.user(user - 1, 1).is_none());
        assert!(map.user(u64::MAX, 2).is_none());
    }

    proptest! {
        #[test]
        fn translation_agrees_with_a_model(
            address in 0u64..0x6000, length in 0u32..0x4000, hint in 0usize..4,
        ) {
            let fd = memfd(0x3000);
            let table = [shared(0x1000, 0x800, &fd, 0), shared(0x1800, 0x1000, &fd, 0x1000), shared(0x4000, 0x800, &fd, 0x800)];
            let map = MemoryMap::new(&table).unwrap();
            let is_memory = |at: u64| (0x1000..0x2800).contains(&at) || (0x4000..0x4800).contains(&at);
            let expected = (address..address + u64::from(length)).all(is_memory);
            let (mut hint, mut list) = (hint, SgList::new());
            prop_assert_eq!(map.append(address, length, &mut hint, &mut list), expected);
            if expected {
                prop_assert_eq!(Sg::new(list.segs()).len(), u64::from(length));
            }
        }
    }
}
