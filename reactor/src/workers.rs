//! Threads for what may block and belongs to no reactor.

use crate::sys;
use crate::threads::{self, ThreadKind};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

type Task = Box<dyn FnOnce() + Send>;

/// A bounded number of threads, which start when there is something to do. The queue is as long as its users let it become.
pub struct Workers {
    shared: Arc<Shared>,
    name: String,
    most: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    threads: usize,
    /// Threads that sleep.
    idle: usize,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        threads::enter(ThreadKind::Worker);
        sys::survive_broken_pipes();
        let mut state = self.state();
        loop {
            if let Some(task) = state.queue.pop_front() {
                drop(state);
                // The message is in the log; whoever waits for the task is told by what it drops.
                let _ = catch_unwind(AssertUnwindSafe(task));
                state = self.state();
            } else if state.closed {
                return;
            } else {
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

impl Workers {
    /// At most so many threads of this name.
    pub fn new(name: impl Into<String>, most: usize) -> Self {
        Self { shared: Arc::default(), name: name.into(), most: most.max(1) }
    }

    /// Has `task` done when a thread is free; drops it if none can be started. A task that panics ends no more than itself.
    /// Not to be called on a reactor, whose CPU a new thread would inherit.
    pub fn run(&self, task: Task) {
        let mut state = self.shared.state();
        state.queue.push_back(task);
        if state.queue.len() <= state.idle || state.threads == self.most {
            self.shared.changed.notify_one();
            return;
        }
        let shared = self.shared.clone();
        match threads::start(self.name.clone(), move || shared.run()) {
            Ok(_) => state.threads += 1,
            Err(error) if state.threads == 0 => {
                tracing::warn!(%error, "cannot start a thread");
                let refused = state.queue.pop_back();
                drop(state);
                drop(refused);
            }
            // Others come to it.
            Err(_) => self.shared.changed.notify_one(),
        }
    }
}

/// What is queued is still done.
impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    #[test]
    fn so_many_work_at_a_time_and_the_others_wait() {
        let workers = Workers::new("test", 2);
        let (tell, told) = channel();
        let together = Arc::new(Barrier::new(2));
        for number in 0..4 {
            let (tell, together) = (tell.clone(), together.clone());
            workers.run(Box::new(move || {
                together.wait();
                tell.send((number, std::thread::current().id())).unwrap();
            }));
        }
        drop(tell);
        drop(workers);
        let all: Vec<_> = told.iter().collect();
        let mut threads: Vec<_> = all.iter().map(|(_, thread)| format!("{thread:?}")).collect();
        threads.sort();
        threads.dedup();
        assert_eq!((all.len(), threads.len()), (4, 2));
    }

    #[test]
    fn a_task_that_panics_ends_nothing_else() {
        let workers = Workers::new("test", 1);
        let (tell, told) = channel();
        let dropped = tell.clone();
        workers.run(Box::new(move || {
            let _dropped = dropped;
            panic!("as it should");
        }));
        workers.run(Box::new(move || tell.send(5).unwrap()));
        assert_eq!(told.iter().collect::<Vec<_>>(), [5]);
    }
}
