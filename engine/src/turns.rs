//! Turns: what changes a logical unit's state goes one after the other, on whichever reactors it runs.

use crate::{Alarm, Steps};
use lunette_store::IoError;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Gives turns, first come, first served.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    next: u64,
    holder: Option<u64>,
    waiting: VecDeque<(u64, Alarm)>,
}

/// A turn, or a place in the queue for one; it is given back when this is dropped.
pub struct Turn {
    turns: Turns,
    number: u64,
}

impl Turns {
    /// Waits for a turn.
    pub(crate) async fn take(&self, steps: &Steps) -> Result<Turn, IoError> {
        let turn = self.enter(steps);
        while !turn.has_come() {
            steps.wait().await?;
        }
        Ok(turn)
    }

    fn enter(&self, steps: &Steps) -> Turn {
        let mut queue = self.queue();
        let number = queue.next;
        queue.next += 1;
        match queue.holder {
            None => queue.holder = Some(number),
            Some(_) => queue.waiting.push_back((number, steps.alarm())),
        }
        Turn { turns: self.clone(), number }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn has_come(&self) -> bool {
        self.turns.queue().holder == Some(self.number)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.turns.queue();
        if queue.holder != Some(self.number) {
            return queue.waiting.retain(|(number, _)| *number != self.number);
        }
        let next = queue.waiting.pop_front();
        queue.holder = next.as_ref().map(|(number, _)| *number);
        drop(queue);
        if let Some((_, alarm)) = next {
            alarm.ring();
        }
    }
}
