//! The two sets of feature bits a session negotiates: virtio's and the protocol's own.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

bitflags! {
    /// Virtio feature bits (VIRTIO 1.2 clause 6) and the vhost bits that share their word.
    ///
    /// Only the bits that concern the transport have names. Bits 0 to 23 belong to the device type and are carried
    /// through.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(from = "u64", into = "u64")]
    pub struct Features: u64 {
        /// Interrupt when the ring runs empty, even if the driver suppressed interrupts (legacy).
        const NOTIFY_ON_EMPTY = 1 << 24;
        /// The back end logs every page it writes (live migration).
        const LOG_ALL = 1 << 26;
        /// Descriptors may be laid out in any way (legacy; implied by [`Self::VERSION_1`]).
        const ANY_LAYOUT = 1 << 27;
        /// Descriptors may refer to a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// Notifications are suppressed by ring index.
        const EVENT_IDX = 1 << 29;
        /// vhost-user's own: protocol features can be negotiated, and rings are enabled one by one.
        const PROTOCOL_FEATURES = 1 << 30;
        /// The device follows VIRTIO 1.0 or later.
        const VERSION_1 = 1 << 32;
        /// Addresses are I/O virtual addresses, translated by an IOMMU.
        const ACCESS_PLATFORM = 1 << 33;
        /// Packed instead of split rings.
        const RING_PACKED = 1 << 34;
        /// Buffers are used in the order in which they were made available.
        const IN_ORDER = 1 << 35;
        /// Memory is ordered as the platform orders it.
        const ORDER_PLATFORM = 1 << 36;
        /// Single-root I/O virtualisation.
        const SR_IOV = 1 << 37;
        /// The driver sends data along with its notifications.
        const NOTIFICATION_DATA = 1 << 38;
        /// The data of a notification is what the device configured.
        const NOTIF_CONFIG_DATA = 1 << 39;
        /// A single ring can be reset.
        const RING_RESET = 1 << 40;

        const _ = !0;
    }
}

bitflags! {
    /// Protocol feature bits (vhost-user, "Protocol features").
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(from = "u64", into = "u64")]
    pub struct ProtocolFeatures: u64 {
        /// The back end tells how many queues it has.
        const MQ = 1 << 0;
        /// The dirty log is shared memory.
        const LOG_SHMFD = 1 << 1;
        /// The back end can send a gratuitous RARP (network).
        const RARP = 1 << 2;
        /// Any request can ask to be acknowledged.
        const REPLY_ACK = 1 << 3;
        /// The MTU can be set (network).
        const MTU = 1 << 4;
        /// The back end can send requests of its own over a second channel.
        const BACKEND_REQ = 1 << 5;
        /// The byte order of a legacy ring can be set.
        const CROSS_ENDIAN = 1 << 6;
        /// Crypto sessions (crypto devices).
        const CRYPTO_SESSION = 1 << 7;
        /// Post-copy migration with userfaultfd.
        const PAGEFAULT = 1 << 8;
        /// The back end holds the configuration space.
        const CONFIG = 1 << 9;
        /// The back end's own requests may carry file descriptors.
        const BACKEND_SEND_FD = 1 << 10;
        /// The back end can offer a page as a queue's doorbell.
        const HOST_NOTIFIER = 1 << 11;
        /// Requests in flight are tracked in memory that outlives the back end.
        const INFLIGHT_SHMFD = 1 << 12;
        /// The device can be reset without a new connection.
        const RESET_DEVICE = 1 << 13;
        /// Kicks and calls are messages instead of eventfds.
        const INBAND_NOTIFICATIONS = 1 << 14;
        /// Memory regions are added and removed one at a time.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
        /// The virtio device status is forwarded.
        const STATUS = 1 << 16;
        /// Memory regions carry Xen's mapping parameters.
        const XEN_MMAP = 1 << 17;
        /// Buffers are shared between virtio devices by UUID.
        const SHARED_OBJECT = 1 << 18;
        /// The back end's state is part of a migration.
        const DEVICE_STATE = 1 << 19;

        const _ = !0;
    }
}

/// Any bits are kept, and written as one number.
macro_rules! as_number {
    ($flags:ident) => {
        impl From<u64> for $flags {
            fn from(bits: u64) -> Self {
                Self::from_bits_retain(bits)
            }
        }

        impl From<$flags> for u64 {
            fn from(flags: $flags) -> Self {
                flags.bits()
            }
        }
    };
}

as_number!(Features);
as_number!(ProtocolFeatures);
