//! Tasks enter their task set, get their turn in it, and leave it.

use crate::LogicalUnit;
use crate::checks::decode_again;
use crate::engine::{Engine, Token};
use crate::session::Itl;
use crate::task_set::Next;
use crate::tasks::{Phase, Task, TaskId};
use lunette_scsi::TaskAttribute;
use lunette_store::{Cx, ReactorId};
use std::rc::Rc;

/// How many tasks get their turn before others of the reactor have theirs: thousands may wait for one.
pub(crate) const TURNS_AT_A_TIME: usize = 64;

impl Engine {
    /// Lets a task into its task set: at once, or when its turn comes.
    pub(crate) fn take_place(&self, id: TaskId, itl: &Itl, attribute: TaskAttribute, cx: &mut dyn Cx) {
        let (set, is_ordered) = (&itl.set, attribute == TaskAttribute::Ordered);
        match attribute {
            TaskAttribute::HeadOfQueue => set.head_began(),
            TaskAttribute::Simple if !set.is_ordered() => set.began(),
            TaskAttribute::Aca => set.began(),
            _ => return self.wake(&set.unit, set.make_dormant(id, is_ordered), cx),
        }
        self.tasks.borrow_mut().enable(id);
    }

    /// The same for one that waits for nobody, whatever its attribute was.
    #[cold]
    pub(crate) fn begin_at_once(&self, id: TaskId, itl: &Itl) {
        itl.set.began();
        self.tasks.borrow_mut().enable(id);
    }

    /// Takes a task out of its task set.
    pub(crate) fn end(&self, id: TaskId, cx: &mut dyn Cx) -> Option<Rc<Itl>> {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks.get(id)?;
        task.toll.take().into_iter().for_each(|toll| toll.give_up());
        let Task { enabled, attribute, standing, tag, .. } = *task;
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
                set.unit.allegiance_task_ended(itl.nexus.id(), tag);
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
    pub(crate) fn advance(&self, unit: u64, cx: &mut dyn Cx) {
        let Some(set) = self.known_set(unit) else { return };
        if set.waits_for_tokens() && set.has_barrier() {
            self.let_through(unit, cx);
        }
        for _ in 0..TURNS_AT_A_TIME {
            match set.next() {
                Next::Wait => return self.offer(&set, cx),
                Next::Enable(task) => self.enable(task, cx),
                Next::Tell(owner) => self.wake(&set.unit, vec![owner], cx),
            }
        }
        self.tell(Token::Advance(unit), Ok(0), cx);
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
}
