//! The methods `export.…`.

use super::patch::Patch;
use super::{Call, create_once, named_by, no_unit, place, taken};
use crate::config::values::{Label, Name, Place};
use crate::config::{self, Model, Places};
use crate::running::{LinkState, Now, Permit, places_of_all};
use lunette_control::{Failure, NoParams};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The name of an export.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    /// What the export is called.
    pub(crate) name: Label,
}

/// An export, as it is told.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ExportStatus {
    /// What it is called.
    name: Label,
    /// Whether there is a front end.
    state: LinkState,
    /// Why a `client` cannot connect.
    error: Option<String>,
    /// What it shows, by `LUN` or `TARGET:LUN`.
    shown: Places,
    /// Those of the units that stand by.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    standby: BTreeSet<Name>,
    /// Its keys, as in a configuration.
    config: config::VhostUser,
}

/// An export that there is now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// Whether it was not there before.
    created: bool,
    #[serde(flatten)]
    export: ExportStatus,
}

/// The parameters of `export.attach`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attach {
    /// What the export is called.
    pub(crate) name: Label,
    /// The name of the unit.
    pub(crate) unit: Name,
    /// `LUN` or `TARGET:LUN`; otherwise where the unit is, or else the lowest logical unit number of target 0 that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<Place>,
}

/// The parameters of `export.detach`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Detach {
    /// What the export is called.
    pub(crate) name: Label,
    /// The name of the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Name>,
    /// `LUN` or `TARGET:LUN`; otherwise all places of the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<Place>,
}

/// The parameters of `export.rename`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rename {
    /// What the export is called.
    pub(crate) name: Label,
    /// What it is to be called.
    pub(crate) to: Label,
}

/// Where a unit is.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Attached {
    /// Whether it was not there before.
    pub(crate) attached: bool,
    /// `LUN` or `TARGET:LUN`.
    pub(crate) at: Place,
}

/// Where a unit was.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Detached {
    /// The places that are free now.
    pub(crate) places: Vec<Place>,
}

fn no_export(name: &Label) -> Failure {
    Failure::not_found(format!("there is no export `{name}`"))
}

pub(super) fn list(call: &Call<'_>, _: NoParams) -> Result<Vec<ExportStatus>, Failure> {
    let now = call.daemon.running.now();
    Ok(now.model.exports.values().map(|export| status(&now, export)).collect())
}

pub(super) fn show(call: &Call<'_>, Named { name }: Named) -> Result<ExportStatus, Failure> {
    let now = call.daemon.running.now();
    let export = now.model.exports.get(&name).ok_or_else(|| no_export(&name))?;
    Ok(status(&now, export))
}

fn status(now: &Now, export: &config::VhostUser) -> ExportStatus {
    let shown = export.units.clone().unwrap_or_else(|| places_of_all(&now.model));
    let is_standby = |name: &&Name| now.unit(name.as_str()).is_none();
    let link = now.link(&export.name);
    ExportStatus {
        name: export.name.clone(),
        state: link.as_ref().map_or(LinkState::Listening, |link| link.state),
        error: link.and_then(|link| link.error),
        standby: shown.values().filter(is_standby).cloned().collect(),
        shown,
        config: export.clone(),
    }
}

pub(super) fn create(call: &Call<'_>, export: config::VhostUser) -> Result<Created, Failure> {
    let name = export.name.clone();
    let edit = |model: &mut Model| {
        is_absolute(&export)?;
        create_once(&mut model.exports, "export", export.name.clone(), export)
    };
    let (created, _) = call.daemon.running.change(Permit::default(), call.work, edit)?;
    Ok(Created { created, export: show(call, Named { name })? })
}

/// The directory of whoever asks is not that of the daemon.
fn is_absolute(export: &config::VhostUser) -> Result<(), Failure> {
    match export.socket.as_path().is_absolute() {
        true => Ok(()),
        false => Err(Failure::parameters(format!("socket: write `{}` from / on", export.socket))),
    }
}

pub(super) fn delete(call: &Call<'_>, Named { name }: Named) -> Result<(), Failure> {
    let edit = |model: &mut Model| {
        model.exports.remove(&name).ok_or_else(|| no_export(&name))?;
        match model.throttles.values().find(|throttle| throttle.exports.contains(&name)) {
            Some(throttle) => Err(named_by(throttle, &format!("export `{name}`"))),
            None => Ok(()),
        }
    };
    call.daemon.running.change(Permit::default(), call.work, edit).map(drop)
}

pub(super) fn change(call: &Call<'_>, patch: Patch<config::VhostUser>) -> Result<ExportStatus, Failure> {
    let name: Label = patch.name()?;
    let permit = patch.permit()?;
    let edit = |model: &mut Model| {
        let export = model.exports.get_mut(&name).ok_or_else(|| no_export(&name))?;
        *export = patch.apply(export)?;
        is_absolute(export)
    };
    call.daemon.running.change(permit, call.work, edit)?;
    show(call, Named { name })
}

pub(super) fn rename(call: &Call<'_>, Rename { name, to }: Rename) -> Result<(), Failure> {
    let edit = |model: &mut Model| {
        if model.exports.contains_key(&to) && name != to {
            return Err(taken("export", &to));
        }
        let export = model.exports.remove(&name).ok_or_else(|| no_export(&name))?;
        let throttled = model.throttles.values_mut().flat_map(|throttle| &mut throttle.exports);
        throttled.filter(|export| **export == name).for_each(|export| export.clone_from(&to));
        model.exports.insert(to.clone(), config::VhostUser { name: to, ..export });
        Ok(())
    };
    call.daemon.running.change(Permit::default(), call.work, edit).map(drop)
}

pub(super) fn attach(call: &Call<'_>, Attach { name, unit, at }: Attach) -> Result<Attached, Failure> {
    let edit = |model: &mut Model| {
        if !model.units.contains_key(&unit) {
            return Err(no_unit(&unit));
        }
        place::attach(named(model, &name)?, &unit, at)
    };
    let ((at, attached), _) = call.daemon.running.change(Permit::default(), call.work, edit)?;
    Ok(Attached { attached, at })
}

pub(super) fn detach(call: &Call<'_>, Detach { name, unit, at }: Detach) -> Result<Detached, Failure> {
    let edit = |model: &mut Model| place::detach(named(model, &name)?, unit.as_ref(), at);
    let (places, _) = call.daemon.running.change(Permit::default(), call.work, edit)?;
    Ok(Detached { places })
}

/// What an export names. One that shows all units names those that it shows, from now on.
pub(super) fn named<'a>(model: &'a mut Model, name: &Label) -> Result<&'a mut Places, Failure> {
    let all = places_of_all(model);
    let export = model.exports.get_mut(name).ok_or_else(|| no_export(name))?;
    Ok(export.units.get_or_insert(all))
}
