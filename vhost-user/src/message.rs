//! A message: header, payload bytes and the file descriptors beside them.

use std::fmt;
use std::os::fd::OwnedFd;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::Fault;
use crate::features::ProtocolFeatures;

/// Bytes of a message header.
pub const HEADER_SIZE: usize = size_of::<Header>();

/// Longest payload taken from a peer, in bytes. The longest one defined, the shared memory configuration, has 2056.
pub const MAX_PAYLOAD: usize = 4096;

/// Most file descriptors that one message carries: one for each region of a memory table.
pub const MAX_FDS: usize = 8;

/// A message header, in the byte order of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) request: u32,
    pub(crate) flags: u32,
    /// Bytes of payload that follow.
    pub(crate) size: u32,
}

/// The flags word of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// The two version bits.
    pub const VERSION_MASK: u32 = 0x3;
    /// The only version there is.
    pub const VERSION: u32 = 0x1;
    /// Set in every reply.
    pub const REPLY: u32 = 1 << 2;
    /// The sender wants an acknowledgement.
    pub const NEED_REPLY: u32 = 1 << 3;

    /// Whether the message is a reply.
    pub fn is_reply(self) -> bool {
        self.0 & Self::REPLY != 0
    }

    /// Whether the sender asks for an acknowledgement.
    pub fn needs_reply(self) -> bool {
        self.0 & Self::NEED_REPLY != 0
    }

    /// The protocol version.
    pub fn version(self) -> u32 {
        self.0 & Self::VERSION_MASK
    }
}

/// A whole message. The same form serves both channels, so `request` is a number here; [`FrontendRequest`] and
/// [`BackendRequest`] give it a meaning.
#[derive(Debug)]
pub struct Message {
    /// The request, or the request that a reply answers.
    pub request: u32,
    /// Version, reply and need_reply.
    pub flags: Flags,
    /// The payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
    /// The file descriptors that travel with the first byte.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// A request that asks for no acknowledgement.
    pub fn request(request: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { request, flags: Flags(Flags::VERSION), payload: payload.into(), fds: Vec::new() }
    }

    /// A reply to `request`.
    pub fn reply(request: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { flags: Flags(Flags::VERSION | Flags::REPLY), ..Self::request(request, payload) }
    }

    /// The payload as a `T`; [`Fault::PayloadSize`] unless it has exactly that size.
    pub fn body<T: FromBytes>(&self) -> Result<T, Fault> {
        T::read_from_bytes(&self.payload)
            .map_err(|_| Fault::PayloadSize { expected: size_of::<T>(), actual: self.payload.len() })
    }

    /// The bytes to send, and the descriptors to send with the first of them.
    pub fn into_parts(self) -> (Vec<u8>, Vec<OwnedFd>) {
        let size = u32::try_from(self.payload.len()).expect("payloads are bounded by MAX_PAYLOAD");
        let header = Header { request: self.request, flags: self.flags.0, size };
        let mut bytes = Vec::with_capacity(HEADER_SIZE + self.payload.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&self.payload);
        (bytes, self.fds)
    }
}

