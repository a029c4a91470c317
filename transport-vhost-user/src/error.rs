//! Why an export cannot be started.

use crate::MAX_REQUEST_QUEUES;
use std::os::fd::RawFd;
use std::path::PathBuf;
use thiserror::Error;

/// Why an export cannot be started.
#[derive(Debug, Error)]
pub enum Error {
    /// Another process listens at the path.
    #[error("cannot listen at {}: address in use, another process listens there", .0.display())]
    InUse(PathBuf),
    /// There is something else at the path.
    #[error("cannot listen at {}: there is a file that is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The socket cannot be given to the owner it should have.
    #[error("cannot set the owner of {}: {source} (only root can give files away; a group must be one's own)", path.display())]
    Owner {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A descriptor is not what front ends come from.
    #[error(
        "descriptor {descriptor} {why}: vhost-user needs a Unix stream socket that listens or is connected"
    )]
    Unsuitable {
        /// The descriptor's number.
        descriptor: RawFd,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The number of request queues is impossible.
    #[error("a device can have 1 to {MAX_REQUEST_QUEUES} request queues, not {0}")]
    RequestQueues(u16),
    /// There is nothing to export.
    #[error("a device needs at least one target")]
    NoTargets,
    /// Descriptors cannot be told apart.
    #[error("/proc is not mounted: descriptors of a front end cannot be told apart without it")]
    NoProc,
    /// Eventfds cannot be raised.
    #[error("cannot raise eventfds: no asynchronous I/O (is fs.aio-max-nr used up?): {0}")]
    NoAsyncIo(std::io::Error),
    /// There is no reactor to run on.
    #[error("no reactors are given to run on")]
    NoReactors,
}
