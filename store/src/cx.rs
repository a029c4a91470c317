//! The context in which everything on a reactor runs: kernel I/O, timers, messages to other reactors.
//!
//! Nothing above the reactor makes a blocking call, starts a thread or reads a clock: it asks its [`Cx`]. Results come back
//! to a [`Sink`], never while the caller is still running, so a sink may hold its own state borrowed while it calls a `Cx`.

use crate::{IoError, IoResult, Sg, Submit};
use std::any::{Any, TypeId};
use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Which reactor of the program, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ReactorId(pub u16);

/// A registered [`Sink`] of one reactor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SinkId(pub u32);

/// To whom a completion goes, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IoId {
    /// Who is told.
    pub sink: SinkId,
    /// What the sink knows the operation by; any value.
    pub token: u64,
}

/// Takes completions.
pub trait Sink {
    /// The operation `token` has completed, its timer has fired, or its descriptor has become ready.
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx);

    /// Looks for work that arrives without an event (an avail ring in guest memory). Returns whether there was some.
    /// Called for sinks that asked for it by [`Cx::poll_while_awake`], while the reactor spins.
    fn poll(&self, cx: &mut dyn Cx) -> bool {
        let _ = cx;
        false
    }

    /// Called for the same sinks when the reactor is about to sleep: arrange to be woken (enable notifications), then look
    /// once more. Returns whether there was work after all.
    fn before_sleep(&self, cx: &mut dyn Cx) -> bool {
        let _ = cx;
        false
    }
}

/// An operation on a file descriptor that the reactor carries out to the end: short transfers are continued.
#[derive(Clone, Copy, Debug)]
pub enum FileOp<'a> {
    /// Read from `offset`; [`IoError::Short`] at the end of the file.
    Read {
        /// The file.
        fd: RawFd,
        /// First byte.
        offset: u64,
        /// Where the bytes go.
        to: Sg<'a>,
    },
    /// Write at `offset`.
    Write {
        /// The file.
        fd: RawFd,
        /// First byte.
        offset: u64,
        /// Where the bytes come from.
        from: Sg<'a>,
        /// With `RWF_DSYNC`.
        durable: bool,
    },
    /// `fdatasync`.
    Sync {
        /// The file.
        fd: RawFd,
    },
    /// `fallocate`.
    Allocate {
        /// The file.
        fd: RawFd,
        /// `FALLOC_FL_*` bits.
        mode: i32,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

/// A queue for operations, of one file mostly, that occupy a thread as long as they last.
///
/// Operations of a lane are carried out one after the other, in the order of submission, or several at a time if the lane is
/// [wide](Lane::wide). No lane waits for another or shares a thread with one. Threads start when the lane is used and end when
/// it no longer is. The value names the lane, and is the same lane on every reactor of the program.
#[derive(PartialEq, Eq, Debug)]
pub struct Lane {
    number: u32,
    wide: bool,
}

/// Numbers of lanes that have been given back. The lowest free number is used first, so numbers stay dense.
static LANES: Mutex<(u32, BTreeSet<u32>)> = Mutex::new((0, BTreeSet::new()));

impl Lane {
    /// A lane that nothing else uses.
    pub fn new() -> Self {
        Self { number: take_number(), wide: false }
    }

    /// A lane that nothing else uses, for several operations at a time, in any order.
    pub fn wide() -> Self {
        Self { number: take_number(), wide: true }
    }

    /// The smallest number, from 0, that no other lane had when this one was made.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Whether several operations are carried out at a time.
    pub const fn is_wide(&self) -> bool {
        self.wide
    }
}

fn take_number() -> u32 {
    let mut lanes = LANES.lock().unwrap_or_else(PoisonError::into_inner);
    let (end, free) = &mut *lanes;
    free.pop_first().unwrap_or_else(|| {
        *end += 1;
        *end - 1
    })
}

impl Default for Lane {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        LANES.lock().unwrap_or_else(PoisonError::into_inner).1.insert(self.number);
    }
}

/// What to wait for on a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// Bytes, a connection or the peer's end.
    Readable,
    /// Room to write.
    Writable,
}

/// Work for another reactor, or for this one at its next turn.
pub type Message = Box<dyn FnOnce(&mut dyn Cx) + Send>;

/// Sends work to reactors; usable on every thread.
pub trait Post: Send + Sync {
    /// Runs `message` on reactor `to`, soon. A reactor that has ended drops it.
    ///
    /// Messages are in causal order: those of one thread arrive in the order of posting, and if A posts to C and then to B,
    /// and B upon that posts to C, then C gets A's message first.
    fn post(&self, to: ReactorId, message: Message);
}

