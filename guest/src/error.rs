//! What can go wrong, and what a device can do wrong.

use std::io;
use std::time::Duration;

use lunette_vhost_user::{Features, FrontendRequest};
use thiserror::Error;

/// Why something could not be done.
#[derive(Debug, Error)]
pub enum Error {
    /// The system refuses something.
    #[error("cannot {what}: {error}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// Why it cannot be done.
        error: io::Error,
    },
    /// The daemon sends what cannot be understood.
    #[error(transparent)]
    Protocol(#[from] lunette_vhost_user::Error),
    /// The daemon has answered a request with something else.
    #[error("the reply to {0} is of another kind")]
    Reply(FrontendRequest),
    /// The daemon has refused a request.
    #[error("the daemon refuses {0}")]
    Refused(FrontendRequest),
    /// The daemon has closed the connection.
    #[error("the daemon has closed the connection")]
    Closed,
    /// Nothing has come.
    #[error("nothing has come for {0:?}")]
    TimedOut(Duration),
    /// The daemon lacks features.
    #[error("the daemon does not offer {0:?}")]
    NotOffered(Features),
    /// The daemon says that a ring is broken.
    #[error("the daemon says that queue {0} is broken")]
    Broken(u16),
    /// Guest memory is full, or does not reach where it should.
    #[error("there is no guest memory for {length} bytes at {address:#x}")]
    NoMemory {
        /// Guest address; 0 if it does not matter.
        address: u64,
        /// Bytes.
        length: u64,
    },
    /// The ring has no room for one more buffer.
    #[error("the ring has {free} free descriptors, {needed} are needed")]
    Full {
        /// Descriptors that are free.
        free: u16,
        /// Descriptors that the buffer takes.
        needed: u16,
    },
    /// The device has broken the rules of VIRTIO.
    #[error("queue {queue}: {violation}")]
    Violation {
        /// The queue.
        queue: u16,
        /// What the device has done.
        violation: Violation,
    },
}

impl Error {
    /// For `map_err`: names what the system refuses.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::System { what, error: error.into() }
    }
}

/// What a device must not do. Clauses are those of VIRTIO 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// The used index went further than there are buffers (2.7.8).
    #[error("the device has used {used} buffers, it had {available}")]
    TooMany {
        /// Buffers that the device says it has used.
        used: u16,
        /// Buffers that were available.
        available: u16,
    },
    /// A buffer that the device does not have: never sent, or used before (2.7.8, 2.8.21).
    #[error("the device has used {0}, which it does not have")]
    NotAvailable(u32),
    /// More bytes than there is room for (2.7.8.2).
    #[error("the device says that it has written {length} bytes into {room}")]
    Length {
        /// Bytes the device says it has written.
        length: u32,
        /// Writable bytes of the buffer.
        room: u64,
    },
    /// A used descriptor that does not match the device's wrap counter (2.8.1).
    #[error("descriptor {index} has flags {flags:#06x}, which do not match the wrap counter {wrap}")]
    Wrap {
        /// The descriptor.
        index: u16,
        /// Its flags.
        flags: u16,
        /// The wrap counter that the device should have.
        wrap: bool,
    },
    /// A descriptor that the device had to leave alone (2.8.6).
    #[error("descriptor {index} has flags {flags:#06x}, the driver wrote {expected:#06x}")]
    Overwritten {
        /// The descriptor.
        index: u16,
        /// Its flags.
        flags: u16,
        /// The flags that it should have.
        expected: u16,
    },
    /// Event flags that are reserved, or need EVENT_IDX (2.8.10).
    #[error("the device's event flags are {0:#06x}")]
    EventFlags(u16),
    /// The ring was stopped at a place that does not match the buffers outstanding (vhost-user, GET_VRING_BASE).
    #[error(
        "the ring was stopped at {base:#x}, at which {expected} buffers would be outstanding, not {outstanding}"
    )]
    Base {
        /// Where the device says it has stopped.
        base: u32,
        /// Buffers from there on.
        expected: u16,
        /// Buffers that have not come back.
        outstanding: u16,
    },
    /// A response that cannot be (5.6.6.1).
    #[error("{what} is {value}, at most {most} is possible")]
    Response {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The most that it can be.
        most: u64,
    },
    /// The used length does not match the residual (5.6.6.1).
    #[error("{used} bytes were used, but the residual tells of {expected}")]
    Residual {
        /// The used length.
        used: u32,
        /// What it should be.
        expected: u64,
    },
}
