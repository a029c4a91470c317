//! What the daemon tells of what happens in it.

use crate::config::diff::{Action, Object, Shelf, Step};
use crate::config::values::Name;
use crate::units::{Unit, Units};
use lunette_control::{EventKind, Events};
use lunette_engine::NotReady;
use lunette_scsi::AdditionalSense;
use lunette_transport_iscsi::{NetworkEntity, SessionChange, SessionEvent};
use lunette_transport_vhost_user::ExportEvent;
use serde_json::json;

/// The daemon has been told to end.
pub(crate) const STOPPING: EventKind =
    EventKind { name: "daemon.stopping", summary: "The daemon is about to end. Details: `why`." };

/// Reactors have not answered in time.
pub(crate) const SILENT: EventKind = EventKind {
    name: "daemon.silent",
    summary: "Reactors do not answer, and what they serve stands still; told where the service manager watches. Details: `reactors`.",
};
/// All reactors answer again.
pub(crate) const ANSWERS: EventKind =
    EventKind { name: "daemon.answers", summary: "All reactors answer again." };

const SESSION_BEGUN: EventKind = EventKind {
    name: "session.begun",
    summary: "An iSCSI initiator has logged in. Details: `initiator`, `address`, `target` (null: for discovery), `account`.",
};
const SESSION_ENDED: EventKind =
    EventKind { name: "session.ended", summary: "An iSCSI session has ended. Details: the same, and `why`." };
const SESSION_REFUSED: EventKind = EventKind {
    name: "session.refused",
    summary: "An iSCSI login was refused; the object is the initiator. Details: the same. No more are told than are logged.",
};
const EXPORT_CONNECTED: EventKind = EventKind {
    name: "export.connected",
    summary: "A front end has connected to a vhost-user socket, or has spoken to a `client`.",
};
const EXPORT_DISCONNECTED: EventKind = EventKind {
    name: "export.disconnected",
    summary: "It has gone, or its connection was ended. Details: `why` in the second case.",
};
const EXPORT_UNREACHABLE: EventKind = EventKind {
    name: "export.unreachable",
    summary: "A `client` cannot connect, or for another reason than before, and goes on trying. Details: `why`.",
};
const UNIT_NOT_READY: EventKind = EventKind {
    name: "unit.not_ready",
    summary: "A logical unit is not ready, for this or for another reason than before. Details: `why`.",
};
const UNIT_READY: EventKind = EventKind { name: "unit.ready", summary: "A logical unit is ready again." };
const UNIT_CREATED: EventKind =
    EventKind { name: "unit.created", summary: "A logical unit is served from now on." };
const UNIT_CHANGED: EventKind = EventKind {
    name: "unit.changed",
    summary: "A logical unit was changed. Details: `changes`, each with `key`, `old` and `new`; `how`: `live` or `recreate`.",
};
const UNIT_DELETED: EventKind =
    EventKind { name: "unit.deleted", summary: "A logical unit is served no more." };
const UNIT_TAKEN: EventKind = EventKind {
    name: "unit.taken",
    summary: "A logical unit that others could serve too is served here from now on.",
};
const UNIT_GIVEN: EventKind =
    EventKind { name: "unit.given", summary: "It is given up: others may serve it." };
const TARGET_CREATED: EventKind =
    EventKind { name: "target.created", summary: "An iSCSI target is served from now on." };
const TARGET_CHANGED: EventKind = EventKind {
    name: "target.changed",
    summary: "An iSCSI target was changed. Details: as for units, or `at` and `unit`, what is there now (null: nothing).",
};
const TARGET_DELETED: EventKind =
    EventKind { name: "target.deleted", summary: "An iSCSI target is served no more." };
const PORTAL_CREATED: EventKind = EventKind { name: "portal.created", summary: "An iSCSI portal listens." };
const PORTAL_CHANGED: EventKind =
    EventKind { name: "portal.changed", summary: "An iSCSI portal was changed. Details: as for units." };
