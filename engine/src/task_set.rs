//! The task set of a logical unit (SAM-5 8): what may run, what waits.
//!
//! Each reactor keeps the part of the task set that arrived there. SIMPLE tasks run beside each other and cost a look at
//! one word. An ORDERED task, or one at the HEAD OF QUEUE, changes that word in every part before it has arrived for
//! anybody; tasks that arrive then take a *place* in the order of the whole set. The oldest ORDERED task is the
//! *barrier*: each part enables what is older, stops when all its active tasks have ended, and keeps what is younger.
//! When every part has stopped, the ORDERED task runs, and then the next barrier, or all, go on.
//!
//! What the parts agree on is behind a lock of the unit. Messages say only that there may be something to do.

use crate::LogicalUnit;
use crate::room::Queue;
use crate::statistics::Usage;
use crate::tasks::TaskId;
use lunette_store::{Cx, ReactorId, Store};
use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// When a task arrived, among those that arrived while order mattered; from 1.
pub(crate) type Place = u64;

/// What the reactors of one logical unit agree on.
#[derive(Default, Debug)]
pub(crate) struct Coordination {
    parts: Vec<Part>,
    /// Other reactors that have seen the unit.
    seen_on: BTreeSet<ReactorId>,
    /// The unit is retired: no more parts join.
    closed: bool,
    last: Place,
    /// ORDERED tasks that have not ended, oldest first.
    ordered: VecDeque<(Place, ReactorId)>,
    /// How many HEAD OF QUEUE tasks have not ended.
    heads: usize,
    /// How many tasks are dormant.
    dormant: usize,
    /// Which time it is that no task begins, if none does.
    quiesced: Option<u64>,
    /// How many times there were.
    quiesces: u64,
}

#[derive(Debug)]
struct Part {
    reactor: ReactorId,
    holds: Arc<Holds>,
    /// The barrier for which it has stopped.
    stopped: Place,
}

/// Why new SIMPLE tasks of a part may not run at once, in one word: zero means that they may.
#[derive(Default, Debug)]
struct Holds(AtomicU32);

impl Holds {
    /// There are ORDERED or HEAD OF QUEUE tasks somewhere in the set.
    const ORDER: u32 = 1;
    /// Older ones of this part wait for room in the store.
    const ROOM: u32 = 2;
    /// None of the set is to begin.
    const QUIESCED: u32 = 4;

    fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }

    fn has(&self, hold: u32) -> bool {
        self.0.load(Ordering::Acquire) & hold != 0
    }

    fn set(&self, hold: u32, on: bool) {
        if on {
            self.0.fetch_or(hold, Ordering::AcqRel);
        } else {
            self.0.fetch_and(!hold, Ordering::AcqRel);
        }
    }
}

/// A dormant task (SAM-5 8.5).
#[derive(Clone, Copy)]
struct Dormant {
    task: TaskId,
    place: Place,
    ordered: bool,
}

impl Coordination {
    /// A reactor has a part from now on, unless the unit is retired.
    fn join(&mut self, reactor: ReactorId, holds: Arc<Holds>) -> Option<()> {
        if self.closed {
            return None;
        }
        holds.set(Holds::ORDER, self.order_matters());
        holds.set(Holds::QUIESCED, self.is_quiesced());
        // What arrives there is younger than every barrier.
        let stopped = self.barrier().map_or(0, |(place, _)| place);
        self.parts.push(Part { reactor, holds, stopped });
        Some(())
    }

    /// These reactors have seen the unit.
    pub(crate) fn seen_on(&mut self, reactors: &BTreeSet<ReactorId>) {
        self.seen_on.extend(reactors);
    }

    /// The unit is retired. Returns the reactors that may have something of it.
    pub(crate) fn close(&mut self) -> BTreeSet<ReactorId> {
        self.closed = true;
        self.seen_on.iter().copied().chain(self.parts()).collect()
    }

    /// No task begins from now on. Which time that is.
    pub(crate) fn quiesce(&mut self) -> u64 {
        let number = *self.quiesced.get_or_insert_with(|| {
            self.quiesces += 1;
            self.quiesces
        });
        self.parts.iter().for_each(|part| part.holds.set(Holds::QUIESCED, true));
        number
    }

    pub(crate) fn is_quiesced(&self) -> bool {
        self.quiesced.is_some()
    }

    /// Whether no task has begun since [`quiesce`](Self::quiesce) gave this number.
    pub(crate) fn is_quiesced_by(&self, number: u64) -> bool {
        self.quiesced == Some(number)
    }

