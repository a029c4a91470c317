//! The methods `unit.…`.

use super::patch::Patch;
use super::{Call, create_once, export, named_by, no_unit, place, target};
use crate::config::values::{Label, Lun, Name, Place, Size, StoreSpec, TargetName};
use crate::config::{self, Model};
use crate::running::{LONGEST, Now, Permit, Running, Shown, Wanted, failure};
use crate::units;
use lunette_control::{Failure, NoParams};
use lunette_engine::LogicalUnit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The name of a unit.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnitName {
    /// What the unit is called.
    pub(crate) name: Name,
}

/// How a unit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnitState {
    /// It carries out commands.
    Ready,
    /// It does not: `why` says why.
    NotReady,
    /// It holds commands back.
    Quiet,
    /// It is not open here, since its virtual machine is not here: `why` says who serves it.
    Standby,
}

/// A unit, as it is told.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UnitStatus {
    /// What it is called.
    name: Name,
    /// How it is.
    state: UnitState,
    /// Why it is not ready, or who serves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Its size in bytes, if it is open here.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// Logical block length in bytes.
    block: u32,
    /// Whether writes are refused.
    read_only: bool,
    /// Unit serial number, if it is open here.
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    /// World-wide name, if it is open here.
    #[serde(skip_serializing_if = "Option::is_none")]
    wwn: Option<String>,
    /// Where its bytes are, and how they are read and written.
    store: String,
    /// Where it is seen.
    shown: Vec<Shown>,
    /// Its keys, as in a configuration.
    config: Arc<config::Unit>,
}

/// A unit that there is now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// Whether it was not there before.
    created: bool,
    #[serde(flatten)]
    unit: UnitStatus,
}

/// The parameters of `unit.delete`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delete {
    /// What the unit is called.
    pub(crate) name: Name,
    /// Take it away wherever it is shown; otherwise one that is shown somewhere stays.
    #[serde(default)]
    pub(crate) detach: bool,
}

/// The parameters of `unit.resize`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resize {
    /// What the unit is called.
    pub(crate) name: Name,
    /// The size that it is to have: bytes, or a text such as `20G`.
    pub(crate) size: Size,
    /// It may become smaller, and lose what is beyond.
    #[serde(default)]
    pub(crate) shrink: bool,
}

/// The size of a unit.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Resized {
    /// In bytes.
    pub(crate) size: u64,
}

pub(super) fn list(call: &Call<'_>, _: NoParams) -> Result<Vec<UnitStatus>, Failure> {
    let running = &call.daemon.running;
    let now = running.now();
    let mut shown = now.shown(|_| true);
    let status = |name| status(&now, name, shown.remove(name).unwrap_or_default());
    let all: Vec<_> = now.model.units.keys().filter_map(status).collect();
    drop(now);
    Ok(all.into_iter().map(|unit| unit.explained(running)).collect())
}

pub(super) fn show(call: &Call<'_>, UnitName { name }: UnitName) -> Result<UnitStatus, Failure> {
    let running = &call.daemon.running;
    let now = running.now();
    let shown = now.shown(|other| *other == name).remove(&name).unwrap_or_default();
    let status = status(&now, &name, shown).ok_or_else(|| not_served(&now.model, &name))?;
    drop(now);
    Ok(status.explained(running))
}

impl UnitStatus {
    /// With the reason why it stands by, if it does. That is looked up in the state directory.
    fn explained(self, running: &Running) -> Self {
        match self.state {
            UnitState::Standby => Self { why: Some(running.why_standby(&self.name)), ..self },
            _ => self,
        }
    }
}

/// How a unit is that is served, or stands by.
fn status(now: &Now, name: &Name, shown: Vec<Shown>) -> Option<UnitStatus> {
    let spec = now.model.units.get(name)?;
    match now.unit(name.as_str()) {
        Some(unit) => Some(active(spec, unit, shown)),
        None => spec.migratable.then(|| standby(spec, shown)),
    }
}

fn standby(spec: &Arc<config::Unit>, shown: Vec<Shown>) -> UnitStatus {
    UnitStatus {
        name: spec.name.clone(),
        state: UnitState::Standby,
        why: None,
        size: None,
        block: spec.block.0,
        read_only: spec.read_only,
        serial: None,
        wwn: None,
        store: spec.store.to_string(),
        shown,
        config: spec.clone(),
    }
}

