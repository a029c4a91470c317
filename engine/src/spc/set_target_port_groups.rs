//! SET TARGET PORT GROUPS (SPC-4 6.45).

use super::PrimaryCommand;
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation, Run};
use lunette_scsi::{AdditionalSense, Opcode, Sense, SetTargetPortGroup, service_action};

pub(crate) static SET_TARGET_PORT_GROUPS: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_OUT,
        &[0xa4, 0x0a, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::Out,
    )
    .repeatable()
    .action(service_action::SET_TARGET_PORT_GROUPS)
    .reservation(Reservation::Write)
    .access(Access::Unavailable),
    decode,
};

/// Bytes of the longest parameter list: more groups than that would be a strange target.
const MAX_LIST: u32 = 4096;

fn decode(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let length = request.cdb.u32(6);
    if length > MAX_LIST {
        return Err(Sense::invalid_field_in_cdb(6, None));
    }
    Ok(Plan::run(length.into(), async move |run: Run| {
        let list = run.data_out(0, length.into());
        if list.len() < length as usize {
            return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
        }
        run.set_access(&SetTargetPortGroup::parse_list(&list)?).await
    }))
}
