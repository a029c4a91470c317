//! The task set of a logical unit (SAM-5 8): what may run, what waits.
//!
//! Each reactor keeps the part of the task set that arrived there. SIMPLE tasks run beside each other and cost a look at
//! one flag. An ORDERED task needs the whole set to itself: its part asks for the set's *barrier*, every other part
//! stops enabling tasks and acknowledges once its active ones have ended, then the ORDERED task runs, then all go on.

use crate::LogicalUnit;
use crate::statistics::Counters;
use crate::tasks::TaskId;
use lunette_store::{ReactorId, Store};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// Numbers the times that the barrier was granted.
pub(crate) type Grant = u64;

/// What the reactors of one logical unit agree on; behind the unit's lock, off the hot path.
#[derive(Default, Debug)]
pub(crate) struct Coordination {
    parts: Vec<ReactorId>,
    grant: Grant,
    owner: Option<ReactorId>,
    waiting: Vec<ReactorId>,
}

impl Coordination {
    /// Adds the part of a reactor; `Some` if a barrier is in force and the part must begin stopped.
    fn join(&mut self, reactor: ReactorId) -> Option<Grant> {
        self.parts.push(reactor);
        self.owner.map(|_| self.grant)
    }

    /// The reactors that have a part.
    pub(crate) fn parts(&self) -> &[ReactorId] {
        &self.parts
    }

    /// Asks for the barrier: granted now, or to be asked for again when [`release`](Self::release) names the reactor.
    fn acquire(&mut self, reactor: ReactorId) -> Option<Granted> {
        if self.owner.is_some() {
            self.waiting.push(reactor);
            return None;
        }
        self.owner = Some(reactor);
        self.grant += 1;
        Some(Granted { grant: self.grant, others: self.others(reactor) })
    }

    /// Gives the barrier back.
    fn release(&mut self, reactor: ReactorId) -> Released {
        self.owner = None;
        let waiting = std::mem::take(&mut self.waiting);
        Released { grant: self.grant, waiting, others: self.others(reactor) }
    }

    fn others(&self, reactor: ReactorId) -> Vec<ReactorId> {
        self.parts.iter().copied().filter(|part| *part != reactor).collect()
    }
}

/// The barrier was granted: these parts are to be stopped.
pub(crate) struct Granted {
    pub(crate) grant: Grant,
    pub(crate) others: Vec<ReactorId>,
}

/// The barrier was given back: the others may go on, and all that wait may ask again. All, as one whose ORDERED task has
/// been aborted will not ask.
pub(crate) struct Released {
    pub(crate) grant: Grant,
    pub(crate) waiting: Vec<ReactorId>,
    pub(crate) others: Vec<ReactorId>,
}

/// How far this part has come with the barrier for its ORDERED task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Barrier {
    /// Not asked for.
    None,
    /// Another part has it.
    Waiting,
    /// Granted; this many other parts have not stopped yet.
    Stopping(usize),
    /// The set is ours as soon as our own active tasks have ended.
    Held,
    /// The ORDERED task has been enabled.
    Used,
}

/// Another part holds the barrier.
#[derive(Clone, Copy)]
struct Stopped {
    grant: Grant,
    /// Whom to tell, once, when our active tasks have ended.
    tell: Option<ReactorId>,
}

/// The part of a task set on one reactor.
pub(crate) struct TaskSet {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) store: Option<Rc<dyn Store>>,
    pub(crate) counters: Arc<Counters>,
    active: Cell<u32>,
    /// Whether new SIMPLE tasks become dormant: what the three below come to.
    blocked: Cell<bool>,
    stopped: Cell<Option<Stopped>>,
    barrier: Cell<Barrier>,
    dormant: RefCell<VecDeque<(TaskId, bool)>>,
}

/// What a part of a task set wants done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Nothing until something changes.
    Wait,
    /// Ask for the barrier.
    Acquire,
    /// Tell this reactor that our active tasks have ended.
    Acknowledge(ReactorId),
    /// Enable this task, which already counts as active.
    Enable(TaskId),
    /// Give the barrier back.
    Release,
}

