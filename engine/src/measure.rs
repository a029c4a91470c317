//! How long commands take, measured without a look at the clock for each of them.
//!
//! A command comes at the time of its reactor's turn. One that ends in the same turn ends with that for its initiator, which is
//! shown then what has ended: so those are only numbered, and all of them have taken until the end of the turn. One that ends
//! later ends at the time of that turn.

use crate::engine::Engine;
use crate::outcome::Outcome;
use crate::session::Itl;
use crate::statistics::{Class, Usage, is_well};
use lunette_scsi::Opcode;
use lunette_store::Cx;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

/// Commands of one reactor that have ended as soon as they came, in one turn.
#[derive(Default)]
pub(crate) struct Unmeasured {
    /// Where they are counted.
    usages: RefCell<Vec<Arc<Usage>>>,
    /// When the first of them came.
    since: Cell<Duration>,
}

impl Engine {
    /// A command of `class` has ended as soon as it came.
    #[inline]
    pub(crate) fn ended_at_once(&self, itl: &Itl, class: Class, cx: &mut dyn Cx) {
        if itl.usage.ends_at_once(class) {
            self.measure_after_turn(&itl.usage, cx);
        }
    }

    #[cold]
    fn measure_after_turn(&self, usage: &Arc<Usage>, cx: &mut dyn Cx) {
        let mut usages = self.unmeasured.usages.borrow_mut();
        if usages.is_empty() {
            self.unmeasured.since.set(cx.now());
            self.tell_at_end_of_turn(cx);
        }
        usages.push(usage.clone());
    }

    /// The turn is over.
    pub(crate) fn measure(&self, cx: &mut dyn Cx) {
        let mut usages = self.unmeasured.usages.borrow_mut();
        if !usages.is_empty() {
            let time = cx.time().saturating_sub(self.unmeasured.since.get());
            usages.drain(..).for_each(|usage| usage.measure(time));
        }
    }

    /// A command with this operation code that came at `came` has ended.
    pub(crate) fn ended(&self, itl: &Itl, opcode: Opcode, came: Duration, cx: &mut dyn Cx) {
        let (class, now) = (Class::of(opcode), cx.now());
        if came == now {
            self.ended_at_once(itl, class, cx);
        } else {
            itl.usage.took(class, now.saturating_sub(came), 1);
        }
    }

    /// The same for one that has not become a task.
    pub(crate) fn ended_on_arrival(&self, itl: &Itl, opcode: Opcode, outcome: &Outcome, cx: &mut dyn Cx) {
        self.ended_at_once(itl, Class::of(opcode), cx);
        if !is_well(outcome.status) {
            itl.usage.failed(outcome);
        }
    }
}
