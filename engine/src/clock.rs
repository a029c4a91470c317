//! The timestamp of a logical unit (SPC-4 5.2).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Where a timestamp comes from: TIMESTAMP ORIGIN.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Origin {
    /// It has counted from zero since the unit was started.
    #[default]
    Start,
    /// SET TIMESTAMP.
    Command,
    /// The program.
    Program,
}

/// Milliseconds since the beginning of 1970, if somebody has told them.
#[derive(Default, Debug)]
pub(crate) struct Clock(Mutex<(Origin, u64)>);

impl Clock {
    /// At `now`, counted from the program's start, it is `timestamp`. What a command has set outranks the program (SCSIP of the
    /// Control Extension mode page).
    pub(crate) fn set(&self, origin: Origin, timestamp: u64, now: Duration) {
        let start = timestamp.wrapping_sub(milliseconds(now));
        let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if origin == Origin::Command || clock.0 != Origin::Command {
            *clock = (origin, start);
        }
    }

    /// The timestamp at `now`.
    pub(crate) fn read(&self, now: Duration) -> (Origin, u64) {
        let (origin, start) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (origin, start.wrapping_add(milliseconds(now)))
    }
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis() as u64
}
