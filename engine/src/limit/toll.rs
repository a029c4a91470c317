//! Commands pay what their limits ask for before they begin, or wait for that.

use super::line::Waiter;
use super::{Cost, Limit, Limits, Watch};
use crate::engine::{Engine, Token};
use crate::order::TURNS_AT_A_TIME;
use crate::plan::{Io, IoKind, Plan};
use crate::room::Rank;
use crate::session::{CommandFrame, Itl};
use crate::task_set::TaskSet;
use crate::tasks::{Phase, Task, TaskId};
use crate::{LogicalUnit, Nexus};
use lunette_scsi::{Cdb, TaskAttribute};
use lunette_store::{Cx, Post, ReactorId, Sg};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

/// Where a task stands in a line.
pub(crate) struct Toll {
    /// All its limits, and at which of them it waits: for those before it has paid.
    limits: Rc<[Arc<Limit>]>,
    at: usize,
    number: u64,
    waiter: Waiter,
    set: Rc<TaskSet>,
}

impl Drop for Toll {
    fn drop(&mut self) {
        self.set.tolls().update(|count| count - 1);
    }
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
    /// Whether a command of one operation may go straight to the store, which it has paid for then. The
    /// initiator sends and takes so many bytes.
    #[inline(always)]
    pub(crate) fn pays_at_once(
        &self,
        itl: &Rc<Itl>,
        io: &Io,
        data_out: u64,
        data_in: u64,
        cx: &mut dyn Cx,
    ) -> bool {
        let Some(cost) = cost_of_io(io, data_out, data_in) else { return true };
        itl.purse.pay(cost.bytes, itl.shared.limits_epoch()) || self.draw(itl, cost, cx)
    }

    /// Has a command that is not SIMPLE pay when it comes: from then on others may have to wait for it, which have no part in its
    /// limits. Returns what it has paid; `None` if it cannot be accepted, because it would have to wait, or it is ORDERED and one
    /// that came before it does.
    #[cold]
    pub(crate) fn pays_on_arrival(
        &self,
        itl: &Itl,
        command: &CommandFrame<'_>,
        plan: &Plan,
        cx: &dyn Cx,
    ) -> Option<usize> {
        let (limits, now) = (itl.limits(), cx.now());
        let (initiator, unit) = (itl.nexus.name(), itl.unit().number());
        if command.attribute == TaskAttribute::Ordered
            && limits.iter().any(|limit| limit.holds_back(initiator, unit))
        {
            return None;
        }
        let Some(cost) = cost(itl, command.cdb, plan, u64::MAX, u64::MAX) else { return Some(0) };
        if limits.iter().any(|limit| !limit.is_free(now)) {
            return None;
        }
        limits.iter().for_each(|limit| limit.charge(cost, now));
        Some(usize::MAX)
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
        let Task { itl, cdb, plan: Some(plan), attribute, .. } = &*task else { return true };
        let Some(cost) = cost(itl, cdb, plan, data_out.len(), data_in.len()) else { return true };
        let (limits, now) = (itl.limits(), cx.now());
        if *attribute != TaskAttribute::Simple || itl.set.has_barrier() {
            // The whole unit would wait with it.
            limits.iter().skip(task.paid).for_each(|limit| limit.charge(cost, now));
            task.paid = usize::MAX;
            return true;
        }
        while let Some(limit) = limits.get(task.paid) {
            if !limit.pay(cost, now) {
                self.wait_for_tokens(id, task, limits, cost, cx);
                return false;
            }
            task.paid += 1;
        }
        true
    }

    fn wait_for_tokens(
        &self,
        id: TaskId,
        task: &mut Task,
        limits: Rc<[Arc<Limit>]>,
        cost: Cost,
        cx: &mut dyn Cx,
    ) {
        let (at, epoch) = (task.paid, task.itl.purse.epoch());
        let Some(limit) = limits.get(at).cloned() else { return };
        let waiter = Waiter {
            initiator: task.itl.nexus.name().clone(),
            priority: Rank::of(task).priority(),
            unit: task.itl.unit().number(),
            reactor: self.reactor,
            task: id,
            cost,
            receipt: Arc::default(),
        };
        let (number, watch) = limit.enter(waiter.clone(), cx.now());
        let set = task.itl.set.clone();
        set.tolls().update(|count| count + 1);
        task.toll = Some(Box::new(Toll { limits, at, number, waiter, set }));
        task.is_kept = true;
        self.watch(&limit, watch, cx);
        // Whoever has changed the limits meanwhile may have called up the line before this stood there.
        if task.itl.shared.limits_epoch() != epoch {
            Self::post(self.reactor, cx, move |engine, cx| engine.look_again(vec![id], cx));
        }
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
        let number = limit.number();
        for (reactor, tasks) in tasks {
            if reactor == self.reactor {
                self.admitted(number, &tasks, cx);
            } else {
                Self::post(reactor, cx, move |engine, cx| engine.admitted(number, &tasks, cx));
            }
        }
    }

