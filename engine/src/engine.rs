//! The engine of one reactor: what it keeps, and what it is told.

use crate::LogicalUnit;
use crate::detached::Detached;
use crate::hop::Hops;
use crate::jobs::{Jobs, Waits};
use crate::limit::{Purses, Watched};
use crate::measure::Unmeasured;
use crate::session::Sessions;
use crate::steps::Background;
use crate::stuck::Patrol;
use crate::task_set::TaskSet;
use crate::tasks::{TaskId, Tasks};
use lunette_store::{Cx, IoId, IoResult, Message, ReactorId, Sink, SinkId};
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
    pub(crate) sessions: RefCell<Sessions>,
    pub(crate) jobs: RefCell<Jobs>,
    pub(crate) waits: RefCell<Waits>,
    pub(crate) hops: Hops,
    pub(crate) background: RefCell<Background>,
    pub(crate) unmeasured: Unmeasured,
    pub(crate) watched: Watched,
    pub(crate) purses: Purses,
    /// It is told when this turn is over.
    awaits_end_of_turn: Cell<bool>,
    pub(crate) patrol: Patrol,
    pub(crate) detached: Detached,
}

/// What a completion that comes to the engine is about; kept in its token.
pub(crate) enum Token {
    /// A task's store operation, or its abort.
    Task(TaskId),
    /// The task set of this logical unit may be able to go on.
    Advance(u64),
    /// The store of this logical unit may have room for what waits.
    Offer(u64),
    /// This task management function may have ended.
    Job(u32),
    /// A step of this work in the background.
    Work(u32),
    /// The turn is over.
    EndOfTurn,
    /// The limit of this number should have tokens for those that wait.
    Admit(u32),
    /// It is time to look at what stores have.
    Look,
}

impl Token {
    const WORK: u64 = 0b01 << 62;
    const ADVANCE: u64 = 0b10 << 62;
    const JOB: u64 = 0b11 << 62;
    const KIND: u64 = 0b11 << 62;
    /// Of the kind `ADVANCE`; no unit has such a number.
    const OFFER: u64 = 1 << 61;
    const END_OF_TURN: u64 = Self::ADVANCE | 1 << 60;
    const LOOK: u64 = Self::ADVANCE | 1 << 58;
    /// The same.
    const ADMIT: u64 = 1 << 59;

    pub(crate) fn encode(self) -> u64 {
        match self {
            Token::Task(id) => id.to_token(),
            Token::Advance(unit) => Self::ADVANCE | unit,
            Token::Offer(unit) => Self::ADVANCE | Self::OFFER | unit,
            Token::Job(job) => Self::JOB | u64::from(job),
            Token::Work(work) => Self::WORK | u64::from(work),
            Token::EndOfTurn => Self::END_OF_TURN,
            Token::Look => Self::LOOK,
            Token::Admit(limit) => Self::ADVANCE | Self::ADMIT | u64::from(limit),
        }
    }

    pub(crate) fn decode(token: u64) -> Self {
        match token & Self::KIND {
            Self::WORK => Token::Work(token as u32),
            Self::ADVANCE if token == Self::END_OF_TURN => Token::EndOfTurn,
            Self::ADVANCE if token == Self::LOOK => Token::Look,
            Self::ADVANCE if token & Self::ADMIT != 0 => Token::Admit(token as u32),
            Self::ADVANCE if token & Self::OFFER != 0 => Token::Offer(token & !(Self::KIND | Self::OFFER)),
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
                sessions: RefCell::default(),
                jobs: RefCell::default(),
                waits: RefCell::default(),
                hops: Hops::default(),
                background: RefCell::default(),
                unmeasured: Unmeasured::default(),
                watched: Watched::default(),
                purses: Purses::default(),
                awaits_end_of_turn: Cell::default(),
                patrol: Patrol::default(),
                detached: Detached::default(),
            });
            engine.sink.set(cx.register(engine.clone()));
            engine
        })
    }

    /// The part of a unit's task set on this reactor, made when it is first asked for; `None` if the unit is retired.
    pub(crate) fn task_set(&self, unit: &Arc<LogicalUnit>, cx: &mut dyn Cx) -> Option<Rc<TaskSet>> {
        if unit.is_retired() {
            return None;
        }
        if let Some(set) = self.sets.borrow().get(&unit.number()) {
            return Some(set.clone());
        }
        let set = TaskSet::join(unit, self.reactor, cx)?;
        let mut sets = self.sets.borrow_mut();
        if unit.device().is_placeholder() {
            // Their ports come and go, and nobody retires them.
            sets.retain(|_, set| !set.is_orphan());
        }
        sets.insert(unit.number(), set.clone());
        drop(sets);
        if unit.patience.get().is_some() {
            self.begin_patrol(cx);
        }
        Some(set)
    }

    /// Nothing more is done here for a unit that is retired.
    pub(crate) fn let_go_of(&self, unit: u64, cx: &mut dyn Cx) {
        let set = self.sets.borrow_mut().remove(&unit);
        set.into_iter().for_each(|set| set.leave(cx));
    }

    /// What `look` finds at each part of a task set here.
    pub(crate) fn each_set<T>(&self, look: impl Fn(&TaskSet) -> T) -> Vec<T> {
        self.sets.borrow().values().map(|set| look(set)).collect()
    }

    /// How many parts of task sets there are.
    #[cfg(test)]
    pub(crate) fn set_count(&self) -> usize {
        self.sets.borrow().len()
    }

    /// The part of a unit's task set on this reactor, if it has one.
    pub(crate) fn known_set(&self, unit: u64) -> Option<Rc<TaskSet>> {
        self.sets.borrow().get(&unit).cloned()
    }

    /// Tells this engine of something, after its caller has returned.
    pub(crate) fn tell(&self, token: Token, result: IoResult, cx: &mut dyn Cx) {
        cx.complete(self.id(token), result);
    }

    /// What it does at the end of a turn is done at the end of this one.
    pub(crate) fn tell_at_end_of_turn(&self, cx: &mut dyn Cx) {
        if !self.awaits_end_of_turn.replace(true) {
            cx.defer(self.id(Token::EndOfTurn));
        }
    }

    #[inline(never)]
    fn end_turn(&self, cx: &mut dyn Cx) {
        self.awaits_end_of_turn.set(false);
        self.close_purses();
        self.measure(cx);
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
        cx.poster().post(to, Self::message(act));
    }

    /// Runs `act` on the engine of the reactor that it is posted to.
    pub(crate) fn message(act: impl FnOnce(&Engine, &mut dyn Cx) + Send + 'static) -> Message {
        Box::new(move |cx| {
            let engine = Engine::on(cx);
            act(&engine, cx);
        })
    }
}

impl Sink for Engine {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        match Token::decode(token) {
            Token::Task(id) => self.task_completed(id, result, cx),
            Token::Advance(unit) => self.advance(unit, cx),
            Token::Offer(unit) => self.offer_now(unit, cx),
            Token::Job(job) => self.check_job(job, cx),
            Token::Work(work) => self.go_on(work, Some(result), cx),
            Token::EndOfTurn => self.end_turn(cx),
            Token::Look => self.look(cx),
            Token::Admit(limit) => self.admit_waiting(limit, cx),
        }
    }
}
