//! START STOP UNIT (SBC-4 5.34).

use super::{DiskCommand, control};
use crate::Disk;
use lunette_engine::{Decoded, Direction, Plan, Request};
use lunette_scsi::{Opcode, Sense};

// IMMED; NO_FLUSH is in no use as nothing stops, LOEJ as nothing can be ejected.
pub(crate) static START_STOP_UNIT: DiskCommand = DiskCommand {
    spec: control(Opcode::START_STOP_UNIT, &[0x1b, 0x01, 0, 0, 0xf1, 0], Direction::None),
    decode,
};

/// The disk is always active: asking for that is granted, anything else is refused.
fn decode(_: &Disk, request: &Request<'_>) -> Decoded {
    const START_VALID: u8 = 0x0;
    const ACTIVE: u8 = 0x1;
    match (request.cdb.u8(4) >> 4, request.cdb.bit(4, 0)) {
        (START_VALID, true) | (ACTIVE, _) => Ok(Plan::good()),
        (START_VALID, false) => Err(Sense::invalid_field_in_cdb(4, Some(0))),
        _ => Err(Sense::invalid_field_in_cdb(4, Some(7))),
    }
}
