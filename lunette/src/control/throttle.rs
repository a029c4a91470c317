//! The methods `throttle.…`.

use super::patch::Patch;
use super::{Call, create_once};
use crate::config::values::Label;
use crate::config::{Model, Throttle};
use crate::running::Permit;
use lunette_control::{Failure, NoParams};
use lunette_engine::Delays;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of a throttle.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    /// What the throttle is called.
    pub(crate) name: Label,
}

/// A throttle, as it is told.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ThrottleStatus {
    /// What it is called.
    name: Label,
    /// How many commands wait for it.
    waiting: u64,
    /// How often a command has begun to wait for it.
    waits: u64,
    /// Its keys, as in a configuration.
    config: Throttle,
}

/// A throttle that there is now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// Whether it was not there before.
    created: bool,
    #[serde(flatten)]
    throttle: ThrottleStatus,
}

fn no_throttle(name: &Label) -> Failure {
    Failure::not_found(format!("there is no throttle `{name}`"))
}

/// All of them, in the order of their names.
fn statuses(call: &Call<'_>) -> impl Iterator<Item = ThrottleStatus> {
    let delays = call.daemon.running.delays();
    let throttles = call.daemon.running.now().model.throttles.clone();
    throttles.into_iter().map(move |(name, config)| {
        let delays = delays.get(&name);
        let count = |of: fn(&Delays) -> u64| delays.map_or(0, |delays| of(delays));
        ThrottleStatus { name, waiting: count(Delays::waiting), waits: count(Delays::waits), config }
    })
}

pub(super) fn list(call: &Call<'_>, _: NoParams) -> Result<Vec<ThrottleStatus>, Failure> {
    Ok(statuses(call).collect())
}

pub(super) fn show(call: &Call<'_>, Named { name }: Named) -> Result<ThrottleStatus, Failure> {
    statuses(call).find(|status| status.name == name).ok_or_else(|| no_throttle(&name))
}

pub(super) fn create(call: &Call<'_>, throttle: Throttle) -> Result<Created, Failure> {
    let name = throttle.name.clone();
    let edit =
        |model: &mut Model| create_once(&mut model.throttles, "throttle", throttle.name.clone(), throttle);
    let (created, _) = call.daemon.running.change(Permit::default(), call.work, edit)?;
    Ok(Created { created, throttle: show(call, Named { name })? })
}

pub(super) fn delete(call: &Call<'_>, Named { name }: Named) -> Result<(), Failure> {
    let edit = |model: &mut Model| model.throttles.remove(&name).map(drop).ok_or_else(|| no_throttle(&name));
    call.daemon.running.change(Permit::default(), call.work, edit).map(drop)
}

pub(super) fn change(call: &Call<'_>, patch: Patch<Throttle>) -> Result<ThrottleStatus, Failure> {
    let name: Label = patch.name()?;
    let permit = patch.permit()?;
    let edit = |model: &mut Model| {
        let throttle = model.throttles.get_mut(&name).ok_or_else(|| no_throttle(&name))?;
        *throttle = patch.apply(throttle)?;
        Ok(())
    };
    call.daemon.running.change(permit, call.work, edit)?;
    show(call, Named { name })
}
