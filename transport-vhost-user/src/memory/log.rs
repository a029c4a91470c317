//! The dirty log: memory of the front end in which we say which pages of the guest we have written to (vhost-user,
//! "Migration").
//!
//! A page is marked when it has been written, and before the front end is told of anything that follows: who looks at the
//! log first and copies the page then never misses a write for good. What has no bit, because the log is too short, is not
//! marked.

use super::MemoryMap;
use lunette_store::Sg;
use lunette_vhost_user::LogArea;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering, fence};

/// A dirty log that is mapped.
#[derive(Debug)]
pub(crate) struct DirtyLog {
    /// Keeps `start` mapped.
    _map: MemoryMap,
    start: NonNull<u8>,
    /// Pages that have a bit.
    pages: u64,
}

// SAFETY: `start` points into the map, and is only accessed by atomic operations.
unsafe impl Send for DirtyLog {}
// SAFETY: as above.
unsafe impl Sync for DirtyLog {}

impl DirtyLog {
    /// The `length` bytes at address 0 of `map`; nothing if they are not there.
    pub(crate) fn new(map: MemoryMap, length: u64) -> Option<Self> {
        let start = map.user(0, length)?;
        Some(Self { _map: map, start, pages: length.saturating_mul(8) })
    }

    /// Whether each page of `memory` has a bit.
    pub(crate) fn covers(&self, memory: &MemoryMap) -> bool {
        memory.end().div_ceil(LogArea::PAGE) <= self.pages
    }

    /// Marks the pages of `length` bytes from guest address `address` on.
    pub(crate) fn mark(&self, address: u64, length: u64) {
        let Some(last) = length.checked_sub(1).map(|rest| address.saturating_add(rest)) else { return };
        let first = address / LogArea::PAGE;
        let end = (last / LogArea::PAGE + 1).min(self.pages);
        // What was written is seen by whoever takes a bit that is found to be set here.
        fence(Ordering::SeqCst);
        let mut page = first;
        while page < end {
            // All bits of one byte at once.
            let next = (page / 8 + 1).saturating_mul(8).min(end);
            let bits = (0xff_u8 << (page % 8)) & (0xff >> ((8 - next % 8) % 8));
            let byte = self.byte(page / 8);
            if byte.load(Ordering::Relaxed) & bits != bits {
                byte.fetch_or(bits, Ordering::AcqRel);
            }
            page = next;
        }
    }

    /// Marks the pages of bytes that are mapped by `memory`; all of it if a driver names more bytes than there are, so that nobody
    /// waits for what it names again and again.
    pub(crate) fn mark_list(&self, list: Sg<'_>, memory: &MemoryMap) {
        if list.len() > memory.runs().map(|(_, size)| size).sum() {
            return memory.runs().for_each(|(address, size)| self.mark(address, size));
        }
        let mut hint = 0;
        for seg in list.iter() {
            if let Some(address) = memory.guest_address(seg.address(), &mut hint) {
                self.mark(address, seg.len() as u64);
            }
        }
    }

