//! TEST UNIT READY (SPC-4 6.47).

use super::PrimaryCommand;
use crate::{CommandSpec, Direction, Plan};
use lunette_scsi::Opcode;

pub(crate) static TEST_UNIT_READY: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(Opcode::TEST_UNIT_READY, &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00], Direction::None)
        .repeatable(),
    decode: |unit, _| unit.ready().map(|()| Plan::good()),
};
