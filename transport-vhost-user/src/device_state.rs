//! What a virtual machine relies on beside its memory and rings, and takes along to another process.

use crate::events::HandedEvents;
use lunette_engine::NexusState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state of an export's device that the front end does not know: what there is between the driver and the logical units,
/// and what it has subscribed to. Plain data, read from wherever the virtual machine came from: what is wrong with it is
/// refused.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceState {
    /// The nexuses, by target number.
    pub(crate) nexuses: BTreeMap<u8, NexusState>,
    pub(crate) events: HandedEvents,
    /// Of sense data and of CDBs, in bytes, if the driver may have changed them.
    pub(crate) sizes: Option<(u16, u16)>,
}
