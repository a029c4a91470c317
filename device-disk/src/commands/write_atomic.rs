//! WRITE ATOMIC (SBC-4 clause 5).

use super::{DiskCommand, check_data_out, has_all_data_out, medium_access};
use crate::Disk;
use crate::extent::{Extent, check_writable};
use crate::undo::{self, Undo};
use lunette_engine::{Counted, Decoded, Direction, LogicalUnit, Plan, Request, Reservation};
use lunette_scsi::{Opcode, Sense};
use lunette_store::Memory;
use std::rc::Rc;

/// The most bytes of one command: what is saved of the old ones is this long.
pub(crate) const MOST: u32 = 1 << 20;
/// The most commands of a disk that write at a time: what each of them writes over is in the saved state.
pub(crate) const AT_A_TIME: usize = 4;

// DPO and FUA. There is no ATOMIC BOUNDARY: the blocks are written as one, however many.
pub(crate) static WRITE_ATOMIC_16: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::WRITE_ATOMIC_16,
        &[0x9c, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0],
        Direction::Out,
        Reservation::Write,
    ),
    decode,
};

/// The most blocks of one command; none where nobody keeps what a power loss would leave half written.
pub(crate) fn longest(disk: &Disk, unit: &LogicalUnit) -> u32 {
    if unit.backing().is_some_and(|store| store.is_lasting()) && !unit.keeps_state() {
        return 0;
    }
    let most = (MOST / disk.block_length).min(disk.max_transfer).min(u16::MAX.into());
    most - most % disk.atomic_granularity
}

/// All blocks are written or none: other commands see no part of it, for it has the blocks to itself, nor does one that
/// reads after a power loss, for the old content is saved until the new one is safe.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let (transfer, extent) = disk.range(request.cdb)?;
    if transfer.blocks > longest(disk, request.unit) {
        return Err(Sense::invalid_field_in_cdb(12, None));
    }
    let granularity = disk.atomic_granularity;
    if !transfer.lba.is_multiple_of(granularity.into()) {
        return Err(Sense::invalid_field_in_cdb(2, None));
    }
    if !transfer.blocks.is_multiple_of(granularity) {
        return Err(Sense::invalid_field_in_cdb(12, None));
    }
    if transfer.blocks == 0 {
        return Ok(Plan::good());
    }
    let Extent { offset, length } = extent;
    check_data_out(request, length)?;
    let (geometry, durable, atomic_writes) =
        (disk.geometry(), disk.volatile_cache, disk.atomic_writes.clone());
    let condition = disk.condition.clone();
    Ok(Plan::run(length, async move |run| {
        has_all_data_out(&run, length)?;
        let range = run.claim(extent.bytes()).await?;
        let place = atomic_writes.take(&run).await?;
        // One before it may have failed in a way that leaves the disk not ready.
        run.unit.ready()?;
        let undo = Undo::of(&run, extent).await?;
        let turn = run.turn().await?;
        let new = run.data_out(0, length);
        // Once it has begun, it comes to an end.
        run.detach(async move |steps, hold| {
            let _place = place;
            let saved = undo.save(&steps, turn).await;
            let new = Rc::new(Memory::from_bytes(&new));
            let result = match saved {
                Ok(()) => steps.write(offset, &new, length, durable).await.map(drop),
                Err(_) => Ok(()),
            };
            let result = saved.and(result.map_err(|error| undo::failed(&steps, extent, error)));
            steps.count(Counted::Write, length, &result);
            let writes_back = saved.is_ok() && result.is_err();
            let is_back = !writes_back || undo.carry_out(&steps, geometry).await.is_ok();
            // It writes no more from what it was given.
            drop(hold);
            let forgotten = if is_back { undo.forget_soon(&steps).await } else { result };
            if forgotten.is_err() {
                undo.insist_later(&steps, is_back, condition, geometry, range);
            }
            result.and(forgotten)
        })
        .await
    }))
}
