//! What is to be done to get from one configuration to another.
//!
//! A plan is a list of steps in an order in which none needs what is not there yet, and none takes what is still somebody's: first
//! goes what holds something that others want (a file, a serial number, a place, an address, a unit that is to be seen elsewhere),
//! then comes what is new, then what shows it, then what no longer shows the rest, then what is no longer wanted. After each step there is a configuration
//! whose parts hold together.

mod planner;
mod show;

use super::daemon::{Daemon, VhostUser};
use super::document::{Iscsi, Model, PortalKey};
use super::iscsi::{Access, Portal, Target};
use super::throttle::Throttle;
use super::unit::Unit;
use super::values::{Label, Lun, Name, Place, TargetName};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
}

/// One thing that is done to one object.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) object: Object,
    pub(crate) how: How,
    /// What changes, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) changes: Vec<Change>,
    /// What is so afterwards.
    #[serde(skip)]
    pub(crate) effect: Effect,
}

/// What becomes of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    Create,
    Change,
    Delete,
}

/// How something changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum How {
    /// While it is used.
    Live,
    /// The object goes and comes again: who uses it loses it for a moment.
    Recreate,
    /// When the daemon starts again.
    Restart,
}

/// What a step is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "kind")]
pub(crate) enum Object {
    /// `[daemon]`.
    Daemon,
    /// What concerns all of iSCSI.
    Iscsi,
    /// A logical unit.
    Unit { name: Name },
    /// An iSCSI portal. Of several with port 0 each has a number.
    Portal { listen: String },
    /// An iSCSI target.
    Target { name: TargetName },
    /// The rules of an iSCSI target. They are replaced as a whole: in between nobody is let in who should not be.
    Rules { target: TargetName },
    /// A socket for virtual machines.
    Export { name: Label },
    /// How much of what some get.
    Throttle { name: Label },
    /// A unit at a place.
    Mapping { shown_by: Shelf, at: String, unit: Name },
}

/// What shows units.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "kind")]
pub(crate) enum Shelf {
    /// A target.
    Target { name: TargetName },
    /// A rule of a target, by its place from 0 on.
    Rule { target: TargetName, index: usize },
    /// An export.
    Export { name: Label },
}

/// A value that becomes another one.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Change {
    /// The key; those of tables within follow after a point.
    pub(crate) key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) old: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) new: Option<Value>,
    pub(crate) how: How,
}

/// What is so after a step.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Effect {
    Daemon(Box<Daemon>),
    Iscsi(Box<Iscsi>),
    Unit(Arc<Unit>),
    NoUnit(Name),
    Portal(PortalKey, Box<Portal>),
    NoPortal(PortalKey),
    Target(Box<Target>),
    NoTarget(TargetName),
    Rules(TargetName, Vec<Access>),
    Export(Box<VhostUser>),
    /// The export of this name is called otherwise.
    Renamed(Label, Label),
    NoExport(Label),
    Throttle(Box<Throttle>),
    NoThrottle(Label),
    /// The target shows this at the number; nothing: nothing.
    AtTarget(TargetName, Lun, Option<Name>),
    AtRule(TargetName, usize, Lun, Option<Name>),
    AtExport(Label, Place, Option<Name>),
}

/// The way from `running` to `wanted`, which both hold together.
pub(crate) fn diff(running: &Model, wanted: &Model) -> Plan {
    planner::plan(running, wanted)
}

impl Plan {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Effect {
    /// Does to a model what the step does to what runs.
    pub(crate) fn apply(&self, model: &mut Model) {
        match self.clone() {
            Self::Daemon(daemon) => model.daemon = *daemon,
            Self::Iscsi(iscsi) => model.iscsi = *iscsi,
            Self::Unit(unit) => drop(model.units.insert(unit.name.clone(), unit)),
            Self::NoUnit(name) => drop(model.units.remove(&name)),
            Self::Portal(key, portal) => drop(model.portals.insert(key, *portal)),
            Self::NoPortal(key) => drop(model.portals.remove(&key)),
            Self::Target(target) => drop(model.targets.insert(target.name.clone(), *target)),
            Self::NoTarget(name) => drop(model.targets.remove(&name)),
            Self::Rules(name, rules) => {
                if let Some(target) = model.targets.get_mut(&name) {
                    target.access = rules;
                }
            }
            Self::Export(export) => drop(model.exports.insert(export.name.clone(), *export)),
            Self::Renamed(from, to) => {
                if let Some(export) = model.exports.remove(&from) {
                    model.exports.insert(to.clone(), VhostUser { name: to, ..export });
                }
            }
            Self::NoExport(name) => drop(model.exports.remove(&name)),
            Self::Throttle(throttle) => drop(model.throttles.insert(throttle.name.clone(), *throttle)),
            Self::NoThrottle(name) => drop(model.throttles.remove(&name)),
            Self::AtTarget(name, lun, unit) => {
                let map = model.targets.get_mut(&name).and_then(|target| target.units.as_mut());
                put(map, lun, unit);
            }
            Self::AtRule(name, index, lun, unit) => {
                let rule = model.targets.get_mut(&name).and_then(|target| target.access.get_mut(index));
                put(rule.and_then(|rule| rule.units.as_mut()), lun, unit);
            }
            Self::AtExport(name, place, unit) => {
                let map = model.exports.get_mut(&name).and_then(|export| export.units.as_mut());
                put(map, place, unit);
            }
        }
    }
}

impl Effect {
    /// What leads back to `model`, to which this is about to be applied.
    pub(crate) fn inverse(&self, model: &Model) -> Self {
        let target = |name: &TargetName| model.targets.get(name);
        match self {
            Self::Daemon(_) => Self::Daemon(Box::new(model.daemon.clone())),
            Self::Iscsi(_) => Self::Iscsi(Box::new(model.iscsi.clone())),
            Self::Unit(unit) => Self::unit_of(&unit.name, model),
            Self::NoUnit(name) => Self::unit_of(name, model),
            Self::Portal(key, _) | Self::NoPortal(key) => match model.portals.get(key) {
                Some(portal) => Self::Portal(*key, Box::new(portal.clone())),
                None => Self::NoPortal(*key),
            },
            Self::Target(wanted) => Self::target_of(&wanted.name, model),
            Self::NoTarget(name) => Self::target_of(name, model),
            Self::Rules(name, _) => {
                Self::Rules(name.clone(), target(name).map_or(Vec::new(), |target| target.access.clone()))
            }
            Self::Export(export) => Self::export_of(&export.name, model),
            Self::NoExport(name) => Self::export_of(name, model),
            Self::Renamed(from, to) => Self::Renamed(to.clone(), from.clone()),
            Self::Throttle(throttle) => Self::throttle_of(&throttle.name, model),
            Self::NoThrottle(name) => Self::throttle_of(name, model),
            Self::AtTarget(name, lun, _) => {
                let map = target(name).and_then(|target| target.units.as_ref());
                Self::AtTarget(name.clone(), *lun, map.and_then(|map| map.get(lun)).cloned())
            }
            Self::AtRule(name, index, lun, _) => {
                let rule = target(name).and_then(|target| target.access.get(*index));
                let map = rule.and_then(|rule| rule.units.as_ref());
                Self::AtRule(name.clone(), *index, *lun, map.and_then(|map| map.get(lun)).cloned())
            }
            Self::AtExport(name, place, _) => {
                let map = model.exports.get(name).and_then(|export| export.units.as_ref());
                Self::AtExport(name.clone(), *place, map.and_then(|map| map.get(place)).cloned())
            }
        }
    }