fn active(spec: &Arc<config::Unit>, served: &units::Unit, shown: Vec<Shown>) -> UnitStatus {
    let unit = &served.unit;
    let caps = unit.backing().map(|backing| backing.caps());
    let why = unit.not_ready().map(|why| why.additional.to_string());
    let state = match &why {
        Some(_) => UnitState::NotReady,
        None if unit.is_quiesced() => UnitState::Quiet,
        None => UnitState::Ready,
    };
    UnitStatus {
        name: spec.name.clone(),
        state,
        why,
        size: caps.map(|caps| caps.size.get()),
        block: spec.block.0,
        read_only: unit.is_read_only() || caps.is_some_and(|caps| caps.read_only),
        serial: Some(unit.identity.serial.clone()),
        wwn: Some(unit.identity.naa.to_string()),
        store: served.description.clone(),
        shown,
        config: spec.clone(),
    }
}

pub(super) fn create(call: &Call<'_>, unit: config::Unit) -> Result<Created, Failure> {
    let name = unit.name.clone();
    let edit = |model: &mut Model| {
        is_absolute(&unit)?;
        unit.check().map_err(|(key, why)| Failure::parameters(format!("{key}: {why}")))?;
        create_once(&mut model.units, "unit", unit.name.clone(), Arc::new(unit))
    };
    let (created, _) = call.daemon.running.change(Permit::default(), call.work, edit)?;
    Ok(Created { created, unit: show(call, UnitName { name })? })
}

/// The directory of whoever asks is not that of the daemon.
fn is_absolute(unit: &config::Unit) -> Result<(), Failure> {
    match &unit.store {
        StoreSpec::Path(path) if !path.as_path().is_absolute() => {
            Err(Failure::parameters(format!("store: write `{path}` from / on")))
        }
        _ => Ok(()),
    }
}

pub(super) fn delete(call: &Call<'_>, Delete { name, detach }: Delete) -> Result<(), Failure> {
    let running = &call.daemon.running;
    let edit = |model: &mut Model| {
        if !model.units.contains_key(&name) {
            return Err(no_unit(&name));
        }
        let shown = running.now().shown(|other| *other == name).remove(&name).unwrap_or_default();
        if let Some(first) = shown.first().filter(|_| !detach) {
            let others =
                if shown.len() > 1 { format!(" and {} more", shown.len() - 1) } else { String::new() };
            let Shown { name: by, at, .. } = first;
            return Err(Failure::failed(format!(
                "the unit `{name}` is shown at {at} of {by}{others}: detach it first"
            ))
            .allowed_by("detach"));
        }
        if let Some(throttle) = model.throttles.values().find(|throttle| throttle.units.contains(&name)) {
            return Err(named_by(throttle, &format!("unit `{name}`")));
        }
        forget(model, &name);
        Ok(())
    };
    running.change(Permit::default(), call.work, edit).map(drop)
}

/// Takes a unit out of a configuration, wherever it is named.
fn forget(model: &mut Model, name: &Name) {
    model.units.remove(name);
    for target in model.targets.values_mut() {
        let rules = target.access.iter_mut().filter_map(|rule| rule.units.as_mut());
        target.units.iter_mut().chain(rules).for_each(|luns| luns.retain(|_, unit| unit != name));
    }
    for places in model.exports.values_mut().filter_map(|export| export.units.as_mut()) {
        places.retain(|_, unit| unit != name);
    }
}

pub(super) fn change(call: &Call<'_>, patch: Patch<config::Unit>) -> Result<UnitStatus, Failure> {
    let name: Name = patch.name()?;
    let permit = patch.permit()?;
    let edit = |model: &mut Model| {
        let unit = model.units.get_mut(&name).ok_or_else(|| no_unit(&name))?;
        *unit = Arc::new(patch.apply(unit)?);
        is_absolute(unit)?;
        unit.check().map_err(|(key, why)| Failure::parameters(format!("{key}: {why}")))
    };
    call.daemon.running.change(permit, call.work, edit)?;
    show(call, UnitName { name })
}

