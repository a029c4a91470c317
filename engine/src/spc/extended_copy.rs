//! EXTENDED COPY(LID1) (SPC-4 6.5).

use super::PrimaryCommand;
use crate::copy::{self, LIMITS};
use crate::{CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation, Timeouts};
use lunette_scsi::{AdditionalSense, Opcode, Sense, service_action};

pub(crate) static EXTENDED_COPY_LID1: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::THIRD_PARTY_COPY_OUT,
        &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Direction::Out,
    )
    .action(service_action::EXTENDED_COPY_LID1)
    .reservation(Reservation::Write)
    .timeouts(Timeouts::LONG)
    .limited()
    // A segment may read what a later one has written by the first time.
    .once(),
    decode,
};

fn decode(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let length = request.cdb.u32(10);
    if length > LIMITS.longest_list() {
        return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
    }
    if length == 0 {
        return Ok(Plan::good());
    }
    Ok(Plan::run(length.into(), async move |run| {
        let list = run.data_out(0, length.into());
        copy::run(&run, &list).await
    }))
}
