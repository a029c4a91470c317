//! How much of what some initiators and units get, as a configuration says it.

use super::iscsi::some;
use super::values::{Bytes, Label, Name, Size, Text};
use lunette_engine::{Rate, Rates};
use lunette_transport_iscsi::NamePattern;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// `[[throttle]]`: how many commands and bytes a second some initiators get of some units, all of them together or each.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Throttle {
    /// What it is called.
    pub(crate) name: Label,
    /// Commands that read or write, in a second; otherwise any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iops: Option<NonZeroU64>,
    /// Commands that may come at once after a pause, otherwise as many as in a tenth of a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iops_burst: Option<NonZeroU64>,
    /// Bytes that these read and write in a second; otherwise any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth: Option<Size>,
    /// Bytes that may come at once after a pause, otherwise as many as in a tenth of a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth_burst: Option<Size>,
    /// The units that it is about; otherwise all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) units: Vec<Name>,
    /// The iSCSI initiators that it is about, by names in which `*` and `?` stand for any characters and any one; without these and
    /// `exports` it is about everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) initiators: Vec<Text<NamePattern>>,
    /// The virtual machines that it is about, by their vhost-user exports.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) exports: Vec<Label>,
    /// Who gets that much; otherwise all of them together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) each: Option<Each>,
}

/// Who gets as much as a throttle says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Each {
    /// All initiators together get that much of each unit.
    Unit,
    /// Each initiator or virtual machine gets that much of all units together.
    Initiator,
}

/// Bursts that are not said are what comes in this part of a second.
const BURST: u64 = 10;

impl Throttle {
    /// The rates that it stands for.
    pub(crate) fn rates(&self) -> Rates {
        let rate = |per_second: Option<NonZeroU64>, burst: Option<u64>| {
            let per_second = per_second?;
            Some(Rate { per_second, burst: burst.unwrap_or(per_second.get() / BURST) })
        };
        let bandwidth = self.bandwidth.and_then(|Bytes(bytes)| NonZeroU64::new(bytes));
        Rates {
            commands: rate(self.iops, self.iops_burst.map(NonZeroU64::get)),
            bytes: rate(bandwidth, self.bandwidth_burst.map(|Bytes(bytes)| bytes)),
        }
    }

    /// Whether its keys go together.
    ///
    /// # Errors
    /// The key that does not, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.iops.is_none() && self.iops_burst.is_some() {
            return Err(("iops-burst", "without `iops` any number of commands may come at once"));
        }
        if self.bandwidth.is_none() && self.bandwidth_burst.is_some() {
            return Err(("bandwidth-burst", "without `bandwidth` any number of bytes may come at once"));
        }
        if self.iops.is_none() && self.bandwidth.is_none() {
            return Err((
                "name",
                "a throttle says how many commands a second there may be, or how many bytes: `iops`, `bandwidth`",
            ));
        }
        Ok(())
    }
}
