//! The methods `target.…`.

use super::patch::Patch;
use super::{Call, create_once, no_unit, place};
use crate::config::values::{Lun, Name, TargetName};
use crate::config::{self, Luns, Model, Rebase};
use crate::running::{Permit, luns_of_all};
use lunette_control::{Failure, NoParams};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of a target.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    /// The iSCSI name of the target.
    pub(crate) name: TargetName,
}

/// A target, as it is told.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TargetStatus {
    /// Its iSCSI name.
    name: TargetName,
    /// How many sessions it has.
    sessions: usize,
    /// What it shows to everybody for whom no rule says something else, by logical unit number.
    shown: Luns,
    /// Its keys, as in a configuration.
    config: config::Target,
}

/// A target that there is now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// Whether it was not there before.
    created: bool,
    #[serde(flatten)]
    target: TargetStatus,
}

/// The parameters of `target.attach`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attach {
    /// The iSCSI name of the target.
    pub(crate) name: TargetName,
    /// The name of the unit.
    pub(crate) unit: Name,
    /// The logical unit number; otherwise the one that the unit has there, or else the lowest that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lun: Option<Number>,
}

/// The parameters of `target.detach`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Detach {
    /// The iSCSI name of the target.
    pub(crate) name: TargetName,
    /// The name of the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Name>,
    /// The logical unit number; otherwise all of the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lun: Option<Number>,
}

/// A logical unit number.
pub(crate) type Number = config::UnitLun;

/// Where a unit is.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Attached {
    /// Whether it was not there before.
    pub(crate) attached: bool,
    /// Its logical unit number.
    pub(crate) lun: Number,
}

/// Where a unit was.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Detached {
    /// The logical unit numbers that are free now.
    pub(crate) luns: Vec<Number>,
}

fn no_target(name: &TargetName) -> Failure {
    Failure::not_found(format!("there is no target {name}"))
}

pub(super) fn list(call: &Call<'_>, _: NoParams) -> Result<Vec<TargetStatus>, Failure> {
    let model = &call.daemon.running.now().model;
    Ok(model.targets.values().map(|target| status(call, model, target)).collect())
}

pub(super) fn show(call: &Call<'_>, Named { name }: Named) -> Result<TargetStatus, Failure> {
    let model = &call.daemon.running.now().model;
    let target = model.targets.get(&name).ok_or_else(|| no_target(&name))?;
    Ok(status(call, model, target))
}

fn status(call: &Call<'_>, model: &Model, target: &config::Target) -> TargetStatus {
    let served = call.daemon.running.entity.target(&target.name.to_string());
    TargetStatus {
        name: target.name.clone(),
        sessions: served.map_or(0, |target| target.session_count()),
        shown: target.units.clone().unwrap_or_else(|| luns_of_all(model)),
        config: target.clone(),
    }
}

pub(super) fn create(call: &Call<'_>, target: config::Target) -> Result<Created, Failure> {
    let name = target.name.clone();
    is_absolute(&target)?;
    let edit = |model: &mut Model| create_once(&mut model.targets, "target", target.name.clone(), target);
    let (created, _) = call.daemon.running.change(Permit::default(), call.work, edit)?;
    Ok(Created { created, target: show(call, Named { name })? })
}

/// The directory of whoever asks is not that of the daemon.
fn is_absolute(target: &config::Target) -> Result<(), Failure> {
    match target.has_relative_paths() {
        false => Ok(()),
        true => Err(Failure::parameters("access: write the paths of secrets from / on")),
    }
}

pub(super) fn delete(call: &Call<'_>, Named { name }: Named) -> Result<(), Failure> {
    let edit = |model: &mut Model| model.targets.remove(&name).map(drop).ok_or_else(|| no_target(&name));
    call.daemon.running.change(Permit::default(), call.work, edit).map(drop)
}

pub(super) fn change(call: &Call<'_>, patch: Patch<config::Target>) -> Result<TargetStatus, Failure> {
    let name: TargetName = patch.name()?;
    let permit = patch.permit()?;
    let edit = |model: &mut Model| {
        let target = model.targets.get_mut(&name).ok_or_else(|| no_target(&name))?;
        *target = patch.apply(target)?;
        is_absolute(target)
    };
    call.daemon.running.change(permit, call.work, edit)?;
    show(call, Named { name })
}

pub(super) fn attach(call: &Call<'_>, Attach { name, unit, lun }: Attach) -> Result<Attached, Failure> {
    let edit = |model: &mut Model| {
        if !model.units.contains_key(&unit) {
            return Err(no_unit(&unit));
        }
        place::attach(named(model, &name)?, &unit, lun.map(|lun| Lun(lun.0)))
    };
    let ((Lun(lun), attached), _) = call.daemon.running.change(Permit::default(), call.work, edit)?;
    Ok(Attached { attached, lun: config::UnitLun(lun) })
}

pub(super) fn detach(call: &Call<'_>, Detach { name, unit, lun }: Detach) -> Result<Detached, Failure> {
    let edit =
        |model: &mut Model| place::detach(named(model, &name)?, unit.as_ref(), lun.map(|lun| Lun(lun.0)));
    let (luns, _) = call.daemon.running.change(Permit::default(), call.work, edit)?;
    Ok(Detached { luns: luns.into_iter().map(|Lun(lun)| config::UnitLun(lun)).collect() })
}

/// What a target names. One that shows all units of target 0 names those that it shows, from now on.
pub(super) fn named<'a>(model: &'a mut Model, name: &TargetName) -> Result<&'a mut Luns, Failure> {
    let all = luns_of_all(model);
    let target = model.targets.get_mut(name).ok_or_else(|| no_target(name))?;
    Ok(target.units.get_or_insert(all))
}
