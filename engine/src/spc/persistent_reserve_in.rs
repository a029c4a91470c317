//! PERSISTENT RESERVE IN (SPC-4 6.15).

use super::PrimaryCommand;
use crate::checks::Refusal;
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Reply, Request};
use lunette_scsi::reservation::{
    FullStatus, encode_capabilities, encode_full_status, encode_keys, encode_reservation,
};
use lunette_scsi::{Opcode, service_action};

macro_rules! row {
    ($action:ident, $data:ident) => {
        pub(crate) static $action: PrimaryCommand = PrimaryCommand {
            spec: CommandSpec::new(
                Opcode::PERSISTENT_RESERVE_IN,
                &[0x5e, service_action::$action as u8, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
                Direction::In,
            )
            .repeatable()
            .action(service_action::$action)
            .access(Access::Standby),
            decode: |unit, request| answer(unit, request, $data),
        };
    };
}

row!(READ_KEYS, keys);
row!(READ_RESERVATION, reservation);
row!(REPORT_CAPABILITIES, capabilities);
row!(READ_FULL_STATUS, full_status);

fn answer(unit: &LogicalUnit, request: &Request<'_>, data: fn(&LogicalUnit) -> Vec<u8>) -> Decoded {
    unit.intact()?;
    // Not even who has reserved the unit may ask (SPC-2 5.5.1).
    if unit.is_reserved() {
        return Ok(Plan::Done(Reply::from(Refusal::Conflict)));
    }
    Ok(Plan::data(data(unit), request.cdb.u16(7).into()))
}

fn keys(unit: &LogicalUnit) -> Vec<u8> {
    let reservations = unit.reservations();
    let keys: Vec<u64> = reservations.registrations().iter().map(|one| one.key).collect();
    encode_keys(reservations.generation(), &keys)
}

fn reservation(unit: &LogicalUnit) -> Vec<u8> {
    let reservations = unit.reservations();
    encode_reservation(reservations.generation(), reservations.reservation())
}

fn capabilities(unit: &LogicalUnit) -> Vec<u8> {
    encode_capabilities(unit.keeps_state(), unit.reservations().persist()).to_vec()
}

fn full_status(unit: &LogicalUnit) -> Vec<u8> {
    let (reservations, ports) = (unit.reservations(), unit.ports());
    // Zero, which is no identifier, for a port that was there before a restart and is not now.
    let relative_id =
        |name: &str| ports.iter().find(|port| port.name == name).map_or(0, |port| port.relative_id);
    let registrations: Vec<FullStatus> = reservations
        .registrations()
        .iter()
        .map(|one| FullStatus {
            key: one.key,
            holds: reservations.holds(&one.nexus),
            relative_port: relative_id(&one.nexus.port),
            initiator: one.nexus.initiator.clone(),
        })
        .collect();
    encode_full_status(reservations.generation(), &registrations)
}
