//! REPORT TIMESTAMP and SET TIMESTAMP (SPC-4 6.38, 6.46).

use super::PrimaryCommand;
use crate::clock::Origin;
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation, Run};
use lunette_scsi::{AdditionalSense, Opcode, Sense, service_action};

pub(crate) static REPORT_TIMESTAMP: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_IN,
        &[0xa3, 0x0f, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::In,
    )
    .repeatable()
    .action(service_action::REPORT_TIMESTAMP)
    .access(Access::Standby),
    decode: report,
};

pub(crate) static SET_TIMESTAMP: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_OUT,
        &[0xa4, 0x0f, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::Out,
    )
    .action(service_action::SET_TIMESTAMP)
    .reservation(Reservation::Write)
    // The second time it is late.
    .once(),
    decode: set,
};

/// Bytes of both parameter lists.
const LENGTH: u32 = 12;
/// The largest value of the first byte of TIMESTAMP.
const MOST_SIGNIFICANT: u8 = 0xf0;

fn report(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let allocation = request.cdb.u32(6).min(LENGTH);
    Ok(Plan::run_in(allocation.into(), async move |run: Run| {
        let (origin, timestamp) = run.unit.clock().read(run.now());
        let origin = match origin {
            Origin::Start => 0b000,
            Origin::Command => 0b010,
            Origin::Program => 0b011,
        };
        let mut data = [0; LENGTH as usize];
        data[..3].copy_from_slice(&[0, 10, origin]);
        data[4..10].copy_from_slice(&timestamp.to_be_bytes()[2..]);
        run.put_data_in(0, &data[..allocation as usize]);
        Ok(())
    }))
}

fn set(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let length = request.cdb.u32(6);
    if length == 0 {
        return Ok(Plan::good());
    }
    if length < LENGTH {
        return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
    }
    Ok(Plan::run(LENGTH.into(), async move |run: Run| {
        let list = run.data_out(0, LENGTH.into());
        let Some(&[_, _, _, _, a, b, c, d, e, f, ..]) = list.first_chunk::<{ LENGTH as usize }>() else {
            return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
        };
        if a > MOST_SIGNIFICANT {
            return Err(Sense::invalid_field_in_parameter_list(4, None));
        }
        let timestamp = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        run.unit.clock().set(Origin::Command, timestamp, run.now());
        run.unit.establish_attention(AdditionalSense::TIMESTAMP_CHANGED, Some(&run.nexus));
        Ok(())
    }))
}
