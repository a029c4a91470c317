//! How a request is carried out: by whom, when, and how often.

mod changes;
mod jobs;
mod repeats;

pub(crate) use jobs::Jobs;
pub use jobs::{JobState, JobStatus, Work};

use crate::events::{self, EventKind, Events, Inbox};
use crate::table::{Call, Common, Effect, Method, Prepared, Run, Table, value};
use crate::ticket::Ticket;
use crate::time::Clock;
use crate::waker::Waker;
use crate::{Caller, Description, Failure, Role};
use changes::Changes;
use repeats::Repeats;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// What somebody else is to do.
pub type Task = Box<dyn FnOnce() + Send>;

/// Who does what may block: so that those who may less, and what takes long, hold up nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Crew {
    /// What readers want to know.
    Readers,
    /// What administrators want to know.
    Administrators,
    /// What [acts](Effect::Acts).
    Acts,
    /// What takes [turns](Method::in_turn). There is never more than one of these, so it needs one thread.
    Changes,
    /// Other jobs.
    Jobs,
}

/// The answer to a request for a job for which nobody waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Begun {
    /// Number of the job.
    pub job: u64,
}

/// Something that takes its turn.
type Change = Box<dyn FnOnce(Turn) + Send>;

/// Threads, which this crate has none of.
pub trait Workers: Send + Sync {
    /// Has `task` done, later and on another thread. One that is dropped instead is answered with an error.
    fn run(&self, crew: Crew, task: Task);
}

/// Most requests of readers that have not been carried out: some may be of those who have gone.
pub(crate) const READS: usize = 1024;

/// A change was carried out.
const CHANGED: EventKind = EventKind {
    name: "daemon.changed",
    summary: "A method has changed something; the object is the method. Details: `generation`, `user`.",
};

/// The kinds of events that every daemon has.
const KINDS: [EventKind; 5] = [CHANGED, events::MISSED, jobs::BEGUN, jobs::PROGRESS, jobs::ENDED_KIND];

/// Where events come from and arrive, made before there is a daemon.
pub struct Feed {
    events: Events,
    pub(crate) inbox: Inbox,
    pub(crate) waker: Arc<Waker>,
    clock: Clock,
    generation: u64,
}

impl Feed {
    /// One without events, of a daemon whose generation begins with this number. It is to be larger than that of any run
    /// before.
    ///
    /// # Errors
    /// When there are no descriptors.
    pub fn new(clock: Clock, generation: u64) -> io::Result<Self> {
        let waker = Arc::new(Waker::new()?);
        let (events, inbox) = Events::new(waker.clone(), clock);
        Ok(Self { events, inbox, waker, clock, generation })
    }

    /// By which events are told.
    pub fn events(&self) -> Events {
        self.events.clone()
    }
}

/// What is said of a daemon.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its version.
    pub version: &'static str,
    /// The kinds of its events.
    pub kinds: &'static [EventKind],
}

impl About {
    /// All kinds of events.
    pub fn all_kinds(&self) -> Vec<EventKind> {
        let mut kinds = [self.kinds, &KINDS[..]].concat();
        kinds.sort_by_key(|kind| kind.name);
        kinds
    }
}

/// A daemon, its methods, and what is needed to carry them out.
pub struct Plane<D> {
    daemon: D,
    table: Table<D>,
    pub(crate) about: About,
    pub(crate) description: OnceLock<Description>,
    pub(crate) instance: String,
    pub(crate) jobs: Arc<Jobs>,
    changes: Changes<Change>,
    repeats: Arc<Repeats>,
    events: Events,
    workers: Box<dyn Workers>,
    /// Says whether something was changed that is not saved.
    is_unsaved: OnceLock<fn(&D) -> bool>,
    is_stopping: AtomicBool,
    /// How many tasks of administrators have not ended.
    under_way: Mutex<usize>,
    has_ended: Condvar,
    /// How many requests of readers have not been carried out.
    reads: AtomicUsize,
}

