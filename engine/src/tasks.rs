//! The task slots of one reactor.

use crate::limit::Toll;
use crate::outcome::Aborted;
use crate::plan::Plan;
use crate::room::Standing;
use crate::running::Running;
use crate::session::{CommandFrame, Itl};
use lunette_scsi::{Cdb, Sense, TaskAttribute};
use lunette_store::{Sg, SgList};
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// A task of one reactor. A number is not used again before 2³⁰ other tasks have had the same slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaskId {
    index: u32,
    generation: u32,
}

impl TaskId {
    pub(crate) fn to_token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_token(token: u64) -> Self {
        Self { index: token as u32, generation: (token >> 32) as u32 }
    }
}

/// How far a task has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// In the task set; its transport gathers data-out.
    Admitted,
    /// Its transport is done, but an older ORDERED task, or being ORDERED itself, holds it back.
    Parked,
    /// Its transport is done, but an auto contingent allegiance holds it back.
    Suspended,
    /// Its transport is done, but the store has no room for it, or a limit no tokens.
    Waiting,
    /// At work: the store or the kernel may touch its memory.
    Running,
}

/// How an aborted task ends (SAM-5 5.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Abort {
    /// Without a status.
    Silent(Aborted),
    /// With TASK ABORTED.
    Told,
    /// With BUSY: it has not begun, and its transport waits for it.
    TurnedBack,
    /// With LOGICAL UNIT NOT SUPPORTED.
    Retired,
    /// As commands end that need a ready unit: it has not begun.
    NotReady,
}

pub(crate) struct Task {
    pub(crate) itl: Rc<Itl>,
    pub(crate) phase: Phase,
    /// Counted among the active tasks of its task set; a dormant one waits for its turn (SAM-5 8.5).
    pub(crate) enabled: bool,
    pub(crate) attribute: TaskAttribute,
    pub(crate) aborted: Option<Abort>,
    /// With which sense data it is to end, when it has seen to others.
    pub(crate) failure: Option<Box<Sense>>,
    pub(crate) cookie: u64,
    /// When it came.
    pub(crate) came: Duration,
    pub(crate) tag: u64,
    pub(crate) cdb: Cdb,
    /// How many bytes the initiator means to send.
    pub(crate) data_out: u64,
    pub(crate) priority: u8,
    pub(crate) reference_number: u8,
    pub(crate) plan: Option<Plan>,
    pub(crate) wanted_in: u64,
    pub(crate) wanted_out: u64,
    /// Bytes that the store operation in progress moves.
    pub(crate) moving: u64,
    pub(crate) parked: Option<Box<Parked>>,
    /// Among those that wait for room, if it is or was one of them.
    pub(crate) standing: Option<Standing>,
    pub(crate) running: Option<Running>,
    /// For how many of its limits it has paid.
    pub(crate) paid: usize,
    /// Where it waits for tokens.
    pub(crate) toll: Option<Box<Toll>>,
    /// It has waited for tokens: it is not turned away any more because too many wait for room.
    pub(crate) is_kept: bool,
}

/// The initiator's memory, kept for a task that cannot start yet.
pub(crate) struct Parked {
    pub(crate) data_out: SgList,
    pub(crate) data_in: SgList,
}

impl Parked {
    pub(crate) fn new(data_out: Sg<'_>, data_in: Sg<'_>) -> Self {
        let mut parked = Self { data_out: SgList::new(), data_in: SgList::new() };
        parked.data_out.assign(data_out);
        parked.data_in.assign(data_in);
        parked
    }
}

/// How many tasks one reactor holds; the next is answered TASK SET FULL.
const LIMIT: usize = 1 << 15;

/// How many tasks of one reactor an initiator port has, with all its nexuses. It gets no more than it leaves to others,
/// alone half of all, so that no port can take the last one by itself.
#[derive(Default, Debug)]
pub(crate) struct Share(Cell<usize>);

#[derive(Default)]
pub(crate) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// By the names of initiator ports.
    shares: HashMap<String, Weak<Share>>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    task: Option<Task>,
}

