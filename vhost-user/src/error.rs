//! What can be wrong with a message.

use thiserror::Error;

use crate::features::ProtocolFeatures;
use crate::message::{BackendRequest, FrontendRequest, MAX_PAYLOAD};

/// A connection on which the peer can no longer be understood; it is to be closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The header carries another protocol version.
    #[error("message header has protocol version {0}, only version 1 is known")]
    Version(u32),
    /// The header announces more than [`MAX_PAYLOAD`] bytes.
    #[error("message announces a payload of {0} bytes, at most {MAX_PAYLOAD} are taken")]
    Oversized(u32),
    /// A request of the front end that cannot be carried out, and whose sender cannot be told.
    #[error("{request} from the front end: {fault}")]
    Frontend {
        /// The request.
        request: FrontendRequest,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A request of the back end that cannot be understood.
    #[error("{request} from the back end: {fault}")]
    Backend {
        /// The request.
        request: BackendRequest,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A reply of the back end that does not fit the request.
    #[error("reply to {request}: {fault}")]
    Reply {
        /// The request that the reply names.
        request: FrontendRequest,
        /// What is wrong with the reply.
        fault: Fault,
    },
}

/// What is wrong with one well-framed message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// No such request is known here.
    #[error("unknown request")]
    Unknown,
    /// The request belongs to a protocol feature that was not negotiated.
    #[error("protocol feature {0:?} was not negotiated")]
    NotNegotiated(ProtocolFeatures),
    /// A request has the reply flag set.
    #[error("a reply where a request was expected")]
    NotARequest,
    /// A reply lacks the reply flag, or still has need_reply set.
    #[error("flags {0:#x} are not those of a reply")]
    NotAReply(u32),
    /// A reply that nothing asked for, or to another request than the oldest open one.
    #[error("reply out of turn, expected: {expected:?}")]
    OutOfTurn {
        /// The oldest request that waits for its reply.
        expected: Option<FrontendRequest>,
    },
    /// The payload has the wrong length.
    #[error("payload of {actual} bytes, expected {expected}")]
    PayloadSize {
        /// Bytes the payload should have.
        expected: usize,
        /// Bytes it has.
        actual: usize,
    },
    /// The message carries too few or too many file descriptors.
    #[error("{actual} file descriptors, expected {expected}")]
    FdCount {
        /// Descriptors the message should carry.
        expected: usize,
        /// Descriptors it carries.
        actual: usize,
    },
    /// A queue index beyond the queues offered.
    #[error("queue {index} does not exist, there are {queues} queues")]
    NoSuchQueue {
        /// The index asked for.
        index: u32,
        /// The number of queues.
        queues: u16,
    },
    /// A field holds a value that it must not.
    #[error("{field} must not be {value:#x}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A memory region is empty or ends beyond the address space.
    #[error(
        "memory region at guest address {guest_address:#x} with {size:#x} bytes is empty or wraps around"
    )]
    Region {
        /// Where the region starts.
        guest_address: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// Two memory regions share guest addresses.
    #[error("memory regions overlap at guest address {0:#x}")]
    RegionsOverlap(u64),
    /// More memory regions than there are slots.
    #[error("more than {0} memory regions")]
    TooManyRegions(usize),
    /// A memory region to remove that is not in the table.
    #[error("there is no such memory region at guest address {0:#x}")]
    NoSuchRegion(u64),
    /// Offset and size reach beyond the configuration space.
    #[error("configuration space has no {size} bytes at offset {offset}")]
    ConfigRange {
        /// First byte.
        offset: u32,
        /// Number of bytes.
        size: u32,
    },
    /// The state of a device can be moved only while all of its rings are stopped.
    #[error("rings are still started")]
    Started,
    /// In-band notifications without the features they rest upon.
    #[error("in-band notifications need BACKEND_REQ and REPLY_ACK")]
    InbandAlone,
}
