//! What the device offers to a front end.

use crate::events::{CHANGE, HOTPLUG};
use crate::ring::MAX_SIZE;
use lunette_vhost_user::{Features, Offer, ProtocolFeatures};

/// Control and event queue (VIRTIO 1.2 5.6.2).
pub(crate) const FIXED_QUEUES: u16 = 2;
/// The control queue.
pub(super) const CONTROL_QUEUE: u16 = 0;
/// The event queue.
pub(super) const EVENT_QUEUE: u16 = 1;
/// Most regions of guest memory: as many as the kernel's vhost takes.
const MEMORY_SLOTS: u16 = 509;
/// A request may have data in both directions.
pub(super) const INOUT: Features = Features::from_bits_retain(1 << 0);
/// Requests carry protection information.
const T10_PI: Features = Features::from_bits_retain(1 << 3);

/// What the driver must not do unless it was offered, as we would misread its rings, addresses or requests.
pub(super) const LAYOUTS: Features = T10_PI.union(Features::ACCESS_PLATFORM).union(Features::IN_ORDER);

/// What a device with so many request queues offers.
pub(super) fn offer(request_queues: u16) -> Offer {
    Offer {
        features: Features::VERSION_1
            .union(Features::INDIRECT_DESC)
            .union(Features::EVENT_IDX)
            .union(Features::RING_PACKED)
            // A ring that is reset is stopped and started anew by the usual messages.
            .union(Features::RING_RESET)
            .union(Features::LOG_ALL)
            .union(INOUT)
            .union(HOTPLUG)
            .union(CHANGE),
        protocol_features: ProtocolFeatures::MQ
            | ProtocolFeatures::REPLY_ACK
            | ProtocolFeatures::CONFIG
            | ProtocolFeatures::BACKEND_REQ
            | ProtocolFeatures::CONFIGURE_MEM_SLOTS
            | ProtocolFeatures::RESET_DEVICE
            | ProtocolFeatures::INFLIGHT_SHMFD
            | ProtocolFeatures::LOG_SHMFD
            | ProtocolFeatures::DEVICE_STATE,
        queues: FIXED_QUEUES + request_queues,
        max_queue_size: MAX_SIZE,
        max_memory_slots: MEMORY_SLOTS,
    }
}
