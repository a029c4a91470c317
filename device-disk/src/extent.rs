//! Ranges of blocks, checked.

use crate::Disk;
use lunette_engine::{Io, IoKind, LogicalUnit};
use lunette_scsi::{AdditionalSense, Cdb, Sense, Transfer};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How large a medium is, or was when a command was decoded: while one is in the unit, nothing of that is taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    /// Capacity in logical blocks, at least one.
    pub(crate) blocks: u64,
    /// Logical block length in bytes.
    pub(crate) block_length: u32,
}

/// How large the medium of a disk is now. A clone is the same capacity.
#[derive(Clone, Debug)]
pub(crate) struct Capacity {
    blocks: Arc<AtomicU64>,
    block_length: u32,
}

impl Capacity {
    /// So many logical blocks, at least one, of so many bytes.
    pub(crate) fn new(blocks: u64, block_length: u32) -> Self {
        Self { blocks: Arc::new(AtomicU64::new(blocks)), block_length }
    }

    #[inline]
    pub(crate) fn geometry(&self) -> Geometry {
        // Who sees a new block finds it in the store.
        Geometry { blocks: self.blocks.load(Ordering::Acquire), block_length: self.block_length }
    }

    pub(crate) fn set_blocks(&self, blocks: u64) {
        self.blocks.store(blocks, Ordering::Release);
    }
}

/// A range of the medium in bytes, which lies inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Geometry {
    /// Bytes of a logical block.
    pub(crate) fn block(&self) -> u64 {
        self.block_length.into()
    }

    /// All of it.
    pub(crate) fn whole(&self) -> Extent {
        Extent { offset: 0, length: self.blocks * self.block() }
    }

    /// The bytes of `blocks` blocks from `lba` on. A range that ends with the medium is inside, so no blocks at all may
    /// begin there.
    pub(crate) fn extent(&self, lba: u64, blocks: u64) -> Result<Extent, Sense> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.blocks => {
                Ok(Extent { offset: lba * self.block(), length: blocks * self.block() })
            }
            _ => Err(Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE)),
        }
    }
}

impl Extent {
    /// The range as bytes of the unit.
    pub(crate) fn bytes(self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// What comes after its first `length` bytes.
    pub(crate) fn after(self, length: u64) -> Extent {
        Extent { offset: self.offset + length, length: self.length - length }
    }

    /// The range in pieces of at most `step` bytes.
    pub(crate) fn steps(self, step: u64) -> impl Iterator<Item = Extent> {
        let end = self.offset + self.length;
        let starts = (0..self.length.div_ceil(step)).map(move |n| self.offset + n * step);
        starts.map(move |offset| Extent { offset, length: step.min(end - offset) })
    }

    /// As many whole blocks of the range as `length` bytes fill.
    pub(crate) fn cut(self, length: u64, geometry: Geometry) -> Extent {
        let length = length.min(self.length);
        Extent { length: length - length % geometry.block(), ..self }
    }
}

impl Disk {
    /// The fields and bytes of a command that names a range.
    pub(crate) fn range(&self, cdb: &Cdb) -> Result<(Transfer, Extent), Sense> {
        let Some(transfer) = Transfer::parse(cdb) else {
            return Err(Sense::illegal_request(AdditionalSense::INVALID_COMMAND_OPERATION_CODE));
        };
        let extent = self.geometry().extent(transfer.lba, transfer.blocks.into())?;
        Ok((transfer, extent))
    }

    /// The same for a command that transfers all its blocks.
    pub(crate) fn transfer(&self, cdb: &Cdb) -> Result<(Transfer, Extent), Sense> {
        let (transfer, extent) = self.range(cdb)?;
        if transfer.blocks > self.max_transfer {
            return Err(Sense::invalid_field_in_cdb(length_at(cdb), None));
        }
        Ok((transfer, extent))
    }

    /// One operation on the store.
    pub(crate) fn io(&self, kind: IoKind, extent: Extent) -> Io {
        Io { kind, offset: extent.offset, length: extent.length, granularity: self.block_length }
    }
}

/// Refuses to write where that is forbidden (SBC-4 clause 4).
pub(crate) fn check_writable(unit: &LogicalUnit) -> Result<(), Sense> {
    unit.write_protection().map_or(Ok(()), |why| Err(Sense::data_protect(why)))
}

/// Where the number of blocks stands in a CDB, for field pointers.
pub(crate) fn length_at(cdb: &Cdb) -> u16 {
    match cdb.opcode().cdb_length() {
        Some(6) => 4,
        Some(10) => 7,
        Some(12) => 6,
        _ => 10,
    }
}
