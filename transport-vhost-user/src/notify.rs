//! Descriptors that are written to wake the front end, without ever waiting for it.
//!
//! The front end shares the open file of every descriptor that it hands over: it can fill an eventfd or a pipe and make it
//! blocking again at any time, so that O_NONBLOCK promises nothing. What cannot block, whatever it does:
//!
//! * an **eventfd** is raised by the kernel itself when an operation ends that was told to: a full counter stays full.
//!   (write(2) has no flag for it, and io_uring's write asks for O_NONBLOCK once and then waits.) Asynchronous I/O can do
//!   that for any eventfd (`IOCB_FLAG_RESFD`), an io_uring for one and in half the time, so an eventfd that is raised
//!   often gets a ring of its own;
//! * a **pipe** is opened anew, and that open file is ours alone;
//! * a **socket** takes `MSG_DONTWAIT` with each call.
//!
//! Anything else is refused.

use io_uring::{IoUring, opcode};
use rustix::fs::{Mode, OFlags, open, readlink};
use rustix::net::sockopt::socket_domain;
use rustix::net::{AddressFamily, SendFlags, send};
use std::ffi::{c_long, c_ulong};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
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
    pub(crate) fn of(fd: impl AsFd) -> Self {
        let fd = fd.as_fd();
        // The names of files begin with a slash.
        let name = readlink(path(fd), Vec::new()).unwrap_or_default();
        match name.as_bytes() {
            b"anon_inode:[eventfd]" => Self::Event,
            name if name.starts_with(b"pipe:[") => Self::Pipe,
            // Closing any other socket may wait for its peer.
            name if name.starts_with(b"socket:[") && is_unix(fd) => Self::Socket,
            _ => Self::Other,
        }
    }
}

fn is_unix(fd: BorrowedFd<'_>) -> bool {
    socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

fn path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Why a descriptor cannot be used for notifications.
#[derive(Debug, Error)]
pub(crate) enum NotifierError {
    #[error("a notification descriptor is neither an eventfd nor a pipe nor a Unix socket")]
    Kind,
    #[error("a pipe for notifications cannot be opened anew: {0}")]
    Pipe(io::Error),
}

/// Wakes the front end.
#[derive(Debug)]
pub(crate) enum Notifier {
    Event(Event),
    /// An open file of our own.
    Pipe(OwnedFd),
    Socket(OwnedFd),
}

impl Notifier {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, NotifierError> {
        match Kind::of(&fd) {
            Kind::Event => Ok(Self::Event(Event::new(fd))),
            Kind::Pipe => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let ours = open(path(fd.as_fd()), flags, Mode::empty());
                Ok(Self::Pipe(ours.map_err(|error| NotifierError::Pipe(error.into()))?))
            }
            Kind::Socket => Ok(Self::Socket(fd)),
            Kind::Other => Err(NotifierError::Kind),
        }
    }

    /// Notifies. That a counter, pipe or socket is full means that the other side has not looked since the last time.
    pub(crate) fn notify(&self) {
        let one = 1u64.to_ne_bytes();
        match self {
            Self::Event(event) => event.raise(),
            Self::Pipe(fd) => {
                let _ = rustix::io::write(fd, &one);
            }
            Self::Socket(fd) => {
                let _ = send(fd, &one, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
        }
    }
}

/// An eventfd that is raised this often gets a ring. Front ends may change descriptors again and again, and rings are
/// not made for one use.
const OFTEN: u32 = 64;

/// An eventfd of the front end.
pub(crate) struct Event {
    fd: OwnedFd,
    raised: AtomicU32,
    /// A ring whose completions raise the eventfd, if there can be one.
    ring: OnceLock<Option<Box<Mutex<IoUring>>>>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fd.fmt(f)
    }
}

impl Event {
    fn new(fd: OwnedFd) -> Self {
        Self { fd, raised: AtomicU32::new(0), ring: OnceLock::new() }
    }

    /// Adds one to the counter.
    fn raise(&self) {
        if self.raised.load(Ordering::Relaxed) < OFTEN {
            self.raised.fetch_add(1, Ordering::Relaxed);
            return raise(self.fd.as_fd());
        }
        let ring = self.ring.get_or_init(|| self.new_ring().ok());
        if !ring.as_ref().is_some_and(|ring| complete_nothing(ring)) {
            raise(self.fd.as_fd());
        }
    }

    fn new_ring(&self) -> io::Result<Box<Mutex<IoUring>>> {
        let ring = IoUring::new(1)?;
        ring.submitter().register_eventfd(self.fd.as_raw_fd())?;
        Ok(Box::new(Mutex::new(ring)))
    }
}

/// Lets an operation that does nothing complete.
fn complete_nothing(ring: &Mutex<IoUring>) -> bool {
    let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the operation names no memory.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    let submitted = pushed.is_ok() && ring.submit().is_ok_and(|count| count == 1);
    ring.completion().for_each(drop);
    submitted
}

/// Adds one to an eventfd's counter, whichever it is.
fn raise(event: BorrowedFd<'_>) {
    thread_local! {
        static CONTEXT: Option<AsyncIo> = AsyncIo::new();
    }
    // Where there is no asynchronous I/O, write(2) has to do, and the front end is trusted not to make it wait.
    let raised = CONTEXT.try_with(|context| context.as_ref().is_some_and(|context| context.raise(event)));
    if !raised.unwrap_or(false) {
        let _ = rustix::io::ioctl_fionbio(event, true);
        let _ = rustix::io::write(event, &1u64.to_ne_bytes());
    }
}

/// Operations that may be on their way in a context.
const OPERATIONS: usize = 64;

/// A context of the kernel's asynchronous I/O, for operations that do nothing and end at once.
struct AsyncIo {
    context: c_ulong,
    nothing: OwnedFd,
    /// Ends that were not yet collected.
    ended: std::cell::Cell<usize>,
}

/// `struct iocb`.
#[repr(C)]
#[derive(Default)]
struct Operation {
    data: u64,
    #[cfg(target_endian = "little")]
    key: u32,
    rw_flags: i32,
    #[cfg(target_endian = "big")]
    key: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct End {
    data: u64,
    operation: u64,
    results: [i64; 2],
}

impl AsyncIo {
    fn new() -> Option<Self> {
        let nothing = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut context: c_ulong = 0;
        // SAFETY: the kernel writes a context's number at the address.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, OPERATIONS as c_long, &raw mut context) };
        if made == 0 {
            return Some(Self { context, nothing, ended: std::cell::Cell::default() });
        }
        static WARNED: AtomicBool = AtomicBool::new(false);
        if !WARNED.swap(true, Ordering::Relaxed) {
            let error = io::Error::last_os_error();
            tracing::warn!(%error, "no asynchronous I/O (fs.aio-max-nr?): a hostile front end can block a reactor");
        }
        None
    }

    /// Reads nothing from a device that has nothing; the kernel raises `event` when that has ended, which is at once.
    fn raise(&self, event: BorrowedFd<'_>) -> bool {
        const PREAD: u16 = 0;
        const RESULT_TO_EVENT: u32 = 1;
        if self.ended.get() == OPERATIONS {
            self.collect();
        }
        let mut operation = Operation {
            opcode: PREAD,
            fd: self.nothing.as_raw_fd() as u32,
            flags: RESULT_TO_EVENT,
            event: event.as_raw_fd() as u32,
            ..Operation::default()
        };
        let list = [&raw mut operation];
        // SAFETY: the list names one operation, which is copied, and whose buffer is empty.
        let submitted =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1 as c_long, list.as_ptr()) };
        self.ended.set(self.ended.get() + 1);
        submitted == 1
    }

    fn collect(&self) {
        let mut ends = [End::default(); OPERATIONS];
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes at most as many ends as there is room for.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0 as c_long,
                OPERATIONS as c_long,
                ends.as_mut_ptr(),
                &raw const now,
            )
        };
        self.ended.set(0);
    }
}

