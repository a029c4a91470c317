//! The right to an answer.

use crate::Failure;
use serde_json::Value;
use std::fmt;

type Act = Box<dyn FnOnce(Result<Value, Failure>) + Send>;

/// Where the answer to one request goes, from whatever thread. One that is dropped answers that something is wrong in the
/// daemon, so that nobody waits for ever.
pub struct Ticket(Option<Act>);

impl Ticket {
    /// One that has `act` called with the answer.
    pub fn new(act: impl FnOnce(Result<Value, Failure>) + Send + 'static) -> Self {
        Self(Some(Box::new(act)))
    }

    /// Answers.
    pub fn answer(mut self, result: Result<Value, Failure>) {
        if let Some(act) = self.0.take() {
            act(result);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act(Err(internal()));
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

/// A fault of ours.
pub(crate) fn internal() -> Failure {
    Failure::new(Failure::INTERNAL, "a fault of the daemon: its log says more")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    /// A ticket and where its answer arrives.
    pub(crate) fn ticket() -> (Ticket, Receiver<Result<Value, Failure>>) {
        let (tell, told) = channel();
        (Ticket::new(move |result| drop(tell.send(result))), told)
    }

    #[test]
    fn there_is_one_answer_in_any_case() {
        let (one, told) = ticket();
        one.answer(Ok(Value::Bool(true)));
        assert_eq!(told.iter().collect::<Vec<_>>(), [Ok(Value::Bool(true))]);
        let (other, told) = ticket();
        drop(other);
        assert_eq!(told.iter().collect::<Vec<_>>(), [Err(internal())]);
    }
}
