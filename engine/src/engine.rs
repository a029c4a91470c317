//! The engine of one reactor: takes tasks from admission to their end.

use crate::allegiance::is_suspended;
use crate::command::{Attention, CommandSpec, Row, Unknown};
use crate::hop::Hops;
use crate::manage::{Jobs, Waits};
use crate::plan::{Completion, Io, IoKind, Outcome, Plan, Reply, RunPlan};
use crate::room::must_wait;
use crate::run::{Alarm, Run, RunCell, Running};
use crate::session::{Admission, CommandFrame, Itl, Started};
use crate::steps::Background;
use crate::task_set::{Next, TaskSet};
use crate::tasks::{Abort, Parked, Phase, Task, TaskId, Tasks};
use crate::{LogicalUnit, Request};
use lunette_scsi::{AdditionalSense, Cdb, Sense, Status, TaskAttribute};
use lunette_store::{Cx, IoError, IoId, IoResult, Message, Op, ReactorId, Sg, Sink, SinkId, Submit};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Everything of the engine that lives on one reactor.
pub(crate) struct Engine {
    pub(crate) reactor: ReactorId,
    sink: Cell<SinkId>,
    pub(crate) tasks: RefCell<Tasks>,
    sets: RefCell<HashMap<u64, Rc<TaskSet>>>,
    pub(crate) jobs: RefCell<Jobs>,
    pub(crate) waits: RefCell<Waits>,
    pub(crate) hops: Hops,
    pub(crate) background: RefCell<Background>,
}

/// What a completion that comes to the engine is about; kept in its token.
pub(crate) enum Token {
    /// A task's store operation, or its abort.
    Task(TaskId),
    /// The task set of this logical unit may be able to go on.
    Advance(u64),
    /// This task management function may have ended.
    Job(u32),
    /// A step of this work in the background.
    Work(u32),
}

impl Token {
    const WORK: u64 = 0b01 << 62;
    const ADVANCE: u64 = 0b10 << 62;
    const JOB: u64 = 0b11 << 62;
    const KIND: u64 = 0b11 << 62;

    fn encode(self) -> u64 {
        match self {
            Token::Task(id) => id.to_token(),
            Token::Advance(unit) => Self::ADVANCE | unit,
            Token::Job(job) => Self::JOB | u64::from(job),
            Token::Work(work) => Self::WORK | u64::from(work),
        }
    }

    pub(crate) fn decode(token: u64) -> Self {
        match token & Self::KIND {
            Self::WORK => Token::Work(token as u32),
            Self::ADVANCE => Token::Advance(token & !Self::KIND),
            Self::JOB => Token::Job(token as u32),
            _ => Token::Task(TaskId::from_token(token)),
        }
    }
}

impl Engine {
    /// The engine of the reactor of `cx`, made when it is first asked for.
    pub(crate) fn on(cx: &mut dyn Cx) -> Rc<Self> {
        lunette_store::local_or_insert(cx, |cx| {
            let engine = Rc::new(Self {
                reactor: cx.reactor(),
                sink: Cell::new(SinkId(0)),
                tasks: RefCell::default(),
                sets: RefCell::default(),
                jobs: RefCell::default(),
                waits: RefCell::default(),
                hops: Hops::default(),
                background: RefCell::default(),
            });
            engine.sink.set(cx.register(engine.clone()));
            engine
        })
    }

    /// The part of a unit's task set on this reactor.
    pub(crate) fn task_set(&self, unit: &Arc<LogicalUnit>, cx: &mut dyn Cx) -> Rc<TaskSet> {
        if let Some(set) = self.sets.borrow().get(&unit.number()) {
            return set.clone();
        }
        let store = unit.backing().map(|backing| backing.attach(cx));
        let set = TaskSet::new(unit.clone(), store, self.reactor);
        self.sets.borrow_mut().insert(unit.number(), set.clone());
        set
    }

    /// Tells this engine of something, after its caller has returned.
    pub(crate) fn tell(&self, token: Token, result: IoResult, cx: &mut dyn Cx) {
        cx.complete(self.id(token), result);
    }

