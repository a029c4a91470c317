//! The payloads of messages (vhost-user, "Payload").

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::error::Fault;
use serde::{Deserialize, Serialize};

/// Most regions in one memory table message.
pub const MAX_TABLE_REGIONS: usize = 8;

/// Size of the largest configuration space, in bytes.
pub const MAX_CONFIG_SIZE: usize = 256;

/// One number for one ring: its size, base or enabled state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VringState {
    /// The queue.
    pub index: u32,
    /// The number.
    pub num: u32,
}

/// The addresses of a ring's three parts. They are user addresses, or I/O virtual addresses once
/// [`ACCESS_PLATFORM`](crate::Features::ACCESS_PLATFORM) has been negotiated.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Default,
    Serialize,
    Deserialize,
)]
#[serde(default)]
#[repr(C)]
pub struct VringAddress {
    /// The queue.
    pub index: u32,
    /// [`Self::LOG`] or 0.
    pub flags: u32,
    /// Descriptor table.
    pub descriptor: u64,
    /// Used ring.
    pub used: u64,
    /// Available ring.
    pub available: u64,
    /// Guest address at which writes to the used ring are logged.
    pub log: u64,
}

impl VringAddress {
    /// Writes to the used ring are logged.
    pub const LOG: u32 = 1 << 0;
}

/// The ring an eventfd belongs to; payload of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringFd {
    /// The queue.
    pub index: u8,
    /// Whether a descriptor comes along; without one the ring is polled.
    pub has_fd: bool,
}

impl VringFd {
    const NO_FD: u64 = 1 << 8;
}

impl From<u64> for VringFd {
    fn from(word: u64) -> Self {
        Self { index: (word & 0xff) as u8, has_fd: word & Self::NO_FD == 0 }
    }
}

impl From<VringFd> for u64 {
    fn from(fd: VringFd) -> Self {
        u64::from(fd.index) | if fd.has_fd { 0 } else { VringFd::NO_FD }
    }
}

/// A region of guest memory behind a file descriptor.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Default,
    Serialize,
    Deserialize,
)]
#[serde(default)]
#[repr(C)]
pub struct MemoryRegion {
    /// Guest physical address of the first byte.
    pub guest_address: u64,
    /// Size in bytes.
    pub size: u64,
    /// The front end's own address of the first byte; ring addresses refer to it.
    pub user_address: u64,
    /// Offset of the first byte in the file.
    pub mmap_offset: u64,
}

impl MemoryRegion {
    /// That the region is not empty and none of its three ranges wraps around.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let ends = [self.guest_address, self.user_address, self.mmap_offset]
            .map(|start| start.checked_add(self.size));
        if self.size == 0 || ends.contains(&None) {
            return Err(Fault::Region { guest_address: self.guest_address, size: self.size });
        }
        Ok(())
    }

    /// Whether two checked regions share a guest address.
    ///
    /// The specification also forbids shared user addresses, but a front end that maps one piece of memory at two
    /// guest addresses (VGA) sends them, and they do no harm.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.guest_address < other.guest_address + other.size
            && other.guest_address < self.guest_address + self.size
    }

    /// Whether REM_MEM_REG with `other` means this region.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.guest_address, self.user_address, self.size)
            == (other.guest_address, other.user_address, other.size)
    }
}

/// A memory region on its own; payload of ADD_MEM_REG and REM_MEM_REG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SingleRegion {
    pub(crate) padding: u64,
    pub(crate) region: MemoryRegion,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct TableHeader {
    regions: u32,
    padding: u32,
}

/// The payload of SET_MEM_TABLE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryTable(pub Vec<MemoryRegion>);

impl MemoryTable {
    /// Reads as many regions as the count says. Bytes beyond them are ignored: User-Mode Linux pads its table.
    pub fn parse(payload: &[u8]) -> Result<Self, Fault> {
        let short = |expected| Fault::PayloadSize { expected, actual: payload.len() };
        let (header, rest) =
            TableHeader::read_from_prefix(payload).map_err(|_| short(size_of::<TableHeader>()))?;
        let count = header.regions as usize;
        if count > MAX_TABLE_REGIONS {
            return Err(Fault::TooManyRegions(MAX_TABLE_REGIONS));
        }
        let regions = rest.chunks_exact(size_of::<MemoryRegion>()).take(count);
        let regions: Vec<_> = regions.filter_map(|bytes| MemoryRegion::read_from_bytes(bytes).ok()).collect();
        if regions.len() < count {
            return Err(short(size_of::<TableHeader>() + count * size_of::<MemoryRegion>()));
        }
        Ok(Self(regions))
    }

