//! Who wants to know what.

use super::history::{History, told};
use super::{Event, EventKind, MISSED};
use crate::{Failure, nearest, rpc};
use serde_json::json;

/// Most subscriptions of one client.
const SUBSCRIPTIONS: usize = 8;
/// Most entries of a filter.
const ENTRIES: usize = 64;

/// Which events somebody wants to know.
#[derive(Clone, Default, Debug)]
pub(crate) struct Filter {
    /// Kinds such as `session.begun`, or types such as `session`; empty: all.
    pub(crate) kinds: Vec<String>,
    /// Names of objects, as events tell them; empty: all.
    pub(crate) objects: Vec<String>,
}

impl Filter {
    /// Whether it can be used.
    fn check(&self, known: &[EventKind]) -> Result<(), Failure> {
        if self.kinds.len().max(self.objects.len()) > ENTRIES {
            return Err(Failure::parameters(format!("there may be {ENTRIES} kinds and objects")));
        }
        let names = || known.iter().flat_map(|kind| [kind.name, kind.of_type()]);
        match self.kinds.iter().find(|kind| names().all(|name| name != **kind)) {
            Some(kind) => {
                let hint = nearest::hint(kind, names());
                Err(Failure::parameters(format!("there are no events of the kind `{kind}`{hint}")))
            }
            None => Ok(()),
        }
    }

    fn lets_through(&self, event: &Event) -> bool {
        let of_type = event.kind.split('.').next();
        let kind = |wanted: &String| wanted == event.kind || Some(wanted.as_str()) == of_type;
        (self.kinds.is_empty() || self.kinds.iter().any(kind))
            && (self.objects.is_empty() || self.objects.contains(&event.object))
    }
}

/// One of them, and how far it has been served.
#[derive(Debug)]
pub(crate) struct Subscription {
    number: u64,
    filter: Filter,
    /// The number of the event that was looked at last.
    seen: u64,
}

/// Those of one client. It takes no more memory however slow the client is: what is sent comes from the history, and what
/// is not there any more was missed.
#[derive(Default, Debug)]
pub(crate) struct Subscriptions {
    all: Vec<Subscription>,
    numbers: u64,
}

impl Subscriptions {
    /// Has all events after number `since` told that pass `filter`. Returns the number of the subscription.
    pub(crate) fn add(&mut self, filter: Filter, since: u64, history: &History) -> Result<u64, Failure> {
        filter.check(history.kinds())?;
        if self.all.len() == SUBSCRIPTIONS {
            return Err(Failure::busy(format!("a connection has at most {SUBSCRIPTIONS} subscriptions")));
        }
        self.numbers += 1;
        self.all.push(Subscription { number: self.numbers, filter, seen: since.min(history.last()) });
        Ok(self.numbers)
    }

    /// Ends a subscription.
    pub(crate) fn remove(&mut self, number: u64) -> Result<(), Failure> {
        let at = self.all.iter().position(|one| one.number == number);
        let at = at.ok_or_else(|| Failure::not_found(format!("there is no subscription {number}")))?;
        self.all.remove(at);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Hands the lines that are due to `send`, while there is room for them. Returns whether all were.
    pub(crate) fn serve(&mut self, history: &History, mut send: impl FnMut(String) -> bool) -> bool {
        self.all.iter_mut().all(|one| one.serve(history, &mut send))
    }
}

impl Subscription {
    fn serve(&mut self, history: &History, send: &mut impl FnMut(String) -> bool) -> bool {
        for event in history.after(self.seen) {
            if self.tell_missed(event.sequence - 1, send) {
                return false;
            }
            if self.filter.lets_through(event) && !send(rpc::notification("event", &event.told(self.number)))
            {
                return false;
            }
            self.seen = event.sequence;
        }
        !self.tell_missed(history.last(), send)
    }