    /// The byte with the bits of eight pages, of which there is at least one.
    fn byte(&self, index: u64) -> &AtomicU8 {
        debug_assert!(index * 8 < self.pages);
        // SAFETY: there are eight bits for each byte of the map that was looked at, and the map lives as long. The front end
        // changes the bytes at the same time, which atomic numbers allow for, and no other access is made to them here.
        unsafe { AtomicU8::from_ptr(self.start.add(index as usize).as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{memfd, region};
    use lunette_store::SgList;
    use lunette_vhost_user::SharedRegion;
    use proptest::prelude::*;
    use std::os::fd::OwnedFd;

    fn map(table: &[(u64, u64, u64)], fd: &OwnedFd) -> MemoryMap {
        let shared = table.iter().map(|&(guest, size, offset)| SharedRegion {
            region: region(guest, size, offset),
            fd: fd.try_clone().unwrap(),
        });
        MemoryMap::new(&shared.collect::<Vec<_>>()).unwrap()
    }

    /// A log of `length` bytes in the middle of a file, and the file.
    fn log(length: u64) -> (DirtyLog, OwnedFd) {
        let fd = memfd(0x3000);
        let region = lunette_vhost_user::MemoryRegion {
            guest_address: 0,
            size: length,
            user_address: 0,
            mmap_offset: 0x1010,
        };
        let shared = SharedRegion { region, fd: fd.try_clone().unwrap() };
        (DirtyLog::new(MemoryMap::new(&[shared]).unwrap(), length).unwrap(), fd)
    }

    /// The pages that are marked, and whether the file is zero outside the log.
    fn marked(fd: &OwnedFd, length: usize) -> (Vec<u64>, bool) {
        let mut bytes = vec![0; 0x3000];
        assert_eq!(rustix::io::pread(fd, &mut bytes, 0).unwrap(), bytes.len());
        let log: Vec<u8> = bytes.splice(0x1010..0x1010 + length, []).collect();
        let pages = (0..log.len() as u64 * 8).filter(|page| log[(page / 8) as usize] >> (page % 8) & 1 != 0);
        (pages.collect(), bytes.iter().all(|byte| *byte == 0))
    }

    #[test]
    fn a_page_is_marked_if_one_byte_of_it_was_written() {
        let (log, fd) = log(4);
        log.mark(0x1fff, 2);
        log.mark(0x7000, 0x3000);
        log.mark(0x1_0000, 0);
        assert_eq!(marked(&fd, 4), (vec![1, 2, 7, 8, 9], true));
    }

    #[test]
    fn what_has_no_bit_is_not_marked() {
        let (log, fd) = log(3);
        for (address, length) in [
            (0x1_7000, u64::MAX),
            (0x1_8000, 1),
            (u64::MAX, 1),
            (u64::MAX, u64::MAX),
            (u64::MAX - 0x1000, 0x2000),
        ] {
            log.mark(address, length);
        }
        assert_eq!(marked(&fd, 3), (vec![23], true));
        let memory = memfd(0x1000);
        assert!(log.covers(&map(&[(0x1_7000, 0x1000, 0)], &memory)));
        assert!(!log.covers(&map(&[(0x1_7001, 0x1000, 0)], &memory)));
        assert!(log.covers(&MemoryMap::default()));
    }

    #[test]
    fn segments_are_marked_where_the_guest_has_them() {
        let fd = memfd(0x8000);
        // One file at two places, as with memory that is seen twice.
        let memory = map(&[(0x4000, 0x2000, 0x1000), (0x9000, 0x3000, 0x1000)], &fd);
        let (mut list, mut hint) = (SgList::new(), 0);
        assert!(memory.append(0xa800, 0x900, &mut hint, &mut list));
        assert!(memory.append(0x4010, 1, &mut hint, &mut list));
        let (log, file) = log(2);
        log.mark_list(list.as_sg(), &memory);
        assert_eq!(marked(&file, 2), (vec![4, 10, 11], true));
    }

    #[test]
    fn lists_of_more_bytes_than_there_are_take_no_longer_than_all_of_them() {
        let fd = memfd(0x8000);
        let memory = map(&[(0x4000, 0x2000, 0x1000), (0x9000, 0x3000, 0x3000)], &fd);
        let (mut list, mut hint) = (SgList::new(), 0);
        for _ in 0..3 {
            assert!(memory.append(0x4000, 0x2000, &mut hint, &mut list));
        }
        let (log, file) = log(2);
        log.mark_list(list.as_sg(), &memory);
        assert_eq!(marked(&file, 2), (vec![4, 5, 9, 10, 11], true));
    }

    proptest! {
        #[test]
        fn marks_agree_with_a_model(
            ranges in prop::collection::vec((0u64..0x4_0000, 0u64..0x1_8000), 1..4), length in 1usize..8,
        ) {
            let (log, fd) = log(length as u64);
            let is_marked = |page: u64| ranges.iter().any(|&(address, bytes)| {
                bytes > 0 && address < (page + 1) * 0x1000 && address + bytes > page * 0x1000
            });
            ranges.iter().for_each(|&(address, bytes)| log.mark(address, bytes));
            let expected: Vec<u64> = (0..length as u64 * 8).filter(|page| is_marked(*page)).collect();
            prop_assert_eq!(marked(&fd, length), (expected, true));
        }
    }
}
