//! READ DEFECT DATA (SBC-4 clause 5).

use super::{DiskCommand, medium_access};
use lunette_engine::{Decoded, Direction, Plan, Request, Reservation};
use lunette_scsi::{Opcode, Sense};

// REQ_PLIST, REQ_GLIST and DEFECT LIST FORMAT.
pub(crate) static READ_DEFECT_DATA_10: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::READ_DEFECT_DATA_10,
        &[0x37, 0x00, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0],
        Direction::In,
        Reservation::Read,
    ),
    decode: |_, request| {
        let lists = lists(request, 2)?;
        Ok(Plan::data(vec![0, lists, 0, 0], request.cdb.u16(7).into()))
    },
};

// And ADDRESS DESCRIPTOR INDEX.
pub(crate) static READ_DEFECT_DATA_12: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::READ_DEFECT_DATA_12,
        &[0xb7, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Direction::In,
        Reservation::Read,
    ),
    decode: |_, request| -> Decoded {
        let lists = lists(request, 1)?;
        Ok(Plan::data(vec![0, lists, 0, 0, 0, 0, 0, 0], request.cdb.u32(6).into()))
    },
};

/// Byte 1 of the answer: which lists it has, and their format. No block of a store is known to be bad before it is read,
/// so both lists are empty in every format.
fn lists(request: &Request<'_>, at: u16) -> Result<u8, Sense> {
    const VENDOR_SPECIFIC: u8 = 0b110;
    let asked = request.cdb.u8(at.into()) & 0x1f;
    if asked & 0b111 >= VENDOR_SPECIFIC {
        return Err(Sense::invalid_field_in_cdb(at, Some(2)));
    }
    Ok(asked)
}
