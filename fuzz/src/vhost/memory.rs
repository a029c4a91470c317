//! Guest memory in one file, with bytes around each part that are nobody's.

use crate::input::Input;
use lunette_guest::GuestMemory;
use lunette_vhost_user::MemoryRegion;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// What the front end's own addresses are above guest addresses.
pub(super) const USER: u64 = 0x7f00_0000_0000;
/// What the file holds where the guest has no memory.
const CANARY: u8 = 0xcc;
pub(super) const FILE: usize = 0x1_7000;

/// A part: guest address, size, place in the file.
#[derive(Clone, Copy)]
pub(super) struct Zone {
    pub(super) guest: u64,
    pub(super) size: u64,
    at: u64,
}

impl Zone {
    fn file(&self) -> Range<u64> {
        self.at..self.at + self.size
    }

    fn holds(&self, address: u64) -> bool {
        (self.guest..self.guest + self.size).contains(&address)
    }
}

/// Rings and the tables of their indirect descriptors.
pub(super) const RINGS: Zone = Zone { guest: 0x8000, size: 0x9000, at: 0x1000 };
/// Buffers that the device writes, in two parts that touch. None begins or ends at a page.
pub(super) const WRITABLE: Zone = Zone { guest: 0x2_0000, size: 0x2f00, at: 0xb100 };
const MORE_WRITABLE: Zone = Zone { guest: 0x2_2f00, size: 0x1100, at: 0xf108 };
/// Buffers that the device reads.
const READABLE: Zone = Zone { guest: 0x3_0000, size: (SLOTS * LONGEST) as u64, at: 0x1_1234 };
/// Those of requests of the control queue.
const CONTROLS: Zone = Zone { guest: 0x3_8000, size: (SHORT_SLOTS * SHORT) as u64, at: 0x1_5c08 };
pub(super) const ZONES: [Zone; 5] = [RINGS, WRITABLE, MORE_WRITABLE, READABLE, CONTROLS];
/// Buffers of all queues but the control queue.
pub(super) const BUFFERS: [Zone; 3] = [WRITABLE, MORE_WRITABLE, READABLE];

/// Most readable bytes of a chain.
pub(super) const LONGEST: usize = 0x460;
const SLOTS: usize = 16;
/// Those of up to this length have places of their own: what a request of the control queue says must not change while
/// the device has it.
const SHORT: usize = 24;
const SHORT_SLOTS: usize = 40;

/// Guest memory.
pub(super) struct Memory {
    file: File,
    /// The rings only.
    pub(super) rings: GuestMemory,
    /// Where it is divided into regions, beside the ends of its parts.
    pub(super) cuts: Vec<u64>,
    /// The places that were taken last, for long and for short chains.
    slots: [usize; 2],
    before: Vec<u8>,
    now: Vec<u8>,
    /// The file is shorter than it was. The rings must not be touched.
    pub(super) truncated: bool,
}

impl Memory {
    pub(super) fn new() -> Self {
        let file = File::from(memfd_create("lunette-fuzz", MemfdFlags::CLOEXEC).expect("a memory file"));
        let mut bytes = vec![CANARY; FILE];
        for zone in ZONES {
            bytes[zone.at as usize..][..zone.size as usize].fill(0);
        }
        file.write_all_at(&bytes, 0).expect("room for a guest");
        let mut rings = GuestMemory::new();
        let copy = OwnedFd::from(file.try_clone().expect("another descriptor"));
        rings.add_file(RINGS.guest, RINGS.size as usize, copy, RINGS.at).expect("memory for rings");
        Self {
            file,
            rings,
            cuts: Vec::new(),
            slots: [0; 2],
            now: bytes.clone(),
            before: bytes,
            truncated: false,
        }
    }

    pub(super) fn fd(&self) -> OwnedFd {
        self.file.try_clone().expect("another descriptor").into()
    }

    /// The regions.
    pub(super) fn regions(&self) -> Vec<MemoryRegion> {
        let mut regions = Vec::new();
        for zone in ZONES {
            let mut cuts: Vec<_> = self.cuts.iter().copied().filter(|cut| zone.holds(*cut)).collect();
            cuts.extend([zone.guest, zone.guest + zone.size]);
            cuts.sort_unstable();
            cuts.dedup();
            regions.extend(cuts.windows(2).map(|ends| MemoryRegion {
                guest_address: ends[0],
                size: ends[1] - ends[0],
                user_address: USER + ends[0],
                mmap_offset: zone.at + ends[0] - zone.guest,
            }));
        }
        regions
    }

