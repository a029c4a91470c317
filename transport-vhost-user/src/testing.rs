//! The driver's side, for tests: guest memory in a memfd, and rings in it.

pub(crate) mod front_end;
pub(crate) mod held;
pub(crate) mod packed;

use crate::memory::MemoryMap;
use crate::ring::Layout;
use lunette_store::{Sg, SgList};
use lunette_vhost_user::{MemoryRegion, SharedRegion};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What the front end's own addresses are above guest addresses.
pub(crate) const USER: u64 = 0x7f00_0000_0000;

pub(crate) fn memfd(size: u64) -> OwnedFd {
    let fd = memfd_create("lunette-test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

pub(crate) fn region(guest_address: u64, size: u64, mmap_offset: u64) -> MemoryRegion {
    MemoryRegion { guest_address, size, user_address: USER + guest_address, mmap_offset }
}

/// A guest's memory from address 0, with the front end's view of it.
pub(crate) struct Guest {
    pub(crate) fd: OwnedFd,
    pub(crate) map: Arc<MemoryMap>,
    pub(crate) size: u64,
}

impl Guest {
    pub(crate) fn new(size: u64) -> Self {
        let fd = memfd(size);
        let shared = SharedRegion { region: region(0, size, 0), fd: fd.try_clone().unwrap() };
        Self { fd, map: Arc::new(MemoryMap::new(&[shared]).unwrap()), size }
    }

    /// Maps a region more.
    pub(crate) fn also(&mut self, region: MemoryRegion, fd: &OwnedFd) {
        let shared = SharedRegion { region, fd: fd.try_clone().unwrap() };
        self.map = Arc::new(self.map.with(&shared).unwrap());
    }

    fn list(&self, at: u64, length: usize) -> SgList {
        let mut list = SgList::new();
        assert!(self.map.append(at, length as u32, &mut 0, &mut list), "{at:#x}+{length:#x}");
        list
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.list(at, bytes.len()).as_sg().copy_in(0, bytes);
    }

    pub(crate) fn read(&self, at: u64, length: usize) -> Vec<u8> {
        Sg::new(self.list(at, length).segs()).to_vec(length as u64)
    }

    pub(crate) fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().unwrap())
    }

    pub(crate) fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.read(at, 4).try_into().unwrap())
    }
}

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

/// Guest addresses of a ring's parts.
#[derive(Clone, Copy)]
pub(crate) struct DriverRing {
    pub(crate) size: u16,
    pub(crate) table: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

impl DriverRing {
    /// A ring in the 64 KiB from `at`.
    pub(crate) fn new(at: u64, size: u16) -> Self {
        Self { size, table: at, available: at + 0x8000, used: at + 0xa000 }
    }

    pub(crate) fn layout(&self, event_index: bool, indirect: bool) -> Layout {
        Layout {
            size: self.size,
            packed: false,
            descriptors: USER + self.table,
            available: USER + self.available,
            used: USER + self.used,
            event_index,
            indirect,
        }
    }

    pub(crate) fn descriptor(&self, guest: &Guest, index: u16, value: (u64, u32, u16, u16)) {
        Self::write_descriptor(guest, self.table + 16 * u64::from(index), value);
    }

    pub(crate) fn write_descriptor(
        guest: &Guest,
        at: u64,
        (address, length, flags, next): (u64, u32, u16, u16),
    ) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        guest.write(at, &bytes);
    }

    /// Writes a direct chain from descriptor `head` on: address, length, whether the device writes.
    pub(crate) fn chain(&self, guest: &Guest, head: u16, parts: &[(u64, u32, bool)]) {
        for (n, &(address, length, write)) in parts.iter().enumerate() {
            let index = head + n as u16;
            let more = if n + 1 < parts.len() { NEXT } else { 0 };
            let flags = more | if write { WRITE } else { 0 };
            self.descriptor(guest, index, (address, length, flags, index + 1));
        }
    }

    pub(crate) fn available_index(&self, guest: &Guest) -> u16 {
        guest.u16(self.available + 2)
    }

    pub(crate) fn set_available_index(&self, guest: &Guest, index: u16) {
        guest.write(self.available + 2, &index.to_le_bytes());
    }

    /// Makes a chain available.
    pub(crate) fn offer(&self, guest: &Guest, head: u16) {
        let index = self.available_index(guest);
        let entry = u64::from(index & (self.size - 1));
        guest.write(self.available + 4 + 2 * entry, &head.to_le_bytes());
        self.set_available_index(guest, index.wrapping_add(1));
    }

    pub(crate) fn used_index(&self, guest: &Guest) -> u16 {
        guest.u16(self.used + 2)
    }

    /// Entry `index` of the used ring: head and length.
    pub(crate) fn used_entry(&self, guest: &Guest, index: u16) -> (u32, u32) {
        let at = self.used + 4 + 8 * u64::from(index & (self.size - 1));
        (guest.u32(at), guest.u32(at + 4))
    }

    /// Asks to be notified when the used index passes `event`.
    pub(crate) fn set_used_event(&self, guest: &Guest, event: u16) {
        guest.write(self.available + 4 + 2 * u64::from(self.size), &event.to_le_bytes());
    }

    pub(crate) fn available_event(&self, guest: &Guest) -> u16 {
        guest.u16(self.used + 4 + 8 * u64::from(self.size))
    }
}