    /// These tasks have paid for this limit, by their numbers in its line.
    fn admitted(&self, limit: u32, tasks: &[(TaskId, u64)], cx: &mut dyn Cx) {
        for (id, number) in tasks {
            self.go_on_if(*id, Some((limit, *number)), cx);
        }
    }

    /// What holds for these tasks, which wait, has changed.
    pub(super) fn look_again(&self, mut tasks: Vec<TaskId>, cx: &mut dyn Cx) {
        let later = tasks.split_off(tasks.len().min(TURNS_AT_A_TIME));
        tasks.iter().for_each(|id| self.go_on_if(*id, None, cx));
        if !later.is_empty() {
            Self::post(self.reactor, cx, move |engine, cx| engine.look_again(later, cx));
        }
    }

    /// An ORDERED task waits for all that came before it for its unit: what waits for tokens here goes on without.
    #[cold]
    pub(crate) fn let_through(&self, unit: u64, cx: &mut dyn Cx) {
        let waits = |task: &Task| task.toll.is_some() && task.itl.unit().number() == unit;
        let waiting = self.tasks.borrow().select(waits);
        self.look_again(waiting, cx);
    }

    /// Goes on with a task that waits for tokens, and was not aborted meanwhile: with what it has paid for where it was admitted, or
    /// from the beginning.
    fn go_on_if(&self, id: TaskId, admitted: Option<(u32, u64)>, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id).filter(|task| task.phase == Phase::Waiting) else { return };
        let stands_there = |toll: &Toll| admitted.is_none_or(|place| toll.place() == Some(place));
        let Some(toll) = task.toll.take_if(|toll| stands_there(toll)) else { return };
        if admitted.is_some() && Rc::ptr_eq(&toll.limits, &task.itl.limits()) {
            task.paid = toll.at + 1;
        } else {
            toll.give_up();
            task.paid = 0;
        }
        let stood = task.standing.is_some().then(|| task.itl.unit().number());
        drop(tasks);
        self.unpark(id, cx);
        self.has_room(id);
        if let Some(unit) = stood {
            // It may wait for room again, as it did before its limits had changed, and is to be offered it.
            self.tell(Token::Advance(unit), Ok(0), cx);
        }
    }
}

impl Toll {
    /// The limit at which it waits, and its number there.
    fn place(&self) -> Option<(u32, u64)> {
        self.limits.get(self.at).map(|limit| (limit.number(), self.number))
    }

    /// The task ends, or begins anew: what it has paid is given back.
    pub(crate) fn give_up(&self) {
        let (at, cost) = (self.at, self.waiter.cost);
        self.limits.iter().take(at).for_each(|limit| limit.refund(cost));
        self.limits.iter().skip(at).take(1).for_each(|limit| limit.leave(self.number, &self.waiter));
    }
}

/// What a command costs, if anything, when the initiator sends and takes so many bytes: steering and asking is free, so that it
/// is possible also where nothing is left.
fn cost(itl: &Itl, cdb: &Cdb, plan: &Plan, data_out: u64, data_in: u64) -> Option<Cost> {
    match plan {
        Plan::Done(_) => None,
        Plan::Io(io) => cost_of_io(io, data_out, data_in),
        Plan::Run(plan) => {
            let (out, read) = (data_out.min(plan.wanted_out), data_in.min(plan.wanted_in));
            let row = itl.unit().commands().find(cdb).ok().filter(|row| row.spec.limited);
            row.map(|_| Cost::command(out.saturating_add(read).max(plan.writes)))
        }
    }
}

#[inline(always)]
fn cost_of_io(io: &Io, data_out: u64, data_in: u64) -> Option<Cost> {
    let room = match io.kind {
        IoKind::Read => data_in,
        IoKind::Write { .. } => data_out,
        IoKind::Flush => return None,
    };
    Some(Cost::command(io.length.min(room)))
}
