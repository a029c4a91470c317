//! A queue of work that may block, and the threads that do it.

use crate::Poll;
use crate::mailbox::{Letter, Mailboxes};
use crate::reactors::{AbortOnPanic, Cpus};
use crate::spin::Spin;
use crate::sys;
use crate::threads::{self, ThreadKind};
use crate::transfer::{Action, Step, Transfer};
use lunette_store::{IoId, IoResult, ReactorId};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many results are kept back at least while there is more to do, and how long at most: one wake-up for all of them.
const PORTION: usize = 8;
const SOON: Duration = Duration::from_micros(100);

/// Something that may block.
pub(crate) enum Work {
    Call(Box<dyn FnOnce() -> IoResult + Send>, IoId),
    Transfer(Transfer),
}

impl Work {
    /// Whether it hardly ever waits for a device.
    fn is_quick(&self) -> bool {
        matches!(self, Self::Transfer(transfer) if transfer.action == Action::Write { durable: false })
    }
}

/// What the threads of all crews have in common.
pub(crate) struct Company {
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) cpus: Arc<Cpus>,
    pub(crate) poll: Poll,
    /// How long a thread without work lives on.
    pub(crate) idle: Duration,
    /// The last thread could not be started, and that was logged.
    pub(crate) without_threads: AtomicBool,
}

/// A bounded number of threads that start when there is work no idle one can take, and end after a while without. A single
/// thread keeps the order of the work. The queue is as long as its users let it become.
pub(crate) struct Crew {
    name: String,
    most_threads: usize,
    company: Arc<Company>,
    state: Mutex<State>,
    changed: Condvar,
    /// A hint that saves the lock: work is waiting.
    waiting: AtomicBool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    /// Threads that look at the queue next, without a job in hand.
    free: usize,
    /// Threads that sleep and were not called.
    idle: usize,
    /// Threads that were called and have not woken yet.
    called: usize,
    closed: bool,
}

type Job = (ReactorId, Work);

impl Crew {
    pub(crate) fn new(name: String, most_threads: usize, company: Arc<Company>) -> Self {
        Self {
            name,
            most_threads: most_threads.max(1),
            company,
            state: Mutex::default(),
            changed: Condvar::new(),
            waiting: AtomicBool::new(false),
        }
    }

    /// Has `work` done and its result sent to reactor `from`. Returns the work if there is no thread to do it.
    pub(crate) fn submit(self: &Arc<Self>, from: ReactorId, work: Work) -> Result<(), Work> {
        let mut state = self.lock();
        match self.put(&mut state, (from, work)) {
            true => Ok(()),
            false => Err(state.queue.pop_back().expect("put there just now").1),
        }
    }

    /// The same for work that waits for a thread if there is none. Returns whether there is one; if not, the caller is to
    /// [`retry`](Self::retry).
    pub(crate) fn accept(self: &Arc<Self>, from: ReactorId, work: Work) -> bool {
        self.put(&mut self.lock(), (from, work))
    }

    /// Starts a thread if work waits for one. Returns whether none waits any more.
    pub(crate) fn retry(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        state.queue.is_empty() || state.threads > 0 || self.start_thread(&mut state)
    }

    /// Queues a job. Returns whether there is a thread that will come to it.
    fn put(self: &Arc<Self>, state: &mut State, job: Job) -> bool {
        state.queue.push_back(job);
        self.waiting.store(true, Ordering::Release);
        if state.idle > 0 {
            state.idle -= 1;
            state.called += 1;
            self.changed.notify_one();
        } else if state.queue.len() > state.free && state.threads < self.most_threads {
            return self.start_thread(state);
        }
        true
    }

