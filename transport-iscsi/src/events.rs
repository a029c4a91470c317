//! What an initiator is told without asking: asynchronous messages (RFC 7143 11.9).
//!
//! **SCSI events.** The standard lets a target send them where INQUIRY says that it reports asynchronous events and the
//! Control mode page enables that. SPC-3 has removed both, and with them every way to agree on it, but not the need: an idle
//! initiator asks for nothing, so it would learn neither of new logical units nor of a disk that has grown. These two are
//! sent, and only when another initiator or the operator has caused them: open-iscsi and iSCSI adapters look for new logical
//! units when they hear of the first, and what is not understood is ignored. Nothing else is sent, because no initiator acts
//! on it, and some write an alarming line to their log for each. The unit attention condition stays, whatever is sent: it is
//! what the standards promise.
//!
//! **Requests to log out.** Open-iscsi and libiscsi answer at once, log in again and send again what was not answered, so
//! a portal that stops asks each session for it.

use crate::local::{self, Place};
use lunette_engine::{AttentionObserver, Inventory, InventoryChange, LogicalUnit};
use lunette_iscsi::Outbox;
use lunette_iscsi::pdu::AsyncEvent;
use lunette_iscsi::target::{AsyncMessage, Connection, Session};
use lunette_scsi::{AdditionalSense, Lun, Sense, SenseFormat};
use lunette_store::Post;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most events on their way to a connection's reactor, or behind what an initiator does not take. More are dropped.
const LIMIT: usize = 256;

/// The SCSI events of one session. They come into being on any reactor and are sent on that of the connection.
pub(crate) struct Events {
    place: Place,
    poster: Arc<dyn Post>,
    pending: Mutex<Vec<Event>>,
}

/// A unit attention condition, and where the initiator sees the unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Event {
    lun: u32,
    condition: AdditionalSense,
}

impl Events {
    /// Those of the session at `place`.
    pub(crate) fn new(place: Place, poster: Arc<dyn Post>) -> Arc<Self> {
        Arc::new(Self { place, poster, pending: Mutex::default() })
    }

    /// Sends what is pending.
    pub(crate) fn send(&self, machine: &mut Connection, session: &Session, out: &mut Outbox) {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        for Event { lun, condition } in pending {
            let message = AsyncMessage {
                event: AsyncEvent::SCSI,
                lun: Lun::from_index(lun).to_bytes(),
                parameters: [0; 3],
                // Whatever D_SENSE says, which is about commands: adapters look at fixed places.
                sense: &Sense::unit_attention(condition).encode(SenseFormat::Fixed),
            };
            machine.notify(session, &message, out);
        }
    }

    /// Notes an event. Returns whether it is the first that waits.
    fn add(&self, event: Event) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        // The inventory is one for all logical units (SPC-4 6.33), and who looks at it looks at all.
        let is_known = |known: &Event| {
            known.condition == event.condition && (is_inventory(event.condition) || known.lun == event.lun)
        };
        if pending.len() == LIMIT || pending.iter().any(is_known) {
            return false;
        }
        pending.push(event);
        pending.len() == 1
    }
}

impl AttentionObserver for Events {
    fn attention(&self, _: &LogicalUnit, lun: u32, condition: AdditionalSense) {
        if is_told(condition) {
            self.report(Event { lun, condition });
        }
    }

    /// One message, however many units have come or gone; also where there is none left whose unit attention would tell.
    fn inventory_changed(&self, inventory: &Inventory, _: &[InventoryChange]) {
        let lun = inventory.units().keys().next().copied().unwrap_or_default();
        self.report(Event { lun, condition: AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED });
    }
}

impl Events {
    fn report(&self, event: Event) {
        if self.add(event) {
            let send = local::message(self.place, |connection, cx| connection.send_events(cx), |_| ());
            self.poster.post(self.place.reactor, send);
        }
    }
}

fn is_inventory(condition: AdditionalSense) -> bool {
    condition == AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED
}

fn is_told(condition: AdditionalSense) -> bool {
    is_inventory(condition) || condition == AdditionalSense::CAPACITY_DATA_HAS_CHANGED
}

/// Asks the initiator to log out within `time`.
pub(crate) fn request_logout(machine: &mut Connection, session: &Session, time: Duration, out: &mut Outbox) {
    let seconds = time.as_secs_f64().ceil() as u16;
    send_iscsi_event(machine, session, AsyncEvent::REQUEST_LOGOUT, [0, 0, seconds], out);
}

/// Says that the connection is about to be closed, or with [`AsyncEvent::DROP_SESSION`] all of the session, and how soon
/// another may come.
pub(crate) fn announce_drop(
    machine: &mut Connection,
    session: &Session,
    event: AsyncEvent,
    out: &mut Outbox,
) {
    let agreed = session.parameters();
    let which = if event == AsyncEvent::DROP_CONNECTION { machine.cid() } else { 0 };
    let parameters = [which, agreed.default_time_to_wait as u16, agreed.default_time_to_retain as u16];
    send_iscsi_event(machine, session, event, parameters, out);
}

fn send_iscsi_event(
    machine: &mut Connection,
    session: &Session,
    event: AsyncEvent,
    parameters: [u16; 3],
    out: &mut Outbox,
) {
    machine.notify(session, &AsyncMessage { event, lun: [0; 8], parameters, sense: &[] }, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::{Message, ReactorId};

    struct Nowhere;

    impl Post for Nowhere {
        fn post(&self, _: ReactorId, _: Message) {}
    }

    const INVENTORY: AdditionalSense = AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED;
    const CAPACITY: AdditionalSense = AdditionalSense::CAPACITY_DATA_HAS_CHANGED;

    fn events() -> Arc<Events> {
        Events::new(Place { reactor: ReactorId(0), connection: 1 }, Arc::new(Nowhere))
    }

    #[test]
    fn an_event_is_told_once_and_the_inventory_is_one() {
        let events = events();
        let add = |lun, condition| events.add(Event { lun, condition });
        assert!(add(1, INVENTORY));
        for (lun, condition) in [(2, INVENTORY), (1, CAPACITY), (2, CAPACITY), (1, CAPACITY)] {
            assert!(!add(lun, condition), "the reactor is called already");
        }
        let pending = std::mem::take(&mut *events.pending.lock().unwrap());
        let pending: Vec<_> = pending.iter().map(|event| (event.lun, event.condition)).collect();
        assert_eq!(pending, [(1, INVENTORY), (1, CAPACITY), (2, CAPACITY)]);
        assert!(add(1, CAPACITY), "and is called again");
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let events = events();
        (0..2 * LIMIT as u32).for_each(|lun| {
            events.add(Event { lun, condition: CAPACITY });
        });
        assert_eq!(events.pending.lock().unwrap().len(), LIMIT);
    }

    #[test]
    fn resets_and_reservations_are_left_to_unit_attentions() {
        for condition in [
            AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED,
            AdditionalSense::RESERVATIONS_PREEMPTED,
            AdditionalSense::MODE_PARAMETERS_CHANGED,
        ] {
            assert!(!is_told(condition));
        }
    }
}
