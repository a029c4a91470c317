//! WRITE (SBC-4 clause 5).

use super::{DiskCommand, forces_unit_access, medium_access};
use crate::Disk;
use crate::extent::check_writable;
use lunette_engine::{Decoded, Direction, IoKind, Plan, Request, Reservation};
use lunette_scsi::Opcode;

const fn write(opcode: Opcode, usage: &'static [u8]) -> DiskCommand {
    DiskCommand { spec: medium_access(opcode, usage, Direction::Out, Reservation::Write), decode }
}

pub(crate) static WRITE_6: DiskCommand = write(Opcode::WRITE_6, &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0]);

// DPO, FUA and FUA_NV, which SBC-3 dropped.
pub(crate) static WRITE_10: DiskCommand =
    write(Opcode::WRITE_10, &[0x2a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
pub(crate) static WRITE_12: DiskCommand =
    write(Opcode::WRITE_12, &[0xaa, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
pub(crate) static WRITE_16: DiskCommand = write(
    Opcode::WRITE_16,
    &[0x8a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
);

fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let (transfer, extent) = disk.transfer(request.cdb)?;
    let durable = disk.durable(forces_unit_access(request.cdb, &transfer), request.unit);
    Ok(Plan::Io(disk.io(IoKind::Write { durable }, extent)))
}
