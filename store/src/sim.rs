//! Reactors without a kernel: many of them on one thread, in an order of the caller's choice.
//!
//! For unit tests, fuzzers and seeded simulations. Time stands still until it is moved; operations on files are refused
//! ([`IoError::Unsupported`]) unless [`SimCx::answer_files`] says what they do; descriptors are never ready unless
//! somebody [watches](SimCx::watch_by) them; blocking work runs at once.

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
    /// The lane of each file operation, if it was given one, and of each call in a lane.
    lanes: Vec<Option<u32>>,
    watcher: Option<Watcher>,
    /// Those that look for work while their reactor is awake.
    pollers: Vec<SinkId>,
}

type Watcher = Box<dyn FnMut(IoId, Option<(RawFd, Interest)>)>;
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

    /// What reactor `index` does when there are no events: the sinks that asked for it look for work and, if there was none,
    /// prepare for sleep. Returns whether there was work after all.
    pub fn idle(&mut self, index: usize) -> bool {
        self.reactors[index].idle()
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
            lanes: Vec::new(),
            watcher: None,
            pollers: Vec::new(),
        }
    }

    /// Whom the timers tell that are set, in the order in which they were.
    pub fn timers(&self) -> impl Iterator<Item = IoId> {
        self.timers.iter().map(|(_, id)| *id)
    }

    /// Has operations on files answered by `answer`; one that is `Done` completes later, as on a real reactor.
    pub fn answer_files(&mut self, answer: impl FnMut(FileOp<'_>) -> Submit + 'static) {
        self.files = Some(Box::new(answer));
    }

    /// The numbers of the lanes that were used since this was asked last; `None`: a file operation in no lane.
    pub fn take_lanes(&mut self) -> Vec<Option<u32>> {
        std::mem::take(&mut self.lanes)
    }

    /// What the kernel answers to an operation on a file.
    fn answer(&mut self, op: FileOp<'_>, id: IoId) -> Submit {
        let answer = self.files.as_mut().map(|answer| answer(op));
        match answer.unwrap_or(Submit::Done(Err(IoError::Unsupported))) {
            Submit::Done(result) => {
                self.complete(id, result);
                Submit::Queued
            }
            other => other,
        }
    }

    /// Tells `watcher` of each descriptor that is to be watched for an id, and with `None` that one is not any more (which
    /// may never have been). When it is ready, [`Cx::complete`] says so.
    pub fn watch_by(&mut self, watcher: impl FnMut(IoId, Option<(RawFd, Interest)>) + 'static) {
        self.watcher = Some(Box::new(watcher));
    }

    fn idle(&mut self) -> bool {
        self.ask_pollers(|sink, cx| sink.poll(cx)) || self.ask_pollers(|sink, cx| sink.before_sleep(cx))
    }

    fn ask_pollers(&mut self, ask: impl Fn(&dyn Sink, &mut Self) -> bool) -> bool {
        let sinks: Vec<_> =
            self.pollers.iter().filter_map(|id| self.sinks.get(id.0 as usize).cloned().flatten()).collect();
        sinks.iter().fold(false, |any, sink| ask(&**sink, self) | any)
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
        self.pollers.retain(|other| *other != sink);
    }

    fn poll_while_awake(&mut self, sink: SinkId, on: bool) {
        self.pollers.retain(|other| *other != sink);
        if on {
            self.pollers.push(sink);
        }
    }

    fn complete(&mut self, id: IoId, result: IoResult) {
        self.ready.push_back((id, result));
    }

    fn defer(&mut self, id: IoId) {
        self.deferred.push_back(id);
    }

    fn file(&mut self, op: FileOp<'_>, id: IoId) -> Submit {
        self.lanes.push(None);
        self.answer(op, id)
    }

    fn file_in(&mut self, lane: &Lane, op: FileOp<'_>, id: IoId) -> Submit {
        self.lanes.push(Some(lane.number()));
        self.answer(op, id)
    }

    fn watch(&mut self, fd: RawFd, interest: Interest, id: IoId) {
        if let Some(watcher) = &mut self.watcher {
            watcher(id, Some((fd, interest)));
        }
    }

    fn timer(&mut self, after: Duration, id: IoId) {
        self.timers.push((self.now + after, id));
    }

    fn cancel(&mut self, id: IoId) {
        self.timers.retain(|(_, other)| *other != id);
        if let Some(watcher) = &mut self.watcher {
            watcher(id, None);
        }
    }

    fn blocking(&mut self, work: Box<dyn FnOnce() -> IoResult + Send>, id: IoId) {
        let result = work();
        self.complete(id, result);
    }

    fn blocking_in(&mut self, lane: &Lane, work: Box<dyn FnOnce() -> IoResult + Send>, id: IoId) {
        self.lanes.push(Some(lane.number()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// Has work for a number of looks.
    struct Looks(Cell<u32>, Cell<u32>);

    impl Sink for Looks {
        fn complete(&self, _: u64, _: IoResult, _: &mut dyn Cx) {}

        fn poll(&self, _: &mut dyn Cx) -> bool {
            let left = self.0.get();
            self.0.set(left.saturating_sub(1));
            left > 0
        }

        fn before_sleep(&self, _: &mut dyn Cx) -> bool {
            self.1.set(self.1.get() + 1);
            false
        }
    }

    #[test]
    fn an_idle_reactor_asks_those_that_poll() {
        let mut sim = Sim::new(1);
        let sink = Rc::new(Looks(Cell::new(2), Cell::new(0)));
        let id = sim.cx(0).register(sink.clone());
        assert!(!sim.idle(0), "nobody has asked to be called");
        sim.cx(0).poll_while_awake(id, true);
        assert_eq!([sim.idle(0), sim.idle(0), sim.idle(0)], [true, true, false]);
        assert_eq!(sink.1.get(), 1, "it sleeps when there was no work");
        sim.cx(0).poll_while_awake(id, false);
        sink.0.set(1);
        assert!(!sim.idle(0));
    }

    #[test]
    fn timers_are_there_until_they_are_due() {
        let mut sim = Sim::new(1);
        let id = |token| IoId { sink: SinkId(3), token };
        (1..=3).for_each(|token| sim.cx(0).timer(Duration::from_secs(token), id(token)));
        sim.cx(0).cancel(id(2));
        assert!(sim.cx(0).timers().eq([id(1), id(3)]));
        sim.advance(Duration::from_secs(1));
        sim.settle();
        assert!(sim.cx(0).timers().eq([id(3)]));
    }

    #[test]
    fn watches_are_told() {
        let told = Rc::<RefCell<Vec<_>>>::default();
        let mut sim = Sim::new(1);
        let id = IoId { sink: SinkId(3), token: 4 };
        let tell = told.clone();
        sim.cx(0).watch_by(move |id, watch| tell.borrow_mut().push((id, watch)));
        sim.cx(0).watch(7, Interest::Readable, id);
        sim.cx(0).cancel(id);
        assert_eq!(*told.borrow(), [(id, Some((7, Interest::Readable))), (id, None)]);
    }
}
