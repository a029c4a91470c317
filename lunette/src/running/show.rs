//! What is told of what runs.

use super::Link;
use super::Now;
use super::exports::Export;
use super::targets::Gate;
use crate::config::values::{Label, Lun, Name, Place};
use crate::config::{self, Luns, PortalKey};
use crate::control::PortalStatus;
use crate::units::Unit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A place at which a unit is seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Shown {
    /// `target` or `export`.
    pub(crate) by: ShownBy,
    /// The name of that.
    pub(crate) name: String,
    /// The logical unit number, or `TARGET:LUN`.
    pub(crate) at: String,
    /// The access rule of the target, from 0 on, that shows it to some initiators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<usize>,
}

/// What shows units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShownBy {
    /// An iSCSI target.
    Target,
    /// A vhost-user export.
    Export,
}

impl Now {
    /// Where units are seen: those for which `is_it` is true.
    pub(crate) fn shown(&self, is_it: impl Fn(&Name) -> bool) -> BTreeMap<Name, Vec<Shown>> {
        let mut places: BTreeMap<Name, Vec<Shown>> = BTreeMap::new();
        let mut add = |unit: &Name, by, name: &str, at: String, rule| {
            if is_it(unit) {
                let shown = Shown { by, name: name.to_owned(), at, rule };
                places.entry(unit.clone()).or_default().push(shown);
            }
        };
        for (name, target) in &self.model.targets {
            let name = name.to_string();
            let luns = target.units.clone().unwrap_or_else(|| self.luns_of_all());
            luns.iter().for_each(|(lun, unit)| add(unit, ShownBy::Target, &name, lun.to_string(), None));
            for (index, rule) in target.access.iter().enumerate() {
                for (lun, unit) in rule.units.iter().flatten() {
                    add(unit, ShownBy::Target, &name, lun.to_string(), Some(index));
                }
            }
        }
        for (name, export) in &self.model.exports {
            let places = export.units.clone().unwrap_or_else(|| self.places_of_all());
            let at = |place: &Place| place.to_string();
            places
                .iter()
                .for_each(|(place, unit)| add(unit, ShownBy::Export, name.as_str(), at(place), None));
        }
        for export in &self.adopted_exports {
            let name = export.handle.name();
            for (place, unit) in self.places_of_all() {
                add(&unit, ShownBy::Export, name, place.to_string(), None);
            }
        }
        places
    }

    /// What a target shows that names no units.
    pub(crate) fn luns_of_all(&self) -> Luns {
        luns_of_all(&self.model)
    }

    fn places_of_all(&self) -> config::Places {
        places_of_all(&self.model)
    }

    /// Something of each portal of the configuration.
    pub(crate) fn portals<T>(&self, tell: impl Fn(PortalKey, PortalStatus) -> T) -> Vec<T> {
        let told = |(key, gate): (&PortalKey, &Gate)| {
            Some(tell(*key, PortalStatus::new(self.model.portals.get(key)?, &gate.portal)))
        };
        self.portals.iter().filter_map(told).collect()
    }

    /// How the export of this name and its front end stand.
    pub(crate) fn link(&self, export: &Label) -> Option<Link> {
        self.exports.get(export).map(Export::link)
    }

    /// The same of all exports of the configuration.
    pub(crate) fn links(&self) -> impl Iterator<Item = (&Label, Link)> {
        self.exports.iter().map(|(name, export)| (name, export.link()))
    }

    /// The served unit of this name.
    pub(crate) fn unit(&self, name: &str) -> Option<&Unit> {
        self.units.get(name)
    }
}

/// What a target shows that names no units.
pub(crate) fn luns_of_all(model: &config::Model) -> Luns {
    let places = places_of_all(model).into_iter();
    places.filter(|(place, _)| place.target == 0).map(|(place, unit)| (Lun(place.lun), unit)).collect()
}

/// What an export shows that names no units.
pub(crate) fn places_of_all(model: &config::Model) -> config::Places {
    let place = |unit: &Arc<config::Unit>| Some((crate::units::place(unit)?, unit.name.clone()));
    model.units.values().filter_map(place).collect()
}
