//! What the event loop needs from the kernel: io_uring and epoll both give it.

use crate::watches::WatchKey;
use lunette_store::{FileOp, Interest, IoError, IoId, IoResult, Submit};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

/// How long to wait for an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    No,
    AtMost(Duration),
    Forever,
}

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A file operation has completed.
    File(IoId, IoResult),
    /// A watched descriptor has become ready.
    Ready(WatchKey),
    /// The same, and the watch must be armed again.
    Last(WatchKey),
    /// The descriptor cannot be watched.
    Refused(WatchKey, IoError),
}

pub(crate) trait Kernel {
    /// Starts a file operation that is not settled; also the rest of the contract of [`lunette_store::Cx::file`]. `None` if
    /// the kernel would block.
    fn file(&mut self, op: FileOp<'_>, id: IoId) -> Option<Submit>;

    /// Reports whenever `fd` becomes ready, beginning with now.
    fn arm(&mut self, key: WatchKey, fd: RawFd, interest: Interest);

    /// Ends a watch before its descriptor may be closed. Events that are under way may still be reported.
    fn disarm(&mut self, key: WatchKey, fd: RawFd);

    /// Hands everything to the kernel that was asked for, waits, and appends what has happened to `events`; returns
    /// early when the mailbox's descriptor is written.
    fn collect(&mut self, wait: Wait, events: &mut VecDeque<Event>);

    /// Whether the kernel still works on a file operation or holds a descriptor.
    fn busy(&self) -> bool;
}
