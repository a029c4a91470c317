//! Work that takes longer than anybody wants to wait.

use crate::events::{EventKind, Events};
use crate::time::{self, Clock};
use crate::{Caller, Failure, Ticket};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most jobs that have not ended.
const OPEN: usize = 256;
/// How many that have ended are remembered, and how many bytes their results may have if there are several.
const ENDED: usize = 256;
const RESULTS: usize = 4 << 20;
/// Longest text of how far a job is, in characters.
const TEXT: usize = 200;

pub(crate) const BEGUN: EventKind =
    EventKind { name: "job.begun", summary: "A job was asked for. Details: `method`, `user`." };
pub(crate) const PROGRESS: EventKind = EventKind {
    name: "job.progress",
    summary: "A job has come further. Details: `progress` from 0 to 1, `text`.",
};
pub(crate) const ENDED_KIND: EventKind = EventKind {
    name: "job.ended",
    summary: "A job has ended. Details: `state` (`done`, `failed` or `cancelled`), `failure` if there is one.",
};

/// How a job is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Others come first.
    Waiting,
    /// It is being done.
    Running,
    /// It was done.
    Done,
    /// It could not be done.
    Failed,
    /// Somebody has cancelled it.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// A job, as it is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct JobStatus {
    /// Its number.
    pub job: u64,
    /// What was asked for.
    pub method: String,
    /// The number of the user who has.
    pub user: u32,
    /// How it is.
    pub state: JobState,
    /// How far it is, from 0 to 1.
    pub progress: f64,
    /// What it is doing.
    pub text: String,
    /// When it was asked for (RFC 3339).
    pub begun: String,
    /// When it ended.
    pub ended: Option<String>,
    /// What came of it. `job.list` leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl JobStatus {
    /// The same without its result, which may be long.
    fn without_result(&self) -> Self {
        Self {
            job: self.job,
            method: self.method.clone(),
            user: self.user,
            state: self.state,
            progress: self.progress,
            text: self.text.clone(),
            begun: self.begun.clone(),
            ended: self.ended.clone(),
            result: None,
            failure: self.failure.clone(),
        }
    }

    fn outcome(&self) -> Result<Value, Failure> {
        self.failure.clone().map_or_else(|| Ok(self.result.clone().unwrap_or_default()), Err)
    }
}

struct Job {
    status: JobStatus,
    /// How many bytes its result has.
    size: usize,
    is_cancelled: Arc<AtomicBool>,
    /// The connection whose end cancels it.
    attached: Option<u64>,
    /// Who waits for its result.
    results: Vec<Ticket>,
    /// Who waits for its status, and the connection of each.
    statuses: Vec<(Option<u64>, Ticket)>,
}

impl Job {
    fn has_ended(&self) -> bool {
        self.status.state.has_ended()
    }
}

/// All jobs.
pub(crate) struct Jobs {
    list: Mutex<List>,
    events: Events,
    clock: Clock,
}

#[derive(Default)]
struct List {
    jobs: BTreeMap<u64, Job>,
    last: u64,
}

impl List {
    fn find(&mut self, number: u64) -> Result<&mut Job, Failure> {
        let job = self.jobs.get_mut(&number);
        job.ok_or_else(|| Failure::not_found(format!("there is no job {number}, or it is forgotten")))
    }

    /// Forgets the oldest of those that have ended, if there are too many or their results are too large, but not the `last`
    /// one that has.
    fn forget(&mut self, last: u64) {
        let (mut count, mut size) = (1, self.jobs.get(&last).map_or(0, |job| job.size));
        let others = self.jobs.iter().rev().filter(|(number, job)| **number != last && job.has_ended());
        let too_many = others.filter(|(_, job)| {
            count += 1;
            size += job.size;
            count > ENDED || size > RESULTS
        });
        let too_many: Vec<u64> = too_many.map(|(number, _)| *number).collect();
        too_many.iter().for_each(|number| drop(self.jobs.remove(number)));
    }
}

/// What is to be told when no lock is held: the same may be told to many.
type Answers = Vec<(Ticket, Arc<Result<Value, Failure>>)>;