    /// The payload bytes.
    pub fn encode(&self) -> Vec<u8> {
        let header = TableHeader { regions: self.0.len() as u32, padding: 0 };
        [header.as_bytes(), self.0.as_bytes()].concat()
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ConfigHeader {
    offset: u32,
    size: u32,
    flags: u32,
}

/// Who writes the configuration space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConfigFlags(pub u32);

impl ConfigFlags {
    /// The driver: only writable fields may be set.
    pub const WRITABLE: Self = Self(0);
    /// A migration: all fields may be set.
    pub const LIVE_MIGRATION: Self = Self(1);
}

/// A piece of the configuration space; payload of GET_CONFIG, its reply, and SET_CONFIG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Offset of the first byte.
    pub offset: u32,
    /// Who writes.
    pub flags: ConfigFlags,
    /// The bytes; in a GET_CONFIG request only their number counts.
    pub bytes: Vec<u8>,
}

impl Config {
    /// Reads a payload; its size has to match and the bytes have to lie within [`MAX_CONFIG_SIZE`].
    pub fn parse(payload: &[u8]) -> Result<Self, Fault> {
        let wrong = |expected| Fault::PayloadSize { expected, actual: payload.len() };
        let (header, bytes) =
            ConfigHeader::read_from_prefix(payload).map_err(|_| wrong(size_of::<ConfigHeader>()))?;
        let ConfigHeader { offset, size, flags } = header;
        if u64::from(offset) + u64::from(size) > MAX_CONFIG_SIZE as u64 {
            return Err(Fault::ConfigRange { offset, size });
        }
        if bytes.len() != size as usize {
            return Err(wrong(size_of::<ConfigHeader>() + size as usize));
        }
        Ok(Self { offset, flags: ConfigFlags(flags), bytes: bytes.to_vec() })
    }

    /// The payload bytes.
    pub fn encode(&self) -> Vec<u8> {
        let header = ConfigHeader { offset: self.offset, size: self.bytes.len() as u32, flags: self.flags.0 };
        [header.as_bytes(), &self.bytes].concat()
    }
}

/// The dirty log in shared memory: a bit for each 4096 bytes of guest addresses from 0 on, the lowest of each byte first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Serialize, Deserialize,
)]
#[repr(C)]
pub struct LogArea {
    /// Size in bytes.
    pub size: u64,
    /// Offset in the file of the byte for guest address 0.
    pub offset: u64,
}

impl LogArea {
    /// Bytes of guest memory for which there is a bit (`VHOST_LOG_PAGE`).
    pub const PAGE: u64 = 4096;
}

/// How the state of a device is to be moved; payload of SET_DEVICE_STATE_FD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct StateTransfer {
    pub(crate) direction: u32,
    pub(crate) phase: u32,
}

impl StateTransfer {
    /// The one phase there is: all rings are stopped.
    pub(crate) const STOPPED: u32 = 0;
}

/// Which way the state of a device goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateDirection {
    /// From the back end that is left to its front end.
    Save,
    /// From the front end to the back end that goes on.
    Load,
}

impl StateDirection {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Save => 0,
            Self::Load => 1,
        }
    }

    pub(crate) fn of(number: u32) -> Result<Self, Fault> {
        match number {
            0 => Ok(Self::Save),
            1 => Ok(Self::Load),
            other => Err(Fault::Value { field: "direction of a transfer", value: other.into() }),
        }
    }
}

/// A page to be used as a queue's doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VringArea {
    /// The queue in bits 0 to 7; bit 8 set means that no descriptor comes along.
    pub queue: u64,
    /// Size in bytes.
    pub size: u64,
    /// Offset in the file.
    pub offset: u64,
}

/// The memory that tracks requests in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InflightArea {
    /// Size in bytes; 0 in a request for memory, and in a reply that offers none.
    pub mmap_size: u64,
    /// Offset in the file.
    pub mmap_offset: u64,
    /// Number of queues tracked.
    pub queues: u16,
    /// Size of each queue.
    pub queue_size: u16,
}

/// [`InflightArea`] on the wire. The specification ends after the queue size (20 bytes), QEMU pads to 24.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct InflightWire {
    mmap_size: u64,
    mmap_offset: u64,
    queues: u16,
    queue_size: u16,
    padding: u32,
}

impl InflightArea {
    /// Bytes of the payload as QEMU sends and expects it.
    pub const PADDED_SIZE: usize = size_of::<InflightWire>();
    /// Bytes of the payload to the letter.
    pub const SIZE: usize = Self::PADDED_SIZE - size_of::<u32>();

    /// Reads a payload of either size.
    pub fn parse(payload: &[u8]) -> Result<Self, Fault> {
        if ![Self::SIZE, Self::PADDED_SIZE].contains(&payload.len()) {
            return Err(Fault::PayloadSize { expected: Self::PADDED_SIZE, actual: payload.len() });
        }
        let mut wire = InflightWire::new_zeroed();
        wire.as_mut_bytes()[..payload.len()].copy_from_slice(payload);
        let InflightWire { mmap_size, mmap_offset, queues, queue_size, .. } = wire;
        Ok(Self { mmap_size, mmap_offset, queues, queue_size })
    }

