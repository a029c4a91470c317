//! The driver's side: guest memory in a memory file, and rings in it.

use crate::input::Input;
use lunette_transport_vhost_user::fuzzing::RingSetup;
use lunette_vhost_user::{MemoryRegion, SharedRegion};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// What the front end's own addresses are above guest addresses.
const USER: u64 = 0x7f00_0000_0000;
/// What the file holds where the guest has no memory.
const CANARY: u8 = 0xcc;
const FILE: usize = 0x3_6000;

/// A region: guest address, size, place in the file.
type Zone = (u64, u64, u64);
/// The rings, a page each.
const RINGS: Zone = (0, 0x3000, 0x1000);
/// Indirect tables: one for each descriptor of each queue.
const TABLES: Zone = (0x8000, 0x6000, 0x4050);
/// Buffers that the device writes, in two regions that touch. None begins or ends at a page.
const WRITABLE: Zone = (0x2_0000, 0x3f00, 0xb100);
const MORE_WRITABLE: Zone = (0x2_3f00, 0x1100, 0xf108);
/// Buffers that the device reads: one for each descriptor of the control queue and of the request queue.
const READABLE: Zone = (0x3_0000, 2 * LARGEST as u64 * LONGEST as u64, 0x1_1234);
const ZONES: [Zone; 5] = [RINGS, TABLES, READABLE, WRITABLE, MORE_WRITABLE];
/// Most descriptors in an indirect table.
const TABLE: usize = 8;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Bytes at a guest address.
#[derive(Clone, Copy)]
pub(super) struct Buffer {
    pub(super) address: u64,
    pub(super) length: u32,
}

/// Guest memory, and what the driver has written to it.
pub(super) struct Guest {
    file: File,
    ours: Vec<u8>,
}

impl Guest {
    pub(super) fn new() -> Self {
        let file = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memory file"));
        let mut ours = vec![CANARY; FILE];
        for (_, size, at) in ZONES {
            ours[at as usize..][..size as usize].fill(0);
        }
        file.write_all_at(&ours, 0).expect("room for a guest");
        Self { file, ours }
    }

    pub(super) fn table(&self) -> Vec<SharedRegion> {
        let shared = |(guest_address, size, mmap_offset)| SharedRegion {
            region: MemoryRegion { guest_address, size, user_address: USER + guest_address, mmap_offset },
            fd: self.file.try_clone().expect("another descriptor").into(),
        };
        ZONES.map(shared).into()
    }

    /// Writes bytes that lie in one region.
    fn write(&mut self, address: u64, bytes: &[u8]) {
        let at = place(address);
        self.ours[at as usize..][..bytes.len()].copy_from_slice(bytes);
        self.file.write_all_at(bytes, at).expect("memory of the guest");
    }

    fn u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address))
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, place(address)).expect("memory of the guest");
        bytes
    }

    /// A place for `length` bytes of the device; may lie across the border of two regions.
    pub(super) fn writable(&self, length: u32, input: &mut Input<'_>) -> u64 {
        let size = WRITABLE.1 + MORE_WRITABLE.1;
        WRITABLE.0 + input.below((size - u64::from(length)) as usize) as u64
    }

    pub(super) fn scribble(&mut self, input: &mut Input<'_>) {
        let (start, size, _) = input.pick(&ZONES);
        let bytes = input.bytes(16).to_vec();
        let at = input.below(size as usize - bytes.len()) as u64;
        self.write(start + at, &bytes);
    }

    /// Where there is no memory, nothing has changed; to a driver that keeps the rules, neither has what the device only
    /// reads.
    pub(super) fn check(&self, tame: bool) {
        let mut now = vec![0; FILE];
        self.file.read_exact_at(&mut now, 0).expect("the whole file");
        let lines =
            now.chunks(64).zip(self.ours.chunks(64)).enumerate().filter(|(_, (now, ours))| now != ours);
        let changed = lines.flat_map(|(line, (now, ours))| {
            let bytes = now.iter().zip(ours).enumerate().filter(|(_, (now, ours))| now != ours);
            bytes.map(move |(at, _)| line * 64 + at)
        });
        for at in changed {
            let of = |(_, size, start): &Zone| (*start..start + size).contains(&(at as u64));
            let used = of(&RINGS) && (at as u64 - RINGS.2) % PAGE >= USED;
            let allowed =
                if tame { used || of(&WRITABLE) || of(&MORE_WRITABLE) } else { ZONES.iter().any(of) };
            assert!(allowed, "the device has written to byte {at:#x} of the file");
        }
    }
}