impl Jobs {
    pub(crate) fn new(events: Events, clock: Clock) -> Self {
        Self { list: Mutex::default(), events, clock }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new one, which waits. `is_attached`: it is cancelled when its caller's connection ends.
    pub(crate) fn add(&self, method: &str, caller: &Caller, is_attached: bool) -> Result<u64, Failure> {
        let mut list = self.list();
        let open = list.jobs.values().filter(|job| !job.has_ended()).count();
        if open >= OPEN {
            return Err(Failure::busy(format!("there are {open} jobs already")));
        }
        list.last += 1;
        let number = list.last;
        let user = caller.credentials.uid;
        let status = JobStatus {
            job: number,
            method: method.to_owned(),
            user,
            state: JobState::Waiting,
            progress: 0.0,
            text: String::new(),
            begun: time::text((self.clock)()),
            ended: None,
            result: None,
            failure: None,
        };
        let attached = caller.connection.filter(|_| is_attached);
        let (results, statuses) = (Vec::new(), Vec::new());
        let is_cancelled = Arc::default();
        list.jobs.insert(number, Job { status, size: 0, is_cancelled, attached, results, statuses });
        drop(list);
        self.events.emit(BEGUN, number.to_string(), json!({ "method": method, "user": user }));
        Ok(number)
    }

    /// Has `ticket` answered with the job's result when it has ended.
    pub(crate) fn answer_result(&self, number: u64, ticket: Ticket) {
        let mut list = self.list();
        let result = match list.find(number) {
            Ok(job) if !job.has_ended() => return job.results.push(ticket),
            Ok(job) => job.status.outcome(),
            Err(failure) => Err(failure),
        };
        drop(list);
        ticket.answer(result);
    }

    /// Has `ticket` answered with the job's status when it has ended, or when `connection` has.
    pub(crate) fn answer_status(&self, number: u64, connection: Option<u64>, ticket: Ticket) {
        let mut list = self.list();
        let status = match list.find(number) {
            Ok(job) if !job.has_ended() => return job.statuses.push((connection, ticket)),
            Ok(job) => Ok(json!(job.status)),
            Err(failure) => Err(failure),
        };
        drop(list);
        ticket.answer(status);
    }

    /// The job's turn has come; `None`: it was cancelled before.
    pub(crate) fn begin(self: &Arc<Self>, number: u64) -> Option<Work> {
        let mut list = self.list();
        let job = list.find(number).ok().filter(|job| job.status.state == JobState::Waiting)?;
        job.status.state = JobState::Running;
        let is_cancelled = job.is_cancelled.clone();
        drop(list);
        Some(Work::of(Some(Handle { number, is_cancelled, jobs: self.clone() })))
    }

    /// The job has ended.
    pub(crate) fn end(&self, number: u64, outcome: Result<Value, Failure>) {
        let size = outcome.as_ref().map_or(0, |result| result.to_string().len());
        let mut list = self.list();
        let Ok(job) = list.find(number) else { return };
        if !job.has_ended() {
            job.size = size;
        }
        let answers = self.finish(job, outcome);
        list.forget(number);
        drop(list);
        answer(answers);
    }

    fn finish(&self, job: &mut Job, outcome: Result<Value, Failure>) -> Answers {
        if job.has_ended() {
            return Vec::new();
        }
        let status = &mut job.status;
        status.state = match &outcome {
            Ok(_) => JobState::Done,
            Err(failure) if failure.code == Failure::CANCELLED => JobState::Cancelled,
            Err(_) => JobState::Failed,
        };
        if status.state == JobState::Done {
            status.progress = 1.0;
        }
        status.ended = Some(time::text((self.clock)()));
        (status.result, status.failure) = match outcome.clone() {
            Ok(result) => (Some(result), None),
            Err(failure) => (None, Some(failure)),
        };
        let mut details = json!({ "state": status.state });
        if let Some(failure) = &status.failure {
            details["failure"] = json!(failure);
        }
        self.events.emit(ENDED_KIND, status.job.to_string(), details);
        let told = Arc::new(Ok(json!(job.status)));
        let outcome = Arc::new(outcome);
        let results = job.results.drain(..).map(|ticket| (ticket, outcome.clone()));
        let statuses = job.statuses.drain(..).map(|(_, ticket)| (ticket, told.clone()));
        results.chain(statuses).collect()
    }

    /// Asks a job to end: at once if it has not begun, else as soon as it looks.
    pub(crate) fn cancel(&self, number: u64) -> Result<(), Failure> {
        let mut list = self.list();
        let job = list.find(number)?;
        let answers = self.cancel_one(job);
        list.forget(number);
        drop(list);
        answer(answers);
        Ok(())
    }

    fn cancel_one(&self, job: &mut Job) -> Answers {
        job.is_cancelled.store(true, Ordering::Relaxed);
        match job.status.state {
            JobState::Waiting => self.finish(job, Err(Failure::cancelled())),
            _ => Vec::new(),
        }
    }

    /// A connection has ended, or, if it is `None`, the daemon is about to: cancels what depends on it.
    pub(crate) fn cancel_of(&self, connection: Option<u64>) {
        let mut list = self.list();
        let theirs = |job: &&mut Job| connection.is_none() || job.attached == connection;
        let mut answers: Vec<_> =
            list.jobs.values_mut().filter(theirs).flat_map(|job| self.cancel_one(job)).collect();
        // Whoever comes and goes must not leave something with a job that takes long.
        if connection.is_some() {
            for job in list.jobs.values_mut() {
                let gone = job.statuses.extract_if(.., |(of, _)| *of == connection);
                answers.extend(gone.map(|(_, ticket)| (ticket, Arc::new(Err(Failure::cancelled())))));
            }
        }
        drop(list);
        answer(answers);
    }

    /// How many wait for the status of a job.
    #[cfg(test)]
    pub(crate) fn waiting_for(&self, number: u64) -> usize {
        self.list().find(number).map_or(0, |job| job.statuses.len())
    }

    pub(crate) fn status(&self, number: u64) -> Result<JobStatus, Failure> {
        Ok(self.list().find(number)?.status.clone())
    }

    /// All, without their results.
    pub(crate) fn statuses(&self) -> Vec<JobStatus> {
        let list = self.list();
        list.jobs.values().map(|job| job.status.without_result()).collect()
    }

    fn progress(&self, number: u64, part: f64, text: &str) {
        let part = if part.is_nan() { 0.0 } else { part.clamp(0.0, 1.0) };
        let text: String = text.chars().take(TEXT).collect();
        let mut list = self.list();
        let Ok(Job { status, .. }) = list.find(number) else { return };
        // Nobody sees less than one in a hundred.
        let is_news = (status.progress * 100.0).floor() != (part * 100.0).floor() || status.text != text;
        status.progress = part;
        if is_news {
            status.text.clone_from(&text);
            drop(list);
            let details = json!({ "progress": part, "text": text });
            self.events.emit(PROGRESS, number.to_string(), details);
        }
    }
}

fn answer(answers: Answers) {
    answers.into_iter().for_each(|(ticket, outcome)| ticket.answer(Arc::unwrap_or_clone(outcome)));
}

/// What one who works at a job tells and is told.
pub struct Work {
    handle: Option<Handle>,
    is_idle: AtomicBool,
}

struct Handle {
    number: u64,
    is_cancelled: Arc<AtomicBool>,
    jobs: Arc<Jobs>,
}

impl Work {
    /// That of what is no job.
    pub const fn quiet() -> Self {
        Self::of(None)
    }

