//! What a session starts from and what it has come to.

use crate::error::Fault;
use crate::features::{Features, ProtocolFeatures};
use crate::payload::{MemoryRegion, VringAddress};
use serde::{Deserialize, Serialize};

/// Most queues that a session can have: SET_VRING_KICK has eight bits for the index.
pub const MAX_QUEUES: u16 = 256;

/// What a back end offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Virtio features. [`Features::PROTOCOL_FEATURES`] is added if there are any protocol features.
    pub features: Features,
    /// Protocol features; those outside [`Backend::SUPPORTED`](super::Backend::SUPPORTED) are not offered.
    pub protocol_features: ProtocolFeatures,
    /// Number of queues; those beyond [`MAX_QUEUES`] are not offered.
    pub queues: u16,
    /// Largest size of a queue.
    pub max_queue_size: u16,
    /// Most memory regions at a time, with [`ProtocolFeatures::CONFIGURE_MEM_SLOTS`].
    pub max_memory_slots: u16,
}

/// What a session has agreed upon so far: plain data, enough to go on with the session in another process together
/// with the descriptors. What is missing in a serialised state is as at the start of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Whether SET_OWNER has come.
    pub owned: bool,
    /// Whether SET_FEATURES has come.
    pub acknowledged: bool,
    /// Features acknowledged, of those offered.
    pub features: Features,
    /// Protocol features acknowledged, of those offered.
    pub protocol_features: ProtocolFeatures,
    /// The virtio device status (VIRTIO 1.2 clause 2.1), with [`ProtocolFeatures::STATUS`].
    pub status: u8,
    /// Guest memory.
    pub memory: Vec<MemoryRegion>,
    /// The rings, by queue index.
    pub vrings: Vec<Vring>,
}

/// One ring as the front end has set it up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vring {
    /// Number of descriptors; 0 until set.
    pub size: u16,
    /// Where its parts are.
    pub address: Option<VringAddress>,
    /// Where it starts: the next available index (split), or both indexes and wrap counters (packed).
    pub base: u32,
    /// Whether requests are executed. Kept while the ring is stopped.
    pub enabled: bool,
    /// Whether SET_VRING_ENABLE has said so. Until then it is up to the features: only without
    /// [`Features::PROTOCOL_FEATURES`] does a ring start enabled.
    pub told: bool,
    /// Whether the ring is looked at at all: from SET_VRING_KICK to GET_VRING_BASE or SET_VRING_BASE.
    pub started: bool,
}

impl State {
    /// Whether a session with `offer` can have come to this.
    pub(super) fn check(&self, offer: &Offer) -> Result<(), Fault> {
        let features = self.features - offer.features;
        if !features.is_empty() {
            return Err(Fault::Value { field: "features", value: features.bits() });
        }
        let protocol = self.protocol_features - offer.protocol_features;
        if !protocol.is_empty() {
            return Err(Fault::Value { field: "protocol features", value: protocol.bits() });
        }
        if self.vrings.len() > offer.queues.into() {
            return Err(Fault::NoSuchQueue { index: self.vrings.len() as u32 - 1, queues: offer.queues });
        }
        let slots = usize::from(offer.max_memory_slots);
        if self.memory.len() > slots {
            return Err(Fault::TooManyRegions(slots));
        }
        for (n, region) in self.memory.iter().enumerate() {
            region.check()?;
            super::no_overlap(region, &self.memory[..n])?;
        }
        // What depends on the layout is looked at when a ring starts: features may have changed since it was set up.
        match self.vrings.iter().find(|vring| vring.size > offer.max_queue_size) {
            Some(vring) => Err(Fault::Value { field: "queue size", value: vring.size.into() }),
            None => Ok(()),
        }
    }
}
