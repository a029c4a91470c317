//! What is paid ahead for commands of an I_T_L nexus that are likely to come in the same turn of its reactor.
//!
//! Commands come in flocks: a turn takes from a queue what is there. The first one of a turn pays for as many as the last turn had,
//! so for the others paying is a subtraction. Only a small part of what is there is taken in this way, and what has not been used
//! is given back at the end of the turn, so others hardly ever wait because of it, and then for the time of a token. It is given
//! back at the rate that holds by then: where rates are changed in the middle of a turn, a burst more may come.

use super::{Cost, Limit};
use crate::engine::Engine;
use crate::nexus::ItlNexus;
use crate::session::Itl;
use lunette_store::Cx;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// For so many commands at most it is paid at a time.
const MOST: u64 = 64;

/// The limits that commands of an I_T_L nexus on one reactor count for, and what these have paid ahead.
#[derive(Default)]
pub(crate) struct Purse {
    limits: RefCell<Rc<[Arc<Limit>]>>,
    /// Which time they have been changed.
    epoch: Cell<u64>,
    /// What has not been used of what was paid.
    left: Cell<Cost>,
    /// For how many commands it was paid in this turn, and how many the last one had that had any.
    drawn: Cell<u64>,
    usual: Cell<u64>,
    /// When this turn began.
    turn: Cell<Duration>,
    /// It is closed at the end of the turn.
    is_open: Cell<bool>,
}

/// The purses of a reactor that are open.
#[derive(Default)]
pub(crate) struct Purses(RefCell<Vec<Rc<Itl>>>);

impl Purse {
    /// Which time the limits have been changed that it knows.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Pays for one command of so many bytes from what was paid ahead, if that is enough and `epoch` is that of its limits.
    #[inline(always)]
    pub(super) fn pay(&self, bytes: u64, epoch: u64) -> bool {
        let left = self.left.get();
        let pays = left.commands > 0 && left.bytes >= bytes && self.epoch.get() == epoch;
        if pays {
            self.left.set(Cost { commands: left.commands - 1, bytes: left.bytes - bytes });
        }
        pays
    }

    /// Gives back what was paid ahead.
    fn close(&self) {
        let left = self.left.take();
        if left != Cost::default() {
            self.drawn.update(|drawn| drawn - left.commands);
            self.limits.borrow().iter().for_each(|limit| limit.refund(left));
        }
    }

    /// The limits as they are now. Nothing is paid ahead afterwards.
    fn limits(&self, shared: &ItlNexus) -> Rc<[Arc<Limit>]> {
        self.close();
        let epoch = shared.limits_epoch();
        if self.epoch.replace(epoch) != epoch {
            *self.limits.borrow_mut() = Rc::from(&**shared.limits());
        }
        self.limits.borrow().clone()
    }

    /// How many commands the turn that has begun at `now` is likely to have yet: as many as the last one, or as it has had.
    fn likely(&self, now: Duration) -> u64 {
        if self.turn.replace(now) != now {
            self.usual.set(self.drawn.take());
        }
        let likely = if self.drawn.get() == 0 { self.usual.get() } else { self.drawn.get() };
        likely.clamp(1, MOST)
    }

    /// It was paid for so many commands like the one that has begun.
    fn put(&self, commands: u64, each: Cost) {
        self.drawn.update(|drawn| drawn + commands);
        self.left.set(each.times(commands - 1));
    }
}

impl Engine {
    /// Pays for a command, and for those that are likely to follow it if there is plenty. Returns whether there was enough for it.
    #[inline(never)]
    pub(super) fn draw(&self, itl: &Rc<Itl>, cost: Cost, cx: &mut dyn Cx) -> bool {
        let (limits, now) = (itl.limits(), cx.now());
        let likely = itl.purse.likely(now);
        let has_plenty = |limit: &Arc<Limit>| limit.has_plenty(cost.times(likely), now);
        let commands = if likely > 1 && limits.iter().all(has_plenty) { likely } else { 1 };
        let price = cost.times(commands);
        let unpaid = limits.iter().position(|limit| !limit.pay(price, now));
        if let Some(unpaid) = unpaid {
            limits[..unpaid].iter().for_each(|limit| limit.refund(price));
            return false;
        }
        itl.purse.put(commands, cost);
        if commands > 1 && !itl.purse.is_open.replace(true) {
            self.purses.0.borrow_mut().push(itl.clone());
            self.tell_at_end_of_turn(cx);
        }
        true
    }

    /// The turn is over.
    pub(crate) fn close_purses(&self) {
        for itl in self.purses.0.borrow_mut().drain(..) {
            itl.purse.is_open.set(false);
            itl.purse.close();
        }
    }
}

impl Itl {
    /// All limits that commands count for.
    pub(crate) fn limits(&self) -> Rc<[Arc<Limit>]> {
        self.purse.limits(&self.shared)
    }
}
