//! Finds the steps and their order.

use super::{Action, Effect, How, Object, Plan, Shelf, Step, changes, place_text, portal_name};
use crate::config::daemon::{ExportKnownBy, VhostUser};
use crate::config::document::{Model, PortalKey};
use crate::config::iscsi::{Access, Luns, Target};
use crate::config::throttle::Throttle;
use crate::config::unit::{Serial, Unit};
use crate::config::values::{FilePath, Label, Lun, Name, Place, StoreSpec, TargetName, Value as Written};
use lunette_scsi::Naa;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// The way from one model to the other.
pub(super) fn plan(running: &Model, wanted: &Model) -> Plan {
    let mut planner = Planner { now: running.clone(), wanted, plan: Plan::default() };
    planner.settings();
    planner.lift_throttles();
    planner.rename();
    planner.give_way();
    planner.units();
    planner.portals();
    planner.targets();
    planner.exports();
    planner.throttles();
    planner.clear();
    planner.plan
}

struct Planner<'a> {
    /// What there is after the steps so far.
    now: Model,
    wanted: &'a Model,
    plan: Plan,
}

/// What only one unit may have, unless it is a file of which all only read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Claim<'a> {
    Store(&'a FilePath),
    Serial(&'a Serial),
    WorldWideName(Naa),
    Place(Place),
}

fn claims(unit: &Unit) -> impl Iterator<Item = Claim<'_>> {
    let store = match &unit.store {
        StoreSpec::Path(path) => Some(Claim::Store(path)),
        StoreSpec::Ram(_) => None,
    };
    let serial = unit.serial.as_ref().map(Claim::Serial);
    let wwn = unit.wwn.map(|wwn| Claim::WorldWideName(wwn.0));
    let place = unit.lun.map(|lun| Claim::Place(Place { target: unit.target, lun: lun.0 }));
    [store, serial, wwn, place].into_iter().flatten()
}