    /// The payload bytes with QEMU's padding.
    pub fn encode(&self) -> Vec<u8> {
        let Self { mmap_size, mmap_offset, queues, queue_size } = *self;
        InflightWire { mmap_size, mmap_offset, queues, queue_size, padding: 0 }.as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(guest_address: u64, size: u64) -> MemoryRegion {
        MemoryRegion { guest_address, size, user_address: 0x7f00_0000_0000, mmap_offset: 0 }
    }

    #[test]
    fn wire_sizes_are_those_of_the_specification() {
        assert_eq!(size_of::<VringState>(), 8);
        assert_eq!(size_of::<VringAddress>(), 40);
        assert_eq!(size_of::<MemoryRegion>(), 32);
        assert_eq!(size_of::<SingleRegion>(), 40);
        assert_eq!(size_of::<LogArea>(), 16);
        assert_eq!(size_of::<StateTransfer>(), 8);
        assert_eq!(size_of::<VringArea>(), 24);
        assert_eq!(size_of::<ConfigHeader>(), 12);
        assert_eq!((InflightArea::SIZE, InflightArea::PADDED_SIZE), (20, 24));
    }

    #[test]
    fn vring_fd_keeps_index_and_descriptor_flag_apart() {
        assert_eq!(VringFd::from(0xff), VringFd { index: 255, has_fd: true });
        assert_eq!(VringFd::from(0x103), VringFd { index: 3, has_fd: false });
        assert_eq!(u64::from(VringFd { index: 3, has_fd: false }), 0x103);
    }

    #[test]
    fn memory_table_is_read_by_its_count() {
        let table = MemoryTable(vec![region(0, 0x1000)]);
        let mut payload = table.encode();
        payload.resize(72, 0);
        assert_eq!(MemoryTable::parse(&payload), Ok(table));
    }

    #[test]
    fn memory_table_must_hold_what_it_counts() {
        let mut payload = MemoryTable(vec![region(0, 0x1000); 2]).encode();
        payload.pop();
        assert_eq!(MemoryTable::parse(&payload), Err(Fault::PayloadSize { expected: 72, actual: 71 }));
        assert_eq!(MemoryTable::parse(&[0; 7]), Err(Fault::PayloadSize { expected: 8, actual: 7 }));
        let payload = MemoryTable(vec![region(0, 0x1000); 9]).encode();
        assert_eq!(MemoryTable::parse(&payload), Err(Fault::TooManyRegions(8)));
    }

    #[test]
    fn regions_must_not_wrap_or_be_empty() {
        assert!(region(0, 1).check().is_ok());
        assert!(region(0, 0).check().is_err());
        assert!(region(u64::MAX, 1).check().is_err());
        assert!(MemoryRegion { user_address: u64::MAX, ..region(0, 1) }.check().is_err());
        assert!(MemoryRegion { mmap_offset: u64::MAX, ..region(0, 1) }.check().is_err());
    }

    #[test]
    fn neighbouring_regions_do_not_overlap() {
        assert!(!region(0, 0x1000).overlaps(&region(0x1000, 0x1000)));
        assert!(region(0, 0x1001).overlaps(&region(0x1000, 0x1000)));
        assert!(region(0x1000, 0x10).overlaps(&region(0, 0x4000)));
    }

    #[test]
    fn config_size_must_match_and_fit() {
        let config = Config { offset: 20, flags: ConfigFlags::LIVE_MIGRATION, bytes: vec![1, 2, 3, 4] };
        let mut payload = config.encode();
        assert_eq!(Config::parse(&payload), Ok(config));
        payload.push(0);
        assert_eq!(Config::parse(&payload), Err(Fault::PayloadSize { expected: 16, actual: 17 }));
        assert_eq!(Config::parse(&payload[..11]), Err(Fault::PayloadSize { expected: 12, actual: 11 }));
        let payload = Config { offset: 255, flags: ConfigFlags::WRITABLE, bytes: vec![0; 2] }.encode();
        assert_eq!(Config::parse(&payload), Err(Fault::ConfigRange { offset: 255, size: 2 }));
        let payload = Config { offset: u32::MAX, flags: ConfigFlags::WRITABLE, bytes: vec![0; 2] }.encode();
        assert_eq!(Config::parse(&payload), Err(Fault::ConfigRange { offset: u32::MAX, size: 2 }));
    }

    #[test]
    fn inflight_area_is_read_with_and_without_padding() {
        let area = InflightArea { mmap_size: 1 << 20, mmap_offset: 4096, queues: 3, queue_size: 128 };
        let payload = area.encode();
        assert_eq!(InflightArea::parse(&payload), Ok(area));
        assert_eq!(InflightArea::parse(&payload[..20]), Ok(area));
        assert!(InflightArea::parse(&payload[..22]).is_err());
    }
}
