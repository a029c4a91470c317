//! A reactor: the event loop, and the context it offers to what runs on it.

use crate::crew::{Crew, Work};
use crate::handover::Handover;
use crate::kernel::{Event, Kernel, Wait};
use crate::lanes::{Lanes, Queue};
use crate::load::{Load, ReactorLoad};
use crate::mailbox::{Letter, Mailboxes};
use crate::sinks::Sinks;
use crate::spin::{Spin, Yields};
use crate::timers::{IdKey, Timers, id_key, sink_keys};
use crate::transfer;
use crate::watches::{Watch, WatchKey, Watches};
use lunette_store::{Cx, FileOp, Interest, IoId, IoResult, Lane, Post, ReactorId, Sink, SinkId, Submit};
use std::any::{Any, TypeId};
use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

/// Most messages in one turn, and the number of completions that ends it.
const BATCH: usize = 64;
/// How often a thread that could not be started is tried again.
const RETRY: Duration = Duration::from_millis(10);
/// What the kernel takes for a time; longer ones would turn negative.
const LONGEST_SLEEP: Duration = Duration::from_secs(1 << 31);

pub(crate) struct Reactor {
    /// Dropped first: it waits for operations on memory that sinks may own.
    kernel: Box<dyn Kernel>,
    id: ReactorId,
    start: Instant,
    now: Duration,
    spin: Spin,
    /// When the last rest ended.
    awake_since: Duration,
    /// What was done until then.
    load: ReactorLoad,
    sinks: Sinks,
    watches: Watches,
    timers: Timers,
    letters: VecDeque<Letter>,
    events: VecDeque<Event>,
    completions: VecDeque<(IoId, IoResult)>,
    deferred: VecDeque<IoId>,
    /// Blocking calls under way.
    calls: usize,
    /// Crews that have calls and no thread, and when to try again to start one.
    stalled: Vec<Arc<Crew>>,
    retry_at: Duration,
    /// File operations that threads carry out.
    handover: Handover,
    closing: bool,
    locals: HashMap<TypeId, Rc<dyn Any>>,
    shared: Arc<Shared>,
}

/// What all reactors of a program share.
pub(crate) struct Shared {
    pub(crate) start: Instant,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) lanes: Lanes,
    /// What each reactor spends its time on.
    pub(crate) loads: Box<[Load]>,
    /// The kernel's numbers of their threads; 0: not there yet.
    pub(crate) threads: Box<[AtomicI32]>,
    /// Most of a reactor's file operations under way in the kernel, and in lanes.
    pub(crate) file_operations: u32,
}

impl Reactor {
    pub(crate) fn new(id: ReactorId, kernel: Box<dyn Kernel>, spin: Spin, shared: Arc<Shared>) -> Self {
        Self {
            kernel,
            id,
            start: shared.start,
            now: shared.start.elapsed(),
            spin,
            awake_since: shared.start.elapsed(),
            load: ReactorLoad::default(),
            sinks: Sinks::default(),
            watches: Watches::default(),
            timers: Timers::default(),
            letters: VecDeque::new(),
            events: VecDeque::with_capacity(BATCH),
            completions: VecDeque::with_capacity(BATCH),
            deferred: VecDeque::with_capacity(BATCH),
            calls: 0,
            stalled: Vec::new(),
            retry_at: Duration::ZERO,
            handover: Handover::new(id, shared.file_operations),
            closing: false,
            locals: HashMap::new(),
            shared,
        }
    }

    /// Runs until the mailbox is closed and every operation has ended.
    pub(crate) fn run(&mut self) {
        while !self.closing {
            if !self.turn() {
                self.rest();
            }
            self.tell_load();
        }
        self.finish();
    }

    /// Tells others what the time was spent on.
    fn tell_load(&self) {
        let busy = self.load.busy + self.now.saturating_sub(self.awake_since);
        if let Some(load) = self.shared.loads.get(usize::from(self.id.0)) {
            load.tell(ReactorLoad { busy, ..self.load });
        }
    }

    /// Does what there is to do, within bounds. Returns whether there was anything.
    fn turn(&mut self) -> bool {
        self.tick();
        self.retry();
        let mut worked = self.read_mail();
        if self.closing {
            return true;
        }
        let mut done = 0;
        while done < BATCH {
            match self.dispatch_events() + self.dispatch_completions() + self.dispatch_timers() {
                0 => break,
                count => done += count,
            }
        }
        worked |= done > 0 || !self.deferred.is_empty();
        for _ in 0..self.deferred.len() {
            if let Some(id) = self.deferred.pop_front() {
                self.deliver(id, Ok(0));
            }
        }
        self.ask_pollers(|sink, cx| sink.poll(cx)) | worked
    }