    /// Starts one more thread. Returns whether there is any now.
    fn start_thread(self: &Arc<Self>, state: &mut State) -> bool {
        let crew = Arc::clone(self);
        match threads::start(self.name.clone(), move || crew.run()) {
            Ok(_) => {
                state.threads += 1;
                state.free += 1;
                self.company.without_threads.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                if !self.company.without_threads.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "cannot start threads for calls that block");
                }
            }
        }
        state.threads > 0
    }

    /// Ends the threads when the queue is empty, and waits for them.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.changed.notify_all();
        while state.threads > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self) {
        let _guard = AbortOnPanic;
        threads::enter(ThreadKind::Blocking);
        sys::survive_broken_pipes();
        // A thread inherits the CPU of the pinned reactor that starts it.
        self.company.cpus.unpin();
        let mut spin = self.new_spin();
        let mut jobs = VecDeque::new();
        let mut results = Results::default();
        let mut now = Instant::now();
        loop {
            let since = now;
            self.spin(since, spin.budget());
            if !self.take(&mut jobs) {
                return;
            }
            let began = Instant::now();
            now = self.work_off(&mut jobs, &mut results, began);
            spin.learn(began - since, now - began);
        }
    }

    /// Only the thread of a lane spins, and even that not for ever.
    fn new_spin(&self) -> Spin {
        let poll = match self.company.poll {
            Poll::Adaptive | Poll::Always if self.most_threads == 1 => Poll::Adaptive,
            _ => Poll::Never,
        };
        Spin::new(poll, self.company.cpus.count())
    }

    /// There may be fewer CPUs than threads that spin, so whoever has work goes first.
    fn spin(&self, since: Instant, budget: Duration) {
        while !self.waiting.load(Ordering::Acquire) && since.elapsed() < budget {
            std::thread::yield_now();
        }
    }

    /// Does all `jobs`; returns the time when that was done.
    fn work_off(&self, jobs: &mut VecDeque<Job>, results: &mut Results, began: Instant) -> Instant {
        let mut now = began;
        results.oldest = began;
        while let Some(job) = jobs.pop_front() {
            do_job(job, jobs, &mut results.letters);
            now = Instant::now();
            let next = jobs.front().map(|(_, work)| work);
            if next.is_none() {
                // Said first: whoever hears the result may have the next job.
                self.lock().free += 1;
            }
            let portion = results.letters.len() >= PORTION.max(jobs.len() / 2);
            if portion || now - results.oldest >= SOON || !next.is_some_and(Work::is_quick) {
                results.publish(&self.company.mailboxes, now);
            }
        }
        now
    }

    /// Waits for work, and takes all of it if nobody else can. `false` if this thread is to end.
    fn take(&self, jobs: &mut VecDeque<Job>) -> bool {
        let mut state = self.lock();
        while state.queue.is_empty() {
            if state.closed {
                return self.end(state);
            }
            state.idle += 1;
            let (woken, wait) =
                self.changed.wait_timeout(state, self.company.idle).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            match state.called {
                0 => state.idle -= 1,
                _ => state.called -= 1,
            }
            if wait.timed_out() && state.queue.is_empty() {
                return self.end(state);
            }
        }
        state.free -= 1;
        match self.most_threads {
            1 => std::mem::swap(&mut state.queue, jobs),
            _ => jobs.extend(state.queue.pop_front()),
        }
        self.waiting.store(!state.queue.is_empty(), Ordering::Release);
        true
    }

    fn end(&self, mut state: MutexGuard<'_, State>) -> bool {
        state.threads -= 1;
        state.free -= 1;
        if state.closed {
            self.changed.notify_all();
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has been done and not been told yet.
struct Results {
    letters: VecDeque<(ReactorId, Letter)>,
    /// No earlier than the time when the first of the letters was begun.
    oldest: Instant,
}

impl Default for Results {
    fn default() -> Self {
        Self { letters: VecDeque::new(), oldest: Instant::now() }
    }
}

impl Results {
    fn publish(&mut self, mailboxes: &Mailboxes, now: Instant) {
        while let Some((to, _)) = self.letters.front() {
            let to = *to;
            let run = std::iter::from_fn(|| Some(self.letters.pop_front_if(|(other, _)| *other == to)?.1));
            mailboxes.of(to).put_results(run);
        }
        self.oldest = now;
    }
}

/// Does a job, and all those after it that the same system call answers.
fn do_job((from, work): Job, next: &mut VecDeque<Job>, done: &mut VecDeque<(ReactorId, Letter)>) {
    match work {
        Work::Call(call, id) => done.push_back((from, Letter::Called(id, call()))),
        Work::Transfer(mut transfer) => {
            let result = carry_out(&mut transfer);
            let synced = transfer.synced();
            done.push_back((from, Letter::Transferred(transfer, result)));
            let same = |job: &mut Job| matches!(&job.1, Work::Transfer(other) if synced.is_some() && other.synced() == synced);
            while let Some((from, Work::Transfer(other))) = next.pop_front_if(same) {
                done.push_back((from, Letter::Transferred(other, result)));
            }
        }
    }
}

fn carry_out(transfer: &mut Transfer) -> IoResult {
    loop {
        match transfer.advance(sys::perform(transfer)) {
            Step::Continue => (),
            Step::Retry => std::thread::yield_now(),
            Step::Done(result) => return result,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mailbox::Mailbox;
    use crate::reactors::Cpus;
    use lunette_store::{FileOp, Memory, Sg, SinkId};
    use std::os::fd::AsRawFd;
    use std::sync::mpsc::channel;

    pub(crate) fn company(idle: Duration) -> Arc<Company> {
        let mailboxes = (0..2).map(|_| Mailbox::new().unwrap()).collect();
        Arc::new(Company {
            mailboxes: Arc::new(Mailboxes(mailboxes)),
            cpus: Arc::new(Cpus::allowed()),
            poll: Poll::Adaptive,
            idle,
            without_threads: AtomicBool::new(false),
        })
    }

    fn crew(company: &Arc<Company>, threads: usize) -> Arc<Crew> {
        Arc::new(Crew::new("crew".into(), threads, company.clone()))
    }

    fn id(token: u64) -> IoId {
        IoId { sink: SinkId(0), token }
    }

    fn call(crew: &Arc<Crew>, from: u16, token: u64, call: impl FnOnce() -> IoResult + Send + 'static) {
        assert!(crew.submit(ReactorId(from), Work::Call(Box::new(call), id(token))).is_ok());
    }

    /// The next results for a reactor.
    fn results(company: &Company, of: u16) -> Vec<(u64, IoResult)> {
        let mut letters = VecDeque::new();
        while letters.is_empty() {
            std::thread::yield_now();
            company.mailboxes.of(ReactorId(of)).take(&mut letters);
        }
        let called = |letter| match letter {
            Letter::Called(id, result) => (id.token, result),
            _ => panic!("only calls were made"),
        };
        letters.into_iter().map(called).collect()
    }

    #[test]
    fn who_stalls_holds_up_nobody_else() {
        let company = company(Duration::MAX);
        let [stalled, other] = [1, 1].map(|threads| crew(&company, threads));
        let (release, wait) = channel::<()>();
        call(&stalled, 0, 1, move || wait.recv().map(|()| 1).map_err(|_| lunette_store::IoError::Gone));
        for token in 2..100 {
            call(&other, 0, token, move || Ok(token));
            assert_eq!(results(&company, 0), [(token, Ok(token))]);
        }
        release.send(()).unwrap();
        assert_eq!(results(&company, 0), [(1, Ok(1))]);
        stalled.close();
        other.close();
    }

    #[test]
    fn one_thread_keeps_the_order_and_each_hears_of_its_own() {
        let company = company(Duration::MAX);
        let lane = crew(&company, 1);
        let done = Arc::new(Mutex::new(Vec::new()));
        for token in 0..1000 {
            let done = done.clone();
            call(&lane, token as u16 % 2, token, move || {
                done.lock().unwrap().push(token);
                Ok(0)
            });
        }
        lane.close();
        assert_eq!(*done.lock().unwrap(), (0..1000).collect::<Vec<_>>());
        for of in [0, 1] {
            let tokens: Vec<u64> = results(&company, of as u16).iter().map(|(token, _)| *token).collect();
            assert_eq!(tokens, (of..1000).step_by(2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_thread_without_work_ends_and_another_one_starts() {
        let company = company(Duration::from_millis(1));
        let crew = crew(&company, 2);
        for token in 0..20 {
            call(&crew, 0, token, move || Ok(token));
            assert_eq!(results(&company, 0), [(token, Ok(token))]);
            while crew.lock().threads > 0 {
                std::thread::yield_now();
            }
            let state = crew.lock();
            assert_eq!((state.free, state.idle, state.called), (0, 0, 0));
        }
    }

    #[test]
    fn syncs_in_a_row_are_answered_by_one() {
        let file = tempfile::tempfile().unwrap();
        let other = tempfile::tempfile().unwrap();
        let memory = Memory::zeroed(1);
        let segs = [memory.seg()];
        let sync = |file: &std::fs::File| FileOp::Sync { fd: file.as_raw_fd() };
        let write = FileOp::Write { fd: file.as_raw_fd(), offset: 0, from: Sg::new(&segs), durable: false };
        let ops = [sync(&file), sync(&file), sync(&file), write, sync(&file), sync(&other)];
        let job = |(token, op)| {
            let mut transfer = Transfer::idle();
            transfer.start(op, id(token));
            (ReactorId(0), Work::Transfer(transfer))
        };
        let mut jobs: VecDeque<Job> = (0..).zip(ops).map(job).collect();
        let mut done = VecDeque::new();
        let mut counts = Vec::new();
        while let Some(job) = jobs.pop_front() {
            do_job(job, &mut jobs, &mut done);
            counts.push(done.len());
        }
        assert_eq!(counts, [3, 4, 5, 6]);
        let results = done.iter().map(|(_, letter)| match letter {
            Letter::Transferred(_, result) => *result,
            _ => panic!("only transfers"),
        });
        assert_eq!(results.collect::<Vec<_>>(), [Ok(0), Ok(0), Ok(0), Ok(1), Ok(0), Ok(0)]);
    }
}
