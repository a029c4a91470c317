//! The method `stats.show`.

use super::Call;
use crate::metrics::Stats;
use lunette_control::Failure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The parameters of `stats.show`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Only this unit, and the reactors.
    pub(crate) unit: Option<String>,
}

pub(super) fn show(call: &Call<'_>, Which { unit }: Which) -> Result<Stats, Failure> {
    let stats = call.daemon.stats(unit.as_deref());
    match unit {
        Some(unit) if stats.units.is_empty() => Err(Failure::not_found(format!("there is no unit {unit}"))),
        _ => Ok(stats),
    }
}
