//! What a message of the front end asks the transport to do.

use std::os::fd::OwnedFd;

use crate::error::Fault;
use crate::features::{Features, ProtocolFeatures};
use crate::message::{Ack, FrontendRequest, Message};
use crate::payload::{
    Config, ConfigFlags, InflightArea, LogArea, MemoryRegion, StateDirection, VringAddress,
};

/// What one message comes to.
#[derive(Debug)]
pub enum Event {
    /// Nothing to do but to send the reply.
    Reply(Message),
    /// Carry the change out, then acknowledge it.
    Change(Change, Ack),
    /// Stop a ring. The reply is sent once every request that was taken from it is done (GET_VRING_BASE).
    StopVring {
        /// The queue.
        index: u16,
        /// To be turned into a message with where the ring stands.
        reply: VringBaseReply,
    },
    /// Read the configuration space (GET_CONFIG).
    ReadConfig {
        /// First byte.
        offset: u32,
        /// Number of bytes; `offset + size` is at most [`MAX_CONFIG_SIZE`](crate::MAX_CONFIG_SIZE).
        size: u32,
        /// To be filled with the bytes.
        reply: ConfigReply,
    },
    /// Provide zeroed memory that tracks requests in flight (GET_INFLIGHT_FD).
    GetInflight {
        /// Number and size of the queues.
        area: InflightArea,
        /// To be filled with the memory.
        reply: InflightReply,
    },
    /// Move the state of the device through a descriptor, to its end (SET_DEVICE_STATE_FD). No ring is started.
    MoveState {
        /// Which way.
        direction: StateDirection,
        /// Where it is written to or read from.
        fd: OwnedFd,
        /// To be said at once, before anything is moved.
        reply: MoveStateReply,
    },
    /// Say, when the last [`MoveState`](Self::MoveState) has ended, whether all of it was moved and is in force
    /// (CHECK_DEVICE_STATE).
    CheckState(CheckStateReply),
    /// A request that was not carried out. Send the reply, which says so; worth a log line.
    Refused {
        /// The request.
        request: FrontendRequest,
        /// Why.
        fault: Fault,
        /// The reply.
        reply: Message,
    },
    /// A request that is unknown or was not negotiated, and whose sender wants no reply; worth a log line.
    Ignored {
        /// The request.
        request: FrontendRequest,
        /// Why.
        fault: Fault,
    },
}

/// A change to the session that the transport carries out. [`State`](super::State) has it already.
#[derive(Debug)]
pub enum Change {
    /// The session starts.
    SetOwner,
    /// All rings are disabled.
    ResetOwner,
    /// The driver's features are known. With [`Features::PROTOCOL_FEATURES`] all rings are now disabled and without
    /// enabled, but for those that SET_VRING_ENABLE was sent for.
    SetFeatures {
        /// Acknowledged and offered.
        acked: Features,
        /// Acknowledged though not offered. QEMU 7.2 does so with device features that the user sets; rings whose
        /// layout such a bit would change must not be started.
        unoffered: Features,
    },
    /// Protocol features are known.
    SetProtocolFeatures {
        /// Acknowledged and offered.
        acked: ProtocolFeatures,
        /// Acknowledged though not offered.
        unoffered: ProtocolFeatures,
    },
    /// Replace all guest memory. The old memory may still be under I/O.
    SetMemoryTable(Vec<SharedRegion>),
    /// Add a region of guest memory.
    AddMemoryRegion(SharedRegion),
    /// Remove a region of guest memory. It may still be under I/O.
    RemoveMemoryRegion(MemoryRegion),
    /// Set the number of descriptors of a ring; a power of two unless the ring is packed.
    SetVringSize {
        /// The queue.
        index: u16,
        /// Number of descriptors, 1 to the maximum offered.
        size: u16,
    },
    /// Set where a ring's parts are. May come while the ring runs, to switch logging.
    SetVringAddress {
        /// The queue.
        index: u16,
        /// The addresses.
        address: VringAddress,
    },
    /// Set where a ring starts. One that runs is stopped: it is about to be started anew, maybe elsewhere.
    SetVringBase {
        /// The queue.
        index: u16,
        /// See [`Vring::base`](super::Vring::base).
        base: u32,
    },
    /// Start a ring. Requests may be waiting in it already.
    SetVringKick {
        /// The queue.
        index: u16,
        /// Readable when the driver has made buffers available; without it the ring is polled.
        fd: Option<OwnedFd>,
    },
    /// Set the descriptor to write to when buffers have been used. May come while the ring runs.
    SetVringCall {
        /// The queue.
        index: u16,
        /// An eventfd or, from User-Mode Linux, a pipe; without it the driver polls.
        fd: Option<OwnedFd>,
    },
    /// Set the descriptor to write to when the ring is broken.
    SetVringError {
        /// The queue.
        index: u16,
        /// An eventfd.
        fd: Option<OwnedFd>,
    },
    /// Enable or disable a ring, started or not.
    SetVringEnable {
        /// The queue.
        index: u16,
        /// The new state.
        enable: bool,
    },
    /// The driver has made buffers available (in-band notification); also starts the ring.
    KickVring {
        /// The queue.
        index: u16,
    },
    /// Write the configuration space. Read-only fields may be written only by a migration.
    SetConfig(Config),
    /// Set the channel for [`Backend::config_changed`](super::Backend::config_changed) and its like. It stays open for
    /// the whole session; from User-Mode Linux it is a pipe, and closing it unplugs the device.
    SetBackendRequestFd(OwnedFd),
    /// Set the dirty log.
    SetLogBase {
        /// Where it is in the file.
        area: LogArea,
        /// The file.
        fd: OwnedFd,
    },
    /// Set the eventfd to write to when the dirty log has changed.
    SetLogFd(OwnedFd),
    /// Take over the memory that tracked requests in flight.
    SetInflight {
        /// Its place in the file, number and size of queues.
        area: InflightArea,
        /// The file.
        fd: OwnedFd,
    },
    /// Set the virtio device status; 0 resets the device.
    SetStatus(u8),
    /// Stop and disable all rings and reset the device. Features, memory, and the rings' call and error descriptors
    /// stay: QEMU sets those of errors once, before the first reset.
    ResetDevice,
}

