//! Reads that outlive their commands.
//!
//! A function that aborts a command is answered when nothing touches the initiator's memory any more. A read of a store that does
//! not answer would keep it waiting, though its memory may be the transport's own, which nobody else needs. Then the transport gives
//! that up: the command ends at once, its function is answered, and the memory stays with the operation until the store has let go
//! of it. The unit knows that its store has it still: it is overdue in time, and who waits until all that has begun on the unit has
//! ended, as who ends it, waits for this too.

use crate::engine::{Engine, Token};
use crate::manage::Units;
use crate::outcome::Outcome;
use crate::plan::{Io, IoKind, Plan};
use crate::running::Running;
use crate::session::GivenUp;
use crate::stuck::AtStore;
use crate::task_set::TaskSet;
use crate::tasks::{Phase, Task, TaskId};
use lunette_scsi::Status;
use lunette_store::{Cx, IoResult};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// Those of one reactor, by the tasks that they were.
#[derive(Default)]
pub(crate) struct Detached(RefCell<HashMap<TaskId, Read>>);

struct Read {
    set: Rc<TaskSet>,
    /// When its command came.
    came: Duration,
    /// Its steps, if it has several: they end when the store has answered.
    running: Option<Running>,
    memory: GivenUp,
}

impl Detached {
    /// What stores have of them, and when their commands came.
    pub(crate) fn at_stores(&self) -> Vec<(AtStore, Duration)> {
        let reads = self.0.borrow();
        let told = |(id, read): (&TaskId, &Read)| {
            let (unit, token) = (read.set.unit.clone(), Token::Task(*id).encode());
            (AtStore { unit, token, since: None }, read.came)
        };
        reads.iter().map(told).collect()
    }

    /// The tokens of those of these units.
    pub(crate) fn of(&self, units: &Units) -> Vec<u64> {
        let reads = self.0.borrow();
        let of = reads.iter().filter(|(_, read)| units.contain(read.set.unit.number()));
        of.map(|(id, _)| Token::Task(*id).encode()).collect()
    }
}

impl Task {
    /// Whether the store has an operation of it, and it does nothing but read.
    pub(crate) fn is_read(&self) -> bool {
        match (&self.running, &self.plan) {
            (Some(running), _) => self.phase == Phase::Running && running.is_reading(),
            (None, Some(Plan::Io(Io { kind, .. }))) => self.is_io() && *kind == IoKind::Read,
            _ => false,
        }
    }
}

impl Engine {
    /// Ends an aborted read before the store has answered, if its transport gives up the memory.
    pub(crate) fn detach(&self, id: TaskId, cx: &mut dyn Cx) {
        let tasks = self.tasks.borrow();
        let aborted = tasks.peek(id).filter(|task| task.aborted.is_some() && task.is_read());
        let told = aborted.map(|task| (task.itl.clone(), task.cookie, task.came));
        let Some((itl, cookie, came)) = told else { return };
        drop(tasks);
        let given_up = itl.responder.upgrade().and_then(|responder| responder.give_up(cookie));
        let Some(memory) = given_up else { return };
        let running = self.tasks.borrow_mut().get(id).and_then(|task| task.running.take());
        self.detached.0.borrow_mut().insert(id, Read { set: itl.set.clone(), came, running, memory });
        self.tell_end(id, Outcome::status(Status::TASK_ABORTED), cx);
        self.check_detached(id, cx);
    }

    /// The store has let go of a read, if it was one that was detached.
    pub(crate) fn let_go(&self, id: TaskId, result: IoResult, cx: &mut dyn Cx) {
        let read = self.detached.0.borrow_mut().remove(&id);
        let Some(Read { set, came, mut running, memory }) = read else { return };
        if let Some(steps) = &mut running
            && self.drive(steps, &set, self.id(Token::Task(id)), Some(result), cx).is_none()
        {
            self.detached.0.borrow_mut().insert(id, Read { set, came, running, memory });
            return;
        }
        drop(running);
        memory(cx);
        self.offer_soon(&set, cx);
        self.check_waits(Token::Task(id), cx);
    }
}