/// Declares a request number type: named constants, unknown numbers survive.
macro_rules! requests {
    ($(#[$attr:meta])* $type:ident { $($(#[$doc:meta])* $name:ident = $number:literal,)* }) => {
        $(#[$attr])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type(pub u32);

        impl $type {
            $($(#[$doc])* pub const $name: Self = Self($number);)*
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($number => f.write_str(stringify!($name)),)*
                    other => write!(f, "request {other}"),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

requests! {
    /// A request of the front end (vhost-user, "Front-end message types").
    FrontendRequest {
        /// Read the features offered: u64.
        GET_FEATURES = 1,
        /// Acknowledge features: u64.
        SET_FEATURES = 2,
        /// Start of a session.
        SET_OWNER = 3,
        /// Deprecated; here it disables all rings.
        RESET_OWNER = 4,
        /// Replace all memory regions.
        SET_MEM_TABLE = 5,
        /// Set the dirty log.
        SET_LOG_BASE = 6,
        /// Set the eventfd that tells of changes in the dirty log.
        SET_LOG_FD = 7,
        /// Set a ring's size.
        SET_VRING_NUM = 8,
        /// Set a ring's addresses.
        SET_VRING_ADDR = 9,
        /// Set where a ring goes on.
        SET_VRING_BASE = 10,
        /// Stop a ring and read where it stands.
        GET_VRING_BASE = 11,
        /// Set the eventfd of the driver's notifications and start the ring.
        SET_VRING_KICK = 12,
        /// Set the eventfd of the device's notifications.
        SET_VRING_CALL = 13,
        /// Set the eventfd of ring errors.
        SET_VRING_ERR = 14,
        /// Read the protocol features offered: u64.
        GET_PROTOCOL_FEATURES = 15,
        /// Acknowledge protocol features: u64.
        SET_PROTOCOL_FEATURES = 16,
        /// Read the number of queues: u64.
        GET_QUEUE_NUM = 17,
        /// Enable or disable a ring.
        SET_VRING_ENABLE = 18,
        /// Send a RARP (network).
        SEND_RARP = 19,
        /// Set the MTU (network).
        NET_SET_MTU = 20,
        /// Hand over the channel for the back end's own requests.
        SET_BACKEND_REQ_FD = 21,
        /// Update or invalidate an IOTLB entry.
        IOTLB_MSG = 22,
        /// Set a legacy ring's byte order.
        SET_VRING_ENDIAN = 23,
        /// Read the configuration space.
        GET_CONFIG = 24,
        /// Write the configuration space.
        SET_CONFIG = 25,
        /// Open a crypto session (crypto).
        CREATE_CRYPTO_SESSION = 26,
        /// Close a crypto session (crypto).
        CLOSE_CRYPTO_SESSION = 27,
        /// A post-copy migration is coming.
        POSTCOPY_ADVISE = 28,
        /// A post-copy migration begins.
        POSTCOPY_LISTEN = 29,
        /// A post-copy migration has ended.
        POSTCOPY_END = 30,
        /// Ask for the memory that tracks requests in flight.
        GET_INFLIGHT_FD = 31,
        /// Hand over the memory that tracks requests in flight.
        SET_INFLIGHT_FD = 32,
        /// Set the GPU socket (GPU).
        GPU_SET_SOCKET = 33,
        /// Reset the device.
        RESET_DEVICE = 34,
        /// In-band notification of the driver.
        VRING_KICK = 35,
        /// Read the number of memory slots: u64.
        GET_MAX_MEM_SLOTS = 36,
        /// Add a memory region.
        ADD_MEM_REG = 37,
        /// Remove a memory region.
        REM_MEM_REG = 38,
        /// Set the virtio device status: u64.
        SET_STATUS = 39,
        /// Read the virtio device status: u64.
        GET_STATUS = 40,
        /// Ask for a shared buffer.
        GET_SHARED_OBJECT = 41,
        /// Set the channel over which the back end's state moves.
        SET_DEVICE_STATE_FD = 42,
        /// Ask whether the back end's state moved.
        CHECK_DEVICE_STATE = 43,
        /// Read the sizes of shared memory regions.
        GET_SHMEM_CONFIG = 44,
    }
}

impl FrontendRequest {
    /// Whether the request has a reply of its own, so that need_reply changes nothing.
    pub(crate) fn has_reply(self, negotiated: ProtocolFeatures) -> bool {
        match self {
            Self::GET_FEATURES
            | Self::GET_PROTOCOL_FEATURES
            | Self::GET_QUEUE_NUM
            | Self::GET_VRING_BASE
            | Self::GET_CONFIG
            | Self::GET_INFLIGHT_FD
            | Self::GET_MAX_MEM_SLOTS
            | Self::GET_STATUS
            | Self::SET_DEVICE_STATE_FD
            | Self::CHECK_DEVICE_STATE => true,
            Self::SET_LOG_BASE => negotiated.contains(ProtocolFeatures::LOG_SHMFD),
            _ => false,
        }
    }
}

requests! {
    /// A request of the back end, on the channel set by [`FrontendRequest::SET_BACKEND_REQ_FD`] (vhost-user,
    /// "Back-end message types").
    BackendRequest {
        /// An IOTLB miss or access failure.
        IOTLB_MSG = 1,
        /// The configuration space has changed.
        CONFIG_CHANGE_MSG = 2,
        /// A page to be used as a queue's doorbell.
        VRING_HOST_NOTIFIER_MSG = 3,
        /// In-band notification of the device.
        VRING_CALL = 4,
        /// In-band notification of a ring error.
        VRING_ERR = 5,
        /// Offer a shared buffer.
        SHARED_OBJECT_ADD = 6,
        /// Withdraw a shared buffer.
        SHARED_OBJECT_REMOVE = 7,
        /// Look a shared buffer up.
        SHARED_OBJECT_LOOKUP = 8,
        /// Map into a shared memory region.
        SHMEM_MAP = 9,
        /// Unmap from a shared memory region.
        SHMEM_UNMAP = 10,
    }
}

/// The duty to acknowledge a request once it has been carried out.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the sender may be waiting for the acknowledgement"]
pub struct Ack {
    /// The request, if its sender asked for an acknowledgement.
    pub(crate) wanted_for: Option<u32>,
}

impl Ack {
    /// Whether the sender asked for one.
    pub fn is_wanted(&self) -> bool {
        self.wanted_for.is_some()
    }

    /// Tells success or failure: the message to send, if the sender asked for one.
    ///
    /// When it asked for none, a failure can only be told by closing the connection.
    pub fn done(self, success: bool) -> Option<Message> {
        let request = self.wanted_for?;
        Some(Message::reply(request, u64::from(!success).to_ne_bytes()))
    }
}
