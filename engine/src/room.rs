//! Commands that wait for room in their store: those of the highest priority first (SAM-5 8.7), and among these one of each
//! nexus in turn.

use crate::engine::{Engine, Token};
use crate::outcome::Outcome;
use crate::task_set::TaskSet;
use crate::tasks::{Parked, Phase, Task, TaskId, Tasks};
use crate::{LogicalUnit, NexusId};
use lunette_store::{Cx, Sg};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// How many commands of a unit wait at most, if nothing else is said.
pub(crate) const LIMIT: usize = 256;

/// How long until a store is asked again that has none of the unit's operations.
const PATIENCE: Duration = Duration::from_millis(1);

/// Where a command stands: its priority, the round in which its nexus has its turn, and when it came.
pub(crate) type Standing = (u8, u64, u64);

/// The commands of one part of a task set that wait.
#[derive(Default)]
pub(crate) struct Queue {
    commands: BTreeMap<Standing, TaskId>,
    /// The round of the last command of each nexus, and that of the command that went last.
    rounds: HashMap<NexusId, u64>,
    round: u64,
    arrivals: u64,
    /// When the store is asked again at the latest.
    deadline: Duration,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    fn standing(&mut self, nexus: NexusId, priority: u8) -> Standing {
        let last = self.rounds.entry(nexus).or_default();
        *last = (*last).max(self.round) + 1;
        self.arrivals += 1;
        (priority, *last, self.arrivals)
    }

    fn insert(&mut self, standing: Standing, task: TaskId) {
        self.commands.insert(standing, task);
    }

    fn pop(&mut self) -> Option<(Standing, TaskId)> {
        let (standing, task) = self.commands.pop_first()?;
        self.round = self.round.max(standing.1);
        Some((standing, task))
    }

    pub(crate) fn remove(&mut self, standing: Standing) {
        self.commands.remove(&standing);
        if self.commands.is_empty() {
            self.rounds.clear();
            self.round = 0;
        }
    }
}

impl LogicalUnit {
    /// At most so many commands wait for room in the store; the next are answered TASK SET FULL, or BUSY to an initiator that
    /// has no command there (SAM-5 5.3.1).
    pub fn limit_waiting(&self, limit: usize) {
        self.waiting().set_limit(limit);
    }
}

impl Engine {
    /// Has a task wait until the store has room. Its outcome if too many wait already.
    #[cold]
    pub(crate) fn wait_for_room(
        tasks: &mut Tasks,
        id: TaskId,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
    ) -> Option<Outcome> {
        let task = tasks.get(id)?;
        let (set, nexus) = (task.itl.set.clone(), task.itl.nexus.id());
        if task.standing.is_none() {
            if !set.unit.waiting().enter() {
                return Some(Outcome::no_room(task.itl.tasks.get() > 1));
            }
            let priority = task.itl.shared.priority(task.priority);
            task.standing = Some(set.queue().standing(nexus, priority));
        }
        task.phase = Phase::Waiting;
        task.parked = Some(Box::new(Parked::new(data_out, data_in)));
        set.queue().insert(task.standing?, id);
        set.hold_for_room();
        None
    }

    /// A task that waits, or has waited, for room has ended.
    #[cold]
    pub(crate) fn stops_waiting(set: &TaskSet, standing: Standing) {
        set.queue().remove(standing);
        set.unit.waiting().leave();
        set.hold_for_room();
    }

    /// A task that has waited for room is at work.
    fn has_room(&self, id: TaskId) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id).filter(|task| task.phase == Phase::Running) else { return };
        if let Some(standing) = task.standing.take() {
            Self::stops_waiting(&task.itl.set, standing);
        }
    }

    /// Offers the store what waits, until it has no room.
    pub(crate) fn offer(&self, set: &TaskSet, cx: &mut dyn Cx) {
        loop {
            let next = set.queue().pop();
            let Some((standing, task)) = next else { return };
            self.unpark(task, cx);
            self.has_room(task);
            if set.queue().commands.first_key_value().is_some_and(|(first, _)| *first == standing) {
                break;
            }
        }
        let mut queue = set.queue();
        if cx.now() >= queue.deadline {
            queue.deadline = cx.now() + PATIENCE;
            cx.timer(PATIENCE, self.id(Token::Advance(set.unit.number())));
        }
    }
}

/// How many commands of a unit wait for room, on all reactors.
#[derive(Debug)]
pub(crate) struct Waiting {
    count: std::sync::atomic::AtomicUsize,
    limit: std::sync::atomic::AtomicUsize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { count: 0.into(), limit: LIMIT.into() }
    }
}

impl Waiting {
    fn set_limit(&self, limit: usize) {
        self.limit.store(limit, std::sync::atomic::Ordering::Relaxed);
    }

    fn enter(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        let limit = self.limit.load(Relaxed);
        self.count.fetch_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1)).is_ok()
    }

    fn leave(&self) {
        self.count.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Whether a task that has not waited yet has to, as others do.
pub(crate) fn must_wait(task: &Task) -> bool {
    task.standing.is_none() && task.itl.set.is_blocked() && !task.itl.set.queue().is_empty()
}