/// Where a guest address is in the file.
fn place(address: u64) -> u64 {
    let inside = |&&(start, size, _): &&Zone| (start..start + size).contains(&address);
    let (start, _, at) = ZONES.iter().find(inside).expect("an address of the guest's memory");
    at + address - start
}

const PAGE: u64 = 0x1000;
/// Where the parts of a ring are in its page.
const RING: u64 = 0;
const AVAILABLE: u64 = 0x800;
const USED: u64 = 0xa00;
/// Most descriptors.
const LARGEST: u16 = 64;
/// Most readable bytes of a chain.
pub(super) const LONGEST: usize = 0x460;

/// A chain that the device has.
#[derive(Clone)]
struct Sent {
    descriptors: Vec<u16>,
    writable: u32,
}

/// A ring as the driver sees it.
pub(super) struct Ring {
    pub(super) setup: RingSetup,
    page: u64,
    free: Vec<u16>,
    /// By the first descriptor.
    sent: Vec<Option<Sent>>,
    available: u16,
    used: u16,
}

impl Ring {
    pub(super) fn new(queue: usize, input: &mut Input<'_>) -> Self {
        let page = queue as u64 * PAGE;
        let size = input.pick(&[8, 16, LARGEST]);
        let base = input.pick(&[0, 0xfffe]);
        let parts = [RING, AVAILABLE, USED].map(|part| USER + page + part);
        let sizes = [input.pick(&[32, 32, 16, 40]), input.pick(&[96, 96, 252, 0])];
        let (event_index, indirect) = (input.flag(), input.flag());
        let bidirectional = input.flag();
        let setup = RingSetup {
            size,
            parts,
            packed: false,
            base: base.into(),
            event_index,
            indirect,
            sizes,
            bidirectional,
        };
        let sent = vec![None; size.into()];
        Self { setup, page, free: (0..size).collect(), sent, available: base, used: base }
    }

    /// Sets the indexes to where the ring begins.
    pub(super) fn prepare(&self, guest: &mut Guest) {
        for part in [AVAILABLE, USED] {
            guest.write(self.page + part + 2, &(self.setup.base as u16).to_le_bytes());
        }
    }

    /// Makes a chain of some bytes and a buffer available, in pieces, if there are descriptors left.
    pub(super) fn send(&mut self, guest: &mut Guest, bytes: &[u8], to: Buffer, input: &mut Input<'_>) {
        if self.free.is_empty() {
            return;
        }
        let head = self.free[input.below(self.free.len())];
        let number = self.page / PAGE / 2 * u64::from(LARGEST) + u64::from(head);
        let from = Buffer { address: READABLE.0 + number * LONGEST as u64, length: bytes.len() as u32 };
        let mut parts: Vec<_> = pieces(from, input).into_iter().map(|part| (part, 0)).collect();
        parts.extend(pieces(to, input).into_iter().map(|part| (part, WRITE)));
        let indirect = self.setup.indirect && parts.len() <= TABLE && input.flag();
        let needed = if indirect { 1 } else { parts.len() };
        if self.free.len() < needed {
            return;
        }
        guest.write(from.address, bytes);
        let mut descriptors = vec![head];
        self.free.retain(|free| *free != head);
        while descriptors.len() < needed {
            descriptors.push(self.free.swap_remove(input.below(self.free.len())));
        }
        if indirect {
            parts = vec![(self.table(guest, &parts, head), INDIRECT)];
        }
        for (n, (buffer, flags)) in parts.iter().enumerate() {
            let next = descriptors.get(n + 1);
            let flags = flags | if next.is_some() { NEXT } else { 0 };
            let value = descriptor(*buffer, flags, next.copied().unwrap_or(0));
            guest.write(self.page + RING + 16 * u64::from(descriptors[n]), &value);
        }
        self.sent[usize::from(head)] = Some(Sent { descriptors, writable: to.length });
        self.offer(guest, head);
    }