impl<D: Send + Sync + 'static> Plane<D> {
    /// Has the methods of `table` carried out on `daemon`. Returns what the server needs besides.
    pub fn new(
        daemon: D,
        table: Table<D>,
        about: About,
        workers: impl Workers + 'static,
        feed: &Feed,
    ) -> Arc<Self> {
        let changes = Changes::new(feed.generation);
        Arc::new(Self {
            daemon,
            table,
            about,
            description: OnceLock::new(),
            instance: format!("{:x}-{:x}", changes.generation(), std::process::id()),
            jobs: Arc::new(Jobs::new(feed.events(), feed.clock)),
            changes,
            repeats: Arc::default(),
            events: feed.events(),
            workers: Box::new(workers),
            is_unsaved: OnceLock::new(),
            is_stopping: AtomicBool::new(false),
            under_way: Mutex::new(0),
            has_ended: Condvar::new(),
            reads: AtomicUsize::new(0),
        })
    }

    /// Has `control.status` tell whether something was changed that is not saved; otherwise nothing ever is. To be said once.
    pub fn tell_unsaved(&self, is_unsaved: fn(&D) -> bool) {
        let _ = self.is_unsaved.set(is_unsaved);
    }

    /// Whether something was changed that is not saved.
    pub fn is_unsaved(&self) -> bool {
        self.is_unsaved.get().is_some_and(|is_unsaved| is_unsaved(&self.daemon))
    }

    /// What its methods work on.
    pub fn daemon(&self) -> &D {
        &self.daemon
    }

    /// Its methods.
    pub fn table(&self) -> &Table<D> {
        &self.table
    }

    /// How often something has changed, and more: it only rises.
    pub fn generation(&self) -> u64 {
        self.changes.generation()
    }

    /// Has the daemon itself carry out one of its methods, as if an administrator had asked for it. `ticket` is answered on
    /// some other thread, or before this returns.
    pub fn call_own(self: &Arc<Self>, method: &str, params: Map<String, Value>, ticket: Ticket) {
        let caller = Caller::own();
        match self.find(method, &caller) {
            Ok(method) => self.carry_out(method, caller, params, ticket),
            Err(failure) => ticket.answer(Err(failure)),
        }
    }

    /// Refuses what changes something from now on, cancels all jobs, and waits, for `most` at most, for what administrators
    /// have under way. Returns whether that has ended. Not to be called by a worker.
    pub fn stop(&self, most: Duration) -> bool {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.jobs.cancel_of(None);
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.has_ended.wait_timeout_while(under_way, most, |under_way| *under_way > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    /// The method of this name, if `caller` may call it.
    pub(crate) fn find(&self, name: &str, caller: &Caller) -> Result<&Method<D>, Failure> {
        let method = self.table.find(name)?;
        if method.effect != Effect::Reads && caller.role < Role::Administrator {
            let (uid, effect) =
                (caller.credentials.uid, if method.effect == Effect::Acts { "acts" } else { "changes" });
            let what = format!("user {uid} may only call methods that read, and {name} {effect}");
            return Err(Failure::new(Failure::DENIED, what));
        }
        Ok(method)
    }

    /// Carries out a method that `caller` may call, and has `ticket` answered when that is done.
    pub(crate) fn carry_out(
        self: &Arc<Self>,
        method: &Method<D>,
        caller: Caller,
        mut params: Map<String, Value>,
        ticket: Ticket,
    ) {
        let common = match Common::take(method.effect, method.is_long, &mut params) {
            Ok(common) => common,
            Err(failure) => return ticket.answer(Err(failure)),
        };
        let ticket = match common.request_id.clone() {
            None => Some(ticket),
            Some(id) => self.repeats.admit((caller.credentials.uid, id), (method.name, &params), ticket),
        };
        let Some(ticket) = ticket else { return };
        match &method.run {
            Run::BuiltIn(built_in) => built_in.answer(self, &caller, params, ticket),
            Run::Aside(prepare) => match prepare(params) {
                Ok(prepared) => self.dispatch(method, caller, common, prepared, ticket),
                Err(failure) => ticket.answer(Err(failure)),
            },
        }
    }

    /// Hands a method to those who do it.
    fn dispatch(
        self: &Arc<Self>,
        method: &Method<D>,
        caller: Caller,
        common: Common,
        prepared: Prepared<D>,
        ticket: Ticket,
    ) {
        let crew = match (method.effect, caller.role) {
            _ if method.takes_turn() => Crew::Changes,
            _ if method.is_long => Crew::Jobs,
            (Effect::Reads, Role::Reader) => Crew::Readers,
            (Effect::Reads, Role::Administrator) => Crew::Administrators,
            _ => Crew::Acts,
        };
        let (name, effect, if_generation) = (method.name, method.effect, common.if_generation);
        let room = if crew == Crew::Changes { self.changes.has_room() } else { Ok(()) };
        let room = room.and_then(|()| (crew == Crew::Readers).then(|| Read::new(self)).transpose());
        let read = match room {
            Ok(read) => read,
            Err(failure) => return ticket.answer(Err(failure)),
        };
        let report = match method.is_long {
            false => Report::To(ticket),
            true => match self.jobs.add(name, &caller, common.cancel_on_close) {
                Ok(job) => {
                    match common.wait {
                        true => self.jobs.answer_result(job, ticket),
                        false => ticket.answer(value(&Begun { job })),
                    }
                    Report::job(&self.jobs, job)
                }
                Err(failure) => return ticket.answer(Err(failure)),
            },
        };
        let deed = Deed { name, effect, caller, if_generation, prepared };
        let under_way = (effect != Effect::Reads).then(|| UnderWay::new(self));
        let plane = self.clone();
        let task = move || {
            let _under_way = under_way;
            let _read = read;
            report.with(&plane.jobs, |work| plane.perform(deed, work));
        };
        if crew != Crew::Changes {
            return self.workers.run(crew, Box::new(task));
        }
        let change: Change = Box::new(move |turn| {
            task();
            drop(turn);
        });
        if let Some(change) = self.changes.enter(change) {
            self.begin(change);
        }
    }

    /// It is the turn of `change`, until it has ended, or nobody can carry it out.
    fn begin(self: &Arc<Self>, change: Change) {
        let plane = self.clone();
        let turn = Turn(Some(Box::new(move || {
            if let Some(next) = plane.changes.ended() {
                plane.begin(next);
            }
        })));
        self.workers.run(Crew::Changes, Box::new(move || change(turn)));
    }

    fn perform(&self, deed: Deed<D>, work: &Work) -> Result<Value, Failure> {
        let Deed { name, effect, caller, if_generation, prepared } = deed;
        let (user, pid) = (caller.credentials.uid, caller.credentials.pid);
        if effect != Effect::Reads && self.is_stopping.load(Ordering::SeqCst) {
            return Err(Failure::new(Failure::STOPPING, "the daemon is about to end"));
        }
        if effect == Effect::Changes {
            self.changes.check(if_generation)?;
        }
        let result = prepared(&Call { daemon: &self.daemon, caller: &caller, work, plane: self });
        match &result {
            _ if effect == Effect::Reads => {}
            Ok(_) => tracing::info!(method = name, user, pid, "carried out"),
            Err(failure) => tracing::info!(method = name, user, pid, "not carried out: {failure}"),
        }
        let is_partly = |failure: &Failure| failure.code == Failure::PARTLY;
        if effect != Effect::Changes || !result.as_ref().err().is_none_or(is_partly) {
            return result;
        }
        if work.has_changed_nothing() && result.is_ok() {
            return result.map(|result| with_generation(result, self.generation()));
        }
        let generation = self.changes.moved();
        self.events.emit(CHANGED, name, json!({ "generation": generation, "user": user }));
        result.map(|result| with_generation(result, generation))
    }
}

/// What a method that changes something answers: its result, an object or nothing, and the generation.
fn with_generation(result: Value, generation: u64) -> Value {
    let mut object = match result {
        Value::Object(object) => object,
        Value::Null => Map::new(),
        other => Map::from_iter([("result".to_owned(), other)]),
    };
    object.insert("generation".to_owned(), generation.into());
    Value::Object(object)
}

/// What is to be done for somebody.
struct Deed<D> {
    name: &'static str,
    effect: Effect,
    caller: Caller,
    if_generation: Option<u64>,
    prepared: Prepared<D>,
}

/// Who is told what comes of it, also if nobody can carry it out.
enum Report {
    To(Ticket),
    Job(u64, Ticket),
}

impl Report {
    fn job(jobs: &Arc<Jobs>, number: u64) -> Self {
        let jobs = jobs.clone();
        Self::Job(number, Ticket::new(move |outcome| jobs.end(number, outcome)))
    }

    /// Tells what comes of `deed`, also if it panics, unless the job was cancelled before.
    fn with(self, jobs: &Arc<Jobs>, deed: impl FnOnce(&Work) -> Result<Value, Failure>) {
        match self {
            Self::To(ticket) => ticket.answer(deed(&Work::quiet())),
            Self::Job(number, ticket) => {
                if let Some(work) = jobs.begin(number) {
                    ticket.answer(deed(&work));
                }
            }
        }
    }
}

/// The turn of a change. When it is over, the next begins.
struct Turn(Option<Task>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            ended();
        }
    }
}

/// Something that [`Plane::stop`] waits for.
struct UnderWay<D>(Arc<Plane<D>>);

impl<D> UnderWay<D> {
    fn new(plane: &Arc<Plane<D>>) -> Self {
        *plane.under_way.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(plane.clone())
    }
}

impl<D> Drop for UnderWay<D> {
    fn drop(&mut self) {
        *self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.has_ended.notify_all();
    }
}

/// A request of a reader that has not been carried out.
struct Read<D>(Arc<Plane<D>>);

impl<D> Read<D> {
    fn new(plane: &Arc<Plane<D>>) -> Result<Self, Failure> {
        let room = |count| (count < READS).then_some(count + 1);
        match plane.reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => Ok(Self(plane.clone())),
            Err(count) => Err(Failure::busy(format!("{count} requests of readers are waiting already"))),
        }
    }
}

impl<D> Drop for Read<D> {
    fn drop(&mut self) {
        self.0.reads.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests;
