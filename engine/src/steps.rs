//! Carrying out work of several steps, for commands and in the background.

use crate::alarm::Alarm;
use crate::engine::{Engine, Token};
use crate::room::Rank;
use crate::run::{RunCell, RunFuture, Step, Steps};
use crate::running::{Idle, Place, Progress, Running};
use crate::stuck::AtStore;
use crate::task_set::TaskSet;
use crate::tasks::TaskId;
use crate::{IoKind, LogicalUnit, Run, sense_of};
use lunette_scsi::Sense;
use lunette_store::{Cx, IoError, IoId, IoResult, Message, Post, ReactorId, Sg, Submit};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How many steps are taken before others have their turn, when they complete at once.
const STEPS_AT_A_TIME: usize = 16;

/// Work in the background of one reactor: it has no nexus, and outlives the command that began it.
#[derive(Default)]
pub(crate) struct Background {
    next: u32,
    works: HashMap<u32, Work>,
}

struct Work {
    running: Running,
    set: Rc<TaskSet>,
}

impl Background {
    /// What stores have of it.
    pub(crate) fn at_stores(&self) -> impl Iterator<Item = AtStore> {
        let works = self.works.iter().filter(|(_, work)| work.running.is_at_work());
        works
            .map(|(number, Work { running, set })| running.at_store(&set.unit, Token::Work(*number).encode()))
    }
}

impl LogicalUnit {
    /// Begins work in the background, on a reactor where this unit lives. It goes on until it ends by itself, which it has to
    /// do when it [is to](Steps::is_ending). For a unit that is retired nothing is begun any more.
    pub fn begin<F>(self: &Arc<Self>, post: &dyn Post, work: impl FnOnce(Steps) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), Sense>> + 'static,
    {
        let unit = self.clone();
        let start = move |steps| -> RunFuture { Box::pin(work(steps)) };
        let message: Message = Box::new(move |cx| Engine::on(cx).begin(&unit, start, cx));
        let reactor = self.home().first().copied().unwrap_or(ReactorId(0));
        // Who retires the unit waits for the message.
        self.was_seen_on(&[reactor].into());
        post.post(reactor, message);
    }
}

/// Keeps a command from ending that was aborted while work goes on for it in the background; given up when this is dropped.
pub struct Hold {
    held: Arc<AtomicBool>,
    alarm: Alarm,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.store(false, Ordering::Release);
        self.alarm.ring();
    }
}

impl Run {
    /// Has `work` done in the background and waits until it has ended. When the command is aborted, it ends as soon as the
    /// work has dropped its [`Hold`], and the work goes on. Until then the work should wait for nobody: who aborts the
    /// command waits as well.
    ///
    /// # Errors
    /// What the work has come to, or that the command was aborted.
    pub async fn detach<F>(&self, work: impl FnOnce(Steps, Hold) -> F + Send + 'static) -> Result<(), Sense>
    where
        F: Future<Output = Result<(), Sense>> + 'static,
    {
        let ended = Arc::<Mutex<Option<Result<(), Sense>>>>::default();
        let held = Arc::new(AtomicBool::new(true));
        let hold = Hold { held: held.clone(), alarm: self.alarm() };
        let (result, alarm) = (ended.clone(), self.alarm());
        self.unit.begin(&*self.poster(), async move |steps| {
            let ended = work(steps, hold).await;
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
            alarm.ring();
            Ok(())
        });
        loop {
            if let Some(result) = ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return result;
            }
            if held.load(Ordering::Acquire) {
                self.wait_anyway().await;
            } else {
                self.wait().await.map_err(|error| sense_of(IoKind::Flush, error))?;
            }
        }
    }
}