    const fn of(handle: Option<Handle>) -> Self {
        Self { handle, is_idle: AtomicBool::new(false) }
    }

    /// A method that may change something has found nothing to change: the generation stays.
    pub fn changes_nothing(&self) {
        self.is_idle.store(true, Ordering::Relaxed);
    }

    /// Whether that has been said.
    pub(crate) fn has_changed_nothing(&self) -> bool {
        self.is_idle.load(Ordering::Relaxed)
    }

    /// How much is done, from 0 to 1, and what is being done now.
    pub fn progress(&self, part: f64, text: &str) {
        if let Some(Handle { number, jobs, .. }) = &self.handle {
            jobs.progress(*number, part, text);
        }
    }

    /// To be called between steps after which the work can be left.
    ///
    /// # Errors
    /// When it is to be left, with the answer to give.
    pub fn go_on(&self) -> Result<(), Failure> {
        let is_cancelled =
            self.handle.as_ref().is_some_and(|handle| handle.is_cancelled.load(Ordering::Relaxed));
        if is_cancelled { Err(Failure::cancelled()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::tests::{History, history};
    use crate::ticket::tests::ticket;
    use std::time::UNIX_EPOCH;

    fn jobs() -> (Arc<Jobs>, History) {
        let (events, history) = history();
        (Arc::new(Jobs::new(events, || UNIX_EPOCH)), history)
    }

    fn kinds(history: &mut History) -> Vec<&'static str> {
        history.take_in();
        history.after(0).map(|event| event.kind).collect()
    }

    #[test]
    fn who_waits_is_told_when_it_has_ended() {
        let (jobs, mut history) = jobs();
        let number = jobs.add("a.b", &Caller::own(), false).unwrap();
        assert_eq!(jobs.status(number).unwrap().state, JobState::Waiting);
        let work = jobs.begin(number).unwrap();
        let (result, results) = ticket();
        let (status, statuses) = ticket();
        jobs.answer_result(number, result);
        jobs.answer_status(number, None, status);
        work.progress(0.5, "half");
        work.progress(0.501, "half");
        work.progress(f64::NAN, "what");
        work.progress(7.0, "all");
        assert_eq!((work.go_on(), results.try_recv().is_err()), (Ok(()), true));
        jobs.end(number, Ok(json!(5)));
        assert_eq!(results.recv().unwrap(), Ok(json!(5)));
        let told: JobStatus = serde_json::from_value(statuses.recv().unwrap().unwrap()).unwrap();
        assert_eq!((told.state, told.progress, told.result), (JobState::Done, 1.0, Some(json!(5))));
        assert_eq!(
            kinds(&mut history),
            ["job.begun", "job.progress", "job.progress", "job.progress", "job.ended"]
        );
        let (late, results) = ticket();
        jobs.answer_result(number, late);
        assert_eq!(results.recv().unwrap(), Ok(json!(5)));
        assert_eq!(jobs.statuses()[0].result, None);
        jobs.end(number, Ok(json!(6)));
        assert_eq!(jobs.status(number).unwrap().result, Some(json!(5)), "it ends once");
    }

    #[test]
    fn what_has_not_begun_is_cancelled_at_once_and_other_work_when_it_looks() {
        let (jobs, _history) = jobs();
        let (waits, runs) =
            (jobs.add("a", &Caller::own(), false).unwrap(), jobs.add("b", &Caller::own(), false).unwrap());
        let work = jobs.begin(runs).unwrap();
        let (result, results) = ticket();
        jobs.answer_result(waits, result);
        jobs.cancel(waits).unwrap();
        jobs.cancel(runs).unwrap();
        assert_eq!(results.recv().unwrap(), Err(Failure::cancelled()));
        assert!(jobs.begin(waits).is_none());
        assert_eq!(jobs.status(runs).unwrap().state, JobState::Running);
        let left = work.go_on();
        assert_eq!(left, Err(Failure::cancelled()));
        jobs.end(runs, left.map(|()| Value::Null));
        assert_eq!(jobs.status(runs).unwrap().state, JobState::Cancelled);
        assert_eq!(jobs.cancel(99).unwrap_err().code, Failure::NOT_FOUND);
        assert_eq!(Work::quiet().go_on(), Ok(()));
    }

    #[test]
    fn jobs_may_depend_on_a_connection() {
        let (jobs, _history) = jobs();
        let of = |connection| Caller { connection: Some(connection), ..Caller::own() };
        let mine = jobs.add("a", &of(1), true).unwrap();
        let free = jobs.add("a", &of(1), false).unwrap();
        let other = jobs.add("a", &of(2), true).unwrap();
        let states = || [mine, free, other].map(|number| jobs.status(number).unwrap().state);
        jobs.cancel_of(Some(1));
        assert_eq!(states(), [JobState::Cancelled, JobState::Waiting, JobState::Waiting]);
        jobs.cancel_of(None);
        assert_eq!(states(), [JobState::Cancelled; 3]);
    }

    #[test]
    fn there_is_an_end_to_what_waits_and_what_is_remembered() {
        let (jobs, _history) = jobs();
        let add = || jobs.add("a", &Caller::own(), false);
        (0..OPEN).for_each(|_| assert!(add().is_ok()));
        assert_eq!(add().unwrap_err().code, Failure::BUSY);
        for number in 1..=OPEN as u64 {
            jobs.end(number, Err(Failure::failed("no")));
        }
        let last = add().unwrap();
        jobs.end(last, Ok(Value::Null));
        assert_eq!(jobs.statuses().len(), ENDED);
        assert_eq!(jobs.status(1).unwrap_err().code, Failure::NOT_FOUND);
        assert_eq!(jobs.status(last).unwrap().state, JobState::Done);
    }

    #[test]
    fn large_results_are_remembered_for_a_shorter_time() {
        let (jobs, _history) = jobs();
        let end = |size: usize| {
            let number = jobs.add("a", &Caller::own(), false).unwrap();
            jobs.end(number, Ok(json!("x".repeat(size))));
            number
        };
        let all = [end(RESULTS / 2), end(RESULTS / 3), end(RESULTS / 3)];
        assert_eq!(all.map(|number| jobs.status(number).is_ok()), [false, true, true]);
        let large = end(2 * RESULTS);
        assert!(jobs.status(large).unwrap().result.is_some(), "the last one always is");
        jobs.end(all[2], Ok(Value::Null));
        end(0);
        assert!(jobs.status(large).is_err());
    }
}