/// The parameters of `unit.move`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Move {
    /// What the unit is called.
    pub(crate) unit: Name,
    /// The target or export that shows it.
    pub(crate) from: Label,
    /// The target or export that is to show it.
    pub(crate) to: Label,
    /// Where: `LUN`, or `TARGET:LUN` of an export; otherwise at the lowest number that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<Place>,
}

/// Where a unit is.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Moved {
    /// `LUN` or `TARGET:LUN`.
    pub(crate) at: Place,
}

pub(super) fn move_to(call: &Call<'_>, Move { unit, from, to, at }: Move) -> Result<Moved, Failure> {
    let edit = |model: &mut Model| {
        match target_of(model, &from)? {
            Some(target) => drop(place::detach(target::named(model, &target)?, Some(&unit), None)?),
            None => drop(place::detach(export::named(model, &from)?, Some(&unit), None)?),
        }
        match target_of(model, &to)? {
            Some(target) => {
                if at.is_some_and(|at| at.target != 0) {
                    return Err(Failure::parameters("at: an iSCSI target has logical unit numbers only"));
                }
                let (Lun(lun), _) =
                    place::attach(target::named(model, &target)?, &unit, at.map(|at| Lun(at.lun)))?;
                Ok(Place { target: 0, lun })
            }
            None => Ok(place::attach(export::named(model, &to)?, &unit, at)?.0),
        }
    };
    let (at, _) = call.daemon.running.change(Permit::default(), call.work, edit)?;
    Ok(Moved { at })
}

/// The target of this name, unless it is an export.
fn target_of(model: &Model, name: &Label) -> Result<Option<TargetName>, Failure> {
    let target = name.as_str().parse().ok().filter(|target| model.targets.contains_key(target));
    match (target, model.exports.contains_key(name)) {
        (Some(target), false) => Ok(Some(target)),
        (None, true) => Ok(None),
        (None, false) => Err(Failure::not_found(format!("there is no target or export `{name}`"))),
        (Some(_), true) => {
            Err(Failure::failed(format!("`{name}` is a target and an export: rename the export")))
        }
    }
}

pub(super) fn resize(call: &Call<'_>, Resize { name, size, shrink }: Resize) -> Result<Resized, Failure> {
    change_size(call, &name, Wanted::Size { bytes: size.0, shrink })
}

pub(super) fn refresh(call: &Call<'_>, UnitName { name }: UnitName) -> Result<Resized, Failure> {
    change_size(call, &name, Wanted::OfStore)
}

fn change_size(call: &Call<'_>, name: &Name, wanted: Wanted) -> Result<Resized, Failure> {
    let unit = find(call, name)?;
    let size = call.daemon.running.change_size(name, &unit, wanted, call.work)?;
    Ok(Resized { size })
}

pub(super) fn quiesce(call: &Call<'_>, UnitName { name }: UnitName) -> Result<(), Failure> {
    let unit = find(call, &name)?;
    let is_wanted = || call.work.go_on().is_ok();
    let quiet = call.daemon.running.quiesce_while(&unit, LONGEST, is_wanted);
    quiet.map_err(|error| call.work.go_on().err().unwrap_or_else(|| failure(error)))
}

pub(super) fn resume(call: &Call<'_>, UnitName { name }: UnitName) -> Result<(), Failure> {
    let unit = find(call, &name)?;
    unit.resume_commands(&*call.daemon.running.reactors.poster());
    Ok(())
}

fn find(call: &Call<'_>, name: &Name) -> Result<Arc<LogicalUnit>, Failure> {
    let running = &call.daemon.running;
    running.unit(name.as_str()).ok_or_else(|| not_served(&running.now().model, name))
}

/// There is no such unit, or it could not be made again when a change had failed.
fn not_served(model: &Model, name: &Name) -> Failure {
    match model.units.get(name) {
        None => no_unit(name),
        Some(spec) if spec.migratable => Failure::failed(format!(
            "the unit `{name}` stands by: it is not open here, where its virtual machine does not run"
        )),
        Some(_) => Failure::failed(format!(
            "the unit `{name}` could not be served again when a change had failed: apply the configuration, or delete it"
        )),
    }
}
