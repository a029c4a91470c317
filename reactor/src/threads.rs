//! How threads begin.
//!
//! A thread may have fewer rights than the one that starts another, and a new thread has those of its parent. So one thread that
//! does nothing else starts all others, if the program wants it so, and each first gives up what its kind does not need.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

/// What a thread is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThreadKind {
    /// A reactor, whose kernel interface is open already.
    Reactor,
    /// File operations and calls that block, on behalf of reactors.
    Blocking,
    /// What [`Workers`](crate::Workers) are told to do.
    Worker,
    /// What starts others, when all reactors are there.
    Nursery,
}

/// The first thing that a thread does.
type Enter = fn(ThreadKind);
type Body = Box<dyn FnOnce() + Send>;

enum Order {
    Start { name: String, body: Body, done: Sender<io::Result<JoinHandle<()>>> },
    Settle { enter: Enter, done: Sender<()> },
}

static NURSERY: OnceLock<Nursery> = OnceLock::new();

struct Nursery {
    orders: Sender<Order>,
    enter: Enter,
}

/// From now on one thread starts all others of this crate, with the rights of the caller, and each of them calls `enter` before it
/// does anything for others.
///
/// # Errors
/// When the thread cannot be started, or this was called before.
pub fn confine_threads(enter: fn(ThreadKind)) -> io::Result<()> {
    let (orders, taken) = channel();
    Builder::new().name("lunette-threads".to_owned()).spawn(move || start_all(&taken))?;
    NURSERY.set(Nursery { orders, enter }).map_err(|_| io::ErrorKind::AlreadyExists.into())
}

/// No reactor is started from now on, so the thread that starts others gives up what only reactors need to begin.
pub fn settle_threads() {
    let Some(nursery) = NURSERY.get() else { return };
    let (done, told) = channel();
    if nursery.orders.send(Order::Settle { enter: nursery.enter, done }).is_ok() {
        let _ = told.recv();
    }
}

fn start_all(orders: &Receiver<Order>) {
    for order in orders {
        match order {
            Order::Start { name, body, done } => drop(done.send(Builder::new().name(name).spawn(body))),
            Order::Settle { enter, done } => {
                enter(ThreadKind::Nursery);
                let _ = done.send(());
            }
        }
    }
}

/// Starts a thread. It is to call [`enter`] when it has all that it needs.
pub(crate) fn start(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let Some(nursery) = NURSERY.get() else {
        return Builder::new().name(name).spawn(body);
    };
    let (done, told) = channel();
    let order = Order::Start { name, body: Box::new(body), done };
    nursery.orders.send(order).map_err(|_| io::ErrorKind::BrokenPipe)?;
    told.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

/// The calling thread gives up what its kind does not need.
pub(crate) fn enter(kind: ThreadKind) {
    if let Some(nursery) = NURSERY.get() {
        (nursery.enter)(kind);
    }
}