/// What a reactor offers to the code that runs on it.
pub trait Cx {
    /// This reactor.
    fn reactor(&self) -> ReactorId;

    /// Time since the program's start, when this turn of the reactor began; does not go back.
    fn now(&self) -> Duration;

    /// The same as it is by now: a look at the clock.
    fn time(&self) -> Duration {
        self.now()
    }

    /// Adds a receiver of completions.
    fn register(&mut self, sink: Rc<dyn Sink>) -> SinkId;

    /// Removes a receiver and ends its watches and timers; completions that are still on their way to it are dropped, and
    /// its id is not given to another.
    fn unregister(&mut self, sink: SinkId);

    /// Has [`Sink::poll`] and [`Sink::before_sleep`] called from now on, or no more.
    fn poll_while_awake(&mut self, sink: SinkId, on: bool);

    /// Delivers a completion, after the caller has returned.
    fn complete(&mut self, id: IoId, result: IoResult);

    /// Delivers `Ok(0)` at the end of this turn, when no other completion is waiting or a bounded number has been
    /// delivered: the moment to publish a batch.
    fn defer(&mut self, id: IoId);

    /// Starts an operation on a file. The descriptor stays open and the bytes of the list stay mapped until it completes;
    /// the list itself may go.
    fn file(&mut self, op: FileOp<'_>, id: IoId) -> Submit;

    /// Like [`file`](Cx::file), for what the kernel can only do by blocking a thread: a thread of `lane` does it, and an
    /// operation that takes long holds up its own lane at most. Syncs that wait in a row may be answered by one. `Full` also
    /// when this lane has as many operations under way as it leaves room for: one that stalls must not take all.
    fn file_in(&mut self, lane: &Lane, op: FileOp<'_>, id: IoId) -> Submit;

    /// Tells `id` (with `Ok(0)`) whenever `fd` has *become* ready, beginning with now if it is: edge-triggered, until
    /// [`Cx::cancel`]. The watcher reads or writes until the descriptor would block, and bears being told once too often.
    /// An error is told once and ends the watch (`EPERM` for what is always ready, such as files).
    fn watch(&mut self, fd: RawFd, interest: Interest, id: IoId);

    /// Tells `id` (with `Ok(0)`) once, after `after`.
    fn timer(&mut self, after: Duration, id: IoId);

    /// Ends every watch and timer that `id` was given to; it hears nothing more of them, and their descriptors may be
    /// closed. File operations go on.
    fn cancel(&mut self, id: IoId);

    /// Runs a call that may block on a thread of a bounded pool.
    fn blocking(&mut self, work: Box<dyn FnOnce() -> IoResult + Send>, id: IoId);

    /// Runs a call that may block on a thread of `lane`, in its turn.
    fn blocking_in(&mut self, lane: &Lane, work: Box<dyn FnOnce() -> IoResult + Send>, id: IoId);

    /// A sender of messages to reactors.
    fn poster(&self) -> Arc<dyn Post>;

    /// What [`set_local`](Cx::set_local) has kept under this type; see [`local`].
    fn local(&self, key: TypeId) -> Option<Rc<dyn Any>>;

    /// Keeps one value of the type `key` for everything on this reactor.
    fn set_local(&mut self, key: TypeId, value: Rc<dyn Any>);
}

/// The value of type `T` that is kept on this reactor, made by `make` when there is none yet.
pub fn local_or_insert<T: 'static>(cx: &mut dyn Cx, make: impl FnOnce(&mut dyn Cx) -> Rc<T>) -> Rc<T> {
    if let Some(found) = local(cx) {
        return found;
    }
    let made = make(cx);
    cx.set_local(TypeId::of::<T>(), made.clone());
    made
}

/// The value of type `T` that is kept on this reactor.
pub fn local<T: 'static>(cx: &dyn Cx) -> Option<Rc<T>> {
    cx.local(TypeId::of::<T>()).and_then(|any| any.downcast().ok())
}

impl Submit {
    /// The result, with `Full` turned into [`IoError::Busy`]; for callers that keep no queue of their own.
    pub fn done(self) -> Option<IoResult> {
        match self {
            Submit::Done(result) => Some(result),
            Submit::Queued => None,
            Submit::Full => Some(Err(IoError::Busy)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lane;

    #[test]
    fn lanes_differ_and_their_numbers_are_used_again() {
        let [first, second, third] = [(); 3].map(|()| Lane::new());
        assert!(first != second && second != third && first != third);
        let number = second.number();
        drop(second);
        // Other tests may have lanes as well.
        let others: Vec<Lane> = (0..100).map(|_| Lane::new()).collect();
        assert!(others.iter().any(|lane| lane.number() == number));
    }
}