impl TaskSet {
    pub(crate) fn new(unit: Arc<LogicalUnit>, store: Option<Rc<dyn Store>>, reactor: ReactorId) -> Rc<Self> {
        let stopped = unit.coordination().join(reactor).map(|grant| Stopped { grant, tell: None });
        let counters = unit.statistics().join();
        Rc::new(Self {
            unit,
            store,
            counters,
            active: Cell::new(0),
            blocked: Cell::new(stopped.is_some()),
            stopped: Cell::new(stopped),
            barrier: Cell::new(Barrier::None),
            dormant: RefCell::default(),
        })
    }

    /// Whether a SIMPLE task may run at once.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Counts a task that runs at once as active.
    pub(crate) fn began(&self) {
        self.active.set(self.active.get() + 1);
    }

    /// Puts a task behind everything that waits.
    pub(crate) fn make_dormant(&self, task: TaskId, ordered: bool) {
        self.dormant.borrow_mut().push_back((task, ordered));
        self.update();
    }

    /// An active task has ended. Returns whether [`next`](Self::next) should be asked.
    pub(crate) fn ended(&self) -> bool {
        let active = self.active.get() - 1;
        self.active.set(active);
        active == 0 && self.blocked.get()
    }

    /// A dormant task was aborted. Returns whether [`next`](Self::next) should be asked.
    pub(crate) fn forget(&self, task: TaskId) -> bool {
        self.dormant.borrow_mut().retain(|(other, _)| *other != task);
        self.update();
        true
    }

    /// Another part holds the barrier: stop, and tell it when we have.
    pub(crate) fn stop(&self, grant: Grant, owner: ReactorId) {
        self.stopped.set(Some(Stopped { grant, tell: Some(owner) }));
        self.update();
    }

    /// The holder of a barrier has given it back. A later barrier may have stopped us since; its stop stays.
    pub(crate) fn go_on(&self, grant: Grant) {
        if self.stopped.get().is_some_and(|stopped| stopped.grant == grant) {
            self.stopped.set(None);
        }
        self.update();
    }

    /// Another part has stopped for us.
    pub(crate) fn acknowledged(&self) {
        if let Barrier::Stopping(left) = self.barrier.get() {
            self.barrier.set(if left > 1 { Barrier::Stopping(left - 1) } else { Barrier::Held });
        }
    }

    /// Asks for the barrier; says which parts to stop when it is granted.
    pub(crate) fn acquire(&self, reactor: ReactorId) -> Option<Granted> {
        let granted = self.unit.coordination().acquire(reactor);
        self.barrier.set(match &granted {
            None => Barrier::Waiting,
            Some(granted) if granted.others.is_empty() => Barrier::Held,
            Some(granted) => Barrier::Stopping(granted.others.len()),
        });
        self.update();
        granted
    }

    /// The barrier that we wait for is free: ask again.
    pub(crate) fn barrier_free(&self) {
        self.barrier.set(Barrier::None);
        self.update();
    }

    /// Gives the barrier back.
    pub(crate) fn release(&self, reactor: ReactorId) -> Released {
        self.barrier.set(Barrier::None);
        self.update();
        self.unit.coordination().release(reactor)
    }

    /// What to do next; to be asked until it says `Wait` whenever something has changed.
    pub(crate) fn next(&self) -> Next {
        let idle = self.active.get() == 0;
        if let Some(stopped) = self.stopped.get() {
            return match stopped.tell {
                Some(owner) if idle => {
                    self.stopped.set(Some(Stopped { tell: None, ..stopped }));
                    Next::Acknowledge(owner)
                }
                _ => Next::Wait,
            };
        }
        let front = self.dormant.borrow().front().copied();
        match (self.barrier.get(), front) {
            (Barrier::None, Some((_, true))) => Next::Acquire,
            (Barrier::None, Some((task, false))) => self.enable_front(task),
            (Barrier::Held, Some((task, true))) if idle => {
                self.barrier.set(Barrier::Used);
                self.enable_front(task)
            }
            (Barrier::Used, _) if idle => Next::Release,
            // The ORDERED task was aborted meanwhile.
            (Barrier::Held, None | Some((_, false))) => Next::Release,
            _ => Next::Wait,
        }
    }

    fn enable_front(&self, task: TaskId) -> Next {
        self.dormant.borrow_mut().pop_front();
        self.began();
        self.update();
        Next::Enable(task)
    }

    fn update(&self) {
        let free = self.stopped.get().is_none()
            && self.barrier.get() == Barrier::None
            && self.dormant.borrow().is_empty();
        self.blocked.set(!free);
    }
}
