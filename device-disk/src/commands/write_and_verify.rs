//! WRITE AND VERIFY (SBC-4 clause 5).

use super::{DiskCommand, medium_access};
use crate::Disk;
use crate::extent::check_writable;
use crate::medium::Medium;
use lunette_engine::{Decoded, Direction, Plan, Request, Reservation};
use lunette_scsi::{Opcode, Sense};

const fn write_and_verify(opcode: Opcode, usage: &'static [u8]) -> DiskCommand {
    DiskCommand { spec: medium_access(opcode, usage, Direction::Out, Reservation::Write), decode }
}

// DPO and BYTCHK.
pub(crate) static WRITE_AND_VERIFY_10: DiskCommand =
    write_and_verify(Opcode::WRITE_AND_VERIFY_10, &[0x2e, 0x16, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
pub(crate) static WRITE_AND_VERIFY_12: DiskCommand = write_and_verify(
    Opcode::WRITE_AND_VERIFY_12,
    &[0xae, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
);
pub(crate) static WRITE_AND_VERIFY_16: DiskCommand = write_and_verify(
    Opcode::WRITE_AND_VERIFY_16,
    &[0x8e, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
);

/// BYTCHK 00b only asks whether the medium can be read, 01b compares byte by byte; comparing is right for both. The blocks
/// are verified on the medium, so they are written there at once.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let (transfer, extent) = disk.transfer(request.cdb)?;
    if transfer.bytchk > 0b01 {
        return Err(Sense::invalid_field_in_cdb(1, Some(2)));
    }
    let (geometry, durable) = (disk.geometry(), disk.volatile_cache);
    Ok(Plan::run(extent.length, async move |run| {
        let _range = run.share(extent.bytes()).await?;
        let medium = Medium { run, geometry };
        let written = medium.write_data_out(extent, durable).await?;
        medium.compare(written, |run, at, length| run.data_out(at, length)).await
    }))
}