const PORTAL_DELETED: EventKind =
    EventKind { name: "portal.deleted", summary: "An iSCSI portal listens no more." };
const EXPORT_CREATED: EventKind =
    EventKind { name: "export.created", summary: "A vhost-user export is served from now on." };
const EXPORT_CHANGED: EventKind = EventKind {
    name: "export.changed",
    summary: "A vhost-user export was changed. Details: as for targets; if its name has changed, that is one of the changes.",
};
const EXPORT_DELETED: EventKind =
    EventKind { name: "export.deleted", summary: "A vhost-user export is served no more." };
const THROTTLE_CREATED: EventKind =
    EventKind { name: "throttle.created", summary: "A throttle counts from now on." };
const THROTTLE_CHANGED: EventKind =
    EventKind { name: "throttle.changed", summary: "A throttle says something else. Details: as for units." };
const THROTTLE_DELETED: EventKind =
    EventKind { name: "throttle.deleted", summary: "A throttle counts no more." };
const CONFIG_CHANGED: EventKind = EventKind {
    name: "config.changed",
    summary: "What concerns the daemon (object `daemon`) or all of iSCSI (`iscsi`) was changed. Details: as for units.",
};

/// A whole configuration is in force.
pub(crate) const APPLIED: EventKind = EventKind {
    name: "config.applied",
    summary: "A whole configuration was applied. Details: `steps` and `waiting`, how many were done and wait for a restart.",
};

/// All kinds but those of every daemon.
pub(crate) const KINDS: &[EventKind] = &[
    APPLIED,
    CONFIG_CHANGED,
    UNIT_CREATED,
    UNIT_CHANGED,
    UNIT_DELETED,
    UNIT_TAKEN,
    UNIT_GIVEN,
    TARGET_CREATED,
    TARGET_CHANGED,
    TARGET_DELETED,
    PORTAL_CREATED,
    PORTAL_CHANGED,
    PORTAL_DELETED,
    EXPORT_CREATED,
    EXPORT_CHANGED,
    EXPORT_DELETED,
    THROTTLE_CREATED,
    THROTTLE_CHANGED,
    THROTTLE_DELETED,
    STOPPING,
    SILENT,
    ANSWERS,
    SESSION_BEGUN,
    SESSION_ENDED,
    SESSION_REFUSED,
    EXPORT_CONNECTED,
    EXPORT_DISCONNECTED,
    EXPORT_UNREACHABLE,
    UNIT_NOT_READY,
    UNIT_READY,
];

/// Tells what happens to iSCSI sessions.
pub(crate) fn watch_sessions(entity: &NetworkEntity, events: Events) {
    entity.observe(move |event| session(&events, event));
}

fn session(
    events: &Events,
    SessionEvent { what, initiator, address, target, tsih, account }: SessionEvent<'_>,
) {
    let mut details =
        json!({ "initiator": initiator, "address": address, "target": target, "account": account });
    let (kind, object, why) = match what {
        SessionChange::Begun => (SESSION_BEGUN, tsih.to_string(), None),
        SessionChange::Ended(why) => (SESSION_ENDED, tsih.to_string(), Some(why)),
        SessionChange::Refused(why) => (SESSION_REFUSED, initiator.to_owned(), Some(why)),
    };
    if let Some(why) = why {
        details["why"] = why.to_string().into();
    }
    events.emit(kind, object, details);
}

/// Tells what happens to the vhost-user export of this name.
pub(crate) fn export(events: &Events, name: &str, event: ExportEvent<'_>) {
    match event {
        ExportEvent::Connected => events.emit(EXPORT_CONNECTED, name, json!({})),
        ExportEvent::Disconnected(why) => events.emit(EXPORT_DISCONNECTED, name, json!({ "why": why })),
        ExportEvent::Agreed => {}
        ExportEvent::Unreachable(why) => events.emit(EXPORT_UNREACHABLE, name, json!({ "why": why })),
        ExportEvent::Reached => {}
    }
}

