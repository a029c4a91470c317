//! READ (SBC-4 clause 5).

use super::{DiskCommand, forces_unit_access, medium_access};
use crate::Disk;
use crate::medium::Medium;
use lunette_engine::{Decoded, Direction, IoKind, Plan, Request, Reservation};
use lunette_scsi::Opcode;

const fn read(opcode: Opcode, usage: &'static [u8]) -> DiskCommand {
    DiskCommand { spec: medium_access(opcode, usage, Direction::In, Reservation::Read), decode }
}

pub(crate) static READ_6: DiskCommand = read(Opcode::READ_6, &[0x08, 0x1f, 0xff, 0xff, 0xff, 0]);

// DPO, FUA and FUA_NV, which SBC-3 dropped.
pub(crate) static READ_10: DiskCommand =
    read(Opcode::READ_10, &[0x28, 0x1a, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
pub(crate) static READ_12: DiskCommand =
    read(Opcode::READ_12, &[0xa8, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
pub(crate) static READ_16: DiskCommand = read(
    Opcode::READ_16,
    &[0x88, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
);

/// Reading from the medium (FUA) means writing there first what a volatile cache holds.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    let (transfer, extent) = disk.transfer(request.cdb)?;
    let io = disk.io(IoKind::Read, extent);
    if !(disk.volatile_cache && forces_unit_access(request.cdb, &transfer)) {
        return Ok(Plan::Io(io));
    }
    let geometry = disk.geometry();
    Ok(Plan::run_in(io.length, async move |run| {
        let medium = Medium { run, geometry };
        medium.flush_if(true).await?;
        medium.run.transfer(io).await
    }))
}
