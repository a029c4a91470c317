//! SECURITY PROTOCOL IN and SECURITY PROTOCOL OUT (SPC-4 6.40, 6.41).

use super::PrimaryCommand;
use crate::{CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation};
use lunette_scsi::{Opcode, Sense};

// With INC_512.
pub(crate) static SECURITY_PROTOCOL_IN: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::SECURITY_PROTOCOL_IN,
        &[0xa2, 0xff, 0xff, 0xff, 0x80, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::In,
    )
    .repeatable()
    .reservation(Reservation::Read),
    decode: read,
};

pub(crate) static SECURITY_PROTOCOL_OUT: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::SECURITY_PROTOCOL_OUT,
        &[0xb5, 0xff, 0xff, 0xff, 0x80, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::Out,
    )
    .repeatable()
    .reservation(Reservation::Write),
    // The one protocol here only gives information.
    decode: |_, _| Err(Sense::invalid_field_in_cdb(1, None)),
};

/// SECURITY PROTOCOL: information about what is supported (SPC-4 7.7.1).
const INFORMATION: u8 = 0x00;
/// SECURITY PROTOCOL SPECIFIC of it.
const SUPPORTED_PROTOCOLS: u16 = 0x0000;
const CERTIFICATE: u16 = 0x0001;

fn read(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    const IN_UNITS_OF_512: u64 = 512;
    let cdb = request.cdb;
    if cdb.u8(1) != INFORMATION {
        return Err(Sense::invalid_field_in_cdb(1, None));
    }
    let mut data = match cdb.u16(2) {
        SUPPORTED_PROTOCOLS => vec![0, 0, 0, 0, 0, 0, 0, 1, INFORMATION],
        // There is none.
        CERTIFICATE => vec![0; 4],
        _ => return Err(Sense::invalid_field_in_cdb(2, None)),
    };
    let mut allocation = u64::from(cdb.u32(6));
    if cdb.bit(4, 7) {
        allocation *= IN_UNITS_OF_512;
        data.resize(IN_UNITS_OF_512 as usize, 0);
    }
    Ok(Plan::data(data, allocation))
}
