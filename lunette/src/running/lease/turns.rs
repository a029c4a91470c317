//! Whose turn it is to bring a unit here, to change it or to give it up.
//!
//! A store may take minutes to open, or to let go of what is under way. Whoever waits for that has the turn of the units concerned, and of
//! no others: other virtual machines start and stop meanwhile, and other changes are made.

use crate::config::values::Name;
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often somebody who waits looks whether that is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// Units that somebody has the turn of.
#[derive(Default)]
pub(super) struct Turns {
    busy: Mutex<BTreeSet<Name>>,
    changed: Condvar,
}

impl Turns {
    /// Waits for the turn of all of them; nothing when `is_wanted` has become false. Whoever has a turn waits for no other.
    pub(super) fn wait(&self, names: &BTreeSet<Name>, is_wanted: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut busy = self.busy();
        while !busy.is_disjoint(names) {
            if !is_wanted() {
                return None;
            }
            busy = self.changed.wait_timeout(busy, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        // It may have become so just when the turn came.
        is_wanted().then(|| self.begin(busy, names))
    }

    /// The turn of all of them, if nobody has that of one.
    pub(super) fn at_once(&self, names: &BTreeSet<Name>) -> Option<Turn<'_>> {
        let busy = self.busy();
        busy.is_disjoint(names).then(|| self.begin(busy, names))
    }

    fn begin(&self, mut busy: MutexGuard<'_, BTreeSet<Name>>, names: &BTreeSet<Name>) -> Turn<'_> {
        busy.extend(names.iter().cloned());
        Turn { turns: self, names: names.clone() }
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<Name>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of some units, until it is dropped.
pub(in crate::running) struct Turn<'a> {
    turns: &'a Turns,
    names: BTreeSet<Name>,
}

impl Turn<'_> {
    /// Whether it is the turn of all of these.
    pub(super) fn covers(&self, names: &BTreeSet<Name>) -> bool {
        names.is_subset(&self.names)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.busy().retain(|name| !self.names.contains(name));
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<const N: usize>(names: [&str; N]) -> BTreeSet<Name> {
        names.into_iter().map(Name::of).collect()
    }

    #[test]
    fn each_unit_has_one_turn_at_a_time() {
        let turns = Turns::default();
        let first = turns.at_once(&names(["a", "b"])).unwrap();
        assert!(first.covers(&names(["b"])) && !first.covers(&names(["b", "c"])));
        assert!(turns.at_once(&names(["b", "c"])).is_none());
        assert!(turns.wait(&names(["a"]), || false).is_none());
        assert!(turns.wait(&names(["c"]), || false).is_none(), "it is wanted no more");
        let second = turns.wait(&names(["c"]), || true).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turns.wait(&names(["b", "c"]), || true).is_some());
            drop((first, second));
            assert!(waiting.join().unwrap());
        });
        assert!(turns.at_once(&names(["a", "b", "c"])).is_some());
    }
}
