//! Bytes of buffers that the sessions of one reactor share.

use crate::limits::{CONNECTION_BUFFERS, LEAST_SHARE, LENT_BUFFERS, SHARED_BUFFERS, UNSOLICITED_BUFFERS};
use std::cell::Cell;
use std::rc::Rc;

/// What all sessions of a reactor have together.
#[derive(Default, Debug)]
pub(crate) struct Budget {
    all: Cell<usize>,
    unsolicited: Cell<usize>,
    /// Of all, what stores have of commands that are over.
    lent: Cell<usize>,
    /// Some has come back since it was asked.
    relieved: Cell<bool>,
}

/// What a command had that is over, and a store still has.
#[derive(Debug)]
pub(crate) struct Lent {
    budget: Rc<Budget>,
    held: Held,
}

/// What one session has. It gets no more than it leaves to others, but always a little.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Rc<Budget>,
    mine: Held,
}

/// Bytes of buffers that somebody has.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    /// For data-in, and for data-out that is asked for.
    pub(crate) solicited: usize,
    /// For data-out that comes without being asked for.
    pub(crate) unsolicited: usize,
}

impl Budget {
    /// Whether anything has come back since the last call.
    pub(crate) fn take_relief(&self) -> bool {
        self.relieved.take()
    }
}

impl Held {
    fn bytes(self) -> usize {
        self.solicited + self.unsolicited
    }
}

impl Budget {
    fn give_back(&self, held: Held) {
        self.relieved.update(|relieved| relieved | (held.bytes() > 0));
        self.unsolicited.update(|unsolicited| unsolicited - held.unsolicited);
        self.all.update(|all| all - held.bytes());
    }
}

impl Share {
    pub(crate) fn of(budget: &Rc<Budget>) -> Self {
        Self { budget: budget.clone(), mine: Held::default() }
    }

    /// What it has.
    #[cfg(test)]
    fn held(&self) -> Held {
        self.mine
    }

    /// Whether it would not have too much for data-in and data-out that is asked for.
    pub(crate) fn leaves_room(&self, bytes: usize) -> bool {
        bytes == 0 || self.mine.solicited + bytes <= CONNECTION_BUFFERS
    }

    /// Takes so much for data-in and for data-out that is asked for, if there is room.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let fits = self.fits(bytes);
        if fits {
            self.mine.solicited += bytes;
            self.budget.all.update(|all| all + bytes);
        }
        fits
    }

    /// The same for data-out that comes unasked, of which there is never so much that nothing else finds room: commands
    /// that have a part of their data would wait for one another for ever. Of that, too, it gets no more than it leaves.
    pub(crate) fn take_unsolicited(&mut self, bytes: usize) -> bool {
        let (mine, all) = (self.mine.unsolicited + bytes, self.budget.unsolicited.get() + bytes);
        let fits = self.fits(bytes) && is_fair(bytes, mine, all, UNSOLICITED_BUFFERS);
        if fits {
            self.mine.unsolicited = mine;
            self.budget.unsolicited.set(all);
            self.budget.all.update(|all| all + bytes);
        }
        fits
    }

    pub(crate) fn give_back(&mut self, held: Held) {
        self.mine.solicited -= held.solicited;
        self.mine.unsolicited -= held.unsolicited;
        self.budget.give_back(held);
    }

    /// Leaves a part to a store, for which the session is not to wait; `None` if stores have too much already. It counts among what
    /// all sessions have.
    pub(crate) fn lend(&mut self, held: Held) -> Option<Lent> {
        let lent = self.budget.lent.get() + held.bytes();
        if lent > LENT_BUFFERS {
            return None;
        }
        self.budget.lent.set(lent);
        self.mine.solicited -= held.solicited;
        self.mine.unsolicited -= held.unsolicited;
        Some(Lent { budget: self.budget.clone(), held })
    }

    fn fits(&self, bytes: usize) -> bool {
        let mine = self.mine.solicited + self.mine.unsolicited + bytes;
        is_fair(bytes, mine, self.budget.all.get() + bytes, SHARED_BUFFERS)
    }
}

