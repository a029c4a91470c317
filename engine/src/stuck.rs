//! A store that does not answer.
//!
//! Each reactor looks now and then at what stores have of it. A logical unit whose store has had an operation for too long is
//! not ready: commands that need the medium fail at once, also those that wait and have not begun. What has begun is left
//! alone, for the store may still touch its memory: neither it nor a function that aborts it ends before the store has let go.
//! When no operation is overdue any more, the unit is ready again.

use crate::LogicalUnit;
use crate::command::Needs;
use crate::engine::{Engine, Token};
use crate::tasks::{Abort, Phase, Task};
use lunette_store::{Cx, Message, Post};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How many looks there are in the shortest time that a store has. What is overdue is noticed so much later at most.
const LOOKS: u32 = 8;

/// How long a store may have an operation of a unit, in milliseconds; 0: as long as it takes.
#[derive(Default, Debug)]
pub(crate) struct Patience(AtomicU64);

impl Patience {
    fn set(&self, time: Option<Duration>) {
        let milliseconds = time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1));
        self.0.store(milliseconds, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Option<Duration> {
        let milliseconds = self.0.load(Ordering::Relaxed);
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    }
}

/// How one reactor looks after stores.
#[derive(Default)]
pub(crate) struct Patrol {
    /// There will be another look.
    goes_on: Cell<bool>,
    /// What stores had at the last look, by its token, and since which look at the latest.
    seen: RefCell<HashMap<u64, Duration>>,
    /// The units that are stuck here.
    stuck: RefCell<BTreeMap<u64, Weak<LogicalUnit>>>,
}

/// What a store has.
pub(crate) struct AtStore {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) token: u64,
    /// Since when, if that is known.
    pub(crate) since: Option<Duration>,
}

/// An operation that a store has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HeldByStore {
    /// The name of the unit.
    pub unit: String,
    /// Tells it from others of the same reactor.
    token: u64,
}

/// What stores have on this reactor of commands that came so long ago, or of other work that has waited for so long. Commands may
/// have waited for something else before, so who wants to know whether a store answers looks once more after a moment.
pub fn held_by_stores(time: Duration, cx: &mut dyn Cx) -> BTreeSet<HeldByStore> {
    let engine = Engine::on(cx);
    let (now, tasks, background) = (cx.now(), engine.tasks.borrow(), engine.background.borrow());
    let of_tasks = tasks.select(|task| task.is_at_store()).into_iter().filter_map(|id| {
        let task = tasks.peek(id)?;
        Some((task.at_store(Token::Task(id).encode()), task.came))
    });
    // Since when is not known of all of these.
    let others = background.at_stores().map(|at_store| (at_store, Duration::ZERO));
    let held = of_tasks.chain(others).chain(engine.detached.at_stores());
    let held = held.filter(|(at_store, came)| now.saturating_sub(at_store.since.unwrap_or(*came)) >= time);
    held.map(|(AtStore { unit, token, .. }, _)| HeldByStore { unit: unit.name.clone(), token }).collect()
}

impl LogicalUnit {
    /// How long its store may have an operation. After that time, and an eighth of the shortest one of all units at most, the
    /// unit is not ready until the store has let go of what is overdue: LOGICAL UNIT COMMUNICATION TIME-OUT. `None`: as long as
    /// it takes. Where the unit is used already, [`look_after_store`](Self::look_after_store) has to follow.
    pub fn set_stuck_after(&self, time: Option<Duration>) {
        self.patience.set(time);
    }

    /// Has all reactors that use the unit look from now on whether its store answers in [time](Self::set_stuck_after).
    pub fn look_after_store(&self, post: &dyn Post) {
        for reactor in self.coordination().parts() {
            let message: Message = Box::new(|cx| Engine::on(cx).begin_patrol(cx));
            post.post(reactor, message);
        }
    }
}

impl Engine {
    /// A unit is used here whose store is looked after.
    pub(crate) fn begin_patrol(&self, cx: &mut dyn Cx) {
        if !self.patrol.goes_on.get() {
            self.look(cx);
        }
    }

    /// Looks at everything that stores have.
    pub(crate) fn look(&self, cx: &mut dyn Cx) {
        let (now, mut seen, mut stuck) = (cx.now(), HashMap::new(), BTreeMap::new());
        for AtStore { unit, token, since } in self.at_stores() {
            let Some(time) = unit.patience.get() else { continue };
            let known = self.patrol.seen.borrow().get(&token).copied();
            let since = since.or(known).unwrap_or(now);
            seen.insert(token, since);
            if now.saturating_sub(since) >= time {
                stuck.insert(unit.number(), unit);
            }
        }
        *self.patrol.seen.borrow_mut() = seen;
        self.tell_stuck(&stuck, cx);
        let shortest = self.shortest_patience();
        self.patrol.goes_on.set(shortest.is_some());
        if let Some(time) = shortest {
            cx.timer(time / LOOKS, self.id(Token::Look));
        }
    }

    /// What stores have of commands, also of those that have ended, and of work in the background.
    fn at_stores(&self) -> Vec<AtStore> {
        let tasks = self.tasks.borrow();
        let of_tasks = tasks.select(|task| task.is_at_store()).into_iter();
        let of_tasks = of_tasks.filter_map(|id| Some(tasks.peek(id)?.at_store(Token::Task(id).encode())));
        let detached = self.detached.at_stores().into_iter().map(|(at_store, _)| at_store);
        of_tasks.chain(self.background.borrow().at_stores()).chain(detached).collect()
    }

    /// These units are stuck here, and no others.
    fn tell_stuck(&self, stuck: &BTreeMap<u64, Arc<LogicalUnit>>, cx: &mut dyn Cx) {
        let now = stuck.iter().map(|(number, unit)| (*number, Arc::downgrade(unit))).collect();
        let before = self.patrol.stuck.replace(now);
        for (_, unit) in before.iter().filter(|(number, _)| !stuck.contains_key(number)) {
            unit.upgrade()
                .iter()
                .for_each(|unit| unit.change_readiness(|state| _ = state.stuck.remove(&self.reactor)));
        }
        for (number, unit) in stuck.iter().filter(|(number, _)| !before.contains_key(number)) {
            unit.change_readiness(|state| _ = state.stuck.insert(self.reactor));
            let number = *number;
            let parts: Vec<_> = unit.coordination().parts().collect();
            for reactor in parts {
                Self::post(reactor, cx, move |engine, cx| engine.fail_waiting(number, cx));
            }
        }
    }

    /// Ends the commands of a stuck unit that wait, as those end that come.
    fn fail_waiting(&self, unit: u64, cx: &mut dyn Cx) {
        let needs_medium = |task: &Task| {
            let row = task.itl.unit().commands().find(&task.cdb);
            row.is_ok_and(|row| row.spec.needs == Needs::Ready)
        };
        let fails =
            |task: &Task| task.itl.unit().number() == unit && task.failure.is_none() && needs_medium(task);
        self.end_waiting(fails, Abort::NotReady, cx);
    }

    fn shortest_patience(&self) -> Option<Duration> {
        self.each_set(|set| set.unit.patience.get()).into_iter().flatten().min()
    }
}

impl Task {
    /// Whether a store has an operation of it.
    fn is_at_store(&self) -> bool {
        self.phase == Phase::Running
            && self.running.as_ref().map_or(self.is_io(), |running| running.is_at_work())
    }

    fn at_store(&self, token: u64) -> AtStore {
        match &self.running {
            Some(running) => running.at_store(self.itl.unit(), token),
            None => AtStore { unit: self.itl.unit().clone(), token, since: None },
        }
    }
}