impl Engine {
    fn begin(&self, unit: &Arc<LogicalUnit>, start: impl FnOnce(Steps) -> RunFuture, cx: &mut dyn Cx) {
        let Some(set) = self.task_set(unit, cx) else { return };
        let mut background = self.background.borrow_mut();
        background.next = background.next.wrapping_add(1);
        let number = background.next;
        let alarm = Alarm::new(self.id(Token::Work(number)), cx);
        let cell = RunCell::new(Sg::empty(), Sg::empty(), alarm, set.usage().clone());
        let future = start(Steps::new(unit.clone(), cell.clone()));
        let running = Running::new(cell, future, Rank::BACKGROUND);
        background.works.insert(number, Work { running, set });
        drop(background);
        self.go_on(number, None, cx);
    }

    /// A step of work in the background has completed.
    pub(crate) fn go_on(&self, number: u32, answer: Option<IoResult>, cx: &mut dyn Cx) {
        let mut background = self.background.borrow_mut();
        let Some(Work { running, set }) = background.works.get_mut(&number) else { return };
        if self.drive(running, set, self.id(Token::Work(number)), answer, cx).is_some() {
            let work = background.works.remove(&number);
            drop(background);
            drop(work);
            self.check_waits(Token::Work(number), cx);
        }
    }

    /// Has the work on a unit end soon. Returns the tokens of what has not ended yet.
    pub(crate) fn end_works(&self, unit: u64, cx: &mut dyn Cx) -> Vec<u64> {
        let mut background = self.background.borrow_mut();
        let works = background.works.iter_mut().filter(|(_, work)| work.set.unit.number() == unit);
        let mut tokens = Vec::new();
        for (number, work) in works {
            tokens.push(Token::Work(*number).encode());
            if work.running.end() {
                cx.cancel(self.id(Token::Work(*number)));
                self.tell(Token::Work(*number), Err(IoError::Aborted), cx);
            }
        }
        tokens
    }

    /// Goes on with work in the background that waits for room.
    pub(crate) fn work_again(&self, number: u32, cx: &mut dyn Cx) {
        let waits =
            self.background.borrow().works.get(&number).is_some_and(|work| work.running.waits_for_room());
        if waits {
            self.go_on(number, None, cx);
        }
    }

    /// Takes work on a unit as far as it goes without waiting; what it has come to if it has ended. `id` is told of its
    /// steps.
    pub(crate) fn drive(
        &self,
        running: &mut Running,
        set: &Rc<TaskSet>,
        id: IoId,
        mut answer: Option<IoResult>,
        cx: &mut dyn Cx,
    ) -> Option<Result<(), Sense>> {
        for _ in 0..STEPS_AT_A_TIME {
            running.cell.set_now(cx.now());
            let place = running.take_place();
            let step = match running.proceed(answer) {
                Progress::Done(result) => return Some(result),
                Progress::Wants(step) => step,
            };
            let elsewhere = running.cell.elsewhere().map(|unit| self.task_set(&unit, cx));
            let set = match &elsewhere {
                Some(None) => {
                    // That unit is retired.
                    answer = Some(Err(IoError::Gone));
                    continue;
                }
                Some(Some(elsewhere)) => elsewhere,
                None => set,
            };
            let submitted = running.cell.with_op(&step, |op| match &set.store {
                // Those who wait go first.
                Some(_) if place.is_none() && set.queue().has_turns() => Submit::Full,
                Some(store) => store.submit(op, id, cx),
                None => Submit::Done(Err(IoError::Gone)),
            });
            match submitted {
                Some(Submit::Done(result)) => answer = Some(result),
                Some(Submit::Queued) => return None,
                Some(Submit::Full) => {
                    self.wait_with(running, step, place, set, id, cx);
                    return None;
                }
                None => {
                    self.take_other(step, running, set, id, cx);
                    return None;
                }
            }
        }
        cx.complete(id, answer?);
        None
    }