/// Whether one may have `bytes` more who would have `mine` then, and all together `all`, of so many that they share.
fn is_fair(bytes: usize, mine: usize, all: usize, shared: usize) -> bool {
    bytes == 0 || mine <= LEAST_SHARE || mine <= shared.saturating_sub(all)
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.budget.lent.update(|lent| lent - self.held.bytes());
        self.budget.give_back(self.held);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.mine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_stores_have_of_commands_that_are_over_counts_and_is_bounded() {
        let budget = Rc::default();
        let mut share = Share::of(&budget);
        let held = Held { solicited: LENT_BUFFERS / 2, unsolicited: 0 };
        let mut lend = || {
            assert!(share.take(held.solicited));
            share.lend(held)
        };
        let lent = [lend(), lend()];
        assert!(lent.iter().all(Option::is_some) && lend().is_none());
        drop(share);
        assert_eq!(budget.all.get(), LENT_BUFFERS);
        budget.take_relief();
        drop(lent);
        assert!(budget.take_relief());
        assert_eq!((budget.all.get(), budget.lent.get()), (0, 0));
    }

    #[test]
    fn a_session_takes_no_more_than_it_leaves() {
        let budget = Rc::default();
        let mut first = Share::of(&budget);
        assert!(!first.take(SHARED_BUFFERS / 2 + 1));
        assert!(first.take(SHARED_BUFFERS / 2));
        assert!(!first.take(1));
        let mut second = Share::of(&budget);
        assert!(!second.take(SHARED_BUFFERS / 4 + 1));
        assert!(second.take_unsolicited(SHARED_BUFFERS / 4));
        assert_eq!(second.held(), Held { solicited: 0, unsolicited: SHARED_BUFFERS / 4 });
        first.give_back(Held { solicited: MIB, unsolicited: 0 });
        assert!(!first.take(1), "it has more than is left");
        assert!(second.take(MIB / 2));
        drop(first);
        assert!(second.take(MIB));
        drop(second);
        assert_eq!((budget.all.get(), budget.unsolicited.get()), (0, 0));
    }

    #[test]
    fn every_session_gets_a_little() {
        let budget = Rc::default();
        let mut greedy: Vec<_> = (0..100).map(|_| Share::of(&budget)).collect();
        for share in &mut greedy {
            while share.take(4096) {}
        }
        assert!(budget.all.get() >= SHARED_BUFFERS);
        let mut late = Share::of(&budget);
        assert!(late.take(LEAST_SHARE / 2) && late.take_unsolicited(LEAST_SHARE / 2));
        assert!(!late.take(1) && !late.take_unsolicited(1));
        assert!(
            greedy.iter_mut().all(|share| share.take(0) && share.take_unsolicited(0)),
            "nothing is always there"
        );
    }

    #[test]
    fn what_comes_unasked_is_shared_as_well() {
        let budget = Rc::default();
        let mut shares: Vec<_> = (0..4).map(|_| Share::of(&budget)).collect();
        for (n, share) in shares.iter_mut().enumerate() {
            while share.take_unsolicited(MIB / 4) {}
            assert_eq!(share.held(), Held { solicited: 0, unsolicited: UNSOLICITED_BUFFERS >> (n + 1) });
        }
        shares.remove(0);
        assert!(shares[2].take_unsolicited(MIB / 4), "there is more to share");
    }

    #[test]
    fn what_comes_unasked_leaves_room_for_the_rest() {
        let budget = Rc::default();
        let mut greedy: Vec<_> = (0..100).map(|_| Share::of(&budget)).collect();
        for share in &mut greedy {
            while share.take_unsolicited(MIB / 4) {}
        }
        assert!(budget.unsolicited.get() <= UNSOLICITED_BUFFERS);
        let mut late = Share::of(&budget);
        assert!(late.take(8 * MIB));
        assert!(!late.take_unsolicited(MIB / 4));
        late.give_back(Held { solicited: 8 * MIB, unsolicited: 0 });
        assert!(late.take_unsolicited(LEAST_SHARE));
    }
}
