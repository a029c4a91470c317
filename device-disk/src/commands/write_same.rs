//! WRITE SAME (SBC-4 clause 5).

use super::{DiskCommand, check_data_out, medium_access, one_block};
use crate::Disk;
use crate::extent::{check_writable, length_at};
use crate::medium::Medium;
use lunette_engine::{Counted, Decoded, Direction, Plan, Request, Reservation, Timeouts};
use lunette_scsi::{Opcode, Sense, Transfer};

/// The most bytes that one command writes.
pub(crate) const MAX_WRITE_SAME: u64 = 4 << 30;

const fn write_same(opcode: Opcode, usage: &'static [u8]) -> DiskCommand {
    let spec = medium_access(opcode, usage, Direction::Out, Reservation::Write);
    DiskCommand { spec: spec.timeouts(Timeouts::LONG), decode }
}

// UNMAP is a bit of thin disks only; NDOB stands in byte 1, bit 0, of the 16-byte form.
pub(crate) static WRITE_SAME_10: DiskCommand =
    write_same(Opcode::WRITE_SAME_10, &[0x41, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
pub(crate) static WRITE_SAME_10_UNMAP: DiskCommand =
    write_same(Opcode::WRITE_SAME_10, &[0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
pub(crate) static WRITE_SAME_16: DiskCommand = write_same(
    Opcode::WRITE_SAME_16,
    &[0x93, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
);
pub(crate) static WRITE_SAME_16_UNMAP: DiskCommand = write_same(
    Opcode::WRITE_SAME_16,
    &[0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
);

/// Zeroes are left to the store, which gives the room back if it may; anything else is written.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let Transfer { lba, blocks, unmap, ndob, .. } = Transfer::parse(request.cdb).unwrap_or_default();
    let geometry = disk.geometry();
    // No blocks stand for all that follow (WSNZ of the Block Limits page is zero).
    let blocks = if blocks == 0 { geometry.blocks.saturating_sub(lba).max(1) } else { blocks.into() };
    let extent = geometry.extent(lba, blocks)?;
    if extent.length > MAX_WRITE_SAME {
        return Err(Sense::invalid_field_in_cdb(length_at(request.cdb), None));
    }
    let (fast_zero, durable) = (disk.fast_zero, disk.durable(false, request.unit));
    let wanted = if ndob { 0 } else { geometry.block() };
    if !ndob {
        check_data_out(request, wanted)?;
    }
    let plan = Plan::run(wanted, async move |run| {
        let block = if ndob { Vec::new() } else { one_block(&run, geometry)? };
        let _range = run.share(extent.bytes()).await?;
        let medium = Medium { run, geometry };
        let result = match block.iter().all(|byte| *byte == 0) {
            true => medium.zero(extent, unmap, fast_zero).await,
            false => medium.fill(extent, &block).await,
        };
        medium.run.count_transfer(Counted::Write, extent.length, wanted, &result);
        result?;
        medium.flush_if(durable).await
    });
    Ok(plan.writing(extent.length))
}