/// An object as a value, which all of them can be.
fn value(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

impl Planner<'_> {
    fn step(&mut self, action: Action, object: Object, old: &Value, new: &Value, effect: Effect) {
        let changes = changes(&object, old, new);
        let how = match action {
            Action::Change => changes.iter().map(|change| change.how).max().unwrap_or(How::Live),
            Action::Create | Action::Delete => How::Live,
        };
        effect.apply(&mut self.now);
        self.plan.steps.push(Step { action, object, how, changes, effect });
    }

    fn create(&mut self, object: Object, new: &impl Serialize, effect: Effect) {
        self.step(Action::Create, object, &json!({}), &value(new), effect);
    }

    fn change(&mut self, object: Object, old: &impl Serialize, new: &impl Serialize, effect: Effect) {
        self.step(Action::Change, object, &value(old), &value(new), effect);
    }

    fn delete(&mut self, object: Object, effect: Effect) {
        self.step(Action::Delete, object, &Value::Null, &Value::Null, effect);
    }

    fn settings(&mut self) {
        let wanted = self.wanted;
        let old = self.now.daemon.clone();
        if old != wanted.daemon {
            let effect = Effect::Daemon(Box::new(wanted.daemon.clone()));
            self.change(Object::Daemon, &old, &wanted.daemon, effect);
        }
        let old = self.now.iscsi.clone();
        if old != wanted.iscsi {
            let effect = Effect::Iscsi(Box::new(wanted.iscsi.clone()));
            self.change(Object::Iscsi, &old, &wanted.iscsi, effect);
        }
    }

    /// Throttles go first that are not there afterwards, or are for what goes for a moment: in between there is none.
    fn lift_throttles(&mut self) {
        let leaving: BTreeSet<String> = self.units_in_the_way().iter().map(ToString::to_string).collect();
        let exports = self.exports_in_the_way();
        let stays = |throttle: &Throttle| {
            self.wanted.throttles.contains_key(&throttle.name)
                && !throttle.units.iter().any(|unit| leaving.contains(unit.as_str()))
                && !throttle.exports.iter().any(|export| exports.contains(export))
        };
        let throttles = self.now.throttles.values();
        let gone: Vec<_> =
            throttles.filter(|throttle| !stays(throttle)).map(|throttle| throttle.name.clone()).collect();
        for name in gone {
            self.delete(Object::Throttle { name: name.clone() }, Effect::NoThrottle(name));
        }
    }

    fn throttles(&mut self) {
        for (name, throttle) in &self.wanted.throttles {
            let effect = || Effect::Throttle(Box::new(throttle.clone()));
            let object = Object::Throttle { name: name.clone() };
            match self.now.throttles.get(name).cloned() {
                None => self.create(object, throttle, effect()),
                Some(old) if old != *throttle => self.change(object, &old, throttle, effect()),
                Some(_) => {}
            }
        }
    }

    /// What holds something that another one wants goes first, also if it comes again.
    fn give_way(&mut self) {
        for name in self.units_in_the_way() {
            for (shelf, at) in self.seen_at(&name) {
                self.detach(shelf, at, &name);
            }
            let comes_again = self.wanted.units.contains_key(&name);
            self.delete(Object::Unit { name: name.clone() }, Effect::NoUnit(name));
            self.comes_again(comes_again);
        }
        for unit in self.places_in_the_way() {
            let elsewhere = Arc::new(Unit { lun: None, target: 0, ..(*unit).clone() });
            let object = Object::Unit { name: unit.name.clone() };
            self.change(object, &unit, &elsewhere, Effect::Unit(elsewhere.clone()));
        }
        for (name, from) in self.moved() {
            for (shelf, at) in self.seen_at(&name) {
                if from.contains(&shelf) {
                    self.detach(shelf, at, &name);
                }
            }
        }
        for name in self.exports_in_the_way() {
            let comes_again = self.wanted.exports.contains_key(&name);
            self.delete_export(name);
            self.comes_again(comes_again);
        }
        let clashing: Vec<_> =
            self.now.portals.keys().filter(|key| self.is_in_the_way(**key)).copied().collect();
        clashing.into_iter().for_each(|key| self.delete_portal(key));
    }

    /// What the last step takes away is made again later.
    fn comes_again(&mut self, comes_again: bool) {
        if let Some(step) = self.plan.steps.last_mut().filter(|_| comes_again) {
            step.how = How::Recreate;
        }
    }

    fn exports_in_the_way(&self) -> Vec<Label> {
        let new = |export: &&VhostUser| self.now.exports.get(&export.name) != Some(export);
        let wanted = self.wanted.exports.values().filter(new);
        let sockets: HashMap<_, _> = wanted.map(|export| (&export.socket, &export.name)).collect();
        let in_the_way =
            |export: &&VhostUser| sockets.get(&export.socket).is_some_and(|name| **name != export.name);
        self.now.exports.values().filter(in_the_way).map(|export| export.name.clone()).collect()
    }

    /// Whether a wanted portal cannot listen while this one does.
    fn is_in_the_way(&self, key: PortalKey) -> bool {
        let (address, _) = key;
        let clashes = |other: &SocketAddr| {
            let for_all = other.ip().is_unspecified() || address.ip().is_unspecified();
            *other != address
                && other.port() == address.port()
                && for_all
                && other.is_ipv4() == address.is_ipv4()
        };
        address.port() != 0
            && !self.wanted.portals.contains_key(&key)
            && self.wanted.portals.keys().any(|(other, _)| clashes(other))
    }

    /// Those that have to go.
    fn units_in_the_way(&self) -> BTreeSet<Name> {
        let goes = |holder: &Unit, claim: &Claim<'_>| {
            !matches!(claim, Claim::Place(_)) || !self.wanted.units.contains_key(&holder.name)
        };
        self.in_the_way(goes).into_iter().map(|unit| unit.name.clone()).collect()
    }

    /// Those that go on, but not where they are.
    fn places_in_the_way(&self) -> Vec<Arc<Unit>> {
        self.in_the_way(|_, claim| matches!(claim, Claim::Place(_)))
    }

    /// The units that have something which others want, of what `counts`.
    fn in_the_way(&self, counts: impl Fn(&Unit, &Claim<'_>) -> bool) -> Vec<Arc<Unit>> {
        let is_new = |unit: &&Arc<Unit>| self.now.units.get(&unit.name) != Some(*unit);
        let mut wanted: HashMap<Claim<'_>, Vec<&Unit>> = HashMap::new();
        for unit in self.wanted.units.values().filter(is_new) {
            claims(unit).for_each(|claim| wanted.entry(claim).or_default().push(unit));
        }
        if wanted.is_empty() {
            return Vec::new();
        }
        let gives_way = |holder: &&Arc<Unit>| {
            let later = self.wanted.units.get(&holder.name);
            claims(holder).filter(|claim| counts(holder, claim)).any(|claim| {
                let still_reads =
                    || later.is_some_and(|later| later.read_only && claims(later).any(|kept| kept == claim));
                // Two that only read may share a file, unless one of them writes now or later.
                let shares = |unit: &Unit| {
                    matches!(claim, Claim::Store(_)) && unit.read_only && holder.read_only && still_reads()
                };
                let mut others = wanted.get(&claim).into_iter().flatten();
                others.any(|unit| unit.name != holder.name && !shares(unit))
            })
        };
        self.now.units.values().filter(gives_way).cloned().collect()
    }

    /// The units that others are to see, and by what they are seen that are to see them no more: these lose them first, so
    /// that it is never both.
    fn moved(&self) -> Vec<(Name, BTreeSet<Shelf>)> {
        let (now, wanted) = (shelves(&self.now), shelves(self.wanted));
        let none = BTreeSet::new();
        let of = |(name, before): (&&Name, &BTreeSet<Shelf>)| {
            let after = wanted.get(*name).unwrap_or(&none);
            let left: BTreeSet<Shelf> = before.difference(after).cloned().collect();
            let is_moved = !left.is_empty() && !after.is_subset(before);
            is_moved.then(|| ((*name).clone(), left))
        };
        now.iter().filter_map(of).collect()
    }

    fn units(&mut self) {
        for (name, unit) in &self.wanted.units {
            let effect = || Effect::Unit(unit.clone());
            let object = Object::Unit { name: name.clone() };
            match self.now.units.get(name).cloned() {
                None => self.create(object, unit, effect()),
                Some(old) if old != *unit => self.change(object, &old, unit, effect()),
                Some(_) => {}
            }
        }
    }

    fn portals(&mut self) {
        for (key, portal) in &self.wanted.portals {
            let effect = || Effect::Portal(*key, Box::new(portal.clone()));
            let object = Object::Portal { listen: portal_name(*key) };
            match self.now.portals.get(key).cloned() {
                None => self.create(object, portal, effect()),
                Some(old) if old != *portal => self.change(object, &old, portal, effect()),
                Some(_) => {}
            }
        }
    }

    fn targets(&mut self) {
        for (name, target) in &self.wanted.targets {
            let object = || Object::Target { name: name.clone() };
            let Some(old) = self.now.targets.get(name).cloned() else {
                self.create(object(), target, Effect::Target(Box::new(target.clone())));
                continue;
            };
            // Units and rules have steps of their own.
            let by_place = old.units.is_some() && target.units.is_some();
            let units = if by_place { old.units.clone() } else { target.units.clone() };
            let itself = Target { units, access: old.access.clone(), ..target.clone() };
            if itself != old {
                self.change(object(), &old, &itself, Effect::Target(Box::new(itself.clone())));
            }
            let shelf = Shelf::Target { name: name.clone() };
            self.attach(&shelf, itself.units.as_ref(), target.units.as_ref());
            if old.access != target.access {
                let effect = Effect::Rules(name.clone(), target.access.clone());
                self.change(Object::Rules { target: name.clone() }, &old.access, &target.access, effect);
            }
        }
    }

    /// Exports that are only called otherwise: who is connected stays.
    fn rename(&mut self) {
        let wanted = self.wanted;
        let is_new = |export: &&VhostUser| !self.now.exports.contains_key(&export.name);
        let new: Vec<_> = wanted.exports.values().filter(is_new).collect();
        for export in new {
            // One that is known by its name is another one with another name.
            let is_former = |old: &&VhostUser| {
                old.socket == export.socket
                    && old.known_by == ExportKnownBy::Socket
                    && !wanted.exports.contains_key(&old.name)
            };
            let Some(old) = self.now.exports.values().find(is_former).cloned() else { continue };
            let (from, to) = (old.name.clone(), export.name.clone());
            let renamed = VhostUser { name: to.clone(), ..old.clone() };
            let object = Object::Export { name: to.clone() };
            self.change(object, &old, &renamed, Effect::Renamed(from, to));
        }
    }

    fn exports(&mut self) {
        for (name, export) in &self.wanted.exports {
            let object = || Object::Export { name: name.clone() };
            let Some(old) = self.now.exports.get(name).cloned() else {
                self.create(object(), export, Effect::Export(Box::new(export.clone())));
                continue;
            };
            let by_place = old.units.is_some() && export.units.is_some();
            let units = if by_place { old.units.clone() } else { export.units.clone() };
            let itself = VhostUser { units, ..export.clone() };
            if itself != old {
                self.change(object(), &old, &itself, Effect::Export(Box::new(itself.clone())));
            }
            let shelf = Shelf::Export { name: name.clone() };
            self.attach(&shelf, itself.units.as_ref(), export.units.as_ref());
        }
    }

    /// Shows units at places where nothing, or something else, is.
    fn attach<K: Written + Ord>(
        &mut self,
        shelf: &Shelf,
        old: Option<&BTreeMap<K, Name>>,
        new: Option<&BTreeMap<K, Name>>,
    ) {
        let (Some(old), Some(new)) = (old, new) else { return };
        for (place, unit) in new {
            let at = place_text(place);
            match old.get(place) {
                Some(before) if before == unit => {}
                before => {
                    let action = if before.is_some() { Action::Change } else { Action::Create };
                    let (before, after) = (json!({ "unit": before }), json!({ "unit": unit }));
                    let effect = at_shelf(shelf, &at, Some(unit.clone()));
                    let object = Object::Mapping { shown_by: shelf.clone(), at, unit: unit.clone() };
                    let known = if action == Action::Create { json!({}) } else { before };
                    let after = if action == Action::Create { json!({}) } else { after };
                    self.step(action, object, &known, &after, effect);
                }
            }
        }
    }

    fn detach(&mut self, shelf: Shelf, at: String, unit: &Name) {
        let effect = at_shelf(&shelf, &at, None);
        self.delete(Object::Mapping { shown_by: shelf, at, unit: unit.clone() }, effect);
    }

    /// The places at which a unit is shown by name.
    fn seen_at(&self, unit: &Name) -> Vec<(Shelf, String)> {
        fn places<'a, K: Written>(
            map: Option<&'a BTreeMap<K, Name>>,
            unit: &'a Name,
        ) -> impl Iterator<Item = String> + 'a {
            map.into_iter()
                .flatten()
                .filter(move |(_, other)| *other == unit)
                .map(|(place, _)| place_text(place))
        }
        let mut all = Vec::new();
        for (name, target) in &self.now.targets {
            let shelf = || Shelf::Target { name: name.clone() };
            all.extend(places(target.units.as_ref(), unit).map(|at| (shelf(), at)));
            for (index, Access { units, .. }) in target.access.iter().enumerate() {
                let shelf = || Shelf::Rule { target: name.clone(), index };
                all.extend(places(units.as_ref(), unit).map(|at| (shelf(), at)));
            }
        }
        for (name, export) in &self.now.exports {
            all.extend(
                places(export.units.as_ref(), unit).map(|at| (Shelf::Export { name: name.clone() }, at)),
            );
        }
        all
    }

    /// What is no longer wanted goes last: first where units are seen, then the units.
    fn clear(&mut self) {
        let wanted = self.wanted;
        let gone: Vec<TargetName> =
            self.now.targets.keys().filter(|name| !wanted.targets.contains_key(*name)).cloned().collect();
        for name in gone {
            self.delete(Object::Target { name: name.clone() }, Effect::NoTarget(name));
        }
        let gone: Vec<Label> =
            self.now.exports.keys().filter(|name| !wanted.exports.contains_key(*name)).cloned().collect();
        gone.into_iter().for_each(|name| self.delete_export(name));
        let gone: Vec<PortalKey> =
            self.now.portals.keys().filter(|key| !wanted.portals.contains_key(key)).copied().collect();
        gone.into_iter().for_each(|key| self.delete_portal(key));
        self.clear_places();
        let gone: Vec<Name> =
            self.now.units.keys().filter(|name| !wanted.units.contains_key(*name)).cloned().collect();
        for name in gone {
            self.delete(Object::Unit { name: name.clone() }, Effect::NoUnit(name));
        }
    }

    fn clear_places(&mut self) {
        let mut gone = Vec::new();
        for (name, target) in &self.wanted.targets {
            let old: Option<&Luns> = self.now.targets.get(name).and_then(|target| target.units.as_ref());
            let shelf = Shelf::Target { name: name.clone() };
            gone.extend(left(old, target.units.as_ref()).map(|(at, unit)| (shelf.clone(), at, unit)));
        }
        for (name, export) in &self.wanted.exports {
            let old = self.now.exports.get(name).and_then(|export| export.units.as_ref());
            let shelf = Shelf::Export { name: name.clone() };
            gone.extend(left(old, export.units.as_ref()).map(|(at, unit)| (shelf.clone(), at, unit)));
        }
        gone.into_iter().for_each(|(shelf, at, unit)| self.detach(shelf, at, &unit));
    }

    fn delete_export(&mut self, name: Label) {
        self.delete(Object::Export { name: name.clone() }, Effect::NoExport(name));
    }

    fn delete_portal(&mut self, key: PortalKey) {
        self.delete(Object::Portal { listen: portal_name(key) }, Effect::NoPortal(key));
    }
}

