//! Starting and ending the threads.

use crate::core::{Reactor, Shared};
use crate::crew::Company;
use crate::epoll::Epoll;
use crate::kernel::Kernel;
use crate::lanes::Lanes;
use crate::load::{Load, ReactorLoad};
use crate::mailbox::{Letter, Mailbox, Mailboxes};
use crate::spin::Spin;
use crate::threads::{self, ThreadKind};
use crate::uring::Uring;
use crate::{Backend, Error, Io, Options};
use lunette_store::{Cx, Post, ReactorId};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread for blocking work lives on without work.
const IDLE: Duration = Duration::from_secs(10);

/// The running reactors. Dropping the value stops them, as [`Reactors::stop`] does.
pub struct Reactors {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    backend: Backend,
}

impl Reactors {
    /// Starts the threads; they run until they are stopped.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let cpus = Cpus::allowed();
        let count = match options.reactors {
            0 => u16::try_from(cpus.numbers.len()).unwrap_or(u16::MAX),
            count => count,
        };
        let options = Options { pin: options.pin && cpus.are_bound_to(count), ..options.clone() };
        let cpus = Arc::new(cpus);
        let mailboxes = (0..count)
            .map(|reactor| Mailbox::new().map_err(|source| Error::Descriptors { reactor, source }))
            .collect::<Result<_, _>>()?;
        let mailboxes = Arc::new(Mailboxes(mailboxes));
        let company = Company {
            mailboxes: mailboxes.clone(),
            cpus: cpus.clone(),
            poll: options.poll,
            idle: IDLE,
            without_threads: AtomicBool::new(false),
        };
        let shared = Shared {
            start: Instant::now(),
            mailboxes,
            lanes: Lanes::new(options.blocking_threads.into(), company),
            loads: (0..count).map(|_| Load::default()).collect(),
            threads: (0..count).map(|_| AtomicI32::new(0)).collect(),
            file_operations: options.file_operations.max(1),
        };
        let mut reactors = Self { shared: Arc::new(shared), threads: Vec::new(), backend: Backend::IoUring };
        for reactor in 0..count {
            let backend = reactors.start_one(ReactorId(reactor), &options, &cpus)?;
            if reactors.backend == Backend::IoUring {
                reactors.backend = backend;
            }
        }
        Ok(reactors)
    }

    fn start_one(&mut self, id: ReactorId, options: &Options, cpus: &Arc<Cpus>) -> Result<Backend, Error> {
        let (tell, told) = mpsc::channel();
        let (shared, options, cpus) = (self.shared.clone(), options.clone(), cpus.clone());
        let body = move || {
            if options.pin {
                cpus.pin(id);
            }
            if let Some(thread) = shared.threads.get(usize::from(id.0)) {
                thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
            }
            let kernel = match open_kernel(id, &options, &shared) {
                Ok((kernel, backend)) => {
                    threads::enter(ThreadKind::Reactor);
                    let _ = tell.send(Ok(backend));
                    kernel
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let spin = Spin::new(options.poll, cpus.numbers.len());
            let mut reactor = Reactor::new(id, kernel, spin, shared);
            let _guard = AbortOnPanic;
            reactor.run();
        };
        let thread = threads::start(format!("lunette-{}", id.0), body)
            .map_err(|source| Error::Thread { reactor: id.0, source })?;
        self.threads.push(thread);
        told.recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
            .map_err(|source| Error::Descriptors { reactor: id.0, source })
    }

    /// What time it is for all of them ([`Cx::now`]), to be asked on any thread.
    pub fn clock(&self) -> impl Fn() -> Duration + Send + Sync + 'static {
        let start = self.shared.start;
        move || start.elapsed()
    }

    /// A sender of messages to the reactors.
    pub fn poster(&self) -> Arc<dyn Post> {
        self.shared.mailboxes.clone()
    }

    /// Runs `work` on a reactor and waits for its result; `None` if there is no such reactor. Not to be called on a
    /// reactor, which would wait for itself.
    pub fn call<T: Send + 'static>(
        &self,
        on: ReactorId,
        work: impl FnOnce(&mut dyn Cx) -> T + Send + 'static,
    ) -> Option<T> {
        self.ask(on, work).recv().ok()
    }

    /// Runs what `work` gives on all reactors at a time and waits for the results, for `most` at most: `None` for those that
    /// have not come to it by then. They may yet.
    pub fn call_all_within<T: Send + 'static, W>(
        &self,
        most: Duration,
        work: impl Fn() -> W,
    ) -> Vec<Option<T>>
    where
        W: FnOnce(&mut dyn Cx) -> T + Send + 'static,
    {
        let until = Instant::now() + most;
        let answers: Vec<_> = (0..self.count()).map(|reactor| self.ask(ReactorId(reactor), work())).collect();
        let left = || until.saturating_duration_since(Instant::now());
        answers.into_iter().map(|answer| answer.recv_timeout(left()).ok()).collect()
    }

    fn ask<T: Send + 'static>(
        &self,
        on: ReactorId,
        work: impl FnOnce(&mut dyn Cx) -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (tell, told) = mpsc::channel();
        let message = move |cx: &mut dyn Cx| {
            let _ = tell.send(work(cx));
        };
        self.shared.mailboxes.post(on, Box::new(message));
        told
    }

    /// How many reactors there are.
    pub fn count(&self) -> u16 {
        self.shared.mailboxes.0.len() as u16
    }

    /// What each reactor has spent its time on, by its number.
    pub fn loads(&self) -> Vec<ReactorLoad> {
        self.shared.loads.iter().map(Load::told).collect()
    }

    /// The kernel's number of a reactor's thread.
    pub(crate) fn thread_number(&self, reactor: ReactorId) -> Option<i32> {
        let number = self.shared.threads.get(usize::from(reactor.0))?.load(Ordering::Relaxed);
        Some(number).filter(|number| *number != 0)
    }

    /// The kernel interface in use; epoll if at least one reactor has to use it.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Ends the reactors and waits for their threads. Messages posted before are still carried out, later ones dropped.
    /// File operations and blocking calls under way are waited for, without telling anyone. Not to be called on a
    /// reactor.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Reactors {
    fn drop(&mut self) {
        for mailbox in &self.shared.mailboxes.0 {
            mailbox.put(Letter::Close);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.shared.lanes.close();
    }
}