    fn unit_of(name: &Name, model: &Model) -> Self {
        let unit = model.units.get(name);
        unit.map_or_else(|| Self::NoUnit(name.clone()), |unit| Self::Unit(unit.clone()))
    }

    fn throttle_of(name: &Label, model: &Model) -> Self {
        let throttle = model.throttles.get(name);
        throttle
            .map_or_else(|| Self::NoThrottle(name.clone()), |known| Self::Throttle(Box::new(known.clone())))
    }

    fn target_of(name: &TargetName, model: &Model) -> Self {
        let target = model.targets.get(name);
        target.map_or_else(|| Self::NoTarget(name.clone()), |target| Self::Target(Box::new(target.clone())))
    }

    fn export_of(name: &Label, model: &Model) -> Self {
        let export = model.exports.get(name);
        export.map_or_else(|| Self::NoExport(name.clone()), |export| Self::Export(Box::new(export.clone())))
    }
}

fn put<K: Ord>(map: Option<&mut std::collections::BTreeMap<K, Name>>, key: K, unit: Option<Name>) {
    let Some(map) = map else { return };
    match unit {
        Some(unit) => drop(map.insert(key, unit)),
        None => drop(map.remove(&key)),
    }
}

/// The keys of a unit that change while it is used.
const LIVE_OF_UNITS: [&str; 7] = ["read-only", "size", "access", "waiting", "stuck-after", "target", "lun"];

/// The keys of the daemon that change while it runs.
const LIVE_OF_DAEMON: [&str; 1] = ["save-changes"];

/// How a key of an object changes.
fn how(object: &Object, key: &str, old: Option<&Value>, new: Option<&Value>) -> How {
    let key = key.split('.').next().unwrap_or_default();
    let is_memory =
        |store: Option<&Value>| store.and_then(Value::as_str).is_some_and(|store| store.starts_with("ram:"));
    match object {
        Object::Daemon if !LIVE_OF_DAEMON.contains(&key) => How::Restart,
        // It becomes larger or smaller.
        Object::Unit { .. } if key == "store" && is_memory(old) && is_memory(new) => How::Live,
        Object::Unit { .. } if !LIVE_OF_UNITS.contains(&key) => How::Recreate,
        Object::Portal { .. } if key == "group" => How::Recreate,
        Object::Export { .. } if matches!(key, "socket" | "client" | "port-group" | "known-by") => {
            How::Recreate
        }
        _ => How::Live,
    }
}

/// What differs between two states of an object.
fn changes(object: &Object, old: &Value, new: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare(String::new(), Some(old), Some(new), &mut |key, old, new| {
        let how = how(object, &key, old, new);
        found.push(Change { key, old: old.cloned(), new: new.cloned(), how });
    });
    found
}

/// Tells each value that differs, with its way in.
fn compare(
    path: String,
    old: Option<&Value>,
    new: Option<&Value>,
    tell: &mut impl FnMut(String, Option<&Value>, Option<&Value>),
) {
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                compare(inner(key), old.get(key), new.get(key), tell);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if path.is_empty() => {
            for index in 0..old.len().max(new.len()) {
                compare(inner(&index.to_string()), old.get(index), new.get(index), tell);
            }
        }
        (old, new) => tell(path, old, new),
    }
}

fn portal_name((address, number): PortalKey) -> String {
    match number {
        0 => address.to_string(),
        number => format!("{address} ({number})"),
    }
}

/// The texts of places.
fn place_text(place: &impl super::values::Value) -> String {
    place.write()
}