/// Tells when units are not ready, also of those that are not by now.
pub(crate) fn watch_units(units: &Units, events: &Events) {
    units.iter().for_each(|(name, unit)| watch_unit(name, unit, events));
}

/// Tells when a unit is not ready, also if it is not by now.
pub(crate) fn watch_unit(name: &Name, unit: &Unit, events: &Events) {
    let (events, name) = (events.clone(), name.to_string());
    let tell = move |why: Option<&NotReady>| readiness(&events, &name, why);
    unit.unit.observe_readiness(tell.clone());
    if let Some(why) = unit.unit.not_ready() {
        tell(Some(&why));
    }
}

fn readiness(events: &Events, name: &str, why: Option<&NotReady>) {
    if why.is_some_and(|why| why.additional == AdditionalSense::LOGICAL_UNIT_COMMUNICATION_TIME_OUT) {
        tracing::error!("{name}: its store does not answer; commands fail until it does");
    }
    match why {
        Some(why) => events.emit(UNIT_NOT_READY, name, json!({ "why": why.additional.to_string() })),
        None => events.emit(UNIT_READY, name, json!({})),
    }
}

/// Tells that a logical unit was taken.
pub(crate) fn taken(events: &Events, name: &Name) {
    events.emit(UNIT_TAKEN, name.to_string(), json!({}));
}

/// Tells that a logical unit was given up.
pub(crate) fn given(events: &Events, name: &Name) {
    events.emit(UNIT_GIVEN, name.to_string(), json!({}));
}

/// Tells what a step has done.
pub(crate) fn step(events: &Events, step: &Step) {
    let changes = || json!({ "changes": step.changes, "how": step.how });
    let at =
        |at: &str, unit: &Name| json!({ "at": at, "unit": (step.action != Action::Delete).then_some(unit) });
    let (kinds, object, details) = match &step.object {
        Object::Daemon => ([CONFIG_CHANGED; 3], "daemon".to_owned(), changes()),
        Object::Iscsi => ([CONFIG_CHANGED; 3], "iscsi".to_owned(), changes()),
        Object::Unit { name } => ([UNIT_CREATED, UNIT_CHANGED, UNIT_DELETED], name.to_string(), changes()),
        Object::Portal { listen } => {
            ([PORTAL_CREATED, PORTAL_CHANGED, PORTAL_DELETED], listen.clone(), changes())
        }
        Object::Target { name } => {
            ([TARGET_CREATED, TARGET_CHANGED, TARGET_DELETED], name.to_string(), changes())
        }
        Object::Rules { target } => ([TARGET_CHANGED; 3], target.to_string(), changes()),
        Object::Export { name } => {
            ([EXPORT_CREATED, EXPORT_CHANGED, EXPORT_DELETED], name.to_string(), changes())
        }
        Object::Throttle { name } => {
            ([THROTTLE_CREATED, THROTTLE_CHANGED, THROTTLE_DELETED], name.to_string(), changes())
        }
        Object::Mapping { shown_by, at: place, unit } => match shown_by {
            Shelf::Target { name } => ([TARGET_CHANGED; 3], name.to_string(), at(place, unit)),
            Shelf::Rule { target, index } => {
                let mut details = at(place, unit);
                details["rule"] = json!(index);
                ([TARGET_CHANGED; 3], target.to_string(), details)
            }
            Shelf::Export { name } => ([EXPORT_CHANGED; 3], name.to_string(), at(place, unit)),
        },
    };
    let [created, changed, deleted] = kinds;
    match step.action {
        Action::Create if !matches!(step.object, Object::Mapping { .. }) => {
            events.emit(created, object, json!({}));
        }
        Action::Delete if !matches!(step.object, Object::Mapping { .. }) => {
            events.emit(deleted, object, json!({}));
        }
        _ => events.emit(changed, object, details),
    }
}
