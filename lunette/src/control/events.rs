//! What the daemon tells of what happens in it.

use crate::units::Units;
use lunette_control::{EventKind, Events};
use lunette_engine::NotReady;
use lunette_transport_iscsi::{NetworkEntity, SessionChange, SessionEvent};
use lunette_transport_vhost_user::ExportEvent;
use serde_json::json;

/// The daemon has been told to end.
pub(crate) const STOPPING: EventKind =
    EventKind { name: "daemon.stopping", summary: "The daemon is about to end. Details: `why`." };

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
const EXPORT_CONNECTED: EventKind =
    EventKind { name: "export.connected", summary: "A front end has connected to a vhost-user socket." };
const EXPORT_DISCONNECTED: EventKind = EventKind {
    name: "export.disconnected",
    summary: "It has gone, or its connection was ended. Details: `why` in the second case.",
};
const UNIT_NOT_READY: EventKind = EventKind {
    name: "unit.not_ready",
    summary: "A logical unit is not ready, for this or for another reason than before. Details: `why`.",
};
const UNIT_READY: EventKind = EventKind { name: "unit.ready", summary: "A logical unit is ready again." };

/// All kinds but those of every daemon.
pub(crate) const KINDS: &[EventKind] = &[
    STOPPING,
    SESSION_BEGUN,
    SESSION_ENDED,
    SESSION_REFUSED,
    EXPORT_CONNECTED,
    EXPORT_DISCONNECTED,
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
    }
}

/// Tells when units are not ready, also of those that are not by now.
pub(crate) fn watch_units(units: &Units, events: &Events) {
    for (name, unit) in units {
        let (events, name) = (events.clone(), name.to_string());
        let tell = move |why: Option<&NotReady>| readiness(&events, &name, why);
        unit.unit.observe_readiness(tell.clone());
        if let Some(why) = unit.unit.not_ready() {
            tell(Some(&why));
        }
    }
}

fn readiness(events: &Events, name: &str, why: Option<&NotReady>) {
    match why {
        Some(why) => events.emit(UNIT_NOT_READY, name, json!({ "why": why.additional.to_string() })),
        None => events.emit(UNIT_READY, name, json!({})),
    }
}
