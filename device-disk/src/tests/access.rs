//! What each state of a target port lets through (SPC-4 5.15.2.4).

use crate::commands;
use lunette_engine::{Access, CommandSpec, spc};
use lunette_scsi::{Opcode, service_action};

/// The lists of the standard, and what this disk adds to those of standby ports: commands that only tell of the unit.
fn expected(opcode: Opcode, action: Option<u16>) -> Access {
    match (opcode, action) {
        (Opcode::INQUIRY | Opcode::REPORT_LUNS | Opcode::REQUEST_SENSE, _)
        | (Opcode::READ_BUFFER_10 | Opcode::READ_BUFFER_16 | Opcode::WRITE_BUFFER, _)
        | (Opcode::MAINTENANCE_IN, Some(service_action::REPORT_TARGET_PORT_GROUPS)) => Access::Any,
        (Opcode::MAINTENANCE_OUT, Some(service_action::SET_TARGET_PORT_GROUPS)) => Access::Unavailable,
        (Opcode::LOG_SELECT | Opcode::LOG_SENSE, _)
        | (
            Opcode::MODE_SELECT_6 | Opcode::MODE_SELECT_10 | Opcode::MODE_SENSE_6 | Opcode::MODE_SENSE_10,
            _,
        )
        | (Opcode::RECEIVE_DIAGNOSTIC_RESULTS | Opcode::SEND_DIAGNOSTIC, _)
        | (Opcode::PERSISTENT_RESERVE_IN | Opcode::PERSISTENT_RESERVE_OUT, _) => Access::Standby,
        (Opcode::READ_CAPACITY_10, _)
        | (Opcode::SERVICE_ACTION_IN_16, Some(service_action::READ_CAPACITY_16))
        | (Opcode::MAINTENANCE_IN, _) => Access::Standby,
        _ => Access::Active,
    }
}

#[test]
fn every_row_says_what_the_standard_says() {
    let disk = [true, false].into_iter().flat_map(commands::of).map(|command| &command.spec);
    for spec in disk.chain(spc::COMMANDS.iter().map(|command| &command.spec)) {
        let CommandSpec { opcode, service_action, name, access, .. } = *spec;
        assert_eq!(access, expected(opcode, service_action), "{name}");
    }
}
