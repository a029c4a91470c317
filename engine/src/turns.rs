//! Turns: what changes a logical unit's state goes one after the other, on whichever reactors it runs.

use crate::{Alarm, Steps};
use lunette_scsi::{AdditionalSense, Sense};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Gives turns, first come, first served, to so many at a time.
#[derive(Clone)]
pub struct Turns(Arc<Mutex<Queue>>);

struct Queue {
    next: u64,
    free: usize,
    waiting: VecDeque<(u64, Alarm)>,
}

/// A turn, or a place in the queue for one; it is given back when this is dropped.
pub struct Turn {
    turns: Turns,
    number: u64,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

impl Turns {
    /// For so many at a time.
    pub fn of(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue { next: 0, free: most, waiting: VecDeque::new() })))
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// When the work was aborted.
    pub async fn take(&self, steps: &Steps) -> Result<Turn, Sense> {
        let aborted = |_| Sense::aborted_command(AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION);
        let turn = self.enter(steps);
        while !turn.has_come() {
            steps.wait().await.map_err(aborted)?;
        }
        Ok(turn)
    }

    fn enter(&self, steps: &Steps) -> Turn {
        let mut queue = self.queue();
        let number = queue.next;
        queue.next += 1;
        match queue.free.checked_sub(1) {
            Some(free) => queue.free = free,
            None => queue.waiting.push_back((number, steps.alarm())),
        }
        Turn { turns: self.clone(), number }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn has_come(&self) -> bool {
        self.turns.queue().has_come(self.number)
    }
}

impl Queue {
    /// Whether this one does not wait: those that do are in the order of their numbers.
    fn has_come(&self, number: u64) -> bool {
        self.waiting.front().is_none_or(|(first, _)| number < *first)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.turns.queue();
        if !queue.has_come(self.number) {
            return queue.waiting.retain(|(number, _)| *number != self.number);
        }
        let Some((_, alarm)) = queue.waiting.pop_front() else { return queue.free += 1 };
        drop(queue);
        alarm.ring();
    }
}