/// What shows each unit that is named, to everybody.
fn shelves(model: &Model) -> BTreeMap<&Name, BTreeSet<Shelf>> {
    let mut shelves: BTreeMap<&Name, BTreeSet<Shelf>> = BTreeMap::new();
    for (name, target) in &model.targets {
        for unit in target.units.iter().flat_map(BTreeMap::values) {
            shelves.entry(unit).or_default().insert(Shelf::Target { name: name.clone() });
        }
    }
    for (name, export) in &model.exports {
        for unit in export.units.iter().flat_map(BTreeMap::values) {
            shelves.entry(unit).or_default().insert(Shelf::Export { name: name.clone() });
        }
    }
    shelves
}

/// The places at which nothing is to be any more.
fn left<'a, K: Written + Ord>(
    old: Option<&'a BTreeMap<K, Name>>,
    new: Option<&'a BTreeMap<K, Name>>,
) -> impl Iterator<Item = (String, Name)> + 'a {
    let both = old.zip(new);
    let of = |(old, new): (&'a BTreeMap<K, Name>, &'a BTreeMap<K, Name>)| {
        old.iter().filter(move |(place, _)| !new.contains_key(place))
    };
    both.into_iter().flat_map(of).map(|(place, unit)| (place_text(place), unit.clone()))
}

/// The effect of showing something at a place that is written like that.
fn at_shelf(shelf: &Shelf, at: &str, unit: Option<Name>) -> Effect {
    let Place { target, lun } = Place::read(at).unwrap_or(Place { target: 0, lun: 0 });
    match shelf.clone() {
        Shelf::Target { name } => Effect::AtTarget(name, Lun(lun), unit),
        Shelf::Rule { target, index } => Effect::AtRule(target, index, Lun(lun), unit),
        Shelf::Export { name } => Effect::AtExport(name, Place { target, lun }, unit),
    }
}
