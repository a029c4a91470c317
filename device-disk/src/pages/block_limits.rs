//! Block Limits (SBC-4 6.6).

use crate::Disk;
use crate::commands::{MAX_WRITE_SAME, longest_compare_and_write, longest_write_atomic};
use lunette_engine::{Device, LogicalUnit};
use lunette_scsi::vpd::BlockLimits;

/// The most descriptors of one UNMAP command.
pub(crate) const MAX_UNMAP_DESCRIPTORS: u32 = 256;

pub(crate) fn page(disk: &Disk, unit: &LogicalUnit) -> Vec<u8> {
    let block = disk.block_length;
    let maximum_atomic_transfer = longest_write_atomic(disk, unit);
    // Zero where there is no bound (SBC-4 6.6.4).
    let atomic_granularity = match disk.atomic_granularity {
        blocks if blocks > 1 && maximum_atomic_transfer > 0 => blocks,
        _ => 0,
    };
    let mut limits = BlockLimits {
        maximum_compare_and_write: longest_compare_and_write(disk),
        optimal_transfer_granularity: (disk.physical_block / block).try_into().unwrap_or(0),
        maximum_transfer: disk.max_transfer,
        maximum_atomic_transfer,
        atomic_alignment: atomic_granularity,
        atomic_transfer_granularity: atomic_granularity,
        maximum_write_same: MAX_WRITE_SAME / u64::from(block),
        ..BlockLimits::default()
    };
    if let Some(discard) = disk.discard {
        limits.maximum_unmap_blocks = u32::MAX;
        limits.maximum_unmap_descriptors = MAX_UNMAP_DESCRIPTORS;
        limits.optimal_unmap_granularity = (discard.granularity / block).max(1);
        limits.unmap_granularity_alignment = Some(0);
    }
    limits.encode(disk.peripheral())
}