impl Drop for AsyncIo {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and none of its operations touches memory.
        let _ = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
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

    #[test]
    fn an_eventfd_counts() {
        let event = eventfd(0, EventfdFlags::empty()).unwrap();
        let notifier = Notifier::new(event.try_clone().unwrap()).unwrap();
        (0..5 * OPERATIONS).for_each(|_| notifier.notify());
        assert_eq!(count(&event), 5 * OPERATIONS as u64);
    }

    #[test]
    fn a_full_eventfd_does_not_block() {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let notifier = Notifier::new(event.try_clone().unwrap()).unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        make_blocking(&event);
        (0..4 * OPERATIONS).for_each(|_| notifier.notify());
        assert!(count(&event) >= u64::MAX - 1);
    }

    #[test]
    fn a_full_pipe_does_not_block() {
        let (reader, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        let notifier = Notifier::new(writer.try_clone().unwrap()).unwrap();
        notifier.notify();
        let reader = OwnedFd::from(reader);
        assert_eq!(count(&reader), 1);
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
        make_blocking(&writer);
        notifier.notify();
    }

    #[test]
    fn a_full_socket_does_not_block() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours);
        let notifier = Notifier::new(ours.try_clone().unwrap()).unwrap();
        rustix::io::ioctl_fionbio(&ours, true).unwrap();
        while rustix::io::write(&ours, &[0; 4096]).is_ok() {}
        make_blocking(&ours);
        notifier.notify();
        drop(theirs);
        notifier.notify();
    }

    #[test]
    fn other_descriptors_are_refused() {
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(matches!(Notifier::new(file), Err(NotifierError::Kind)));
        let memory = crate::testing::memfd(8);
        assert!(matches!(Notifier::new(memory), Err(NotifierError::Kind)));
        let null = open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        assert!(matches!(Notifier::new(null), Err(NotifierError::Kind)));
    }
}
