//! PERSISTENT RESERVE OUT (SPC-4 6.16).

use super::PrimaryCommand;
use crate::checks::Refusal;
use crate::reservation::{Change, Existing, Reservations};
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Nexus, Plan, Request, Run};
use lunette_scsi::reservation::{RegisterAndMoveList, ReserveOutList};
use lunette_scsi::{AdditionalSense, Opcode, Sense, TransportId, service_action};
use std::collections::HashSet;
use std::sync::Arc;

/// Longest parameter list, in bytes: some hundred TransportIDs.
const MAX_LIST: u32 = 64 << 10;

macro_rules! row {
    ($action:ident, $change:expr) => {
        pub(crate) static $action: PrimaryCommand = PrimaryCommand {
            // SCOPE and TYPE are not looked at by all service actions, and never refused by those.
            spec: CommandSpec::new(
                Opcode::PERSISTENT_RESERVE_OUT,
                &[0x5f, service_action::$action as u8, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
                Direction::Out,
            )
            .action(service_action::$action)
            .access(Access::Standby)
            // The second time the key may be another one, and the answer RESERVATION CONFLICT though it was successful; or
            // others have reserved or preempted since.
            .once(),
            decode: |_, request| decode(request, service_action::$action, $change),
        };
    };
}

row!(REGISTER, |order| register(order, Existing::Matches));
row!(REGISTER_AND_IGNORE_EXISTING_KEY, |order| register(order, Existing::Ignored));
row!(REGISTER_AND_MOVE, register_and_move);
row!(RESERVE, |order| {
    let list = order.list()?;
    order.before.reserve(order.nexus.registrant(), list.key, order.scope_type)
});
row!(RELEASE, |order| {
    let list = order.list()?;
    order.before.release(order.nexus.registrant(), list.key, order.scope_type)
});
row!(CLEAR, |order| order.before.clear(order.nexus.registrant(), order.list()?.key));
row!(PREEMPT, preempt);
row!(PREEMPT_AND_ABORT, preempt);

/// What a service action works on.
struct Order<'a> {
    unit: &'a LogicalUnit,
    nexus: &'a Nexus,
    before: &'a Reservations,
    scope_type: u8,
    bytes: &'a [u8],
}

type Service = fn(&Order<'_>) -> Result<Change, Refusal>;

fn decode(request: &Request<'_>, action: u16, service: Service) -> Decoded {
    let length = request.cdb.u32(5);
    if length > MAX_LIST {
        return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
    }
    request.unit.intact()?;
    let aborts = action == service_action::PREEMPT_AND_ABORT;
    Ok(Plan::run(length.into(), async move |run: Run| {
        let bytes = run.data_out(0, length.into());
        let turn = run.turn().await?;
        let before = run.unit.reservations();
        let order = Order {
            unit: &run.unit,
            nexus: &run.nexus,
            before: &before,
            scope_type: run.cdb.u8(2),
            bytes: &bytes,
        };
        // Not even who has reserved the unit may go on (SPC-2 5.5.1).
        let changed = if run.unit.is_reserved() { Err(Refusal::Conflict) } else { service(&order) };
        let change = match changed {
            Ok(change) => change,
            Err(refusal) => return run.refuse(refusal),
        };
        let losers = change.losers.clone();
        if change.after.persist() || before.persist() {
            let kept = change.after.persist().then(|| change.after.clone());
            let apply = |unit: &LogicalUnit| unit.change_reservations(change);
            run.save(&turn, Reservations::SECTION, kept, apply).await?;
        } else {
            run.unit.change_reservations(change);
        }
        drop(turn);
        if aborts {
            let losers = run.unit.nexuses_of(&losers);
            let aborted = AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION;
            run.abort_commands_of(&losers).await.map_err(|_| Sense::aborted_command(aborted))?;
            losers.iter().for_each(|nexus| run.unit.device().preempted(&run.unit, *nexus));
        }
        Ok(())
    }))
}

impl Order<'_> {
    /// The parameter list of service actions that name no initiator ports: only REGISTER does.
    fn list(&self) -> Result<ReserveOutList, Sense> {
        let list = ReserveOutList::parse(self.bytes)?;
        let (byte, bit) = ReserveOutList::SPECIFY_INITIATOR_PORTS_AT;
        let invalid = Sense::invalid_field_in_parameter_list(byte, bit);
        if list.specify_initiator_ports { Err(invalid) } else { Ok(list) }
    }

    /// Refuses APTPL where nothing is kept.
    fn check_persist(&self, persist: bool, (byte, bit): (u16, Option<u8>)) -> Result<(), Sense> {
        let possible = !persist || self.unit.keeps_state();
        possible.then_some(()).ok_or(Sense::invalid_field_in_parameter_list(byte, bit))
    }
}

fn register(order: &Order<'_>, existing: Existing) -> Result<Change, Refusal> {
    let mut list = ReserveOutList::parse(order.bytes)?;
    order.check_persist(list.persist, ReserveOutList::PERSIST_AT)?;
    list.initiators = initiator_ports(order.unit, list.initiators)?;
    let ports: Vec<Arc<str>> = order.unit.ports().iter().map(|port| port.name.as_str().into()).collect();
    order.before.register(order.nexus.registrant(), existing, &list, &ports)
}

/// A TransportID without an ISID stands for all ports of the iSCSI initiator that are known here.
fn initiator_ports(unit: &LogicalUnit, ids: Vec<TransportId>) -> Result<Vec<TransportId>, Sense> {
    let mut ports = Vec::with_capacity(ids.len());
    let mut named = HashSet::new();
    for id in ids {
        if !named.insert(id.clone()) {
            continue;
        }
        match &id {
            TransportId::Iscsi { name, isid: None } => {
                let known = unit.ports_of_initiator(name);
                if known.is_empty() {
                    let at = ReserveOutList::INITIATORS_AT;
                    return Err(Sense::invalid_field_in_parameter_list(at, None));
                }
                ports.extend(known);
            }
            _ => ports.push(id),
        }
    }
    Ok(ports)
}

fn preempt(order: &Order<'_>) -> Result<Change, Refusal> {
    let list = order.list()?;
    order.before.preempt(order.nexus.registrant(), list.key, list.action_key, order.scope_type)
}

fn register_and_move(order: &Order<'_>) -> Result<Change, Refusal> {
    let list = RegisterAndMoveList::parse(order.bytes)?;
    order.check_persist(list.persist, RegisterAndMoveList::PERSIST_AT)?;
    let ports = order.unit.ports();
    let port = ports.iter().find(|port| port.relative_id == list.relative_port);
    let port = port.map(|port| port.name.as_str().into());
    order.before.register_and_move(order.nexus.registrant(), &list, port)
}
