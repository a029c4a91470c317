//! Carrying out tasks whose transport is done, to their end.

use crate::LogicalUnit;
use crate::alarm::Alarm;
use crate::allegiance::is_suspended;
use crate::checks::recheck;
use crate::engine::{Engine, Token};
use crate::outcome::{Completion, Outcome};
use crate::plan::{Io, IoKind, Plan, RunPlan};
use crate::quiet::is_held;
use crate::room::{Rank, must_wait};
use crate::run::{Run, RunCell};
use crate::running::Running;
use crate::session::{Itl, Started};
use crate::statistics::is_well;
use crate::tasks::{Abort, Parked, Phase, Task, TaskId};
use lunette_scsi::{AdditionalSense, Sense, Status};
use lunette_store::{Cx, IoError, IoResult, Op, Sg, Submit};

impl Engine {
    pub(crate) fn start(&self, id: TaskId, data_out: Sg<'_>, data_in: Sg<'_>, cx: &mut dyn Cx) -> Started {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id) else { return Started::Pending };
        if task.phase != Phase::Admitted {
            return Started::Pending;
        }
        if !task.enabled {
            task.phase = Phase::Parked;
            task.parked = Some(Box::new(Parked::new(data_out, data_in)));
            return Started::Pending;
        }
        drop(tasks);
        match self.run(id, data_out, data_in, cx) {
            Some(outcome) => {
                self.end_with(id, &outcome, cx);
                Started::Ended(outcome)
            }
            None => Started::Pending,
        }
    }

    pub(crate) fn abandon(&self, id: TaskId, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        if tasks.get(id).is_some_and(|task| task.phase == Phase::Admitted) {
            drop(tasks);
            self.end(id, cx);
        }
    }

    /// Carries out an enabled task's plan; its outcome if it has one already.
    fn run(&self, id: TaskId, data_out: Sg<'_>, data_in: Sg<'_>, cx: &mut dyn Cx) -> Option<Outcome> {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks.get(id)?;
        if is_held(task) {
            return Self::wait_for_room(&mut tasks, id, data_out, data_in);
        }
        // One that has failed is over, whatever comes in its way.
        if !task.itl.shared.gate.is_open() && task.failure.is_none() {
            if is_suspended(task) {
                task.phase = Phase::Suspended;
                task.parked = Some(Box::new(Parked::new(data_out, data_in)));
                return None;
            }
            recheck(task);
        }
        if task.itl.shared.gate.is_limited()
            && task.failure.is_none()
            && !self.pays(id, task, data_out, data_in, cx)
        {
            task.phase = Phase::Waiting;
            task.parked = Some(Box::new(Parked::new(data_out, data_in)));
            return None;
        }
        task.phase = Phase::Running;
        let plan = match task.plan.take()? {
            Plan::Io(io) if io.ends_inside_a_block(data_in) => io.in_steps(),
            plan => plan,
        };
        match plan {
            Plan::Done(reply) if reply.sense.is_some() => {
                let outcome = Outcome::of_reply(task, reply, data_in);
                self.fail(id, task, outcome, cx)
            }
            Plan::Done(reply) => Some(Outcome::of_reply(task, reply, data_in)),
            Plan::Io(io) => {
                task.plan = Some(Plan::Io(io));
                let op = operation(io, data_out, data_in);
                task.moving = op.range().1;
                let submitted =
                    if must_wait(task) { Submit::Full } else { self.submit(id, &task.itl, io, op, cx) };
                match submitted {
                    Submit::Done(result) => self.end_of_io(id, task, io, result, cx),
                    Submit::Queued => None,
                    Submit::Full => {
                        if task.standing.is_none() {
                            self.tell(Token::Advance(task.itl.unit().number()), Ok(0), cx);
                        }
                        Self::wait_for_room(&mut tasks, id, data_out, data_in)
                    }
                }
            }
            Plan::Run(plan) => {
                self.begin_task(id, task, plan, data_out, data_in, cx);
                self.drive_task(id, task, None, cx)
            }
        }
    }

    /// Gives the one operation of most commands to the store.
    pub(crate) fn submit(&self, id: TaskId, itl: &Itl, io: Io, op: Op<'_>, cx: &mut dyn Cx) -> Submit {
        let Some(store) = &itl.set.store else { return Submit::Done(Err(IoError::Gone)) };
        if op.range().1 == 0 && io.kind != IoKind::Flush {
            return Submit::Done(Ok(0));
        }
        store.submit(op, self.id(Token::Task(id)), cx)
    }

    /// The one operation of a task has come to its end.
    fn end_of_io(
        &self,
        id: TaskId,
        task: &mut Task,
        io: Io,
        result: IoResult,
        cx: &mut dyn Cx,
    ) -> Option<Outcome> {
        let outcome = Outcome::of_io(&task.itl, io, task.moving, result);
        if result.is_err() { self.fail(id, task, outcome, cx) } else { Some(outcome) }
    }

    /// Takes a command of several steps as far as it goes without waiting.
    pub(crate) fn drive_task(
        &self,
        id: TaskId,
        task: &mut Task,
        answer: Option<IoResult>,
        cx: &mut dyn Cx,
    ) -> Option<Outcome> {
        let (itl, running) = (task.itl.clone(), task.running.as_mut()?);
        let result = self.drive(running, &itl.set, self.id(Token::Task(id)), answer, cx)?;
        let has_failed = result.is_err();
        let outcome = Outcome::of_run(task, result);
        if has_failed { self.fail(id, task, outcome, cx) } else { Some(outcome) }
    }

    /// A task's store operation has completed, or the task was aborted before it had one.
    pub(crate) fn task_completed(&self, id: TaskId, result: IoResult, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id) else {
            drop(tasks);
            return self.let_go(id, result, cx);
        };
        let outcome = if task.running.is_some() {
            match self.drive_task(id, task, Some(result), cx) {
                Some(outcome) => outcome,
                None => return,
            }
        } else if let Some(Plan::Io(io)) = task.plan {
            match self.end_of_io(id, task, io, result, cx) {
                Some(outcome) => outcome,
                None => return,
            }
        } else {
            Outcome::status(Status::TASK_ABORTED)
        };
        drop(tasks);
        self.report(id, outcome, cx);
    }

    /// Goes on with a command of several steps that waits for room. Returns whether it is one.
    pub(crate) fn step_again(&self, id: TaskId, cx: &mut dyn Cx) -> bool {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id).filter(|task| task.running.is_some()) else { return false };
        let waits = task.running.as_ref().is_some_and(Running::waits_for_room);
        let outcome = if waits { self.drive_task(id, task, None, cx) } else { None };
        drop(tasks);
        if let Some(outcome) = outcome {
            self.report(id, outcome, cx);
        }
        true
    }

    /// Ends a task whose transport learns of it at once.
    pub(crate) fn end_with(&self, id: TaskId, outcome: &Outcome, cx: &mut dyn Cx) {
        if let Some(task) = self.tasks.borrow_mut().get(id) {
            if !is_well(outcome.status) {
                task.itl.usage.failed(outcome);
            }
            self.ended(&task.itl, task.cdb.opcode(), task.came, cx);
        }
        self.end(id, cx);
    }

    /// Ends a task and tells its transport, and who waits for it.
    fn report(&self, id: TaskId, outcome: Outcome, cx: &mut dyn Cx) {
        self.tell_end(id, outcome, cx);
        self.check_waits(Token::Task(id), cx);
    }

    /// Ends a task and tells its transport.
    pub(crate) fn tell_end(&self, id: TaskId, outcome: Outcome, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id) else { return };
        let cookie = task.cookie;
        if task.aborted.is_some()
            && let Some(untold) = task.failure.take()
        {
            task.itl.shared.give_back(&untold);
        }
        let completion = match task.aborted {
            None => Completion::Ended(outcome),
            Some(Abort::Silent(why)) => Completion::Aborted(why),
            Some(Abort::Told) => Completion::Ended(Outcome::status(Status::TASK_ABORTED)),
            Some(Abort::TurnedBack) => Completion::Ended(Outcome::status(Status::BUSY)),
            Some(Abort::Retired) => Completion::Ended(retired(task.itl.unit())),
            Some(Abort::NotReady) => Completion::Ended(not_ready(task.itl.unit())),
        };
        task.itl.usage.completed(&completion);
        self.ended(&task.itl, task.cdb.opcode(), task.came, cx);
        drop(tasks);
        let Some(itl) = self.end(id, cx) else { return };
        if let Some(responder) = itl.responder.upgrade() {
            responder.command_ended(cookie, completion, cx);
        }
    }

    /// Goes on with a task whose transport is done.
    pub(crate) fn unpark(&self, id: TaskId, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(parked) = tasks.get(id).and_then(|task| task.parked.take()) else { return };
        drop(tasks);
        if let Some(outcome) = self.run(id, parked.data_out.as_sg(), parked.data_in.as_sg(), cx) {
            self.report(id, outcome, cx);
        }
    }

    /// Prepares a command of several steps.
    pub(crate) fn begin_task(
        &self,
        id: TaskId,
        task: &mut Task,
        plan: RunPlan,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) {
        let (itl, alarm) = (&task.itl, Alarm::new(self.id(Token::Task(id)), cx));
        let cell = RunCell::new(data_out.part(0, plan.wanted_out), data_in, alarm, itl.usage.clone());
        let run = Run::new(itl, task.cdb, cell.clone());
        task.moving = data_out.len().min(plan.wanted_out);
        let running = Running::new(cell, (plan.start)(run), Rank::of(task));
        task.running = Some(running.that_reads(plan.reads));
    }
}

/// What a command comes to whose unit is there no more.
fn retired(unit: &LogicalUnit) -> Outcome {
    Outcome::failed(unit, Sense::illegal_request(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED))
}

/// What a command comes to that has waited for a unit that is not ready. By now it may be.
fn not_ready(unit: &LogicalUnit) -> Outcome {
    let ready = unit.ready();
    ready.map_or_else(|sense| Outcome::failed(unit, sense), |()| Outcome::status(Status::BUSY))
}

/// The operation on the store: as much of it as there is room or data for, in whole blocks.
#[inline]
pub(crate) fn operation<'a>(io: Io, data_out: Sg<'a>, data_in: Sg<'a>) -> Op<'a> {
    match io.kind {
        IoKind::Read => Op::Read { offset: io.offset, to: data_in.part(0, io.length) },
        IoKind::Write { durable } => {
            let there = data_out.len().min(io.length);
            let whole = there - there % io.block();
            Op::Write { offset: io.offset, from: data_out.part(0, whole), durable }
        }
        IoKind::Flush => Op::Flush,
    }
}