    fn read_mail(&mut self) -> bool {
        if self.letters.is_empty() {
            self.shared.mailboxes.of(self.id).take(&mut self.letters);
        }
        let mut worked = false;
        for _ in 0..BATCH {
            let Some(letter) = self.letters.pop_front() else {
                break;
            };
            worked = true;
            match letter {
                Letter::Run(message) => message(self),
                Letter::Called(id, result) => {
                    self.calls -= 1;
                    self.deliver(id, result);
                }
                Letter::Transferred(transfer, result) => {
                    let id = self.handover.take_back(transfer);
                    self.deliver(id, result);
                }
                Letter::Close => {
                    self.closing = true;
                    break;
                }
            }
        }
        worked
    }

    fn dispatch_events(&mut self) -> usize {
        self.kernel.collect(Wait::No, &mut self.events);
        let count = self.events.len();
        for _ in 0..count {
            match self.events.pop_front() {
                Some(Event::File(id, result)) => self.deliver(id, result),
                Some(Event::Ready(key)) => self.ready(key),
                Some(Event::Last(key)) => {
                    if let Some(watch) = self.watches.get(key) {
                        self.kernel.arm(key, watch.fd, watch.interest);
                    }
                    self.ready(key);
                }
                Some(Event::Refused(key, error)) => {
                    if let Some(watch) = self.watches.remove(key) {
                        self.deliver(watch.id, Err(error));
                    }
                }
                None => break,
            }
        }
        count
    }

    fn ready(&mut self, key: WatchKey) {
        if let Some(watch) = self.watches.get(key) {
            self.deliver(watch.id, Ok(0));
        }
    }

    /// Delivers what is queued now; what this queues is for the next round, after the timers.
    fn dispatch_completions(&mut self) -> usize {
        let count = self.completions.len();
        for _ in 0..count {
            if let Some((id, result)) = self.completions.pop_front() {
                self.deliver(id, result);
            }
        }
        count
    }

    fn dispatch_timers(&mut self) -> usize {
        let mut count = 0;
        while count < BATCH
            && let Some(id) = self.timers.pop(self.now)
        {
            self.deliver(id, Ok(0));
            count += 1;
        }
        count
    }

    fn deliver(&mut self, id: IoId, result: IoResult) {
        if let Some(sink) = self.sinks.get(id.sink) {
            sink.complete(id.token, result, self);
        }
    }

    fn ask_pollers(&mut self, ask: fn(&dyn Sink, &mut dyn Cx) -> bool) -> bool {
        let mut found = false;
        let mut index = 0;
        while let Some(sink) = self.sinks.poller(index) {
            found |= ask(&*sink, self);
            index += 1;
        }
        found
    }

    /// Spins for a while and then sleeps, until there is something to do.
    fn rest(&mut self) {
        let since = self.now;
        let mut yields = Yields::new();
        let mut worked = false;
        while !worked && self.now - since < self.spin.budget() {
            yields.wait(self.now);
            worked = self.turn();
        }
        self.load.spinning += self.now - since;
        if !worked {
            worked = self.ask_pollers(|sink, cx| sink.before_sleep(cx));
        }
        if !worked {
            self.sleep();
            self.tick();
        }
        let busy = since.saturating_sub(self.awake_since);
        self.load.busy += busy;
        self.spin.learn(self.now - since, busy);
        self.awake_since = self.now;
    }

    fn sleep(&mut self) {
        let queued = !self.completions.is_empty() || !self.deferred.is_empty();
        let wait = match self.timers.next() {
            _ if queued => return,
            None => Wait::Forever,
            Some(at) => match at.checked_sub(self.start.elapsed()) {
                None | Some(Duration::ZERO) => return,
                Some(rest) => Wait::AtMost(rest.min(LONGEST_SLEEP)),
            },
        };
        self.wait(self.limit(wait));
    }

    fn wait(&mut self, wait: Wait) {
        let mailbox = self.shared.mailboxes.of(self.id);
        if mailbox.sleep() {
            self.kernel.collect(wait, &mut self.events);
            mailbox.awake();
        }
    }

    /// Waits for everything that may still touch memory of the sinks. Nobody is told of it any more.
    fn finish(&mut self) {
        self.cancel_range((0, 0), (u32::MAX, u64::MAX));
        loop {
            for letter in self.letters.drain(..) {
                match letter {
                    Letter::Called(..) => self.calls -= 1,
                    Letter::Transferred(transfer, _) => drop(self.handover.take_back(transfer)),
                    Letter::Run(_) | Letter::Close => (),
                }
            }
            self.events.clear();
            if self.calls == 0 && self.handover.is_idle() && !self.kernel.busy() {
                return;
            }
            self.tick();
            self.retry();
            self.wait(self.limit(Wait::Forever));
            self.shared.mailboxes.of(self.id).take(&mut self.letters);
        }
    }

