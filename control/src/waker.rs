//! Waking the thread that serves the socket.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that is ready to be read from the first [wake](Self::wake) until it is [heard](Self::hear).
#[derive(Debug)]
pub(crate) struct Waker {
    descriptor: OwnedFd,
    /// Nobody needs to write once more.
    is_awake: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { descriptor, is_awake: AtomicBool::new(false) })
    }

    /// What to wait for.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Never blocks.
    pub(crate) fn wake(&self) {
        if !self.is_awake.swap(true, Ordering::AcqRel) {
            // Only a counter that is full would refuse, and that is ready.
            let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
        }
    }

    /// To be called before looking at what there is to do, so that nothing is missed.
    pub(crate) fn hear(&self) {
        let _ = rustix::io::read(&self.descriptor, &mut [0; 8]);
        self.is_awake.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn it_is_ready_until_it_is_heard() {
        let waker = Waker::new().unwrap();
        let is_ready = || {
            let mut sources = [PollFd::new(waker.descriptor(), PollFlags::IN)];
            poll(&mut sources, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        assert!(!is_ready());
        for _ in 0..2 {
            waker.wake();
            waker.wake();
            assert!(is_ready());
            waker.hear();
            assert!(!is_ready());
        }
    }
}
