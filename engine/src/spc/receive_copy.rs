//! RECEIVE COPY STATUS(LID1) and RECEIVE COPY OPERATING PARAMETERS (SPC-4 6.18, 6.20).

use super::PrimaryCommand;
use crate::copy::LIMITS;
use crate::{CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation};
use lunette_scsi::{Opcode, Sense, service_action};

pub(crate) static RECEIVE_COPY_STATUS_LID1: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::THIRD_PARTY_COPY_IN,
        &[0x84, 0x00, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Direction::In,
    )
    .action(service_action::RECEIVE_COPY_STATUS_LID1)
    .reservation(Reservation::Write),
    decode: status,
};

pub(crate) static RECEIVE_COPY_OPERATING_PARAMETERS: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::THIRD_PARTY_COPY_IN,
        &[0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Direction::In,
    )
    .action(service_action::RECEIVE_COPY_OPERATING_PARAMETERS)
    .reservation(Reservation::Write),
    decode: |_, request| Ok(Plan::data(LIMITS.encode_operating_parameters(), request.cdb.u32(10).into())),
};

const LIST_ID_AT: usize = 2;
const STATUS: usize = 12;

/// Not before the command's turn, for the status of a copy that has ended is told once.
fn status(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let allocation = (request.cdb.u32(10) as usize).min(STATUS);
    Ok(Plan::run_in(allocation as u64, async move |run| {
        let id = run.cdb.u8(LIST_ID_AT);
        let status = run.unit.copies().take_status(run.nexus.id(), id);
        let status = status.ok_or(Sense::invalid_field_in_cdb(LIST_ID_AT as u16, None))?;
        run.put_data_in(0, &status.encode()[..allocation]);
        Ok(())
    }))
}
