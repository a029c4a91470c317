//! START STOP UNIT (SBC-4 clause 5).

use super::DiskCommand;
use crate::Disk;
use crate::extent::Extent;
use lunette_engine::{CommandSpec, Decoded, Direction, IoKind, Plan, Request, Reservation};
use lunette_scsi::{Opcode, Sense};

// IMMED; POWER CONDITION, NO_FLUSH, LOEJ and START.
pub(crate) static START_STOP_UNIT: DiskCommand = DiskCommand {
    spec: CommandSpec::new(Opcode::START_STOP_UNIT, &[0x1b, 0x01, 0, 0, 0xf7, 0], Direction::None)
        .reservation_by(Reservation::Write, |cdb| {
            let starts = cdb.u8(4) & 0xf1 == 0x01;
            if starts { Reservation::Allowed } else { Reservation::Write }
        }),
    decode,
};

/// Nothing spins, so there is nothing to start, and a stopped disk answers as well as an idle one: stopping only writes the
/// cache to the medium. The medium cannot be ejected.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    const START_VALID: u8 = 0x0;
    let (no_flush, load_or_eject, start) =
        (request.cdb.bit(4, 2), request.cdb.bit(4, 1), request.cdb.bit(4, 0));
    match request.cdb.u8(4) >> 4 {
        START_VALID if start => Ok(Plan::good()),
        START_VALID if load_or_eject => Err(Sense::invalid_field_in_cdb(4, Some(1))),
        START_VALID if disk.volatile_cache && !no_flush => {
            Ok(Plan::Io(disk.io(IoKind::Flush, Extent { offset: 0, length: 0 })))
        }
        // Active, idle, standby, back to the timers, and the last two at once: all the same here.
        START_VALID | 0x1 | 0x2 | 0x3 | 0x7 | 0xa | 0xb => Ok(Plan::good()),
        _ => Err(Sense::invalid_field_in_cdb(4, Some(7))),
    }
}
