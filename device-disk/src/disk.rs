//! The device as the engine sees it.

use crate::commands::{self, ATOMIC_WRITES_AT_A_TIME, DiskCommand};
use crate::condition::Condition;
use crate::extent::{Capacity, Geometry};
use crate::operation::Worker;
use crate::room::{self, KnownRoom};
use crate::{Options, OptionsError, pages, undo};
use lunette_engine::{
    ChangeError, CommandSpec, Decoded, Device, Io, LogicalUnit, ModePageSpec, NexusId, Request, Saved,
    StateError, StoreLook, Turns, sense_of,
};
use lunette_scsi::inquiry::version_descriptor;
use lunette_scsi::log::{LogPageCode, LogParameter};
use lunette_scsi::mode::{BlockDescriptor, DISK_DPO_FUA, DISK_WRITE_PROTECTED};
use lunette_scsi::{NotificationClasses, PeripheralDeviceType, Sense};
use lunette_store::{Caps, Discard, IoError, Post};
use std::sync::Arc;

/// A disk over a store.
#[derive(Debug)]
pub struct Disk {
    capacity: Capacity,
    /// Logical block length in bytes.
    pub(crate) block_length: u32,
    pub(crate) physical_block: u32,
    /// Longest transfer in blocks.
    pub(crate) max_transfer: u32,
    /// What the store does with blocks that are given back; `None` if the disk is not thin.
    pub(crate) discard: Option<Discard>,
    pub(crate) room: KnownRoom,
    pub(crate) volatile_cache: bool,
    pub(crate) fast_zero: bool,
    pub(crate) rotational: bool,
    removable: bool,
    /// Bytes in a second that work in the background writes.
    pace: u64,
    pub(crate) condition: Arc<Condition>,
    /// Blocks to whose multiples WRITE ATOMIC keeps.
    pub(crate) atomic_granularity: u32,
    /// For writes that save what they write over.
    pub(crate) atomic_writes: Turns,
    commands: Vec<&'static DiskCommand>,
}

/// Longest transfer in bytes, whatever the store would take: a command's data has to fit the transports' buffers.
const MAX_TRANSFER: u64 = 32 << 20;

impl Disk {
    /// A disk over a store with `caps`.
    ///
    /// # Errors
    /// When the logical block length does not suit the store.
    pub fn new(options: &Options, caps: &Caps) -> Result<Self, OptionsError> {
        options.check(caps)?;
        let block = u64::from(options.block_length);
        let discard = caps.discard.filter(|_| options.thin);
        Ok(Self {
            capacity: Capacity::new(caps.size.get() / block, options.block_length),
            block_length: options.block_length,
            physical_block: caps.physical_block.max(options.block_length),
            max_transfer: (caps.max_transfer.min(MAX_TRANSFER) / block).max(1) as u32,
            discard,
            room: KnownRoom::default(),
            volatile_cache: caps.volatile_cache,
            fast_zero: caps.fast_zero,
            rotational: options.rotational.unwrap_or(caps.rotational),
            removable: options.removable,
            pace: options.pace,
            condition: Arc::default(),
            atomic_granularity: options.atomic_granularity.map_or(1, |unit| unit / options.block_length),
            atomic_writes: Turns::of(ATOMIC_WRITES_AT_A_TIME),
            commands: commands::of(discard.is_some()),
        })
    }

    /// How large the medium is now.
    pub(crate) fn geometry(&self) -> Geometry {
        self.capacity.geometry()
    }

    /// Capacity in logical blocks.
    pub fn blocks(&self) -> u64 {
        self.geometry().blocks
    }

    /// Logical block length in bytes.
    pub fn block_length(&self) -> u32 {
        self.block_length
    }

    /// What carries out operations on the whole medium.
    pub(crate) fn worker(&self) -> Worker {
        let &Self { fast_zero, pace, ref condition, .. } = self;
        Worker { condition: condition.clone(), capacity: self.capacity.clone(), fast_zero, pace }
    }

    pub(crate) fn is_removable(&self) -> bool {
        self.removable
    }

    /// Whether a write has to reach the medium before it completes: FUA, or the write cache is disabled. A store without a
    /// volatile cache keeps what it has completed anyway.
    pub(crate) fn durable(&self, fua: bool, unit: &LogicalUnit) -> bool {
        self.volatile_cache && (fua || !unit.write_cache_enabled())
    }
}

impl Device for Disk {
    fn peripheral(&self) -> u8 {
        PeripheralDeviceType::DISK.0
    }

    /// Changed mode parameters and a changed capacity make it a disk that works otherwise. Of the other classes a disk has
    /// nothing to tell.
    fn notifications(&self) -> NotificationClasses {
        NotificationClasses::OPERATIONAL_CHANGE
    }

