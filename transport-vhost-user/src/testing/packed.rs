//! The driver's side of a packed ring.

use super::{Guest, NEXT, USER, WRITE};
use crate::ring::Layout;
use std::collections::HashMap;

pub(crate) const INDIRECT: u16 = 4;
pub(crate) const AVAILABLE: u16 = 1 << 7;
pub(crate) const USED: u16 = 1 << 15;

/// Address, length, whether the device writes.
pub(crate) type Part = (u64, u32, bool);

/// A place in the ring and the wrap counter there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(pub(crate) u16, pub(crate) bool);

impl Place {
    pub(crate) fn on(self, count: u16, size: u16) -> Self {
        let index = self.0 + count;
        if index < size { Self(index, self.1) } else { Self(index - size, !self.1) }
    }

    pub(crate) fn bits(self) -> u16 {
        self.0 | if self.1 { 1 << 15 } else { 0 }
    }
}

/// A driver that keeps the rules.
pub(crate) struct PackedDriver {
    pub(crate) size: u16,
    /// Guest addresses.
    pub(crate) ring: u64,
    pub(crate) driver_event: u64,
    pub(crate) device_event: u64,
    /// Where the next chain goes, and where the next used one is looked for.
    pub(crate) next: Place,
    pub(crate) used: Place,
    /// Descriptors of the chains that the device has, by id.
    pub(crate) out: HashMap<u16, u16>,
}

impl PackedDriver {
    /// A ring in the 64 KiB from `at`.
    pub(crate) fn new(at: u64, size: u16) -> Self {
        let start = Place(0, true);
        let (driver_event, device_event) = (at + 0x8000, at + 0x8004);
        Self { size, ring: at, driver_event, device_event, next: start, used: start, out: HashMap::new() }
    }

    /// A ring that has been used up to `start`.
    pub(crate) fn begin_at(&mut self, guest: &Guest, start: Place) {
        (self.next, self.used) = (start, start);
        for index in 0..self.size {
            let lap = start.1 == (index < start.0);
            guest.write(self.at(index) + 14, &if lap { AVAILABLE | USED } else { 0 }.to_le_bytes());
        }
    }

    pub(crate) fn layout(&self, event_index: bool, indirect: bool) -> Layout {
        Layout {
            size: self.size,
            packed: true,
            descriptors: USER + self.ring,
            available: USER + self.driver_event,
            used: USER + self.device_event,
            event_index,
            indirect,
        }
    }

    pub(crate) fn base(&self) -> u32 {
        u32::from(self.next.bits()) | u32::from(self.used.bits()) << 16
    }

    pub(crate) fn free(&self) -> u16 {
        self.size - self.out.values().sum::<u16>()
    }

    pub(crate) fn at(&self, index: u16) -> u64 {
        self.ring + 16 * u64::from(index)
    }

    /// Writes a descriptor anywhere.
    pub(crate) fn write(guest: &Guest, at: u64, (address, length): (u64, u32), id: u16, flags: u16) {
        guest.write(at, &address.to_le_bytes());
        guest.write(at + 8, &length.to_le_bytes());
        guest.write(at + 12, &id.to_le_bytes());
        guest.write(at + 14, &flags.to_le_bytes());
    }

    /// Makes a chain of ring descriptors available.
    pub(crate) fn offer(&mut self, guest: &Guest, id: u16, parts: &[Part]) {
        let raw = |(n, &(address, length, write)): (usize, &Part)| {
            let more = if n + 1 < parts.len() { NEXT } else { 0 };
            ((address, length), more | if write { WRITE } else { 0 })
        };
        self.offer_raw(guest, id, &parts.iter().enumerate().map(raw).collect::<Vec<_>>());
    }

    /// Makes a chain available through a table at `at`.
    pub(crate) fn offer_indirect(&mut self, guest: &Guest, id: u16, parts: &[Part], at: u64) {
        for (n, &(address, length, write)) in parts.iter().enumerate() {
            // NEXT means nothing here.
            let flags = if write { WRITE } else { 0 } | if n % 2 == 0 { NEXT } else { 0 };
            Self::write(guest, at + 16 * n as u64, (address, length), 0xdead, flags);
        }
        self.offer_raw(guest, id, &[((at, 16 * parts.len() as u32), INDIRECT)]);
    }

    /// Makes descriptors available; the first one last.
    pub(crate) fn offer_raw(&mut self, guest: &Guest, id: u16, descriptors: &[((u64, u32), u16)]) {
        let count = descriptors.len() as u16;
        assert!(count <= self.free() && self.out.insert(id, count).is_none());
        for (n, &(buffer, flags)) in descriptors.iter().enumerate().rev() {
            let Place(index, wrap) = self.next.on(n as u16, self.size);
            // The id counts in the last descriptor only.
            let id = if n + 1 == descriptors.len() { id } else { !id };
            let available = if wrap { AVAILABLE } else { USED };
            Self::write(guest, self.at(index), buffer, id, flags | available);
        }
        self.next = self.next.on(count, self.size);
    }

    /// Takes the next used chain: id, length, and whether the device says that it has written.
    pub(crate) fn collect(&mut self, guest: &Guest) -> Option<(u16, u32, bool)> {
        let Place(index, wrap) = self.used;
        let at = self.at(index);
        let flags = guest.u16(at + 14);
        if flags & (AVAILABLE | USED) != if wrap { AVAILABLE | USED } else { 0 } {
            return None;
        }
        let id = guest.u16(at + 12);
        let count = self.out.remove(&id).expect("a chain that the device has");
        self.used = self.used.on(count, self.size);
        Some((id, guest.u32(at + 8), flags & WRITE != 0))
    }

    /// Says when the driver wants to be notified.
    pub(crate) fn set_event(&self, guest: &Guest, at: Place, flags: u16) {
        guest.write(self.driver_event, &at.bits().to_le_bytes());
        guest.write(self.driver_event + 2, &flags.to_le_bytes());
    }

    /// When the device wants to be notified.
    pub(crate) fn device_event(&self, guest: &Guest) -> (u16, u16) {
        (guest.u16(self.device_event), guest.u16(self.device_event + 2))
    }
}
