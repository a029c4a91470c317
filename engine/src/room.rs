//! What waits for room in its store, commands and the steps of those that are at work: those of the highest priority first
//! (SAM-5 8.7), and among these one of each nexus in turn.

use crate::engine::{Engine, Token};
use crate::order::TURNS_AT_A_TIME;
use crate::outcome::Outcome;
use crate::priority::INITIAL_PRIORITY;
use crate::task_set::TaskSet;
use crate::tasks::{Parked, Phase, Task, TaskId, Tasks};
use crate::{LogicalUnit, NexusId};
use lunette_scsi::TaskAttribute;
use lunette_store::{Cx, Sg};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// How many commands of a unit wait at most, if nothing else is said.
pub(crate) const LIMIT: usize = 256;

/// How long until a store is asked again that has none of the unit's operations.
const PATIENCE: Duration = Duration::from_millis(1);

/// What decides where something stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rank {
    nexus: Option<NexusId>,
    priority: u8,
}

impl Rank {
    /// Work in the background.
    pub(crate) const BACKGROUND: Self = Self { nexus: None, priority: INITIAL_PRIORITY };

    pub(crate) fn priority(self) -> u8 {
        self.priority
    }

    /// Priorities are for SIMPLE and ORDERED commands; the others go before all of them.
    pub(crate) fn of(task: &Task) -> Self {
        let priority = match task.attribute {
            TaskAttribute::HeadOfQueue | TaskAttribute::Aca => 0,
            _ => task.itl.shared.priority(task.priority),
        };
        Self { nexus: Some(task.itl.nexus.id()), priority }
    }
}

/// Where something stands: its priority, the round in which its nexus has its turn, and when it came.
pub(crate) type Standing = (u8, u64, u64);

/// What waits in one part of a task set.
#[derive(Default)]
pub(crate) struct Queue {
    /// Tokens of the engine.
    waiting: BTreeMap<Standing, u64>,
    /// Those that are not offered to the store before the unit [goes on](crate::LogicalUnit::resume_commands).
    held: BTreeMap<Standing, u64>,
    /// The round of the last one of each nexus, and that of the one that went last. Work in the background has no nexus.
    rounds: HashMap<Option<NexusId>, u64>,
    round: u64,
    arrivals: u64,
    /// When the store is asked again at the latest.
    deadline: Duration,
    /// It is offered what waits when others have had their turn.
    offered_soon: bool,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.held.is_empty()
    }

    /// Whether some have their turn before those that come now, though these may be at work.
    pub(crate) fn has_turns(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn standing(&mut self, Rank { nexus, priority }: Rank) -> Standing {
        let last = self.rounds.entry(nexus).or_default();
        *last = (*last).max(self.round) + 1;
        self.arrivals += 1;
        (priority, *last, self.arrivals)
    }

    pub(crate) fn insert(&mut self, standing: Standing, token: u64) {
        self.waiting.insert(standing, token);
    }

    fn hold(&mut self, standing: Standing, token: u64) {
        self.held.insert(standing, token);
    }

    /// Nothing is held any more.
    pub(crate) fn release(&mut self) {
        self.waiting.append(&mut self.held);
    }

    fn pop(&mut self) -> Option<(Standing, u64)> {
        let (standing, token) = self.waiting.pop_first()?;
        self.round = self.round.max(standing.1);
        Some((standing, token))
    }

    fn is_first(&self, standing: Standing) -> bool {
        self.waiting.first_key_value().is_some_and(|(first, _)| *first == standing)
    }

    pub(crate) fn remove(&mut self, standing: Standing) {
        self.waiting.remove(&standing);
        self.held.remove(&standing);
        if self.is_empty() {
            self.rounds.clear();
            self.round = 0;
        }
    }
}

impl LogicalUnit {
    /// How many commands may wait for room in the store if nothing else is said.
    pub const WAITING: usize = LIMIT;

    /// At most so many commands wait for room in the store; the next are answered TASK SET FULL, or BUSY to an initiator that
    /// has no command there (SAM-5 5.3.1).
    pub fn limit_waiting(&self, limit: usize) {
        self.waiting().set_limit(limit);
    }
}

impl Engine {
    /// Has a task wait until the store has room, or its unit goes on. Its outcome if too many wait already, and it has not
    /// waited for anything yet.
    #[cold]
    pub(crate) fn wait_for_room(
        tasks: &mut Tasks,
        id: TaskId,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
    ) -> Option<Outcome> {
        let task = tasks.get(id)?;
        let set = task.itl.set.clone();
        if task.standing.is_none() {
            if !set.unit.waiting().enter(task.is_kept) {
                return Some(Outcome::no_room(task.itl.tasks.get() > 1));
            }
            task.standing = Some(set.queue().standing(Rank::of(task)));
        }
        task.phase = Phase::Waiting;
        task.parked = Some(Box::new(Parked::new(data_out, data_in)));
        let (standing, token) = (task.standing?, id.to_token());
        match set.is_quiesced() {
            true => set.queue().hold(standing, token),
            false => set.queue().insert(standing, token),
        }
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
    pub(crate) fn has_room(&self, id: TaskId) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id).filter(|task| task.phase == Phase::Running) else { return };
        if let Some(standing) = task.standing.take() {
            Self::stops_waiting(&task.itl.set, standing);
        }
    }

    /// Offers the store what waits when others have had their turn. However many ask for it, it is done once.
    pub(crate) fn offer_soon(&self, set: &TaskSet, cx: &mut dyn Cx) {
        if !std::mem::replace(&mut set.queue().offered_soon, true) {
            self.tell(Token::Offer(set.unit.number()), Ok(0), cx);
        }
    }

    /// Others have had their turn.
    pub(crate) fn offer_now(&self, unit: u64, cx: &mut dyn Cx) {
        let Some(set) = self.known_set(unit) else { return };
        set.queue().offered_soon = false;
        self.offer(&set, cx);
    }

    /// Offers the store what waits, until it has no room. When it always has, work of many steps goes through here with each of
    /// them, and others have to have their turn.
    pub(crate) fn offer(&self, set: &TaskSet, cx: &mut dyn Cx) {
        if set.queue().offered_soon {
            return;
        }
        for _ in 0..TURNS_AT_A_TIME {
            let next = set.queue().pop();
            let Some((standing, token)) = next else { return };
            match Token::decode(token) {
                Token::Task(task) if self.step_again(task, cx) => {}
                Token::Task(task) => {
                    self.unpark(task, cx);
                    self.has_room(task);
                }
                Token::Work(work) => self.work_again(work, cx),
                Token::Advance(_)
                | Token::Offer(_)
                | Token::Job(_)
                | Token::EndOfTurn
                | Token::Admit(_)
                | Token::Look => {}
            }
            if set.queue().is_first(standing) {
                return self.ask_again(set, cx);
            }
        }
        self.offer_soon(set, cx);
    }

    /// The store has no room: it is asked again when something has ended, or soon.
    fn ask_again(&self, set: &TaskSet, cx: &mut dyn Cx) {
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
    count: AtomicUsize,
    limit: AtomicUsize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { count: 0.into(), limit: LIMIT.into() }
    }
}

impl Waiting {
    fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    fn enter(&self, beyond_the_limit: bool) -> bool {
        let limit = if beyond_the_limit { usize::MAX } else { self.limit.load(Relaxed) };
        self.count.fetch_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1)).is_ok()
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    fn leave(&self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

/// Whether a task that has not waited yet has to, as others do.
pub(crate) fn must_wait(task: &Task) -> bool {
    task.standing.is_none() && task.itl.set.is_blocked() && !task.itl.set.queue().is_empty()
}
