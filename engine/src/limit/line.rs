//! Those who wait for tokens: initiators have turns, each with one command at a time.

use super::Cost;
use crate::tasks::TaskId;
use lunette_store::ReactorId;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// A command that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    /// Whose turn it waits for.
    pub(crate) initiator: Arc<str>,
    pub(crate) priority: u8,
    /// Number of the logical unit.
    pub(crate) unit: u64,
    pub(crate) reactor: ReactorId,
    pub(crate) task: TaskId,
    pub(crate) cost: Cost,
}

/// The line of one limit.
#[derive(Default, Debug)]
pub(super) struct Line {
    /// The commands of each initiator, by priority and then as they came. None of these is empty.
    waiting: HashMap<Arc<str>, BTreeMap<(u8, u64), Waiter>>,
    /// Whose turn is next.
    turns: VecDeque<Arc<str>>,
    last: u64,
    /// Which time it is that a reactor has promised to look when there are tokens, and whether it still will.
    watches: u64,
    is_watched: bool,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the number by which it [leaves](Self::leave).
    pub(super) fn enter(&mut self, waiter: Waiter) -> u64 {
        self.last += 1;
        let theirs = self.waiting.entry(waiter.initiator.clone()).or_default();
        if theirs.is_empty() {
            self.turns.push_back(waiter.initiator.clone());
        }
        theirs.insert((waiter.priority, self.last), waiter);
        self.last
    }

    /// Who asks has to look when there are tokens, if somebody waits and nobody does yet: the number of the watch.
    pub(super) fn watch(&mut self) -> Option<u64> {
        if self.is_watched || self.is_empty() {
            return None;
        }
        self.is_watched = true;
        self.watches += 1;
        Some(self.watches)
    }

    /// A watch is over. Returns whether it was the one that counts.
    pub(super) fn end_watch(&mut self, watch: u64) -> bool {
        let counts = self.is_watched && self.watches == watch;
        self.is_watched &= !counts;
        counts
    }

    /// No watch counts any more.
    pub(super) fn end_watches(&mut self) {
        self.is_watched = false;
    }

    /// The one that is next.
    pub(super) fn first(&self) -> Option<&Waiter> {
        self.waiting.get(self.turns.front()?)?.values().next()
    }

    pub(super) fn take_first(&mut self) -> Option<(u64, Waiter)> {
        let initiator = self.turns.pop_front()?;
        let theirs = self.waiting.get_mut(&initiator)?;
        let ((_, number), waiter) = theirs.pop_first()?;
        if theirs.is_empty() {
            self.waiting.remove(&initiator);
        } else {
            self.turns.push_back(initiator);
        }
        Some((number, waiter))
    }

    /// Returns whether it has stood there.
    pub(super) fn leave(&mut self, number: u64, waiter: &Waiter) -> bool {
        let Some(theirs) = self.waiting.get_mut(&waiter.initiator) else { return false };
        let stood = theirs.remove(&(waiter.priority, number)).is_some();
        if theirs.is_empty() {
            self.forget_idle();
        }
        stood
    }

    /// Takes those out that `which` says yes to, in the order in which they came.
    pub(super) fn take(&mut self, which: impl Fn(&Waiter) -> bool) -> Vec<Waiter> {
        let mut taken = BTreeMap::new();
        for theirs in self.waiting.values_mut() {
            for ((_, number), waiter) in theirs.extract_if(.., |_, waiter| which(waiter)) {
                taken.insert(number, waiter);
            }
        }
        self.forget_idle();
        taken.into_values().collect()
    }

    fn forget_idle(&mut self) {
        self.waiting.retain(|_, theirs| !theirs.is_empty());
        self.turns.retain(|initiator| self.waiting.contains_key(initiator));
    }
}