    pub(crate) fn id(&self, token: Token) -> IoId {
        IoId { sink: self.sink.get(), token: token.encode() }
    }

    /// Runs `act` on the engine of another reactor.
    pub(crate) fn post(
        to: ReactorId,
        cx: &mut dyn Cx,
        act: impl FnOnce(&Engine, &mut dyn Cx) + Send + 'static,
    ) {
        let message: Message = Box::new(move |cx| {
            let engine = Engine::on(cx);
            act(&engine, cx);
        });
        cx.poster().post(to, message);
    }

    pub(crate) fn admit(&self, itl: &Rc<Itl>, command: &CommandFrame<'_>, cx: &mut dyn Cx) -> Admission {
        match Self::plan(itl, command) {
            Ok(plan) => self.enter(itl, command, plan, cx),
            Err(refusal) => self.turn_away(itl, command, refusal),
        }
    }

    /// Admits and starts a command whose data-out is there already.
    #[inline]
    pub(crate) fn execute(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Started {
        match Self::plan(itl, command) {
            Ok(Plan::Io(io)) if is_immediate(itl, command, &io, data_in) => {
                self.transfer(itl, command, io, data_out, data_in, cx)
            }
            Ok(plan) => match self.enter(itl, command, plan, cx) {
                Admission::Admitted { task, .. } => self.start(task, data_out, data_in, cx),
                Admission::Ended(outcome) => Started::Ended(outcome),
            },
            Err(refusal) => {
                let admission = self.turn_away(itl, command, refusal);
                self.start_admitted(admission, cx)
            }
        }
    }

    /// A command is not processed.
    #[cold]
    fn turn_away(&self, itl: &Rc<Itl>, command: &CommandFrame<'_>, refusal: Refusal) -> Admission {
        if command.attribute == TaskAttribute::Aca && !matches!(refusal, Refusal::Status(_)) {
            itl.unit().allegiance_task_ended();
        }
        if let Refusal::Sense(sense) = &refusal
            && let Some(task) = self.fail_on_arrival(itl, command, sense)
        {
            return Admission::Admitted { task, wanted_out: 0, wanted_in: 0 };
        }
        Admission::Ended(refusal.outcome(itl.unit()))
    }

    #[cold]
    fn start_admitted(&self, admission: Admission, cx: &mut dyn Cx) -> Started {
        match admission {
            Admission::Admitted { task, .. } => self.start(task, Sg::empty(), Sg::empty(), cx),
            Admission::Ended(outcome) => Started::Ended(outcome),
        }
    }

    /// What nearly all commands come to: one operation on the store, for a task that nothing holds back. It becomes a
    /// task only if the store does not answer at once; nobody could see it before.
    fn transfer(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        io: Io,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Started {
        let mut tasks = self.tasks.borrow_mut();
        let Some(id) = tasks.vacant(&itl.share) else {
            return Started::Ended(Outcome::status(Status::TASK_SET_FULL));
        };
        let op = operation(io, data_out, data_in);
        let moving = op.range().1;
        match self.submit(id, itl, io, op, cx) {
            Submit::Full => {
                let task = Task { enabled: true, ..Task::new(itl.clone(), command, Plan::Io(io)) };
                tasks.occupy(id, task);
                itl.set.began();
                match Self::wait_for_room(&mut tasks, id, data_out, data_in) {
                    Some(outcome) => {
                        drop(tasks);
                        self.end(id, cx);
                        Started::Ended(outcome)
                    }
                    None => {
                        self.tell(Token::Advance(itl.set.unit.number()), Ok(0), cx);
                        Started::Pending
                    }
                }
            }
            Submit::Done(result) => {
                let outcome = outcome_of_io(itl, io, moving, result);
                if result.is_err() && outcome.sense.is_some() {
                    drop(tasks);
                    return self.fail_at_once(itl, command, outcome, cx);
                }
                Started::Ended(outcome)
            }
            Submit::Queued => {
                let phase = Phase::Running;
                let task =
                    Task { phase, enabled: true, moving, ..Task::new(itl.clone(), command, Plan::Io(io)) };
                tasks.occupy(id, task);
                itl.set.began();
                Started::Pending
            }
        }
    }

    /// The store has refused a command's operation.
    #[cold]
    fn fail_at_once(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        outcome: Outcome,
        cx: &mut dyn Cx,
    ) -> Started {
        let task = outcome.sense.as_ref().and_then(|sense| self.fail_on_arrival(itl, command, sense));
        match task {
            Some(task) => self.start(task, Sg::empty(), Sg::empty(), cx),
            None => Started::Ended(outcome),
        }
    }

    /// Finds out what a command wants done, unless something stands in its way.
    fn plan(itl: &Rc<Itl>, command: &CommandFrame<'_>) -> Result<Plan, Refusal> {
        let row = itl.unit().commands().find(command.cdb);
        if !itl.shared.gate.is_open() {
            return Self::plan_past_gate(itl, row, command);
        }
        Self::decode(itl, row, command).map_err(Refusal::Sense)
    }

    #[cold]
    fn plan_past_gate(
        itl: &Rc<Itl>,
        row: Result<&Row, Unknown>,
        command: &CommandFrame<'_>,
    ) -> Result<Plan, Refusal> {
        if itl.shared.gate.has_allegiance() {
            itl.unit().admits_beside_allegiance(itl.nexus.id(), command.attribute, command.cdb)?;
        }
        Self::pass_gate(itl, row.ok().map(|row| row.spec), command.cdb)?;
        let plan = Self::decode(itl, row, command).map_err(Refusal::Sense)?;
        Ok(if itl.shared.gate.has_ranges() { plan.with_range() } else { plan })
    }

    /// Whether a command may be processed for all that has closed the gate; the order is that of SAM-5 5.3.
    fn pass_gate(itl: &Itl, command: Option<&CommandSpec>, cdb: &Cdb) -> Result<(), Refusal> {
        if command.is_none_or(|command| command.attention == Attention::Reported)
            && let Some(sense) = itl.nexus.take_attention(&itl.shared)
        {
            return Err(Refusal::Sense(sense));
        }
        command.map_or(Ok(()), |command| admits(itl, command, cdb))
    }

    fn decode(itl: &Rc<Itl>, row: Result<&Row, Unknown>, command: &CommandFrame<'_>) -> Result<Plan, Sense> {
        let unit = itl.unit();
        let row = row.map_err(|unknown| match unknown {
            Unknown::ServiceAction if !unit.device().is_placeholder() => {
                let (byte, bit) = command.cdb.service_action_at();
                Sense::invalid_field_in_cdb(byte, bit)
            }
            _ => unit.device().unknown_command(),
        })?;
        row.check(command.cdb)?;
        if command.attribute == TaskAttribute::Aca && !itl.shared.gate.has_allegiance() {
            return Err(Sense::aborted_command(AdditionalSense::INVALID_MESSAGE_ERROR));
        }
        let &CommandFrame { cdb, data_out, priority, reference_number, .. } = command;
        unit.decode(row, &Request { cdb, data_out, priority, reference_number, unit, nexus: &itl.nexus })
    }

    fn enter(&self, itl: &Rc<Itl>, command: &CommandFrame<'_>, plan: Plan, cx: &mut dyn Cx) -> Admission {
        let task = Task::new(itl.clone(), command, plan);
        let (wanted_out, wanted_in) = (task.wanted_out, task.wanted_in);
        let mut tasks = self.tasks.borrow_mut();
        let Some(id) = tasks.insert(task) else {
            return Admission::Ended(Outcome::status(Status::TASK_SET_FULL));
        };
        drop(tasks);
        self.take_place(id, itl, command.attribute, cx);
        Admission::Admitted { task: id, wanted_out, wanted_in }
    }

    /// Lets a task into its task set: at once, or when its turn comes.
    fn take_place(&self, id: TaskId, itl: &Itl, attribute: TaskAttribute, cx: &mut dyn Cx) {
        let (set, is_ordered) = (&itl.set, attribute == TaskAttribute::Ordered);
        match attribute {
            TaskAttribute::HeadOfQueue => set.head_began(),
            TaskAttribute::Simple if !set.is_ordered() => set.began(),
            TaskAttribute::Aca => set.began(),
            _ => return self.wake(&set.unit, set.make_dormant(id, is_ordered), cx),
        }
        self.tasks.borrow_mut().enable(id);
    }

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
                self.end(id, cx);
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
        if !task.itl.shared.gate.is_open() {
            if is_suspended(task) {
                task.phase = Phase::Suspended;
                task.parked = Some(Box::new(Parked::new(data_out, data_in)));
                return None;
            }
            recheck(task);
        }
        task.phase = Phase::Running;
        let plan = match task.plan.take()? {
            Plan::Io(io) if io.ends_inside_a_block(data_in) => io.in_steps(),
            plan => plan,
        };
        match plan {
            Plan::Done(reply) if reply.sense.is_some() => {
                let outcome = outcome_of_reply(task, reply, data_in);
                self.fail(id, task, outcome, cx)
            }
            Plan::Done(reply) => Some(outcome_of_reply(task, reply, data_in)),
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
    fn submit(&self, id: TaskId, itl: &Itl, io: Io, op: Op<'_>, cx: &mut dyn Cx) -> Submit {
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
        let outcome = outcome_of_io(&task.itl, io, task.moving, result);
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
        let result = self.drive(running, itl.set.store.as_ref(), self.id(Token::Task(id)), answer, cx)?;
        let has_failed = result.is_err();
        let outcome = outcome_of_run(task, result);
        if has_failed { self.fail(id, task, outcome, cx) } else { Some(outcome) }
    }

    /// A task's store operation has completed, or the task was aborted before it had one.
    fn task_completed(&self, id: TaskId, result: IoResult, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id) else { return };
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

    /// Ends a task and tells its transport.
    fn report(&self, id: TaskId, outcome: Outcome, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id) else { return };
        let cookie = task.cookie;
        let completion = match task.aborted {
            None => Completion::Ended(outcome),
            Some(Abort::Silent(why)) => Completion::Aborted(why),
            Some(Abort::Told) => Completion::Ended(Outcome::status(Status::TASK_ABORTED)),
        };
        drop(tasks);
        let Some(itl) = self.end(id, cx) else { return };
        if let Some(responder) = itl.responder.upgrade() {
            responder.command_ended(cookie, completion, cx);
        }
        self.check_waits(id, cx);
    }

    /// Takes a task out of its task set.
    fn end(&self, id: TaskId, cx: &mut dyn Cx) -> Option<Rc<Itl>> {
        let mut tasks = self.tasks.borrow_mut();
        let Task { enabled, attribute, standing, .. } = *tasks.get(id)?;
        let itl = tasks.remove(id)?;
        drop(tasks);
        let set = &itl.set;
        if let Some(standing) = standing {
            Self::stops_waiting(set, standing);
        }
        if enabled && attribute == TaskAttribute::Simple {
            if set.ended() {
                self.tell(Token::Advance(set.unit.number()), Ok(0), cx);
            }
            return Some(itl);
        }
        let concerned = match attribute {
            _ if !enabled => set.forget(id),
            TaskAttribute::Ordered => set.ordered_ended(),
            TaskAttribute::Aca => {
                set.unit.allegiance_task_ended();
                if set.ended() { vec![self.reactor] } else { Vec::new() }
            }
            _ => set.head_ended(),
        };
        self.wake(&set.unit, concerned, cx);
        Some(itl)
    }

    /// Has the parts of a task set on some reactors look whether they can go on.
    fn wake(&self, unit: &LogicalUnit, reactors: Vec<ReactorId>, cx: &mut dyn Cx) {
        let unit = unit.number();
        for reactor in reactors {
            if reactor == self.reactor {
                self.tell(Token::Advance(unit), Ok(0), cx);
            } else {
                Self::post(reactor, cx, move |engine, cx| engine.advance(unit, cx));
            }
        }
    }

    /// Lets the part of a task set go on as far as it can.
    fn advance(&self, unit: u64, cx: &mut dyn Cx) {
        let Some(set) = self.sets.borrow().get(&unit).cloned() else { return };
        loop {
            match set.next() {
                Next::Wait => return self.offer(&set, cx),
                Next::Enable(task) => self.enable(task, cx),
                Next::Tell(owner) => self.wake(&set.unit, vec![owner], cx),
            }
        }
    }

    /// The turn of a dormant task has come.
    fn enable(&self, id: TaskId, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        tasks.enable(id);
        let Some(task) = tasks.get(id) else { return };
        if task.phase != Phase::Running {
            decode_again(task);
        }
        if task.phase == Phase::Parked {
            drop(tasks);
            self.unpark(id, cx);
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
}

impl Sink for Engine {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        match Token::decode(token) {
            Token::Task(id) => self.task_completed(id, result, cx),
            Token::Advance(unit) => self.advance(unit, cx),
            Token::Job(job) => self.check_job(job, cx),
            Token::Work(work) => self.go_on(work, Some(result), cx),
        }
    }
}

/// Why a command is not processed.
#[derive(PartialEq, Debug)]
pub(crate) enum Refusal {
    Sense(Sense),
    /// RESERVATION CONFLICT.
    Conflict,
    /// BUSY or ACA ACTIVE.
    Status(Status),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

impl Refusal {
    #[cold]
    fn outcome(self, unit: &LogicalUnit) -> Outcome {
        match self {
            Refusal::Sense(sense) => check_condition(unit, sense),
            Refusal::Conflict => Outcome::status(Status::RESERVATION_CONFLICT),
            Refusal::Status(status) => Outcome::status(status),
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Sense(sense) => Self::check_condition(sense),
            Refusal::Conflict => Self { status: Status::RESERVATION_CONFLICT, sense: None, data: Vec::new() },
            Refusal::Status(status) => Self { status, sense: None, data: Vec::new() },
        }
    }
}

/// Whether the target port, reservations and the state of the unit let a command be processed. The port comes first: who is
/// told of a conflict gives up, who is told of an inactive port tries another.
fn admits(itl: &Itl, command: &CommandSpec, cdb: &Cdb) -> Result<(), Refusal> {
    let gate = &itl.shared.gate;
    if gate.has_inactive_port() {
        itl.unit().accessible(&itl.nexus.port, command.access).map_err(Refusal::Sense)?;
    }
    if gate.excludes(command.reservation_of(cdb)) {
        return Err(Refusal::Conflict);
    }
    if gate.is_unready() {
        return itl.unit().admits(command.needs).map_err(Refusal::Sense);
    }
    Ok(())
}

/// Whether a command with this plan runs as soon as it has come.
#[inline]
fn is_immediate(itl: &Itl, command: &CommandFrame<'_>, io: &Io, data_in: Sg<'_>) -> bool {
    command.attribute == TaskAttribute::Simple && !itl.set.is_blocked() && !io.ends_inside_a_block(data_in)
}

/// The operation on the store: as much of it as there is room or data for, in whole blocks.
#[inline]
fn operation<'a>(io: Io, data_out: Sg<'a>, data_in: Sg<'a>) -> Op<'a> {
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

#[cold]
fn check_condition(unit: &LogicalUnit, sense: Sense) -> Outcome {
    Outcome { descriptor_sense: unit.descriptor_sense(), ..Outcome::check_condition(sense) }
}

/// Decodes a task whose turn has come: what it is to do may depend on mode pages that an older one has changed. Commands
/// that do not report unit attention conditions have taken one, or given up one, when they were decoded first.
fn decode_again(task: &mut Task) {
    let itl = &task.itl;
    let unit = itl.unit();
    let Ok(row) = unit.commands().find(&task.cdb) else { return };
    if let Err(refusal) = admits(itl, row.spec, &task.cdb) {
        task.plan = Some(Plan::Done(refusal.into()));
    } else if row.spec.attention == Attention::Reported {
        let &mut Task { ref cdb, data_out, priority, reference_number, .. } = task;
        let request = Request { cdb, data_out, priority, reference_number, unit, nexus: &itl.nexus };
        let refused = |sense| Plan::Done(Reply::check_condition(sense));
        let plan = unit.decode(row, &request).unwrap_or_else(refused);
        (task.wanted_in, task.wanted_out) = (plan.wanted_in(), plan.wanted_out());
        task.plan = Some(plan);
    }
}

/// Looks again at what may have come between a command and its turn, or its data: it must not be processed after another
/// nexus was told that it will not.
#[cold]
fn recheck(task: &mut Task) {
    let row = task.itl.unit().commands().find(&task.cdb);
    if let Some(refusal) = row.ok().and_then(|row| admits(&task.itl, row.spec, &task.cdb).err()) {
        task.plan = Some(Plan::Done(refusal.into()));
    } else if task.itl.shared.gate.has_ranges() {
        task.plan = task.plan.take().map(Plan::with_range);
    }
}

/// Prepares a command of several steps.
pub(crate) fn begin(task: &mut Task, plan: RunPlan, data_out: Sg<'_>, data_in: Sg<'_>, alarm: Alarm) {
    let itl = &task.itl;
    let cell = RunCell::new(data_out.part(0, plan.wanted_out), data_in, alarm, itl.set.counters.clone());
    let run = Run::new(itl.unit().clone(), itl.nexus.clone(), task.cdb, cell.clone());
    task.moving = data_out.len().min(plan.wanted_out);
    task.running = Some(Running::new(cell, (plan.start)(run)));
}

fn outcome_of_reply(task: &Task, reply: Reply, data_in: Sg<'_>) -> Outcome {
    match reply.sense {
        Some(sense) => failed(task, |_| *sense),
        None => {
            let moved_in = data_in.copy_in(0, &reply.data) as u64;
            Outcome { moved_in, ..outcome(task, reply.status) }
        }
    }
}

fn outcome_of_io(itl: &Itl, io: Io, moving: u64, result: IoResult) -> Outcome {
    itl.set.counters.count_io(io.kind, moving, result);
    let (wanted_in, wanted_out) = (io.wanted_in(), io.wanted_out());
    let ended = |status| Outcome { wanted_in, wanted_out, ..Outcome::status(status) };
    match result {
        Ok(_) if io.kind == IoKind::Read => Outcome { moved_in: moving, ..ended(Status::GOOD) },
        Ok(_) => Outcome { moved_out: moving, ..ended(Status::GOOD) },
        Err(IoError::Busy) => ended(Status::TASK_SET_FULL),
        Err(error) => check_condition(itl.unit(), itl.unit().device().io_failed(&io, error)),
    }
}

fn outcome_of_run(task: &Task, result: Result<(), Sense>) -> Outcome {
    let cell = task.running.as_ref().map(|running| &running.cell);
    let moved_in = cell.map_or(0, |cell| cell.moved_in());
    match result {
        Ok(()) => {
            let wanted_in = cell.and_then(|cell| cell.wanted_in()).unwrap_or(task.wanted_in).max(moved_in);
            let moved_out = cell.and_then(|cell| cell.moved_out()).unwrap_or(task.moving);
            let status = cell.map_or(Status::GOOD, |cell| cell.status());
            Outcome { moved_in, wanted_in, moved_out, ..outcome(task, status) }
        }
        Err(sense) => Outcome { moved_out: task.moving, ..failed(task, |_| sense) },
    }
}

fn outcome(task: &Task, status: Status) -> Outcome {
    Outcome { wanted_in: task.wanted_in, wanted_out: task.wanted_out, ..Outcome::status(status) }
}

fn failed(task: &Task, sense: impl FnOnce(&LogicalUnit) -> Sense) -> Outcome {
    let unit = task.itl.unit();
    check_condition(unit, sense(unit))
}