    fn commands(&self) -> Box<dyn Iterator<Item = &'static CommandSpec>> {
        Box::new(self.commands.clone().into_iter().map(|command| &command.spec))
    }

    fn decode(&self, row: usize, request: &Request<'_>) -> Decoded {
        (self.commands[row].decode)(self, request)
    }

    fn begin_resize(&self, size: u64) -> Result<(), ChangeError> {
        let block_length = self.block_length;
        match size {
            0 => return Err(ChangeError::Empty),
            _ if i64::try_from(size).is_err() => return Err(ChangeError::TooLarge { size }),
            _ if !size.is_multiple_of(block_length.into()) => {
                return Err(ChangeError::NotWholeBlocks { size, block_length });
            }
            _ => {}
        }
        self.condition.begin_resize()
    }

    fn set_size(&self, size: u64) {
        self.capacity.set_blocks(size / u64::from(self.block_length));
    }

    fn end_resize(&self) {
        self.condition.end_resize();
    }

    fn occupation(&self) -> Option<&'static str> {
        self.condition.occupation()
    }

    fn max_transfer(&self) -> Option<u64> {
        Some(u64::from(self.max_transfer) * u64::from(self.block_length))
    }

    fn removable(&self) -> bool {
        self.removable
    }

    fn reset(&self, unit: &LogicalUnit) {
        self.condition.reset(unit);
    }

    fn restore(&self, unit: &LogicalUnit) -> Result<(), StateError> {
        undo::restore(unit, &self.condition, self.geometry())?;
        self.worker().restore(unit)
    }

    fn resume(&self, unit: &Arc<LogicalUnit>, post: &dyn Post) {
        undo::resume(unit, &self.condition, self.geometry(), post);
        self.worker().resume(unit, post);
        room::watch(self, unit, post);
    }

    fn nexus_lost(&self, unit: &LogicalUnit, nexus: NexusId) {
        self.condition.lose(unit, nexus);
    }

    fn preempted(&self, _: &LogicalUnit, nexus: NexusId) {
        self.condition.allow(nexus);
    }

    fn hand_over(&self) -> Saved {
        self.condition.hand_over()
    }

    fn take_over(&self, unit: &LogicalUnit, from: &Saved) -> Result<(), StateError> {
        self.condition.take_over(unit, from)
    }

    fn hand_over_nexus(&self, nexus: NexusId) -> Saved {
        self.condition.hand_over_nexus(nexus)
    }

    fn take_over_nexus(&self, unit: &LogicalUnit, nexus: NexusId, from: &Saved) -> Result<(), StateError> {
        self.condition.take_over_nexus(unit, nexus, from)
    }

    fn version_descriptors(&self) -> &'static [u16] {
        &[version_descriptor::SBC_4, version_descriptor::SBC_3]
    }

    fn vpd_pages(&self) -> &'static [u8] {
        pages::VPD_PAGES
    }

    fn vpd_page(&self, code: u8, unit: &LogicalUnit) -> Option<Vec<u8>> {
        pages::vpd_page(self, code, unit)
    }

    fn log_pages(&self) -> &'static [LogPageCode] {
        if self.discard.is_some() { pages::THIN_LOG_PAGES } else { pages::LOG_PAGES }
    }

    fn log_page_look(&self, code: LogPageCode) -> Option<StoreLook> {
        (code == LogPageCode::LOGICAL_BLOCK_PROVISIONING).then(|| self.room.look())
    }

    fn modes_selected(&self, unit: &Arc<LogicalUnit>, post: &dyn Post) {
        room::watch(self, unit, post);
    }

    fn log_page(&self, code: LogPageCode, _: &LogicalUnit) -> Option<Vec<LogParameter>> {
        pages::log_page(self, code)
    }

    fn mode_pages(&self, unit: &LogicalUnit) -> Vec<ModePageSpec> {
        pages::mode_pages(self, unit)
    }

    fn block_descriptor(&self, long: bool) -> Option<BlockDescriptor> {
        let Geometry { blocks, block_length } = self.geometry();
        Some(match long {
            true => BlockDescriptor::Long { blocks, block_length },
            false => BlockDescriptor::short(blocks, block_length),
        })
    }

    fn mode_device_specific(&self, unit: &LogicalUnit) -> u8 {
        DISK_DPO_FUA | if unit.write_protected() { DISK_WRITE_PROTECTED } else { 0 }
    }

    /// INFORMATION is the LBA of the first block that failed (SBC-4 clause 4), given only where that is known: the operation
    /// was about one block, or the store says how far it came.
    fn io_failed(&self, io: &Io, error: IoError) -> Sense {
        let sense = sense_of(io.kind, error);
        let block = u64::from(self.block_length);
        match error {
            IoError::Short { moved } => sense.with_information((io.offset + moved) / block),
            IoError::Os(_) if io.length == block => sense.with_information(io.offset / block),
            _ => sense,
        }
    }
}
