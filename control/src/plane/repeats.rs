//! Requests that are sent again because their answer was lost.

use crate::{Failure, Ticket};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many answers are remembered.
const REMEMBERED: usize = 256;
/// Longest answer that is remembered, in bytes.
const ANSWER: usize = 64 << 10;

/// By which a request is known: its user and identifier.
type Key = (u32, String);

/// The answers of late to requests with an identifier.
#[derive(Default)]
pub(crate) struct Repeats(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    requests: BTreeMap<Key, Request>,
    /// Those that were answered, the oldest first.
    answered: VecDeque<Key>,
}

struct Request {
    /// Stands for the method and its parameters.
    fingerprint: u64,
    state: State,
}

enum State {
    /// These want to know what comes of it.
    GoingOn(Vec<Ticket>),
    Answered(Value),
}

impl Repeats {
    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the ticket by which the request is to be answered, which remembers the answer if it is good; `None`: it is
    /// a repetition, and has its answer or gets it with the first.
    pub(crate) fn admit(
        self: &Arc<Self>,
        (user, id): (u32, String),
        (method, params): (&str, &Map<String, Value>),
        ticket: Ticket,
    ) -> Option<Ticket> {
        let key = (user, id);
        let fingerprint = fingerprint(method, params);
        let mut remembered = self.remembered();
        let answer = match remembered.requests.get_mut(&key) {
            None => {
                let state = State::GoingOn(vec![ticket]);
                remembered.requests.insert(key.clone(), Request { fingerprint, state });
                let repeats = self.clone();
                return Some(Ticket::new(move |result| repeats.answer(key, &result)));
            }
            Some(known) if known.fingerprint != fingerprint => {
                let what = format!("request_id `{}` stands for another request", key.1);
                Err(Failure::parameters(what))
            }
            Some(Request { state: State::GoingOn(waiting), .. }) => {
                waiting.push(ticket);
                return None;
            }
            Some(Request { state: State::Answered(answer), .. }) => Ok(answer.clone()),
        };
        drop(remembered);
        ticket.answer(answer);
        None
    }

    fn answer(&self, key: Key, result: &Result<Value, Failure>) {
        let mut remembered = self.remembered();
        // What has failed has done nothing, so it may be tried again.
        let answer = result.as_ref().ok().filter(|answer| answer.to_string().len() <= ANSWER);
        let waiting = remembered.set_answer(key, answer);
        drop(remembered);
        waiting.into_iter().for_each(|ticket| ticket.answer(result.clone()));
    }
}

impl Remembered {
    /// Remembers the answer to a request, or forgets the request. Returns who waits for it.
    fn set_answer(&mut self, key: Key, answer: Option<&Value>) -> Vec<Ticket> {
        let Some(Request { fingerprint, state }) = self.requests.remove(&key) else { return Vec::new() };
        if let Some(answer) = answer {
            if self.answered.len() == REMEMBERED
                && let Some(oldest) = self.answered.pop_front()
            {
                self.requests.remove(&oldest);
            }
            self.answered.push_back(key.clone());
            self.requests.insert(key, Request { fingerprint, state: State::Answered(answer.clone()) });
        }
        match state {
            State::GoingOn(waiting) => waiting,
            State::Answered(_) => Vec::new(),
        }
    }
}

fn fingerprint(method: &str, params: &Map<String, Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (method, params).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::tests::ticket;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_repetition_gets_the_first_answer() {
        let repeats = Arc::new(Repeats::default());
        let params = map(json!({ "a": 1 }));
        let ask = |user, id: &str, params| {
            let (ticket, told) = ticket();
            (repeats.admit((user, id.to_owned()), ("m", params), ticket), told)
        };
        let (Some(first), answer) = ask(1, "x", &params) else { panic!() };
        let (None, while_going_on) = ask(1, "x", &params) else { panic!() };
        let (Some(of_other), _) = ask(2, "x", &params) else { panic!() };
        drop(of_other);
        first.answer(Ok(json!(5)));
        let (None, later) = ask(1, "x", &params) else { panic!() };
        for answer in [answer, while_going_on, later] {
            assert_eq!(answer.recv().unwrap(), Ok(json!(5)));
        }
        let (None, wrong) = ask(1, "x", &map(json!({ "a": 2 }))) else { panic!() };
        assert_eq!(wrong.recv().unwrap().unwrap_err().code, Failure::PARAMETERS);
    }

    #[test]
    fn what_has_failed_may_be_tried_again_and_old_answers_are_forgotten() {
        let repeats = Arc::new(Repeats::default());
        let ask = |id: String| {
            let (ticket, told) = ticket();
            repeats.admit((1, id), ("m", &Map::new()), ticket).map(|ticket| (ticket, told))
        };
        let (first, answer) = ask("x".into()).unwrap();
        first.answer(Err(Failure::failed("no")));
        assert!(answer.recv().unwrap().is_err());
        for number in 0..=REMEMBERED {
            let (ticket, _told) = ask(number.to_string()).unwrap();
            ticket.answer(Ok(Value::Null));
        }
        assert_eq!(repeats.remembered().requests.len(), REMEMBERED);
        assert!(ask("0".into()).is_some() && ask(REMEMBERED.to_string()).is_none());
        let (long, told) = ask("long".into()).unwrap();
        long.answer(Ok(json!("x".repeat(ANSWER))));
        assert!(told.recv().unwrap().is_ok() && ask("long".into()).is_some(), "it is too long to remember");
    }
}
