//! COMPARE AND WRITE (SBC-4 clause 5).

use super::{DiskCommand, check_data_out, has_all_data_out, medium_access};
use crate::Disk;
use crate::extent::check_writable;
use crate::medium::Medium;
use lunette_engine::{Counted, Decoded, Direction, IoKind, Plan, Request, Reservation};
use lunette_scsi::{Opcode, Sense};

// DPO and FUA; the number of blocks has one byte.
pub(crate) static COMPARE_AND_WRITE: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::COMPARE_AND_WRITE,
        &[0x89, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0, 0],
        Direction::Out,
        Reservation::Write,
    )
    // The second time it finds what the first one wrote, and says MISCOMPARE though it was successful.
    .once(),
    decode,
};

/// The most blocks of one command: all that it can name, as far as twice as many can be sent.
pub(crate) fn longest(disk: &Disk) -> u8 {
    (disk.max_transfer / 2).try_into().unwrap_or(u8::MAX)
}

/// Data-out is what the blocks have to be, and then what they become. Nothing comes between, for the command has them to
/// itself.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let (transfer, extent) = disk.range(request.cdb)?;
    if transfer.blocks > longest(disk).into() {
        return Err(Sense::invalid_field_in_cdb(13, None));
    }
    let wanted = 2 * extent.length;
    check_data_out(request, wanted)?;
    if transfer.blocks == 0 {
        return Ok(Plan::good());
    }
    let (geometry, durable) = (disk.geometry(), disk.durable(transfer.fua, request.unit));
    Ok(Plan::run(wanted, async move |run| {
        has_all_data_out(&run, wanted)?;
        let _range = run.claim(extent.bytes()).await?;
        let medium = Medium { run, geometry };
        medium.compare(extent, |run, at, length| run.data_out(at, length)).await?;
        let result = medium.run.write_data_out(extent.offset, extent.length..wanted, durable).await;
        let result = medium.check(IoKind::Write { durable }, extent, result);
        medium.run.count_transfer(Counted::Write, extent.length, wanted, &result);
        result
    }))
}
