//! Commands pay what their limits ask for before they begin, or wait for that.

use super::line::Waiter;
use super::{Cost, Limit, Limits, Watch};
use crate::command::Row;
use crate::engine::{Engine, Token};
use crate::plan::{Io, IoKind, Plan};
use crate::room::Rank;
use crate::session::Itl;
use crate::tasks::{Phase, Task, TaskId};
use crate::{LogicalUnit, Nexus};
use lunette_store::{Cx, Post, ReactorId, Sg};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

/// Where a task stands in a line.
pub(crate) struct Toll {
    limit: Arc<Limit>,
    number: u64,
    waiter: Waiter,
}

/// The limits that one reactor looks after, by their numbers, and the numbers of the watches.
#[derive(Default)]
pub(crate) struct Watched(RefCell<HashMap<u32, (Arc<Limit>, u64)>>);

/// Says for which limits commands for a unit count.
pub trait Limiter: Send + Sync {
    /// Those that come by `nexus`. May be called with a lock of the unit held; must neither wait nor ask units or nexuses for anything
    /// but their names.
    fn limits(&self, nexus: &Nexus) -> Limits;
}

impl LogicalUnit {
    /// Has commands for this unit count for what `limiter` says from now on, for each nexus of now and later; those that wait look
    /// again. To be called by one at a time. Work in the background, and what copies of other units do here, does not count.
    pub fn set_limiter(&self, limiter: Arc<dyn Limiter>, post: &dyn Post) {
        self.state().limiter = Some(limiter.clone());
        // Who meets the unit from now on has asked the new one.
        let before: Vec<_> = self.met().iter().map(|(nexus, itl)| itl.limit(limiter.limits(nexus))).collect();
        let limits = before.iter().flat_map(|limits| limits.iter());
        let limits: BTreeMap<u32, &Arc<Limit>> = limits.map(|limit| (limit.number(), limit)).collect();
        limits.values().for_each(|limit| limit.call_up(|waiter| waiter.unit == self.number(), post));
    }
}

impl Engine {
    /// Whether a command of one operation may go straight to the store, which it has paid for then.
    #[cold]
    pub(crate) fn pays_at_once(
        &self,
        itl: &Itl,
        io: &Io,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> bool {
        let Some(cost) = cost_of_io(io, data_out, data_in) else { return true };
        let limits = itl.limits();
        let unpaid = limits.iter().position(|limit| !limit.pay(cost, cx.now()));
        limits[..unpaid.unwrap_or(0)].iter().for_each(|limit| limit.refund(cost));
        unpaid.is_none()
    }

    /// Has a task pay before it begins. Returns whether it has; otherwise it waits.
    #[cold]
    pub(crate) fn pays(
        &self,
        id: TaskId,
        task: &mut Task,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> bool {
        let Some(cost) = cost(task, data_out, data_in) else { return true };
        let (limits, now) = (task.itl.limits(), cx.now());
        while let Some(limit) = limits.get(task.paid) {
            if !limit.pay(cost, now) {
                self.wait_for_tokens(id, task, limit, cost, cx);
                return false;
            }
            task.paid += 1;
        }
        true
    }

    fn wait_for_tokens(&self, id: TaskId, task: &mut Task, limit: &Arc<Limit>, cost: Cost, cx: &mut dyn Cx) {
        let waiter = Waiter {
            initiator: task.itl.nexus.name().clone(),
            priority: Rank::of(task).priority(),
            unit: task.itl.unit().number(),
            reactor: self.reactor,
            task: id,
            cost,
        };
        let (number, watch) = limit.enter(waiter.clone(), cx.now());
        task.toll = Some(Box::new(Toll { limit: limit.clone(), number, waiter }));
        self.watch(limit, watch, cx);
    }

    fn watch(&self, limit: &Arc<Limit>, watch: Option<Watch>, cx: &mut dyn Cx) {
        let Some(Watch { number, after }) = watch else { return };
        let id = self.id(Token::Admit(limit.number()));
        cx.cancel(id);
        cx.timer(after, id);
        self.watched.0.borrow_mut().insert(limit.number(), (limit.clone(), number));
    }

    /// There should be tokens again.
    pub(crate) fn admit_waiting(&self, limit: u32, cx: &mut dyn Cx) {
        let Some((limit, watch)) = self.watched.0.borrow_mut().remove(&limit) else { return };
        let (admitted, again) = limit.admit(watch, cx.now());
        self.watch(&limit, again, cx);
        let mut tasks = BTreeMap::<ReactorId, Vec<(TaskId, u64)>>::new();
        for (number, waiter) in admitted {
            tasks.entry(waiter.reactor).or_default().push((waiter.task, number));
        }
        for (reactor, tasks) in tasks {
            if reactor == self.reactor {
                self.admitted(&tasks, cx);
            } else {
                Self::post(reactor, cx, move |engine, cx| engine.admitted(&tasks, cx));
            }
        }
    }

    /// These tasks have paid, by their numbers in the line.
    fn admitted(&self, tasks: &[(TaskId, u64)], cx: &mut dyn Cx) {
        for (id, number) in tasks {
            self.go_on_if(*id, |toll| toll.number == *number, |paid| paid + 1, cx);
        }
    }

    /// What holds for these tasks, which wait, has changed.
    pub(super) fn look_again(&self, tasks: &[TaskId], cx: &mut dyn Cx) {
        tasks.iter().for_each(|id| self.go_on_if(*id, |_| true, |_| 0, cx));
    }

    /// Goes on with a task that waits for tokens, and was not aborted meanwhile.
    fn go_on_if(
        &self,
        id: TaskId,
        which: impl Fn(&Toll) -> bool,
        paid: impl Fn(usize) -> usize,
        cx: &mut dyn Cx,
    ) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id).filter(|task| task.phase == Phase::Waiting) else { return };
        if task.toll.take_if(|toll| which(toll)).is_none() {
            return;
        }
        task.paid = paid(task.paid);
        drop(tasks);
        self.unpark(id, cx);
    }
}

impl Toll {
    /// The task ends.
    pub(crate) fn give_up(&self) {
        self.limit.leave(self.number, &self.waiter);
    }
}

impl Itl {
    /// All limits that commands count for.
    pub(crate) fn limits(&self) -> Rc<[Arc<Limit>]> {
        let epoch = self.shared.limits_epoch();
        let mut known = self.limits.borrow_mut();
        if known.0 != epoch {
            *known = (epoch, Rc::from(&**self.shared.limits()));
        }
        known.1.clone()
    }
}

/// What a task costs that is about to begin, if anything: steering and asking is free, so that it is possible also where
/// nothing is left.
fn cost(task: &Task, data_out: Sg<'_>, data_in: Sg<'_>) -> Option<Cost> {
    match task.plan.as_ref()? {
        Plan::Done(_) => None,
        Plan::Io(io) => cost_of_io(io, data_out, data_in),
        Plan::Run(plan) => {
            let row = task.itl.unit().commands().find(&task.cdb);
            if !row.is_ok_and(Row::moves_data) {
                return None;
            }
            let (out, read) = (data_out.len().min(plan.wanted_out), data_in.len().min(plan.wanted_in));
            Some(Cost { bytes: out.saturating_add(read) })
        }
    }
}

fn cost_of_io(io: &Io, data_out: Sg<'_>, data_in: Sg<'_>) -> Option<Cost> {
    let room = match io.kind {
        IoKind::Read => data_in.len(),
        IoKind::Write { .. } => data_out.len(),
        IoKind::Flush => return None,
    };
    Some(Cost { bytes: io.length.min(room) })
}