    /// Regions with their descriptors.
    pub(super) fn shared(&self) -> Vec<(MemoryRegion, OwnedFd)> {
        self.regions().into_iter().map(|region| (region, self.fd())).collect()
    }

    /// Puts bytes where the device may read them; where that is.
    pub(super) fn put(&mut self, bytes: &[u8]) -> u64 {
        let [long, short] = &mut self.slots;
        let address = if bytes.len() > SHORT {
            *long = (*long + 1) % SLOTS;
            READABLE.guest + (*long * LONGEST) as u64
        } else {
            *short = (*short + 1) % SHORT_SLOTS;
            CONTROLS.guest + (*short * SHORT) as u64
        };
        self.write(address, bytes);
        address
    }

    /// A place for `length` bytes of the device; may lie across the border of two regions.
    pub(super) fn writable(&self, length: u32, input: &mut Input<'_>) -> u64 {
        let size = WRITABLE.size + MORE_WRITABLE.size;
        WRITABLE.guest + input.below((size - u64::from(length)) as usize) as u64
    }

    /// Writes bytes that lie in one part.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        if !self.truncated {
            self.file.write_all_at(bytes, place(address)).expect("memory of the guest");
        }
    }

    /// Reads bytes that lie in one part.
    pub(super) fn read(&self, address: u64, bytes: &mut [u8]) {
        self.file.read_exact_at(bytes, place(address)).expect("memory of the guest");
    }

    /// Writes anything anywhere.
    pub(super) fn scribble(&self, input: &mut Input<'_>) {
        let zone = input.pick(&ZONES);
        let bytes = input.bytes(16);
        let at = input.below(zone.size as usize - bytes.len()) as u64;
        self.write(zone.guest + at, bytes);
    }

    /// Takes the memory behind `length` bytes away, under everybody's hands.
    pub(super) fn truncate(&mut self, length: u64) {
        self.truncated = true;
        ftruncate(&self.file, length.min(FILE as u64)).expect("a memory file");
    }

    /// Makes the file as long as it was. What was cut off is zero.
    pub(super) fn restore(&mut self) {
        ftruncate(&self.file, FILE as u64).expect("a memory file");
        self.truncated = false;
        self.snapshot();
    }

    /// Remembers what is in memory before the device does something.
    pub(super) fn snapshot(&mut self) {
        if !self.truncated {
            self.file.read_exact_at(&mut self.before, 0).expect("the whole file");
        }
    }

    /// What the device may have written: nothing but these places in the file has changed.
    pub(super) fn check(&mut self, allowed: &[Range<u64>]) {
        if self.truncated {
            return;
        }
        let Self { file, now, before, .. } = self;
        file.read_exact_at(now, 0).expect("the whole file");
        let mut at = 0;
        while let Some(next) = first_difference(&now[at..], &before[at..]) {
            let found = at as u64 + next as u64;
            let end = allowed.iter().filter(|range| range.contains(&found)).map(|range| range.end).max();
            let Some(end) = end else {
                panic!("the device has written to byte {found:#x} of the file");
            };
            at = (end as usize).min(FILE);
        }
    }
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    const LINE: usize = 2048;
    let line = one.chunks(LINE).zip(other.chunks(LINE)).position(|(one, other)| one != other)? * LINE;
    one[line..].iter().zip(&other[line..]).position(|(one, other)| one != other).map(|at| line + at)
}

/// All parts, as places in the file.
pub(super) fn everything() -> Vec<Range<u64>> {
    ZONES.iter().map(Zone::file).collect()
}

/// Where a queue may have the device write by breaking rules, in the file. Even to what was to be read: a descriptor of a
/// packed ring keeps its address when the device returns it, and may be marked as written then.
pub(super) fn within_reach(queue: u16) -> impl Iterator<Item = Range<u64>> {
    let controls = (queue == 0).then_some(CONTROLS);
    BUFFERS.into_iter().chain(controls).map(|zone| zone.file())
}

/// Where guest addresses are in the file.
pub(super) fn places(address: u64, length: u64) -> impl Iterator<Item = Range<u64>> {
    ZONES.into_iter().filter_map(move |zone| {
        let start = address.max(zone.guest);
        let end = (address + length).min(zone.guest + zone.size);
        (start < end).then(|| zone.at + start - zone.guest..zone.at + end - zone.guest)
    })
}

fn place(address: u64) -> u64 {
    let zone = ZONES.iter().find(|zone| zone.holds(address)).expect("an address of the guest's memory");
    zone.at + address - zone.guest
}