fn open_kernel(id: ReactorId, options: &Options, shared: &Shared) -> io::Result<(Box<dyn Kernel>, Backend)> {
    let wake = shared.mailboxes.of(id).wake_fd();
    let refused = match options.io {
        Io::Epoll => None,
        Io::Auto => match Uring::new(wake, shared.file_operations) {
            Ok(uring) => return Ok((Box::new(uring), Backend::IoUring)),
            Err(refused) => Some(refused),
        },
    };
    Ok((Box::new(Epoll::new(wake)?), Backend::Epoll { refused }))
}

/// The CPUs this process may use.
pub(crate) struct Cpus {
    numbers: Vec<usize>,
}

impl Cpus {
    pub(crate) fn allowed() -> Self {
        let numbers = match sched_getaffinity(None) {
            Ok(set) => (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
            Err(_) => vec![0],
        };
        Self { numbers }
    }

    /// Whether so many reactors are each bound to one. Fewer than there are CPUs are left to the scheduler: it knows who else
    /// is where. A single CPU needs no binding.
    fn are_bound_to(&self, reactors: u16) -> bool {
        self.numbers.len() > 1 && usize::from(reactors) >= self.numbers.len()
    }

    fn pin(&self, id: ReactorId) {
        let cpu = self.numbers[usize::from(id.0) % self.numbers.len()];
        let mut set = CpuSet::new();
        set.set(cpu);
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::warn!(%error, cpu, reactor = id.0, "cannot pin the reactor");
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.numbers.len()
    }

    /// Lets the calling thread, which may block, use all of them.
    pub(crate) fn unpin(&self) {
        let mut set = CpuSet::new();
        self.numbers.iter().for_each(|cpu| set.set(*cpu));
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::warn!(%error, "cannot choose the CPUs of a thread");
        }
    }
}

/// A thread of ours that panics would leave tasks without an answer for ever, so it takes the process with it.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            tracing::error!(thread = thread.name(), "panic on a reactor's thread: aborting");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reactors_are_bound_if_there_is_one_for_each_of_several_cpus() {
        let bound = |cpus, reactors| Cpus { numbers: (0..cpus).collect() }.are_bound_to(reactors);
        assert!(bound(4, 4) && bound(4, 5));
        assert!(!bound(4, 1) && !bound(4, 3) && !bound(1, 1) && !bound(1, 2));
    }
}