    /// Has a crew make a blocking call. It is never given up, for what it owns may block when it is dropped.
    fn call(&mut self, crew: Arc<Crew>, work: Box<dyn FnOnce() -> IoResult + Send>, id: IoId) {
        self.calls += 1;
        if !crew.accept(self.id, Work::Call(work, id)) {
            self.stalled.push(crew);
            self.retry_at = self.now + RETRY;
        }
    }

    /// Tries to start the threads that were missing.
    fn retry(&mut self) {
        if !self.stalled.is_empty() && self.now >= self.retry_at {
            self.stalled.retain(|crew| !crew.retry());
            self.retry_at = self.now + RETRY;
        }
    }

    /// How long to wait at most for what `wait` waits for.
    fn limit(&self, wait: Wait) -> Wait {
        match wait {
            _ if self.stalled.is_empty() => wait,
            Wait::AtMost(time) => Wait::AtMost(time.min(RETRY)),
            Wait::Forever => Wait::AtMost(RETRY),
            Wait::No => Wait::No,
        }
    }

    fn tick(&mut self) {
        self.now = self.start.elapsed();
    }

    fn cancel_range(&mut self, first: IdKey, last: IdKey) {
        self.timers.cancel(first, last);
        while let Some(key) = self.watches.find(first, last) {
            if let Some(watch) = self.watches.remove(key) {
                self.kernel.disarm(key, watch.fd);
            }
        }
    }
}

impl Cx for Reactor {
    fn reactor(&self) -> ReactorId {
        self.id
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn time(&self) -> Duration {
        self.start.elapsed()
    }

    fn register(&mut self, sink: Rc<dyn Sink>) -> SinkId {
        self.sinks.add(sink)
    }

    fn unregister(&mut self, sink: SinkId) {
        let (first, last) = sink_keys(sink);
        self.cancel_range(first, last);
        self.sinks.remove(sink);
    }

    fn poll_while_awake(&mut self, sink: SinkId, on: bool) {
        self.sinks.set_polled(sink, on);
    }

    fn complete(&mut self, id: IoId, result: IoResult) {
        self.completions.push_back((id, result));
    }

    fn defer(&mut self, id: IoId) {
        self.deferred.push_back(id);
    }

    fn file(&mut self, op: FileOp<'_>, id: IoId) -> Submit {
        if let Some(result) = transfer::settled(&op) {
            return Submit::Done(result);
        }
        let threads = || self.handover.submit(&self.shared.lanes, Queue::of_file(&op), op, id);
        self.kernel.file(op, id).unwrap_or_else(threads)
    }

    fn file_in(&mut self, lane: &Lane, op: FileOp<'_>, id: IoId) -> Submit {
        match transfer::settled(&op) {
            Some(result) => Submit::Done(result),
            None => self.handover.submit(&self.shared.lanes, Queue::of(lane), op, id),
        }
    }

    fn watch(&mut self, fd: RawFd, interest: Interest, id: IoId) {
        if self.sinks.contains(id.sink) {
            let key = self.watches.add(Watch { fd, interest, id });
            self.kernel.arm(key, fd, interest);
        }
    }

    fn timer(&mut self, after: Duration, id: IoId) {
        if self.sinks.contains(id.sink) {
            let at = self.start.elapsed().saturating_add(after);
            self.timers.add(at, id);
        }
    }

    fn cancel(&mut self, id: IoId) {
        self.cancel_range(id_key(id), id_key(id));
    }

    fn blocking(&mut self, work: Box<dyn FnOnce() -> IoResult + Send>, id: IoId) {
        let crew = self.shared.lanes.calls().clone();
        self.call(crew, work, id);
    }

    fn blocking_in(&mut self, lane: &Lane, work: Box<dyn FnOnce() -> IoResult + Send>, id: IoId) {
        let crew = self.shared.lanes.crew(Queue::of(lane));
        self.call(crew, work, id);
    }

    fn poster(&self) -> Arc<dyn Post> {
        self.shared.mailboxes.clone()
    }

    fn local(&self, key: TypeId) -> Option<Rc<dyn Any>> {
        self.locals.get(&key).cloned()
    }

    fn set_local(&mut self, key: TypeId, value: Rc<dyn Any>) {
        self.locals.insert(key, value);
    }
}
