//! What the user chooses, and what came of it.

use std::fmt;
use thiserror::Error;

/// How a reactor behaves when it has nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Poll {
    /// Spin for up to 50 µs before sleeping, as long as that is seen to pay.
    #[default]
    Adaptive,
    /// Never sleep: lowest latency for a whole CPU per reactor.
    Always,
    /// Sleep at once.
    Never,
}

/// Which kernel interface carries the work.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Io {
    /// io_uring, or epoll where that is refused.
    #[default]
    Auto,
    /// epoll and a pool of threads.
    Epoll,
}

/// How many reactors to start, and how they run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of reactors; 0 means one for each CPU the process may use.
    pub reactors: u16,
    /// What an idle reactor does.
    pub poll: Poll,
    /// Which kernel interface is used.
    pub io: Io,
    /// Bind each reactor to one CPU, round robin over those the process may use, if there are at least as many reactors;
    /// fewer are left to the scheduler.
    pub pin: bool,
    /// Most threads for blocking calls, shared by all reactors; they start when they are needed. At least 1.
    pub blocking_threads: u16,
    /// Most file operations under way per reactor, in the kernel and again in lanes, where a lane has as many at most
    /// as it leaves for others; more are answered [`Full`](lunette_store::Submit::Full). At least 1.
    pub file_operations: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reactors: 0,
            poll: Poll::default(),
            io: Io::default(),
            pin: true,
            blocking_threads: 8,
            file_operations: 2048,
        }
    }
}

/// The kernel interface in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    /// io_uring.
    IoUring,
    /// epoll and a pool of threads.
    Epoll {
        /// Why not io_uring; `None` if epoll was asked for.
        refused: Option<String>,
    },
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IoUring => f.write_str("io_uring"),
            Self::Epoll { refused: None } => f.write_str("epoll"),
            Self::Epoll { refused: Some(why) } => write!(f, "epoll (io_uring refused: {why})"),
        }
    }
}

/// Why the reactors could not be started.
#[derive(Debug, Error)]
pub enum Error {
    /// A thread could not be started.
    #[error("cannot start the thread of reactor {reactor}: {source}")]
    Thread {
        /// Which reactor.
        reactor: u16,
        /// What the system says.
        source: std::io::Error,
    },
    /// The event descriptors could not be made.
    #[error("cannot create the event descriptors of reactor {reactor}: {source}")]
    Descriptors {
        /// Which reactor.
        reactor: u16,
        /// What the system says.
        source: std::io::Error,
    },
}