    /// Tasks begin again. Returns the reactors that may have something to do.
    pub(crate) fn resume(&mut self) -> Vec<ReactorId> {
        self.quiesced = None;
        self.parts.iter().for_each(|part| part.holds.set(Holds::QUIESCED, false));
        self.parts().collect()
    }

    /// The reactors that have a part.
    pub(crate) fn parts(&self) -> impl Iterator<Item = ReactorId> {
        self.parts.iter().map(|part| part.reactor)
    }

    fn barrier(&self) -> Option<(Place, ReactorId)> {
        self.ordered.front().copied()
    }

    fn order_matters(&self) -> bool {
        !self.ordered.is_empty() || self.heads > 0
    }

    fn place(&mut self) -> Place {
        self.last += 1;
        self.dormant += 1;
        self.last
    }

    fn hold(&self) {
        let matters = self.order_matters();
        self.parts.iter().for_each(|part| part.holds.set(Holds::ORDER, matters));
    }

    /// The reactors that may have something to do.
    fn concerned(&self) -> Vec<ReactorId> {
        if self.dormant == 0 { Vec::new() } else { self.parts().collect() }
    }

    /// An ORDERED task has ended. Returns the reactors that may have something to do.
    fn leave(&mut self, place: Place) -> Vec<ReactorId> {
        let was_barrier = self.barrier().is_some_and(|(barrier, _)| barrier == place);
        self.ordered.retain(|(other, _)| *other != place);
        self.hold();
        if was_barrier { self.concerned() } else { Vec::new() }
    }

    /// What the part of a reactor does next.
    fn next(&mut self, reactor: ReactorId, oldest: Option<Dormant>, idle: bool) -> Next {
        let enable = |task: Option<Dormant>| task.map_or(Next::Wait, |dormant| Next::Enable(dormant.task));
        let Some((barrier, owner)) = self.barrier() else {
            return if self.heads == 0 { enable(oldest) } else { Next::Wait };
        };
        if oldest.is_some_and(|dormant| dormant.place < barrier) {
            return if self.heads == 0 { enable(oldest) } else { Next::Wait };
        }
        let part = self.parts.iter_mut().find(|part| part.reactor == reactor);
        if idle && let Some(part) = part.filter(|part| part.stopped != barrier) {
            part.stopped = barrier;
            if owner != reactor && self.has_stopped() {
                return Next::Tell(owner);
            }
        }
        let is_barrier = |dormant: &Dormant| dormant.place == barrier;
        if self.heads == 0 && self.has_stopped() { enable(oldest.filter(is_barrier)) } else { Next::Wait }
    }

    /// Whether all parts have.
    fn has_stopped(&self) -> bool {
        self.barrier().is_some_and(|(barrier, _)| self.parts.iter().all(|part| part.stopped == barrier))
    }
}

/// The part of a task set on one reactor.
pub(crate) struct TaskSet {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) store: Option<Rc<dyn Store>>,
    /// Of what goes on in the background, from then on.
    usage: OnceCell<Arc<Usage>>,
    reactor: ReactorId,
    active: Cell<u32>,
    holds: Arc<Holds>,
    /// In the order of their places.
    dormant: RefCell<VecDeque<Dormant>>,
    /// The ORDERED task that runs.
    running: Cell<Option<Place>>,
    /// Those that wait for room in the store.
    queue: RefCell<Queue>,
    /// How many wait for tokens.
    tolls: Cell<u32>,
}

/// What a part of a task set wants done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Nothing until something changes.
    Wait,
    /// Tell this reactor that all have stopped for its ORDERED task.
    Tell(ReactorId),
    /// Enable this task, which already counts as active.
    Enable(TaskId),
}

impl TaskSet {
    /// The part of this reactor; `None` if the unit is retired.
    pub(crate) fn join(unit: &Arc<LogicalUnit>, reactor: ReactorId, cx: &mut dyn Cx) -> Option<Rc<Self>> {
        let holds = Arc::<Holds>::default();
        unit.coordination().join(reactor, holds.clone())?;
        Some(Rc::new(Self {
            unit: unit.clone(),
            store: unit.backing().map(|backing| backing.attach(cx)),
            usage: OnceCell::new(),
            reactor,
            active: Cell::new(0),
            holds,
            dormant: RefCell::default(),
            running: Cell::new(None),
            queue: RefCell::default(),
            tolls: Cell::new(0),
        }))
    }

    /// The counters of what goes on in the background.
    pub(crate) fn usage(&self) -> &Arc<Usage> {
        self.usage.get_or_init(|| self.unit.statistics().join())
    }

    /// There is nothing left to do, and nothing more comes.
    pub(crate) fn leave(&self, cx: &mut dyn Cx) {
        self.unit.coordination().parts.retain(|part| part.reactor != self.reactor);
        self.store.iter().for_each(|store| store.release(cx));
    }

