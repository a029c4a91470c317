//! TEST UNIT READY (SPC-4 6.47).

use super::PrimaryCommand;
use crate::{Attention, CommandSpec, Direction, Plan, Reservation, Timeouts};
use lunette_scsi::Opcode;

pub(crate) static TEST_UNIT_READY: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec {
        opcode: Opcode::TEST_UNIT_READY,
        service_action: None,
        name: "TEST UNIT READY",
        usage: &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00],
        direction: Direction::None,
        attention: Attention::Reported,
        reservation: Reservation::Allowed,
        timeouts: Timeouts::SHORT,
    },
    decode: |unit, _| unit.device().ready().map(|()| Plan::good()),
};
