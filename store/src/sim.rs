//! Reactors without a kernel: many of them on one thread, in an order of the caller's choice.
//!
//! For unit tests, fuzzers and seeded simulations. Time stands still until it is moved; operations on files are refused
//! ([`IoError::Unsupported`]) unless [`SimCx::answer_files`] says what they do; blocking work runs at once.

use crate::{
    Cx, FileOp, Interest, IoError, IoId, IoResult, Lane, Message, Post, ReactorId, Sink, SinkId, Submit,
};
use std::any::{Any, TypeId};
use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A set of simulated reactors.
pub struct Sim {
    reactors: Vec<SimCx>,
}

/// One simulated reactor.
pub struct SimCx {
    id: ReactorId,
    now: Duration,
    sinks: Vec<Option<Rc<dyn Sink>>>,
    ready: VecDeque<(IoId, IoResult)>,
    deferred: VecDeque<IoId>,
    timers: Vec<(Duration, IoId)>,
    locals: HashMap<TypeId, Rc<dyn Any>>,
    mail: Arc<Mail>,
    files: Option<Files>,
}

type Files = Box<dyn FnMut(FileOp<'_>) -> Submit>;

#[derive(Default)]
struct Mail {
    boxes: Mutex<HashMap<ReactorId, VecDeque<Message>>>,
}

impl Post for Mail {
    fn post(&self, to: ReactorId, message: Message) {
        self.boxes.lock().unwrap().entry(to).or_default().push_back(message);
    }
}

impl Sim {
    /// `count` reactors, numbered from 0.
    pub fn new(count: u16) -> Self {
        let mail = Arc::<Mail>::default();
        let reactors = (0..count).map(|n| SimCx::new(ReactorId(n), mail.clone())).collect();
        Self { reactors }
    }

    /// Reactor number `index`.
    pub fn cx(&mut self, index: usize) -> &mut SimCx {
        &mut self.reactors[index]
    }

    /// Lets one event of reactor `index` happen: a message, a completion, a due timer or, when nothing else waits, a
    /// deferred call. Returns whether there was one.
    pub fn step(&mut self, index: usize) -> bool {
        self.reactors[index].step()
    }

    /// Lets events happen, round robin, until there are none.
    pub fn settle(&mut self) {
        while (0..self.reactors.len()).fold(false, |any, index| self.step(index) | any) {}
    }

    /// Moves the time of all reactors.
    pub fn advance(&mut self, by: Duration) {
        self.reactors.iter_mut().for_each(|r| r.now += by);
    }
}

impl SimCx {
    fn new(id: ReactorId, mail: Arc<Mail>) -> Self {
        Self {
            id,
            now: Duration::ZERO,
            sinks: Vec::new(),
            ready: VecDeque::new(),
            deferred: VecDeque::new(),
            timers: Vec::new(),
            locals: HashMap::new(),
            mail,
            files: None,
        }
    }

    /// Has operations on files answered by `answer`; one that is `Done` completes later, as on a real reactor.
    pub fn answer_files(&mut self, answer: impl FnMut(FileOp<'_>) -> Submit + 'static) {
        self.files = Some(Box::new(answer));
    }

    fn step(&mut self) -> bool {
        let message = self.mail.boxes.lock().unwrap().get_mut(&self.id).and_then(VecDeque::pop_front);
        if let Some(message) = message {
            message(self);
            return true;
        }
        let next = self
            .ready
            .pop_front()
            .or_else(|| self.due_timer())
            .or_else(|| Some((self.deferred.pop_front()?, Ok(0))));
        let Some((id, result)) = next else {
            return false;
        };
        if let Some(Some(sink)) = self.sinks.get(id.sink.0 as usize).cloned() {
            sink.complete(id.token, result, self);
        }
        true
    }

    fn due_timer(&mut self) -> Option<(IoId, IoResult)> {
        let due = self.timers.iter().position(|(at, _)| *at <= self.now)?;
        Some((self.timers.remove(due).1, Ok(0)))
    }
}

impl Cx for SimCx {
    fn reactor(&self) -> ReactorId {
        self.id
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn register(&mut self, sink: Rc<dyn Sink>) -> SinkId {
        self.sinks.push(Some(sink));
        SinkId(self.sinks.len() as u32 - 1)
    }

    fn unregister(&mut self, sink: SinkId) {
        if let Some(slot) = self.sinks.get_mut(sink.0 as usize) {
            *slot = None;
        }
    }

    fn poll_while_awake(&mut self, _sink: SinkId, _on: bool) {}

    fn complete(&mut self, id: IoId, result: IoResult) {
        self.ready.push_back((id, result));
    }

    fn defer(&mut self, id: IoId) {
        self.deferred.push_back(id);
    }

    fn file(&mut self, op: FileOp<'_>, id: IoId) -> Submit {
        let answer = self.files.as_mut().map(|answer| answer(op));
        match answer.unwrap_or(Submit::Done(Err(IoError::Unsupported))) {
            Submit::Done(result) => {
                self.complete(id, result);
                Submit::Queued
            }
            other => other,
        }
    }

    fn file_in(&mut self, _lane: &Lane, op: FileOp<'_>, id: IoId) -> Submit {
        self.file(op, id)
    }

    fn watch(&mut self, _fd: RawFd, _interest: Interest, _id: IoId) {}

    fn timer(&mut self, after: Duration, id: IoId) {
        self.timers.push((self.now + after, id));
    }

    fn cancel(&mut self, id: IoId) {
        self.timers.retain(|(_, other)| *other != id);
    }

    fn blocking(&mut self, work: Box<dyn FnOnce() -> IoResult + Send>, id: IoId) {
        let result = work();
        self.complete(id, result);
    }

    fn blocking_in(&mut self, _lane: &Lane, work: Box<dyn FnOnce() -> IoResult + Send>, id: IoId) {
        self.blocking(work, id);
    }

    fn poster(&self) -> Arc<dyn Post> {
        self.mail.clone()
    }

    fn local(&self, key: TypeId) -> Option<Rc<dyn Any>> {
        self.locals.get(&key).cloned()
    }

    fn set_local(&mut self, key: TypeId, value: Rc<dyn Any>) {
        self.locals.insert(key, value);
    }
}