    /// Tells that the events up to number `last` are not there, if there are any. Returns whether there was no room for that.
    fn tell_missed(&mut self, last: u64, send: &mut impl FnMut(String) -> bool) -> bool {
        let count = last.saturating_sub(self.seen);
        let details = json!({ "count": count });
        let text = || rpc::notification("event", &told(self.number, last, "", MISSED.name, "", &details));
        if count > 0 && !send(text()) {
            return true;
        }
        self.seen = self.seen.max(last);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::{OTHER, THING, history};
    use super::*;
    use serde_json::Value;

    fn filter(kinds: &[&str], objects: &[&str]) -> Filter {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Filter { kinds: owned(kinds), objects: owned(objects) }
    }

    /// What is sent: numbers and kinds of at most `room` events.
    fn served(
        subscriptions: &mut Subscriptions,
        history: &History,
        room: usize,
    ) -> (Vec<(u64, String)>, bool) {
        let mut lines = Vec::new();
        let all = subscriptions.serve(history, |line| {
            let has_room = lines.len() < room;
            has_room.then(|| lines.push(line)).is_some()
        });
        let told = lines.iter().map(|line| {
            let value: Value = serde_json::from_str(line).unwrap();
            let params = &value["params"];
            (params["sequence"].as_u64().unwrap(), params["kind"].as_str().unwrap().to_owned())
        });
        (told.collect(), all)
    }

    fn numbers(subscriptions: &mut Subscriptions, history: &History) -> Vec<u64> {
        served(subscriptions, history, usize::MAX).0.into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn filters_let_through_what_they_name() {
        let (events, mut history) = history();
        for (kind, object) in [(THING, "a"), (THING, "b"), (OTHER, "a")] {
            events.emit(kind, object, Value::Null);
        }
        history.take_in();
        for (kinds, objects, expected) in [
            (&[][..], &[][..], &[1, 2, 3][..]),
            (&["thing"], &[], &[1, 2]),
            (&["thing.done", "other"], &["a"], &[1, 3]),
            (&["other.done"], &["b"], &[]),
        ] {
            let mut subscriptions = Subscriptions::default();
            subscriptions.add(filter(kinds, objects), 0, &history).unwrap();
            assert_eq!(numbers(&mut subscriptions, &history), expected, "{kinds:?} {objects:?}");
            assert!(numbers(&mut subscriptions, &history).is_empty(), "each is told once");
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let (_, history) = history();
        let mut subscriptions = Subscriptions::default();
        let error = subscriptions.add(filter(&["thing.dome"], &[]), 0, &history).unwrap_err();
        assert!(error.message.contains("did you mean `thing.done`"), "{error}");
        let many = Filter { objects: vec![String::new(); ENTRIES + 1], ..Filter::default() };
        assert_eq!(subscriptions.add(many, 0, &history).unwrap_err().code, Failure::PARAMETERS);
        for _ in 0..SUBSCRIPTIONS {
            subscriptions.add(Filter::default(), 0, &history).unwrap();
        }
        assert_eq!(subscriptions.add(Filter::default(), 0, &history).unwrap_err().code, Failure::BUSY);
        subscriptions.remove(3).unwrap();
        assert_eq!(subscriptions.remove(3).unwrap_err().code, Failure::NOT_FOUND);
        assert_eq!(subscriptions.add(Filter::default(), 0, &history), Ok(SUBSCRIPTIONS as u64 + 1));
    }

    #[test]
    fn who_is_slow_learns_how_much_was_missed_and_goes_on() {
        let (events, mut history) = history();
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(Filter::default(), 0, &history).unwrap();
        let emit = |count, history: &mut History| {
            for _ in 0..count {
                events.emit(THING, "", Value::Null);
                history.take_in();
            }
        };
        emit(3, &mut history);
        let of =
            |kind: &str, numbers: &[u64]| numbers.iter().map(|n| (*n, kind.to_owned())).collect::<Vec<_>>();
        assert_eq!(served(&mut subscriptions, &history, 2), (of("thing.done", &[1, 2]), false));
        emit(5000, &mut history);
        let first = history.after(0).next().unwrap().sequence;
        let (told, all) = served(&mut subscriptions, &history, 2);
        assert_eq!(
            (told, all),
            ([of(MISSED.name, &[first - 1]), of("thing.done", &[first])].concat(), false)
        );
        let rest = numbers(&mut subscriptions, &history);
        assert_eq!((rest[0], *rest.last().unwrap(), rest.len() as u64), (first + 1, 5003, 5003 - first));
    }

    #[test]
    fn events_without_room_in_the_channel_are_missed_too() {
        let (events, mut history) = history();
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(filter(&["other"], &[]), 0, &history).unwrap();
        (0..2000).for_each(|_| events.emit(THING, "", Value::Null));
        history.take_in();
        assert_eq!(served(&mut subscriptions, &history, 9), (vec![(2000, MISSED.name.to_owned())], true));
        assert!(numbers(&mut subscriptions, &history).is_empty());
    }

    #[test]
    fn who_was_away_gets_what_is_still_there() {
        let (events, mut history) = history();
        (0..5).for_each(|_| events.emit(THING, "", Value::Null));
        history.take_in();
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(Filter::default(), 3, &history).unwrap();
        assert_eq!(numbers(&mut subscriptions, &history), [4, 5]);
        let mut from_the_future = Subscriptions::default();
        from_the_future.add(Filter::default(), u64::MAX, &history).unwrap();
        assert!(numbers(&mut from_the_future, &history).is_empty());
        events.emit(THING, "", Value::Null);
        history.take_in();
        assert_eq!(numbers(&mut from_the_future, &history), [6]);
    }
}
