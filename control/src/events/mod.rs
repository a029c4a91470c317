//! What has happened: told from any thread, numbered, kept for a while, and sent to those who want to know.

mod history;
mod subscription;

pub(crate) use history::{Event, History};
pub(crate) use subscription::{Filter, Subscriptions};

use crate::time::Clock;
use crate::waker::Waker;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

/// A kind of event, as it is documented: `object.what`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventKind {
    /// Such as `session.begun`.
    pub name: &'static str,
    /// What has happened, and what the details say.
    pub summary: &'static str,
}

impl EventKind {
    /// The type of the object that it happens to.
    pub fn of_type(&self) -> &'static str {
        self.name.split('.').next().unwrap_or_default()
    }
}

/// Events that were missed, because whoever listens was slow or too many came at once.
pub(crate) const MISSED: EventKind = EventKind {
    name: "events.missed",
    summary: "So many events before this one were not sent, as they came faster than they were read; not only of the kinds asked for. Details: `count`.",
};

/// Most events that wait to be numbered.
const WAITING: usize = 1024;

/// Tells what happens. Never blocks, so it may be used on a reactor and while locks are held: what there is no room for is
/// counted.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    sender: SyncSender<Draft>,
    missed: AtomicU64,
    waker: Arc<Waker>,
    clock: Clock,
}

/// An event without a number.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) time: SystemTime,
    pub(crate) kind: &'static str,
    pub(crate) object: String,
    pub(crate) details: Value,
}

/// Where events arrive.
pub(crate) struct Inbox {
    receiver: Receiver<Draft>,
    shared: Arc<Shared>,
}

impl Events {
    pub(crate) fn new(waker: Arc<Waker>, clock: Clock) -> (Self, Inbox) {
        let (sender, receiver) = sync_channel(WAITING);
        let shared = Arc::new(Shared { sender, missed: AtomicU64::new(0), waker, clock });
        (Self(shared.clone()), Inbox { receiver, shared })
    }

    /// Tells that something has happened to `object`, the name that it has among those of its type.
    pub fn emit(&self, kind: EventKind, object: impl Into<String>, details: Value) {
        let draft = Draft { time: (self.0.clock)(), kind: kind.name, object: object.into(), details };
        if self.0.sender.try_send(draft).is_err() {
            self.0.missed.fetch_add(1, Ordering::Relaxed);
        }
        self.0.waker.wake();
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Inbox {
    fn next(&self) -> Option<Draft> {
        self.receiver.try_recv().ok()
    }

    /// How many there was no room for since this was asked last.
    fn missed(&self) -> u64 {
        self.shared.missed.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::History;
    pub(crate) use super::history::tests::history;
}