    /// Whether it is of a stand-in whose port is no more.
    pub(crate) fn is_orphan(&self) -> bool {
        // This has one.
        self.unit.device().is_placeholder() && Arc::strong_count(&self.unit) == 1
    }

    /// Whether a SIMPLE task takes a place in the order.
    pub(crate) fn is_ordered(&self) -> bool {
        self.holds.has(Holds::ORDER)
    }

    /// Whether an ORDERED task waits for what came before it, or is at work.
    pub(crate) fn has_barrier(&self) -> bool {
        self.is_ordered() && self.unit.coordination().barrier().is_some()
    }

    /// Whether active tasks of it wait for tokens.
    pub(crate) fn waits_for_tokens(&self) -> bool {
        self.tolls.get() > 0
    }

    /// So many do.
    pub(crate) fn tolls(&self) -> &Cell<u32> {
        &self.tolls
    }

    /// Whether no task is to begin.
    pub(crate) fn is_quiesced(&self) -> bool {
        self.holds.has(Holds::QUIESCED)
    }

    /// Those that wait for room in the store.
    pub(crate) fn queue(&self) -> RefMut<'_, Queue> {
        self.queue.borrow_mut()
    }

    /// The queue has changed.
    pub(crate) fn hold_for_room(&self) {
        self.holds.set(Holds::ROOM, !self.queue().is_empty());
    }

    /// Whether a SIMPLE task may not run at once.
    pub(crate) fn is_blocked(&self) -> bool {
        self.holds.any()
    }

    /// Counts a task that runs at once as active.
    pub(crate) fn began(&self) {
        self.active.set(self.active.get() + 1);
    }

    /// The same for one at the HEAD OF QUEUE.
    pub(crate) fn head_began(&self) {
        self.began();
        let mut coordination = self.unit.coordination();
        coordination.heads += 1;
        coordination.hold();
    }

    /// Puts a task behind everything that waits. Returns the reactors that may have something to do.
    pub(crate) fn make_dormant(&self, task: TaskId, ordered: bool) -> Vec<ReactorId> {
        let mut coordination = self.unit.coordination();
        let place = coordination.place();
        self.dormant.borrow_mut().push_back(Dormant { task, place, ordered });
        if !ordered {
            // Order may have ceased to matter meanwhile.
            return vec![self.reactor];
        }
        coordination.ordered.push_back((place, self.reactor));
        coordination.hold();
        if coordination.ordered.len() == 1 { coordination.concerned() } else { Vec::new() }
    }

    /// An active SIMPLE task has ended. Returns whether [`next`](Self::next) should be asked.
    pub(crate) fn ended(&self) -> bool {
        self.active.set(self.active.get() - 1);
        self.is_blocked()
    }

    /// An active ORDERED task has ended. Returns the reactors that may have something to do.
    pub(crate) fn ordered_ended(&self) -> Vec<ReactorId> {
        self.ended();
        let place = self.running.take().unwrap_or_default();
        self.unit.coordination().leave(place)
    }

    /// A HEAD OF QUEUE task has ended. Returns the reactors that may have something to do.
    pub(crate) fn head_ended(&self) -> Vec<ReactorId> {
        self.ended();
        let mut coordination = self.unit.coordination();
        coordination.heads -= 1;
        coordination.hold();
        coordination.concerned()
    }

    /// A dormant task was aborted. Returns the reactors that may have something to do.
    pub(crate) fn forget(&self, task: TaskId) -> Vec<ReactorId> {
        let mut dormant = self.dormant.borrow_mut();
        let Some(at) = dormant.iter().position(|dormant| dormant.task == task) else { return Vec::new() };
        let Some(Dormant { place, ordered, .. }) = dormant.remove(at) else { return Vec::new() };
        let mut coordination = self.unit.coordination();
        coordination.dormant -= 1;
        if ordered { coordination.leave(place) } else { vec![self.reactor] }
    }

    /// What to do next; to be asked until it says `Wait` whenever something has changed.
    pub(crate) fn next(&self) -> Next {
        let mut dormant = self.dormant.borrow_mut();
        let oldest = dormant.front().copied();
        let mut coordination = self.unit.coordination();
        let next = coordination.next(self.reactor, oldest, self.active.get() == 0);
        if let (Next::Enable(_), Some(Dormant { place, ordered, .. })) = (next, oldest) {
            dormant.pop_front();
            coordination.dormant -= 1;
            self.began();
            if ordered {
                self.running.set(Some(place));
            }
        }
        next
    }
}
