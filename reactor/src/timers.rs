//! Timers, by time and by receiver.

use lunette_store::{IoId, SinkId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An [`IoId`] that can be ordered: sink, token.
pub(crate) type IdKey = (u32, u64);

pub(crate) fn id_key(id: IoId) -> IdKey {
    (id.sink.0, id.token)
}

/// The first and the last key of a sink.
pub(crate) fn sink_keys(sink: SinkId) -> (IdKey, IdKey) {
    ((sink.0, 0), (sink.0, u64::MAX))
}

/// Timers under way; equal times fire in the order of setting.
#[derive(Default)]
pub(crate) struct Timers {
    by_time: BTreeMap<(Duration, u64), IoId>,
    by_id: BTreeSet<(IdKey, Duration, u64)>,
    count: u64,
}

impl Timers {
    pub(crate) fn add(&mut self, at: Duration, id: IoId) {
        self.count += 1;
        self.by_time.insert((at, self.count), id);
        self.by_id.insert((id_key(id), at, self.count));
    }

    /// Removes the timers of the receivers `first` to `last`.
    pub(crate) fn cancel(&mut self, first: IdKey, last: IdKey) {
        let range = (first, Duration::ZERO, 0)..=(last, Duration::MAX, u64::MAX);
        while let Some(&(id, at, number)) = self.by_id.range(range.clone()).next() {
            self.by_id.remove(&(id, at, number));
            self.by_time.remove(&(at, number));
        }
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.by_time.keys().next().map(|(at, _)| *at)
    }

    /// Takes the first timer that is due at `now`.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<IoId> {
        let first = self.by_time.first_entry()?;
        let (at, number) = *first.key();
        if at > now {
            return None;
        }
        let id = first.remove();
        self.by_id.remove(&(id_key(id), at, number));
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sink: u32, token: u64) -> IoId {
        IoId { sink: SinkId(sink), token }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn due_timers_come_in_order_and_only_once() {
        let mut timers = Timers::default();
        timers.add(ms(3), id(0, 3));
        timers.add(ms(1), id(0, 1));
        timers.add(ms(1), id(0, 2));
        assert_eq!(timers.next(), Some(ms(1)));
        assert_eq!(timers.pop(ms(0)), None);
        assert_eq!(timers.pop(ms(2)), Some(id(0, 1)));
        assert_eq!(timers.pop(ms(2)), Some(id(0, 2)));
        assert_eq!(timers.pop(ms(2)), None);
        assert_eq!(timers.pop(ms(3)), Some(id(0, 3)));
        assert!(timers.by_id.is_empty());
    }

    #[test]
    fn cancel_takes_all_of_a_receiver_and_no_other() {
        let mut timers = Timers::default();
        for (sink, token) in [(1, u64::MAX), (2, 0), (2, 5), (2, 5), (2, u64::MAX), (3, 0)] {
            timers.add(ms(1), id(sink, token));
        }
        timers.cancel(id_key(id(2, 5)), id_key(id(2, 5)));
        assert_eq!(timers.by_time.len(), 4);
        let (first, last) = sink_keys(SinkId(2));
        timers.cancel(first, last);
        assert_eq!(timers.pop(ms(1)), Some(id(1, u64::MAX)));
        assert_eq!(timers.pop(ms(1)), Some(id(3, 0)));
        assert_eq!(timers.next(), None);
    }
}
