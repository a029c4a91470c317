//! REPORT TARGET PORT GROUPS (SPC-4 6.37).

use super::PrimaryCommand;
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request};
use lunette_scsi::target_port_groups::encode_target_port_groups;
use lunette_scsi::{Opcode, Sense, service_action};

pub(crate) static REPORT_TARGET_PORT_GROUPS: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_IN,
        &[0xa3, 0xea, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::In,
    )
    .repeatable()
    .action(service_action::REPORT_TARGET_PORT_GROUPS)
    .access(Access::Any),
    decode,
};

/// Changes are made at once, so how long they take at most is left open (0).
const IMPLICIT_TRANSITION_TIME: u8 = 0;

fn decode(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let implicit_time = match request.cdb.u8(1) >> 5 {
        0 => None,
        1 => Some(IMPLICIT_TRANSITION_TIME),
        _ => return Err(Sense::invalid_field_in_cdb(1, Some(7))),
    };
    let data = encode_target_port_groups(&unit.port_groups(), implicit_time);
    Ok(Plan::data(data, request.cdb.u32(6).into()))
}