impl Tasks {
    /// What the initiator port of this name has.
    pub(crate) fn share(&mut self, initiator: &str) -> Rc<Share> {
        if let Some(share) = self.shares.get(initiator).and_then(Weak::upgrade) {
            return share;
        }
        self.shares.retain(|_, share| share.strong_count() > 0);
        let share = Rc::<Share>::default();
        self.shares.insert(initiator.to_owned(), Rc::downgrade(&share));
        share
    }

    /// The slot that the next task gets; `None` if there are too many, or too many of `share`.
    #[inline]
    pub(crate) fn vacant(&mut self, share: &Share) -> Option<TaskId> {
        let left = LIMIT - (self.slots.len() - self.free.len());
        if share.0.get() >= left {
            return None;
        }
        let index = match self.free.last() {
            Some(index) => *index,
            None => self.grow(),
        };
        Some(TaskId { index, generation: self.slots[index as usize].generation })
    }

    #[cold]
    fn grow(&mut self) -> u32 {
        let index = self.slots.len() as u32;
        self.slots.push(Slot::default());
        self.free.push(index);
        index
    }

    /// Puts a task into the slot that [`vacant`](Self::vacant) has just named.
    #[inline]
    pub(crate) fn occupy(&mut self, id: TaskId, task: Task) {
        let taken = self.free.pop();
        debug_assert_eq!(taken, Some(id.index));
        task.itl.share.0.update(|count| count + 1);
        task.itl.tasks.update(|count| count + 1);
        task.itl.usage.begins();
        self.slots[id.index as usize].task = Some(task);
    }

    /// A slot for a task that has just arrived.
    pub(crate) fn insert(&mut self, task: Task) -> Option<TaskId> {
        let id = self.vacant(&task.itl.share)?;
        self.occupy(id, task);
        Some(id)
    }

    pub(crate) fn get(&mut self, id: TaskId) -> Option<&mut Task> {
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.task.as_mut().filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn peek(&self, id: TaskId) -> Option<&Task> {
        let slot = self.slots.get(id.index as usize)?;
        slot.task.as_ref().filter(|_| slot.generation == id.generation)
    }

    /// The task counts as active from now on.
    pub(crate) fn enable(&mut self, id: TaskId) {
        if let Some(task) = self.get(id) {
            task.enabled = true;
        }
    }

    /// Ends a task and frees its slot.
    pub(crate) fn remove(&mut self, id: TaskId) -> Option<Rc<Itl>> {
        let itl = self.get(id)?.itl.clone();
        let slot = &mut self.slots[id.index as usize];
        slot.generation = (slot.generation + 1) & 0x3fff_ffff;
        slot.task = None;
        itl.share.0.update(|count| count - 1);
        itl.tasks.update(|count| count - 1);
        itl.usage.ends();
        self.free.push(id.index);
        Some(itl)
    }

    /// The tasks that `wanted` says yes to.
    pub(crate) fn select(&self, wanted: impl Fn(&Task) -> bool) -> Vec<TaskId> {
        let slots = self.slots.iter().enumerate();
        let wanted = slots.filter(|(_, slot)| slot.task.as_ref().is_some_and(&wanted));
        wanted.map(|(index, slot)| TaskId { index: index as u32, generation: slot.generation }).collect()
    }
}

impl Task {
    /// Whether the store has its one operation.
    pub(crate) fn is_io(&self) -> bool {
        self.phase == Phase::Running && matches!(self.plan, Some(Plan::Io(_)))
    }

    #[inline]
    pub(crate) fn new(itl: Rc<Itl>, command: &CommandFrame<'_>, plan: Plan, now: Duration) -> Self {
        Self {
            itl,
            phase: Phase::Admitted,
            enabled: false,
            attribute: command.attribute,
            aborted: None,
            failure: None,
            cookie: command.cookie,
            came: now,
            tag: command.tag,
            cdb: *command.cdb,
            data_out: command.data_out,
            priority: command.priority,
            reference_number: command.reference_number,
            wanted_in: plan.wanted_in(),
            wanted_out: plan.wanted_out(),
            moving: 0,
            plan: Some(plan),
            parked: None,
            standing: None,
            running: None,
            paid: 0,
            toll: None,
            is_kept: false,
        }
    }
}
