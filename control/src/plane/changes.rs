//! Changes, one after the other, and how many there were.

use crate::Failure;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Most changes that wait for others.
const WAITING: usize = 256;

/// The queue of changes, and the generation: a number that rises with each of them.
pub(crate) struct Changes<T> {
    generation: AtomicU64,
    lane: Mutex<Lane<T>>,
}

struct Lane<T> {
    waiting: VecDeque<T>,
    is_busy: bool,
}

impl<T> Changes<T> {
    pub(crate) fn new(generation: u64) -> Self {
        let lane = Mutex::new(Lane { waiting: VecDeque::new(), is_busy: false });
        Self { generation: AtomicU64::new(generation), lane }
    }

    /// Whether there is room for one more. Those who ask at the same time may make it a few more.
    pub(crate) fn has_room(&self) -> Result<(), Failure> {
        let waiting = self.lane.lock().unwrap_or_else(PoisonError::into_inner).waiting.len();
        if waiting < WAITING {
            Ok(())
        } else {
            Err(Failure::busy(format!("{waiting} changes are waiting already")))
        }
    }

    /// Whether `change` may begin now (`Some`); otherwise it waits, and comes from [`Self::ended`].
    pub(crate) fn enter(&self, change: T) -> Option<T> {
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        if !lane.is_busy {
            lane.is_busy = true;
            return Some(change);
        }
        lane.waiting.push_back(change);
        None
    }

    /// The change that was going on has ended; the next may begin.
    pub(crate) fn ended(&self) -> Option<T> {
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        let next = lane.waiting.pop_front();
        lane.is_busy = next.is_some();
        next
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the generation is the one that was `expected`, if one was. To be called by the change that goes on.
    pub(crate) fn check(&self, expected: Option<u64>) -> Result<(), Failure> {
        let generation = self.generation();
        match expected.filter(|expected| *expected != generation) {
            None => Ok(()),
            Some(expected) => {
                let message =
                    format!("something has changed: the generation is {generation}, not {expected}");
                let data = json!({ "generation": generation });
                Err(Failure::new(Failure::GENERATION, message).with_data(data))
            }
        }
    }

    /// The change that goes on has changed something; returns the generation.
    pub(crate) fn moved(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_on_at_a_time_in_order() {
        let changes = Changes::new(0);
        assert_eq!(changes.enter(1), Some(1));
        assert_eq!((changes.enter(2), changes.enter(3)), (None, None));
        assert_eq!((changes.ended(), changes.ended(), changes.ended()), (Some(2), Some(3), None));
        assert_eq!(changes.enter(4), Some(4));
        for change in 0..WAITING as u32 {
            assert_eq!((changes.has_room(), changes.enter(change)), (Ok(()), None));
        }
        assert_eq!(changes.has_room().unwrap_err().code, Failure::BUSY);
    }

    #[test]
    fn the_generation_rises_from_where_it_begins() {
        let changes = Changes::<()>::new(5000);
        assert_eq!(changes.generation(), 5000);
        assert_eq!((changes.check(None), changes.check(Some(5000))), (Ok(()), Ok(())));
        assert_eq!(changes.moved(), 5001);
        let failure = changes.check(Some(5000)).unwrap_err();
        assert_eq!((failure.code, failure.data), (Failure::GENERATION, Some(json!({ "generation": 5001 }))));
    }
}
