//! The methods `throttle.…`.

use super::Call;
use super::patch::Patch;
use crate::config::values::Label;
use crate::config::{Model, Throttle};
use crate::running::Permit;
use lunette_control::{Failure, NoParams};
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

fn status(throttle: &Throttle) -> ThrottleStatus {
    ThrottleStatus { name: throttle.name.clone(), config: throttle.clone() }
}

pub(super) fn list(call: &Call<'_>, _: NoParams) -> Result<Vec<ThrottleStatus>, Failure> {
    Ok(call.daemon.running.now().model.throttles.values().map(status).collect())
}

pub(super) fn show(call: &Call<'_>, Named { name }: Named) -> Result<ThrottleStatus, Failure> {
    let now = call.daemon.running.now();
    now.model.throttles.get(&name).map(status).ok_or_else(|| no_throttle(&name))
}

pub(super) fn create(call: &Call<'_>, throttle: Throttle) -> Result<Created, Failure> {
    let name = throttle.name.clone();
    let edit = |model: &mut Model| match model.throttles.get(&throttle.name) {
        Some(known) if *known == throttle => Ok(false),
        Some(_) => Err(Failure::new(
            Failure::CONFLICT,
            format!("there is another throttle of the name `{}`", throttle.name),
        )),
        None => {
            model.throttles.insert(throttle.name.clone(), throttle);
            Ok(true)
        }
    };
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