    /// Has a step wait until the store has room: where it has stood before, or behind others.
    fn wait_with(
        &self,
        running: &mut Running,
        step: Step,
        place: Option<Place>,
        set: &Rc<TaskSet>,
        id: IoId,
        cx: &mut dyn Cx,
    ) {
        let place = place.unwrap_or_else(|| {
            self.offer_soon(set, cx);
            Place { set: set.clone(), standing: set.queue().standing(running.rank) }
        });
        set.queue().insert(place.standing, id.token);
        set.hold_for_room();
        running.put_back(step, place);
    }

    /// A step that is none of the store.
    fn take_other(&self, step: Step, running: &mut Running, set: &TaskSet, id: IoId, cx: &mut dyn Cx) {
        match step {
            Step::Call(work) => cx.blocking(work, id),
            Step::CallOn(store, work) => match store.lane() {
                Some(lane) => cx.blocking_in(lane, work, id),
                None => cx.blocking(work, id),
            },
            Step::Sleep(time) => {
                running.rest(Idle::Timer);
                cx.timer(time, id);
            }
            Step::Wait => running.rest(Idle::Alarm),
            Step::WaitApart => {
                running.rest(Idle::Alarm);
                running.set_apart();
                if let Token::Task(command) = Token::decode(id.token) {
                    self.check_waits(Token::Task(command), cx);
                }
            }
            Step::WaitAnyway => running.rest(Idle::Detached),
            // Later, for the tasks are in use now.
            Step::Abort(nexuses) => {
                running.rest(Idle::Others);
                let command = command_of(id);
                Self::post(self.reactor, cx, move |engine, cx| {
                    engine.abort_commands_of(nexuses, command, cx)
                });
            }
            Step::Settle { anew } => {
                running.settle();
                let command = command_of(id);
                Self::post(self.reactor, cx, move |engine, cx| engine.wait_for_others(command, anew, cx));
            }
            Step::AbortOthers { own } => {
                running.settle();
                let command = command_of(id);
                Self::post(self.reactor, cx, move |engine, cx| engine.abort_others(own, command, cx));
            }
            Step::ClearAllegiance => {
                let command = command_of(id);
                Self::post(self.reactor, cx, move |engine, cx| engine.clear_allegiance_of(command, cx));
            }
            Step::AwaitTransfers => {
                running.rest(Idle::Others);
                let command = command_of(id);
                Self::post(self.reactor, cx, move |engine, cx| engine.wait_for_transfers(command, cx));
            }
            Step::AwaitBegun { anew } => {
                running.rest(Idle::Others);
                let unit = set.unit.clone();
                Self::post(self.reactor, cx, move |engine, cx| engine.wait_for_begun(&unit, id, anew, cx));
            }
            // The part of the task set is there now.
            Step::Reach => cx.complete(id, Ok(0)),
            Step::Read { .. }
            | Step::Write { .. }
            | Step::Flush
            | Step::Zero { .. }
            | Step::Discard { .. }
            | Step::Copy { .. }
            | Step::Seek { .. } => unreachable!("the store has it"),
        }
    }

    /// The alarm of some work rings.
    pub(crate) fn rung(&self, token: u64, cx: &mut dyn Cx) {
        match Token::decode(token) {
            Token::Task(task) => {
                let waited =
                    self.tasks.borrow_mut().get(task).and_then(|task| task.running.as_mut()?.ring().into());
                if waited == Some(true) {
                    self.tell(Token::Task(task), Ok(0), cx);
                }
            }
            Token::Work(number) => {
                let waited =
                    self.background.borrow_mut().works.get_mut(&number).map(|work| work.running.ring());
                if waited == Some(true) {
                    self.go_on(number, Some(Ok(0)), cx);
                }
            }
            Token::Advance(_)
            | Token::Offer(_)
            | Token::Job(_)
            | Token::EndOfTurn
            | Token::Admit(_)
            | Token::Look => {}
        }
    }
}

/// The command whose step this is.
fn command_of(id: IoId) -> TaskId {
    match Token::decode(id.token) {
        Token::Task(command) => command,
        _ => unreachable!("a step of commands"),
    }
}
