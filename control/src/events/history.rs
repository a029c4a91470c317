//! The events of late, numbered.

use super::{Draft, EventKind, Inbox};
use crate::time;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// How many events are kept.
const KEPT: usize = 4096;
/// Longest details of one event, in bytes.
const DETAILS: usize = 16 << 10;

/// Something that has happened.
#[derive(Debug)]
pub(crate) struct Event {
    /// Counted from 1 in each run of the daemon.
    pub(crate) sequence: u64,
    pub(crate) kind: &'static str,
    pub(crate) object: String,
    time: String,
    /// JSON.
    details: String,
}

impl Event {
    fn new(sequence: u64, Draft { time, kind, object, details }: Draft) -> Self {
        let details = Some(details.to_string()).filter(|text| text.len() <= DETAILS);
        Self { sequence, kind, object, time: time::text(time), details: details.unwrap_or("null".into()) }
    }

    /// The parameters of the notification that tells it.
    pub(crate) fn told(&self, subscription: u64) -> Value {
        // It was made from a value.
        let details: Value = serde_json::from_str(&self.details).unwrap_or_default();
        told(subscription, self.sequence, &self.time, self.kind, &self.object, &details)
    }
}

pub(crate) fn told(
    subscription: u64,
    sequence: u64,
    time: &str,
    kind: &str,
    object: &str,
    details: &Value,
) -> Value {
    json!({
        "subscription": subscription, "sequence": sequence, "time": time, "kind": kind, "object": object,
        "details": details,
    })
}

/// The events that are kept. Their numbers rise; where one is missing, so are the events.
pub(crate) struct History {
    inbox: Inbox,
    kinds: Vec<EventKind>,
    kept: VecDeque<Event>,
    /// The number of the last event, also if that is missing.
    last: u64,
}

impl History {
    pub(crate) fn new(inbox: Inbox, kinds: Vec<EventKind>) -> Self {
        Self { inbox, kinds, kept: VecDeque::new(), last: 0 }
    }

    /// Numbers what has arrived.
    pub(crate) fn take_in(&mut self) {
        while let Some(draft) = self.inbox.next() {
            self.last += 1;
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(Event::new(self.last, draft));
        }
        self.last += self.inbox.missed();
    }

    /// The kinds that there are.
    pub(crate) fn kinds(&self) -> &[EventKind] {
        &self.kinds
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// The events after the number `after` that are kept.
    pub(crate) fn after(&self, after: u64) -> impl Iterator<Item = &Event> {
        let from = self.kept.partition_point(|event| event.sequence <= after);
        self.kept.range(from..)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{Events, WAITING};
    use super::*;
    use crate::waker::Waker;
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    pub(crate) const THING: EventKind = EventKind { name: "thing.done", summary: "" };
    pub(crate) const OTHER: EventKind = EventKind { name: "other.done", summary: "" };

    pub(crate) fn history() -> (Events, History) {
        let (events, inbox) = Events::new(Arc::new(Waker::new().unwrap()), || UNIX_EPOCH);
        (events, History::new(inbox, vec![THING, OTHER]))
    }

    #[test]
    fn events_are_numbered_and_the_oldest_forgotten() {
        let (events, mut history) = history();
        for round in 0..KEPT + 2 {
            events.emit(THING, round.to_string(), Value::Null);
            history.take_in();
        }
        let kept: Vec<_> = history.after(0).map(|event| event.sequence).collect();
        assert_eq!((kept.len(), kept[0], history.last()), (KEPT, 3, KEPT as u64 + 2));
        assert_eq!(
            history.after(history.last() - 1).map(|event| event.sequence).collect::<Vec<_>>(),
            [history.last()]
        );
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let (events, mut history) = history();
        (0..WAITING + 5).for_each(|_| events.emit(THING, "", Value::Null));
        history.take_in();
        assert_eq!((history.after(0).count(), history.last()), (WAITING, WAITING as u64 + 5));
        events.emit(THING, "", Value::Null);
        history.take_in();
        assert_eq!(history.last(), WAITING as u64 + 6);
    }

    #[test]
    fn details_are_bounded() {
        let (events, mut history) = history();
        events.emit(THING, "a", json!({ "long": "x".repeat(DETAILS) }));
        events.emit(THING, "b", json!({ "short": 1 }));
        history.take_in();
        let told: Vec<_> = history.after(0).map(|event| event.told(9)).collect();
        assert_eq!(told[0]["details"], Value::Null);
        let expected = json!({
            "subscription": 9, "sequence": 2, "time": "1970-01-01T00:00:00.000Z", "kind": "thing.done", "object": "b",
            "details": { "short": 1 },
        });
        assert_eq!(told[1], expected);
    }
}
