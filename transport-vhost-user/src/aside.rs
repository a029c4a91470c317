//! What a front end can make take for ever, done where nobody but its own export waits for it.
//!
//! Front ends hand over descriptors that others serve: to open, write or map one, even to close it, may wait for them. A
//! lane does one thing after the other. So a front end whose further messages wait their turn in it leaves no more
//! behind than it has brought.

use lunette_store::{Cx, IoId, IoResult, Lane, Post, ReactorId, SinkId};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// An export's lane.
#[derive(Clone)]
pub(crate) struct Aside {
    lane: Arc<Lane>,
    home: ReactorId,
    poster: Arc<dyn Post>,
}

/// Who hears of what nobody waits for.
const NOBODY: IoId = IoId { sink: SinkId(u32::MAX), token: 0 };

impl fmt::Debug for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lane.fmt(f)
    }
}

impl Aside {
    pub(crate) fn new(home: ReactorId, poster: Arc<dyn Post>) -> Self {
        Self { lane: Arc::new(Lane::new()), home, poster }
    }

    /// Has `work` done and `id` told.
    pub(crate) fn run(&self, work: impl FnOnce() -> IoResult + Send + 'static, id: IoId, cx: &mut dyn Cx) {
        // A lane that is still at work is not given back, for others to wait in.
        let lane = self.lane.clone();
        let work = move || {
            let _lane = lane;
            work()
        };
        cx.blocking_in(&self.lane, Box::new(work), id);
    }

    /// Has `work` done; usable on every thread.
    pub(crate) fn post(&self, work: impl FnOnce() + Send + 'static) {
        let aside = self.clone();
        let work = move || {
            work();
            Ok(0)
        };
        self.poster.post(self.home, Box::new(move |cx| aside.run(work, NOBODY, cx)));
    }
}

/// A descriptor that the front end has a hand in: it is closed aside.
#[derive(Debug)]
pub(crate) struct Foreign {
    fd: Option<OwnedFd>,
    aside: Aside,
}

impl Foreign {
    pub(crate) fn new(fd: OwnedFd, aside: &Aside) -> Self {
        Self { fd: Some(fd), aside: aside.clone() }
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("there until it is dropped").as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let fd = self.fd.take();
        self.aside.post(move || drop(fd));
    }
}
