//! PRE-FETCH (SBC-4 clause 5).

use super::{DiskCommand, medium_access};
use crate::Disk;
use lunette_engine::{Decoded, Direction, Plan, Request, Reservation};
use lunette_scsi::Opcode;

const fn pre_fetch(opcode: Opcode, usage: &'static [u8]) -> DiskCommand {
    DiskCommand { spec: medium_access(opcode, usage, Direction::None, Reservation::Read), decode }
}

// IMMED and GROUP NUMBER: a group gathers statistics, which nobody can ask for here.
pub(crate) static PRE_FETCH_10: DiskCommand =
    pre_fetch(Opcode::PRE_FETCH_10, &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0]);
pub(crate) static PRE_FETCH_16: DiskCommand = pre_fetch(
    Opcode::PRE_FETCH_16,
    &[0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
);

/// A disk has no cache of its own that blocks could be read into. GOOD says so: CONDITION MET would promise that all of
/// them are there.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    disk.range(request.cdb)?;
    Ok(Plan::good())
}