    /// Puts descriptors into the table that belongs to `head`.
    fn table(&self, guest: &mut Guest, parts: &[(Buffer, u16)], head: u16) -> Buffer {
        let mut bytes = Vec::new();
        for (next, (buffer, flags)) in (1..).zip(parts) {
            let more = if usize::from(next) < parts.len() { NEXT } else { 0 };
            bytes.extend(descriptor(*buffer, flags | more, next));
        }
        let number = self.page / PAGE * u64::from(LARGEST) + u64::from(head);
        let address = TABLES.0 + number * 16 * TABLE as u64;
        guest.write(address, &bytes);
        Buffer { address, length: bytes.len() as u32 }
    }

    /// Puts a head into the available ring.
    pub(super) fn offer(&mut self, guest: &mut Guest, head: u16) {
        let entry = u64::from(self.available % self.size());
        guest.write(self.page + AVAILABLE + 4 + 2 * entry, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        guest.write(self.page + AVAILABLE + 2, &self.available.to_le_bytes());
    }

    fn size(&self) -> u16 {
        self.sent.len() as u16
    }

    pub(super) fn scribble_descriptor(&mut self, guest: &mut Guest, input: &mut Input<'_>) {
        let (start, size, _) = input.pick(&ZONES);
        let address = match input.below(8) {
            0 => u64::MAX - u64::from(input.u8()),
            1 => start + size - u64::from(input.u8()),
            2 => start.wrapping_sub(u64::from(input.u8())),
            _ => start + u64::from(input.u16()) % size,
        };
        let length = match input.below(8) {
            0 => u32::MAX,
            1 => input.u16().into(),
            2 => 16 * u32::from(input.u8()),
            _ => input.u8().into(),
        };
        let value = descriptor(Buffer { address, length }, (input.u8() & 7).into(), (input.u8() % 72).into());
        let index = input.below(self.size().into()) as u64;
        guest.write(self.page + RING + 16 * index, &value);
    }

    pub(super) fn scribble_index(&mut self, guest: &mut Guest, input: &mut Input<'_>) {
        self.available = self.available.wrapping_add(input.pick(&[0, 1, 8, 64, 65, 0x8000]));
        guest.write(self.page + AVAILABLE + 2, &self.available.to_le_bytes());
    }

    /// Takes back what the device has returned: chains that it has, each once. A response has `least` bytes or more.
    pub(super) fn collect(&mut self, guest: &Guest, least: u32) {
        let used = guest.u16(self.page + USED + 2);
        assert!(used.wrapping_sub(self.used) <= self.size(), "more is returned than the ring holds");
        while self.used != used {
            let entry = u64::from(self.used % self.size());
            let [head, length] =
                [0, 4].map(|at| u32::from_le_bytes(guest.read(self.page + USED + 4 + 8 * entry + at)));
            let sent = self.sent.get_mut(head as usize).and_then(Option::take);
            let sent = sent.expect("a chain that the device has");
            assert!((least..=sent.writable).contains(&length), "{length} bytes written of {}", sent.writable);
            self.free.extend(sent.descriptors);
            self.used = self.used.wrapping_add(1);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.sent.iter().all(Option::is_none)
    }
}

fn descriptor(Buffer { address, length }: Buffer, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// The buffer in one to three pieces, some of which may be empty.
fn pieces(buffer: Buffer, input: &mut Input<'_>) -> Vec<Buffer> {
    let mut pieces = vec![buffer];
    for _ in 0..input.below(5).saturating_sub(2) {
        let Buffer { address, length } = pieces.pop().expect("never empty");
        let cut = u32::from(input.u8()).min(length);
        pieces.push(Buffer { address, length: cut });
        pieces.push(Buffer { address: address + u64::from(cut), length: length - cut });
    }
    pieces
}
