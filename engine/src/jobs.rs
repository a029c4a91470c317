//! Who waits for the end of tasks on other reactors: functions and commands that abort tasks, or need them out of the way.

use crate::engine::{Engine, Token};
use crate::session::{Responder, Session};
use crate::tasks::TaskId;
use lunette_scsi::{ServiceResponse, TaskManagementFunction};
use lunette_store::{Cx, IoId, ReactorId};
use std::collections::HashMap;
use std::rc::Weak;

/// What this reactor waits for.
#[derive(Default)]
pub(crate) struct Jobs {
    next: u32,
    jobs: HashMap<u32, Job>,
}

struct Job {
    /// Reactors that have not acknowledged.
    waiting_for: usize,
    found: bool,
    /// The answer, when it does not depend on any task.
    response: Option<ServiceResponse>,
    asker: Asker,
}

/// Who waits for a job.
pub(crate) enum Asker {
    /// A transport; the function is `None` for the end of a nexus.
    Transport { function: Option<TaskManagementFunction>, cookie: u64, responder: Weak<dyn Responder> },
    /// Work of several steps.
    Steps(IoId),
    /// Who has retired a unit.
    Owner(Box<dyn FnOnce()>),
}

/// A job anywhere in the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JobId {
    pub(crate) reactor: ReactorId,
    pub(crate) job: u32,
}

/// Tasks of this reactor, and work in the background, that jobs wait for. There may be many of both: a guest has a thousand functions in its queue.
#[derive(Default)]
pub(crate) struct Waits {
    next: u32,
    waits: HashMap<u32, Wait>,
    /// By the tokens of tasks and works.
    by_token: HashMap<u64, Vec<u32>>,
}

struct Wait {
    /// How many tasks and works.
    left: usize,
    until: Until,
    over: Over,
}

/// What is due when all is over that a job waits for on a reactor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Over {
    /// It is told.
    pub(crate) job: JobId,
    /// Nothing more is known of this unit.
    pub(crate) retired: Option<u64>,
}

/// What a job waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// The task is over.
    Ended,
    /// Its one operation is.
    Transferred,
    /// The same, and the store has let go of what the task has left behind.
    LetGo,
}

impl Waits {
    /// A job waits for these tasks and works, at least one.
    pub(crate) fn add(&mut self, tokens: &[u64], until: Until, over: Over) {
        self.next = self.next.wrapping_add(1);
        self.waits.insert(self.next, Wait { left: tokens.len(), until, over });
        for token in tokens {
            self.by_token.entry(*token).or_default().push(self.next);
        }
    }

    /// A task or work is over. Whose last one it was.
    fn ended(&mut self, token: u64) -> Vec<Over> {
        let waits = self.by_token.remove(&token).unwrap_or_default();
        waits.into_iter().filter_map(|wait| self.one_less(wait)).collect()
    }

    /// Of a task what some wait for is over. Whose last one it was.
    fn partly_over(&mut self, token: u64, is_over: impl Fn(Until) -> bool) -> Vec<Over> {
        let Some(waits) = self.by_token.get_mut(&token) else { return Vec::new() };
        let is_over = |wait: &mut u32| self.waits.get(wait).is_some_and(|wait| is_over(wait.until));
        let over: Vec<_> = waits.extract_if(.., is_over).collect();
        over.into_iter().filter_map(|wait| self.one_less(wait)).collect()
    }

    fn one_less(&mut self, number: u32) -> Option<Over> {
        let wait = self.waits.get_mut(&number)?;
        wait.left -= 1;
        if wait.left > 0 {
            return None;
        }
        self.waits.remove(&number).map(|wait| wait.over)
    }
}

impl Engine {
    /// A task or work has ended: whoever waits for it may be told.
    pub(crate) fn check_waits(&self, ended: Token, cx: &mut dyn Cx) {
        let mut waits = self.waits.borrow_mut();
        if waits.by_token.is_empty() {
            return;
        }
        let over = waits.ended(ended.encode());
        drop(waits);
        over.into_iter().for_each(|over| self.is_over(over, true, cx));
    }

    /// A task goes on, but its one operation has ended.
    pub(crate) fn check_transfers(&self, task: TaskId, cx: &mut dyn Cx) {
        self.check_part(task, |until| until == Until::Transferred, cx);
    }

    /// A task has ended, but the store has not let go of its read.
    pub(crate) fn check_detached(&self, task: TaskId, cx: &mut dyn Cx) {
        self.check_part(task, |until| until != Until::LetGo, cx);
    }

    fn check_part(&self, task: TaskId, is_over: impl Fn(Until) -> bool, cx: &mut dyn Cx) {
        let over = self.waits.borrow_mut().partly_over(Token::Task(task).encode(), is_over);
        over.into_iter().for_each(|over| self.is_over(over, true, cx));
    }

    /// All that was waited for is over, or there was nothing.
    pub(crate) fn is_over(&self, Over { job, retired }: Over, found: bool, cx: &mut dyn Cx) {
        retired.into_iter().for_each(|unit| self.let_go_of(unit, cx));
        Self::acknowledge(job, found, cx);
    }

    /// All that a job has waited for on this reactor is over, or there was nothing.
    pub(crate) fn acknowledge(job: JobId, found: bool, cx: &mut dyn Cx) {
        Self::post(job.reactor, cx, move |engine, cx| {
            engine.jobs.borrow_mut().acknowledge(job.job, found);
            engine.check_job(job.job, cx);
        });
    }

    /// Answers a function that has to do with no task.
    pub(crate) fn answer(&self, job: u32, response: ServiceResponse, cx: &mut dyn Cx) {
        self.jobs.borrow_mut().answer(job, response);
        self.tell(Token::Job(job), Ok(0), cx);
    }

    pub(crate) fn check_job(&self, job: u32, cx: &mut dyn Cx) {
        let Some((asker, response)) = self.jobs.borrow_mut().take_ended(job) else { return };
        match asker {
            Asker::Transport { responder, cookie, .. } => {
                if let Some(responder) = responder.upgrade() {
                    responder.management_ended(cookie, response, cx);
                }
            }
            Asker::Steps(id) => cx.complete(id, Ok(0)),
            Asker::Owner(done) => done(),
        }
    }
}

impl Jobs {
    pub(crate) fn insert(&mut self, asker: Asker) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.jobs.insert(self.next, Job { waiting_for: 0, found: false, response: None, asker });
        self.next
    }

    pub(crate) fn expect(&mut self, job: u32, acknowledgements: usize) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.waiting_for = acknowledgements;
        }
    }

    fn acknowledge(&mut self, job: u32, found: bool) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.waiting_for -= 1;
            job.found |= found;
        }
    }

    fn answer(&mut self, job: u32, response: ServiceResponse) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.response = Some(response);
        }
    }

    fn take_ended(&mut self, job: u32) -> Option<(Asker, ServiceResponse)> {
        use TaskManagementFunction::{QueryTask, QueryTaskSet};
        if self.jobs.get(&job)?.waiting_for > 0 {
            return None;
        }
        let Job { asker, found, response, .. } = self.jobs.remove(&job)?;
        let response = response.unwrap_or(match asker {
            Asker::Transport { function: Some(QueryTask | QueryTaskSet), .. } if found => {
                ServiceResponse::FunctionSucceeded { additional: [0; 3] }
            }
            _ => ServiceResponse::FunctionComplete,
        });
        Some((asker, response))
    }
}

impl Asker {
    pub(crate) fn of(session: &Session, cookie: u64, function: Option<TaskManagementFunction>) -> Self {
        Self::Transport { function, cookie, responder: session.responder().clone() }
    }
}
