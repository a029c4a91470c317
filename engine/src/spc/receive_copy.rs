//! RECEIVE COPY STATUS(LID1), RECEIVE COPY FAILURE DETAILS(LID1) and RECEIVE COPY OPERATING PARAMETERS (SPC-4 6.25, 6.23,
//! 6.22).

use super::PrimaryCommand;
use crate::copy::LIMITS;
use crate::{CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Run};
use lunette_scsi::{Opcode, Sense, SenseBytes, service_action};

pub(crate) static RECEIVE_COPY_STATUS_LID1: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::THIRD_PARTY_COPY_IN,
        &[0x84, 0x00, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Direction::In,
    )
    .repeatable()
    .action(service_action::RECEIVE_COPY_STATUS_LID1),
    decode: status,
};

pub(crate) static RECEIVE_COPY_FAILURE_DETAILS_LID1: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::THIRD_PARTY_COPY_IN,
        &[0x84, 0x04, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Direction::In,
    )
    .repeatable()
    .action(service_action::RECEIVE_COPY_FAILURE_DETAILS_LID1),
    decode: failure_details,
};

pub(crate) static RECEIVE_COPY_OPERATING_PARAMETERS: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::THIRD_PARTY_COPY_IN,
        &[0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Direction::In,
    )
    .repeatable()
    .action(service_action::RECEIVE_COPY_OPERATING_PARAMETERS),
    decode: |_, request| Ok(Plan::data(LIMITS.encode_operating_parameters(), request.cdb.u32(10).into())),
};

const LIST_ID_AT: usize = 2;
const STATUS: usize = 12;
const LONGEST_DETAILS: usize = 60 + SenseBytes::CAPACITY;

/// Not before the command's turn, for the status of a copy that has ended is told once.
fn status(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    tell(request, STATUS, |run, id, _| {
        run.unit.copies().take_status(run.nexus.id(), id).map(|status| status.encode().to_vec())
    })
}

fn failure_details(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    tell(request, LONGEST_DETAILS, |run, id, room| run.unit.copies().take_failure(run.nexus.id(), id, room))
}

/// Returns what `ask` knows of a copy, at most `longest` bytes.
fn tell(request: &Request<'_>, longest: usize, ask: fn(&Run, u8, usize) -> Option<Vec<u8>>) -> Decoded {
    let allocation = request.cdb.u32(10) as usize;
    Ok(Plan::run_in(allocation.min(longest) as u64, async move |run| {
        let known = ask(&run, run.cdb.u8(LIST_ID_AT), allocation);
        let mut data = known.ok_or(Sense::invalid_field_in_cdb(LIST_ID_AT as u16, None))?;
        data.truncate(allocation);
        run.set_data_in_len(data.len() as u64);
        run.put_data_in(0, &data);
        Ok(())
    }))
}