/// A region of guest memory and the file it is in.
#[derive(Debug)]
pub struct SharedRegion {
    /// The region; not empty, none of its ranges wraps around.
    pub region: MemoryRegion,
    /// The file to map.
    pub fd: OwnedFd,
}

/// The reply to GET_VRING_BASE, made by [`Backend::vring_stopped`](super::Backend::vring_stopped).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the front end waits for the reply"]
pub struct VringBaseReply {
    pub(super) index: u16,
}

/// The reply to GET_CONFIG.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the front end waits for the reply"]
pub struct ConfigReply {
    pub(super) offset: u32,
    pub(super) flags: ConfigFlags,
    pub(super) size: u32,
}

impl ConfigReply {
    /// The bytes asked for, taken from the whole configuration space; bytes beyond its end read as 0.
    pub fn from_space(self, space: &[u8]) -> Message {
        let wanted = space.iter().skip(self.offset as usize).copied();
        let bytes = wanted.chain(std::iter::repeat(0)).take(self.size as usize).collect();
        let config = Config { offset: self.offset, flags: self.flags, bytes };
        Message::reply(FrontendRequest::GET_CONFIG.0, config.encode())
    }

    /// The configuration space cannot be read.
    pub fn failed(self) -> Message {
        Message::reply(FrontendRequest::GET_CONFIG.0, [])
    }
}

/// The reply to SET_DEVICE_STATE_FD.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the front end waits for the reply"]
pub struct MoveStateReply(pub(super) ());

impl MoveStateReply {
    /// No descriptor comes along.
    const NO_FD: u64 = 1 << 8;

    /// Whether the state is going to be moved through the descriptor that came.
    pub fn done(self, success: bool) -> Message {
        let value = Self::NO_FD | u64::from(!success);
        Message::reply(FrontendRequest::SET_DEVICE_STATE_FD.0, value.to_ne_bytes())
    }
}

/// The reply to CHECK_DEVICE_STATE.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the front end waits for the reply"]
pub struct CheckStateReply(pub(super) ());

impl CheckStateReply {
    /// Whether all of the state was moved and is in force.
    pub fn done(self, success: bool) -> Message {
        Message::reply(FrontendRequest::CHECK_DEVICE_STATE.0, u64::from(!success).to_ne_bytes())
    }
}

/// The reply to GET_INFLIGHT_FD.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the front end waits for the reply"]
pub struct InflightReply {
    pub(super) area: InflightArea,
    /// Bytes of the request's payload; the reply has as many.
    pub(super) size: usize,
}

impl InflightReply {
    /// Hands over `mmap_size` bytes at `mmap_offset` of the file.
    pub fn share(self, mmap_size: u64, mmap_offset: u64, fd: OwnedFd) -> Message {
        Message { fds: vec![fd], ..self.message(mmap_size, mmap_offset) }
    }

    /// There is no such memory; the front end goes on without.
    pub fn none(self) -> Message {
        self.message(0, 0)
    }

    fn message(self, mmap_size: u64, mmap_offset: u64) -> Message {
        let mut payload = InflightArea { mmap_size, mmap_offset, ..self.area }.encode();
        payload.truncate(self.size);
        Message::reply(FrontendRequest::GET_INFLIGHT_FD.0, payload)
    }
}
