//! REPORT PRIORITY and SET PRIORITY (SPC-4 6.34, 6.44).

use super::PrimaryCommand;
use crate::reservation::Registrant;
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation, Run};
use lunette_scsi::priority::{NexusPriority, encode_priorities};
use lunette_scsi::{AdditionalSense, Opcode, Sense, TransportId, service_action};

pub(crate) static REPORT_PRIORITY: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_IN,
        &[0xa3, 0x0e, 0xc0, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::In,
    )
    .repeatable()
    .action(service_action::REPORT_PRIORITY)
    .access(Access::Standby),
    decode: report,
};

pub(crate) static SET_PRIORITY: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_OUT,
        &[0xa4, 0x0e, 0xc0, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::Out,
    )
    .repeatable()
    .action(service_action::SET_PRIORITY)
    .reservation(Reservation::Write),
    decode: set,
};

/// PRIORITY REPORTED.
mod reported {
    pub(super) const OWN: u8 = 0b00;
    pub(super) const CHANGED: u8 = 0b01;
}

/// I_T_L NEXUS TO SET.
mod nexus_to_set {
    pub(super) const OWN: u8 = 0b00;
    pub(super) const NAMED: u8 = 0b01;
    pub(super) const ALL: u8 = 0b10;
}

/// Longest parameter list in bytes: more than the longest TransportID.
const MAX_LIST: u32 = 512;

fn report(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let own = request.nexus.registrant();
    let priorities = match request.cdb.u8(2) >> 6 {
        reported::OWN => vec![(own.clone(), unit.priority_of(own).unwrap_or(0))],
        reported::CHANGED => unit.priorities(),
        _ => return Err(Sense::invalid_field_in_cdb(2, Some(7))),
    };
    let ports = unit.ports();
    // Zero, which is no identifier, for a port that is not there any more.
    let relative_id =
        |name: &str| ports.iter().find(|port| port.name == name).map_or(0, |port| port.relative_id);
    let descriptor = |(nexus, priority): (Registrant, u8)| NexusPriority {
        priority,
        relative_port: relative_id(&nexus.port),
        initiator: nexus.initiator,
    };
    let descriptors: Vec<_> = priorities.into_iter().map(descriptor).collect();
    Ok(Plan::data(encode_priorities(&descriptors), request.cdb.u32(6).into()))
}

fn set(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let (whose, length) = (request.cdb.u8(2) >> 6, request.cdb.u32(6));
    if whose > nexus_to_set::ALL {
        return Err(Sense::invalid_field_in_cdb(2, Some(7)));
    }
    if length > MAX_LIST {
        return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
    }
    Ok(Plan::run(length.into(), async move |run: Run| {
        let list = run.data_out(0, length.into());
        match whose {
            nexus_to_set::OWN => {
                let priority = NexusPriority::parse_priority(&list)?;
                run.unit.set_priority(run.nexus.registrant(), priority)?;
            }
            nexus_to_set::NAMED => {
                let wanted = NexusPriority::parse(&list)?;
                let nexus = named(&run.unit, &wanted)?;
                run.unit.set_priority(&nexus, wanted.priority)?;
                run.unit.tell_of_priority(&nexus);
            }
            _ => run.unit.set_initial_priorities(&run.nexus),
        }
        Ok(())
    }))
}

fn named(unit: &LogicalUnit, wanted: &NexusPriority) -> Result<Registrant, Sense> {
    let invalid = |at| Sense::invalid_field_in_parameter_list(at, None);
    let ports = unit.ports();
    let port = ports.iter().find(|port| port.relative_id == wanted.relative_port);
    let port = port.ok_or(invalid(NexusPriority::RELATIVE_PORT_AT))?;
    if matches!(wanted.initiator, TransportId::Iscsi { isid: None, .. }) {
        return Err(invalid(NexusPriority::INITIATOR_AT));
    }
    Ok(Registrant { initiator: wanted.initiator.clone(), port: port.name.as_str().into() })
}
