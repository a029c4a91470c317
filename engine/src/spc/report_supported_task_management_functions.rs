//! REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36).

use super::PrimaryCommand;
use crate::manage::Effect;
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation};
use lunette_scsi::{Opcode, TaskManagementFunction, service_action};

pub(crate) static REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_IN,
        &[0xa3, 0x0d, 0x80, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::In,
    )
    .repeatable()
    .action(service_action::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS)
    .reservation(Reservation::Read)
    .access(Access::Standby),
    decode,
};

/// Bytes of the two forms.
const BASIC: usize = 4;
const EXTENDED: usize = 16;

fn decode(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let extended = request.cdb.bit(2, 7);
    // No function has a time-out: each is answered when what it has aborted has ended.
    let mut data = vec![0; if extended { EXTENDED } else { BASIC }];
    data[3] = (data.len() - BASIC) as u8;
    for function in TaskManagementFunction::ALL {
        if let Some((byte, bit)) = Effect::of(function).reported {
            data[byte] |= 1 << bit;
        }
    }
    Ok(Plan::data(data, request.cdb.u32(6).into()))
}
