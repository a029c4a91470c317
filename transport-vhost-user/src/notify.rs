//! Descriptors that are written to wake the front end, without ever waiting for it.
//!
//! An **eventfd** is [raised](crate::raise) by the kernel. A **pipe** (User-Mode Linux) or a **Unix socket** is written and
//! closed [aside](crate::aside): the front end shares its open file and can make it blocking at any time, and whoever
//! reads a pipe into memory that never comes holds its lock. Anything else is refused.

use crate::aside::{Aside, Foreign};
use crate::raise::Raiser;
use lunette_store::ReactorId;
use rustix::fs::readlink;
use rustix::net::sockopt::socket_domain;
use rustix::net::{AddressFamily, SendFlags, send};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// What a descriptor is, as far as that can be told without asking the file system behind it, which may be the peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Event,
    Pipe,
    Socket,
    /// A file, or something special.
    Other,
}

impl Kind {
    /// Needs `/proc`; everything is [`Other`](Self::Other) without.
    pub(crate) fn of(fd: impl AsFd) -> Self {
        let fd = fd.as_fd();
        // The names of files begin with a slash.
        let name = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()).unwrap_or_default();
        match name.as_bytes() {
            b"anon_inode:[eventfd]" => Self::Event,
            name if name.starts_with(b"pipe:[") => Self::Pipe,
            name if name.starts_with(b"socket:[") && is_unix(fd) => Self::Socket,
            _ => Self::Other,
        }
    }
}

fn is_unix(fd: BorrowedFd<'_>) -> bool {
    socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

/// Why a descriptor cannot be used for notifications.
#[derive(Debug, Error)]
pub(crate) enum NotifierError {
    #[error("a notification descriptor is neither an eventfd nor a pipe nor a Unix socket")]
    Kind,
    #[error("there is no asynchronous I/O to raise eventfds by: {0}")]
    Raiser(#[from] io::Error),
}

/// Wakes the front end.
#[derive(Debug)]
pub(crate) enum Notifier {
    Event(OwnedFd, Arc<Raiser>),
    Stream(Arc<Stream>),
}

impl Notifier {
    /// One that is used on `reactor`.
    pub(crate) fn new(fd: OwnedFd, reactor: ReactorId, aside: &Aside) -> Result<Self, NotifierError> {
        match Kind::of(&fd) {
            Kind::Event => Ok(Self::Event(fd, Raiser::of(reactor)?)),
            kind @ (Kind::Pipe | Kind::Socket) => Ok(Self::Stream(Arc::new(Stream {
                fd: Foreign::new(fd, aside),
                aside: aside.clone(),
                is_socket: kind == Kind::Socket,
                pending: AtomicBool::new(false),
            }))),
            Kind::Other => Err(NotifierError::Kind),
        }
    }

    /// What it notifies by.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Event(fd, _) => fd.as_fd(),
            Self::Stream(stream) => stream.fd.as_fd(),
        }
    }

    /// Notifies. That a counter, pipe or socket is full means that the other side has not looked since the last time.
    pub(crate) fn notify(&self) {
        match self {
            Self::Event(fd, raiser) => raiser.raise(fd.as_fd()),
            Self::Stream(stream) => stream.notify(),
        }
    }
}

/// A pipe or a socket.
#[derive(Debug)]
pub(crate) struct Stream {
    fd: Foreign,
    aside: Aside,
    is_socket: bool,
    /// A byte will be written that was not yet: it notifies of all that comes before.
    pending: AtomicBool,
}

impl Stream {
    fn notify(self: &Arc<Self>) {
        if !self.pending.swap(true, Ordering::SeqCst) {
            let stream = self.clone();
            self.aside.post(move || stream.write());
        }
    }

    fn write(&self) {
        // Before the byte: who finds this still set does so before we write.
        self.pending.swap(false, Ordering::SeqCst);
        let one = 1u64.to_ne_bytes();
        if self.is_socket {
            let _ = send(&self.fd, &one, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        } else {
            // Good for front ends that mean well.
            let _ = rustix::io::ioctl_fionbio(&self.fd, true);
            let _ = rustix::io::write(&self.fd, &one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::Cx;
    use lunette_store::sim::Sim;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{Mode, OFlags, open};
    use std::os::unix::net::UnixStream;

    fn count(event: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(event, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// As a hostile front end would do it behind our back.
    fn make_blocking(fd: &OwnedFd) {
        rustix::io::ioctl_fionbio(fd, false).unwrap();
    }

    fn notifier(fd: OwnedFd, sim: &mut Sim) -> Result<Notifier, NotifierError> {
        let home = ReactorId(0);
        Notifier::new(fd, home, &Aside::new(home, sim.cx(0).poster()))
    }

    fn run(sim: &mut Sim) {
        while sim.step(0) {}
    }

    /// More than the kernel has room for at a time.
    const MANY: usize = 1000;

    #[test]
    fn an_eventfd_counts() {
        let mut sim = Sim::new(1);
        let event = eventfd(0, EventfdFlags::empty()).unwrap();
        let notifier = notifier(event.try_clone().unwrap(), &mut sim).unwrap();
        (0..MANY).for_each(|_| notifier.notify());
        assert_eq!(count(&event), MANY as u64);
    }

    #[test]
    fn a_full_eventfd_does_not_block() {
        let mut sim = Sim::new(1);
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let notifier = notifier(event.try_clone().unwrap(), &mut sim).unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        make_blocking(&event);
        (0..MANY).for_each(|_| notifier.notify());
        assert!(count(&event) >= u64::MAX - 1);
    }

    #[test]
    fn a_pipe_is_written_aside_and_once_for_all() {
        let mut sim = Sim::new(1);
        let (reader, writer) = std::io::pipe().unwrap();
        let notifier = notifier(writer.into(), &mut sim).unwrap();
        (0..MANY).for_each(|_| notifier.notify());
        let reader = OwnedFd::from(reader);
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        assert!(rustix::io::read(&reader, &mut [0; 8]).is_err());
        run(&mut sim);
        assert_eq!(count(&reader), 1);
        assert!(rustix::io::read(&reader, &mut [0; 8]).is_err());
        notifier.notify();
        drop(notifier);
        run(&mut sim);
        assert_eq!(count(&reader), 1);
        assert_eq!(rustix::io::read(&reader, &mut [0; 8]), Ok(0), "closed");
    }

    #[test]
    fn full_pipes_and_sockets_do_not_block() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        for full in [OwnedFd::from(writer), OwnedFd::from(ours)] {
            let mut sim = Sim::new(1);
            let notifier = notifier(full.try_clone().unwrap(), &mut sim).unwrap();
            rustix::io::ioctl_fionbio(&full, true).unwrap();
            while rustix::io::write(&full, &[0; 4096]).is_ok() {}
            make_blocking(&full);
            notifier.notify();
            run(&mut sim);
        }
    }

    #[test]
    fn other_descriptors_are_refused() {
        let mut sim = Sim::new(1);
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        let null = open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        for fd in [file, crate::testing::memfd(8), null] {
            assert!(matches!(notifier(fd, &mut sim), Err(NotifierError::Kind)));
        }
    }
}
