//! Threads for calls that may block.

use crate::mailbox::{Letter, Mailboxes};
use crate::reactors::{AbortOnPanic, Cpus};
use crate::sys;
use crate::transfer::{Step, Transfer};
use lunette_store::{IoId, IoResult, ReactorId};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Something that may block.
pub(crate) enum Work {
    Call(Box<dyn FnOnce() -> IoResult + Send>, IoId),
    Transfer(Transfer),
}

/// A bounded number of threads that start when there is work no idle one can take. Its queue is as long as its users
/// let it become.
pub(crate) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    most_threads: usize,
    mailboxes: Arc<Mailboxes>,
    cpus: Arc<Cpus>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(ReactorId, Work)>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(most_threads: usize, mailboxes: Arc<Mailboxes>, cpus: Arc<Cpus>) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            most_threads: most_threads.max(1),
            mailboxes,
            cpus,
        }
    }

    /// Has `work` done and its result sent to reactor `from`. Returns the work if there is no thread to do it.
    pub(crate) fn submit(self: &Arc<Self>, from: ReactorId, work: Work) -> Result<(), Work> {
        let mut state = self.lock();
        state.queue.push_back((from, work));
        if state.queue.len() > state.idle && state.threads.len() < self.most_threads {
            let pool = Arc::clone(self);
            let spawned = std::thread::Builder::new()
                .name(format!("lunette-pool-{}", state.threads.len()))
                .spawn(move || pool.run());
            match spawned {
                Ok(thread) => state.threads.push(thread),
                Err(error) => {
                    tracing::warn!(%error, "cannot start a thread for blocking calls");
                    if state.threads.is_empty() {
                        let (_, work) = state.queue.pop_back().expect("pushed above");
                        return Err(work);
                    }
                }
            }
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Ends the threads when the queue is empty, and waits for them.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        self.changed.notify_all();
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn run(&self) {
        let _guard = AbortOnPanic;
        // A thread inherits the CPU of the pinned reactor that starts it.
        self.cpus.unpin();
        while let Some((reactor, work)) = self.next() {
            let letter = match work {
                Work::Call(call, id) => Letter::Called(id, call()),
                Work::Transfer(mut transfer) => {
                    let result = carry_out(&mut transfer);
                    Letter::Transferred(transfer, result)
                }
            };
            self.mailboxes.of(reactor).put(letter);
        }
    }

    fn next(&self) -> Option<(ReactorId, Work)> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.queue.pop_front() {
                return Some(next);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
