//! Whether the parts of a configuration hold together. Nothing of the system is looked at.

use super::daemon::VhostUser;
use super::document::Document;
use super::iscsi::{Access, Chap, PortGroup, Target};
use super::report::Severity;
use super::suggest::there_are;
use super::unit::Unit;
use super::values::{FilePath, Name, StoreSpec};
use lunette_control::did_you_mean;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// A place in a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Where {
    /// The name of the table; empty: the configuration as a whole.
    pub(crate) section: &'static str,
    /// Which one of several.
    pub(crate) index: usize,
    /// The way further in: keys, and the places of elements.
    pub(crate) keys: Vec<String>,
}

impl Where {
    fn new(section: &'static str, index: usize) -> Self {
        Self { section, index, keys: Vec::new() }
    }

    /// Further in.
    pub(super) fn at(&self, key: impl ToString) -> Self {
        let keys = self.keys.iter().cloned().chain([key.to_string()]).collect();
        Self { keys, ..*self }
    }
}

/// Something that does not hold together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Issue {
    pub(crate) severity: Severity,
    pub(crate) at: Where,
    pub(crate) what: String,
    pub(crate) help: Option<String>,
    /// Something else that has to do with it.
    pub(crate) also: Option<(Where, &'static str)>,
}

impl Issue {
    pub(super) fn new(at: Where, what: impl Into<String>) -> Self {
        Self { severity: Severity::Error, at, what: what.into(), help: None, also: None }
    }
}

/// What there is besides the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Setting {
    /// Whether there are sockets of iSCSI already, if that is known.
    pub(crate) iscsi_sockets: Option<bool>,
    /// Whether there are sockets for virtual machines already, if that is known.
    pub(crate) vhost_user_sockets: Option<bool>,
    /// Whether secrets, users and groups are looked up.
    pub(crate) looks_at_system: bool,
    /// Whether it is a whole configuration. On the way from one to another there may be none of something for a moment.
    pub(crate) is_whole: bool,
}

/// What is wrong.
pub(crate) fn check(document: &Document, setting: Setting) -> Vec<Issue> {
    let mut checker = Checker { document, setting, names: HashMap::new(), issues: Vec::new() };
    checker.units();
    checker.portals();
    checker.targets();
    checker.exports();
    checker.throttles();
    if setting.is_whole {
        checker.daemon();
        checker.portal_groups();
        checker.port_groups();
        checker.migratable();
        checker.whole();
    }
    checker.issues
}

struct Checker<'a> {
    document: &'a Document,
    setting: Setting,
    /// The units by their names.
    names: HashMap<&'a str, usize>,
    issues: Vec<Issue>,
}

/// Of several things with the same key all but the first, with the first.
fn twice<K: Hash + Eq>(keys: impl Iterator<Item = (usize, Option<K>)>) -> Vec<(usize, usize)> {
    let mut seen = HashMap::new();
    let mut again = Vec::new();
    for (index, key) in keys {
        let Some(key) = key else { continue };
        match seen.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => again.push((index, *first.get())),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(index);
            }
        }
    }
    again
}

impl<'a> Checker<'a> {
    fn error(&mut self, at: Where, what: impl Into<String>) {
        self.issues.push(Issue::new(at, what));
    }

    fn warn(&mut self, at: Where, what: impl Into<String>) {
        self.issues.push(Issue { severity: Severity::Warning, ..Issue::new(at, what) });
    }

    fn clash(&mut self, at: Where, what: String, other: Where) {
        self.issues.push(Issue { also: Some((other, "the other one is at")), ..Issue::new(at, what) });
    }

    fn units(&mut self) {
        let units = &self.document.units;
        for (index, unit) in units.iter().enumerate() {
            self.names.entry(unit.name.as_str()).or_insert(index);
            if let Err((key, what)) = unit.check() {
                self.error(Where::new("unit", index).at(key), what);
            }
        }
        self.same_units(
            "name",
            |unit| Some(unit.name.as_str()),
            |name| format!("there are two units of the name `{name}`"),
        );
        self.same_units(
            "wwn",
            |unit| unit.wwn,
            |wwn| format!("two units have the world-wide name {wwn}: initiators would take them for one"),
        );
        self.same_units(
            "serial",
            |unit| unit.serial.as_ref().map(super::unit::Serial::as_str),
            |serial| format!("two units have the serial number `{serial}`: initiators may take them for one"),
        );
        self.same_units(
            "lun",
            |unit| Some((unit.target, unit.lun?.0)),
            |(target, lun)| match target {
                0 => format!("two units have lun={lun}"),
                _ => format!("two units have target={target},lun={lun}"),
            },
        );
        let path = |unit: &'a Arc<Unit>| match &unit.store {
            StoreSpec::Path(path) => Some(path.as_path()),
            StoreSpec::Ram(_) => None,
        };
        for (index, first) in twice(units.iter().map(path).enumerate()) {
            let (unit, other) = (&units[index], &units[first]);
            if let Some(path) = path(unit).filter(|_| !(unit.read_only && other.read_only)) {
                let what = format!(
                    "the units `{}` and `{}` have the same bytes, those of {}, and not both only read",
                    other.name,
                    unit.name,
                    path.display()
                );
                self.clash(
                    Where::new("unit", index).at("store"),
                    what,
                    Where::new("unit", first).at("store"),
                );
            }
        }
    }

    /// Units may not have the same `key`.
    fn same_units<K: Hash + Eq>(
        &mut self,
        key: &str,
        of: impl Fn(&'a Unit) -> Option<K>,
        what: impl Fn(K) -> String,
    ) {
        let units = &self.document.units;
        for (index, first) in twice(units.iter().map(|unit| of(unit)).enumerate()) {
            if let Some(value) = of(&units[index]) {
                self.clash(Where::new("unit", index).at(key), what(value), Where::new("unit", first).at(key));
            }
        }
    }

    /// The name of a unit that is to be there.
    fn known(&mut self, name: &Name, at: impl FnOnce() -> Where) {
        if self.names.contains_key(name.as_str()) {
            return;
        }
        let names = || self.document.units.iter().map(|unit| unit.name.as_str());
        let help = did_you_mean(name.as_str(), names()).unwrap_or_else(|| there_are(names()));
        let what = format!("there is no unit of the name `{name}`");
        self.issues.push(Issue { help: Some(help), ..Issue::new(at(), what) });
    }

    fn portals(&mut self) {
        let portals = &self.document.portals;
        let mut seen: BTreeMap<u16, Vec<(usize, IpAddr)>> = BTreeMap::new();
        for (index, portal) in portals.iter().enumerate() {
            let address: SocketAddr = portal.listen.0;
            if address.port() == 0 {
                continue;
            }
            let others = seen.entry(address.port()).or_default();
            let same = |other: &IpAddr| {
                let one_for_all = other.is_unspecified() || address.ip().is_unspecified();
                *other == address.ip() || one_for_all && other.is_ipv4() == address.is_ipv4()
            };
            if let Some((first, _)) = others.iter().find(|(_, other)| same(other)) {
                let what = format!("two portals listen on {address}");
                let first = Where::new("portal", *first).at("listen");
                self.clash(Where::new("portal", index).at("listen"), what, first);
            }
            others.push((index, address.ip()));
        }
    }

    fn targets(&mut self) {
        let targets = &self.document.targets;
        for (index, first) in twice(targets.iter().map(|target| Some(&target.name)).enumerate()) {
            let what = format!("there are two targets of the name {}", targets[index].name);
            self.clash(Where::new("target", index).at("name"), what, Where::new("target", first).at("name"));
        }
        for (index, target) in targets.iter().enumerate() {
            let at = Where::new("target", index);
            self.luns(target.units.as_ref(), &at);
            self.rules(target, &at.at("access"));
        }
        if let Some(chap) = &self.document.discovery.chap {
            self.chap(chap, &Where::new("discovery", 0).at("chap"));
        }
    }

    fn portal_groups(&mut self) {
        let groups = groups_of_portals(self.document, self.setting);
        for (index, target) in self.document.targets.iter().enumerate() {
            for group in target.groups.difference(&groups) {
                let what = format!("no portal belongs to the portal group {}", group.0);
                self.error(Where::new("target", index).at("groups"), what);
            }
        }
    }

    fn luns<K: ToString>(&mut self, units: Option<&BTreeMap<K, Name>>, at: &Where) {
        for (place, name) in units.into_iter().flatten() {
            self.known(name, || at.at("units").at(place.to_string()));
        }
    }

    fn rules(&mut self, target: &Target, at: &Where) {
        let is_open = |rule: &Access| rule.initiators.is_empty() && rule.addresses.is_empty();
        let for_all = target.access.iter().position(is_open).unwrap_or(usize::MAX);
        for (index, rule) in target.access.iter().enumerate() {
            let at = at.at(index);
            if index > for_all {
                self.error(at.clone(), "this rule never counts, for one before it is for all initiators");
            }
            self.luns(rule.units.as_ref(), &at);
            if let Some(chap) = &rule.chap {
                self.chap(chap, &at.at("chap"));
            }
        }
    }

    fn chap(&mut self, chap: &Chap, at: &Where) {
        if chap.accounts.is_empty() {
            self.error(at.clone(), "without accounts nobody could prove who he is");
        }
        let names = chap.accounts.iter().map(|account| Some(&account.name));
        let place = |index: usize| at.at("accounts").at(index).at("name");
        for (index, first) in twice(names.enumerate()) {
            let what = format!("there are two accounts of the name `{}`", chap.accounts[index].name);
            self.clash(place(index), what, place(first));
        }
    }

    fn exports(&mut self) {
        let exports = &self.document.vhost_user;
        for (index, first) in twice(exports.iter().map(|export| Some(&export.name)).enumerate()) {
            let what = format!("there are two exports of the name `{}`", exports[index].name);
            let place = |index| Where::new("vhost-user", index).at("name");
            self.clash(place(index), what, place(first));
        }
        for (index, export) in exports.iter().enumerate() {
            let at = Where::new("vhost-user", index);
            self.luns(export.units.as_ref(), &at);
            for (key, _) in [("mode", export.mode.is_some()), ("group", export.group.is_some())]
                .into_iter()
                .filter(|(_, is_said)| export.client && *is_said)
            {
                let what =
                    format!("`{key}` is of a socket that lunette makes, and with `client` it makes none");
                self.error(at.at(key), what);
            }
        }
        // Those of the daemon itself change with its next start.
        let daemon = Some(&self.document.daemon).filter(|_| self.setting.is_whole);
        let control = daemon.and_then(|daemon| Some(daemon.control.as_ref()?.as_path()));
        let metrics = daemon.and_then(|daemon| Some(Path::new(daemon.metrics.as_ref()?.as_str())));
        let place = |index: usize| match index.checked_sub(2) {
            None => Where::new("daemon", 0).at(["control", "metrics"][index]),
            Some(index) => Where::new("vhost-user", index).at("socket"),
        };
        let sockets = exports.iter().map(|export| Some(export.socket.as_path()));
        for (index, first) in twice([control, metrics].into_iter().chain(sockets).enumerate()) {
            self.clash(place(index), "there are two sockets of this path".into(), place(first));
        }
    }

    /// Units that others could serve too are served for virtual machines.
    fn migratable(&mut self) {
        if self.setting.vhost_user_sockets != Some(false) {
            return;
        }
        let Document { units, vhost_user, .. } = self.document;
        for (index, unit) in units.iter().enumerate().filter(|(_, unit)| unit.migratable) {
            let shows = |export: &VhostUser| match &export.units {
                Some(places) => places.values().any(|name| *name == unit.name),
                None => unit.lun.is_some(),
            };
            if !vhost_user.iter().any(shows) {
                let what = format!(
                    "no virtual machine sees the migratable unit `{}`, so it is never served",
                    unit.name
                );
                self.warn(Where::new("unit", index).at("migratable"), what);
            }
        }
    }

    fn throttles(&mut self) {
        let throttles = &self.document.throttles;
        for (index, first) in twice(throttles.iter().map(|throttle| Some(&throttle.name)).enumerate()) {
            let what = format!("there are two throttles of the name `{}`", throttles[index].name);
            let place = |index| Where::new("throttle", index).at("name");
            self.clash(place(index), what, place(first));
        }
        for (index, throttle) in throttles.iter().enumerate() {
            let at = Where::new("throttle", index);
            if let Err((key, what)) = throttle.check() {
                self.error(at.at(key), what);
            }
            for (number, unit) in throttle.units.iter().enumerate() {
                self.known(unit, || at.at("units").at(number));
            }
            for (number, export) in throttle.exports.iter().enumerate() {
                let names = || self.document.vhost_user.iter().map(|export| export.name.as_str());
                if !names().any(|name| name == export.as_str()) {
                    let help = did_you_mean(export.as_str(), names()).unwrap_or_else(|| there_are(names()));
                    let what = format!("there is no export of the name `{export}`");
                    let at = at.at("exports").at(number);
                    self.issues.push(Issue { help: Some(help), ..Issue::new(at, what) });
                }
            }
        }
    }

    fn daemon(&mut self) {
        let daemon = &self.document.daemon;
        let at = |key: &str| Where::new("daemon", 0).at(key);
        if let Some(metrics) = &daemon.metrics {
            let fits = match metrics.as_str().parse::<SocketAddr>() {
                Ok(address) => address.ip().is_loopback(),
                Err(_) => metrics.as_str().starts_with('/'),
            };
            if !fits {
                let what = "metrics are read at a loopback address, as in 127.0.0.1:9260, or at the path of a socket, from / on";
                self.error(at("metrics"), what);
            }
        }
        if daemon.allowed_paths.is_empty() {
            return;
        }
        for (index, path) in daemon.allowed_paths.iter().enumerate() {
            if !path.as_path().is_absolute() {
                self.error(at("allowed-paths").at(index), "a directory is written from / on");
            }
        }
        for (index, unit) in self.document.units.iter().enumerate() {
            let StoreSpec::Path(path) = &unit.store else { continue };
            let steps_up = path.as_path().components().any(|part| part == std::path::Component::ParentDir);
            let mut allowed = daemon.allowed_paths.iter().map(FilePath::as_path);
            if steps_up || !allowed.any(|allowed| path.as_path().starts_with(allowed)) {
                let what = format!("{path} is in none of the directories of `allowed-paths`");
                let also = Some((at("allowed-paths"), "they are at"));
                self.issues.push(Issue { also, ..Issue::new(Where::new("unit", index).at("store"), what) });
            }
        }
    }

    /// Whether there are ports in all groups for which the access of a unit is configured.
    fn port_groups(&mut self) {
        let document = self.document;
        if document.units.iter().all(|unit| unit.access.is_none()) {
            return;
        }
        let groups = Groups::of(document, self.setting);
        for (index, unit) in document.units.iter().enumerate() {
            for access in unit.access.iter().flat_map(|access| &access.0) {
                if !groups.show(unit, PortGroup(access.group)) {
                    let what = format!(
                        "`access` names target port group {}, but the unit is shown by no socket or portal of it",
                        access.group
                    );
                    self.error(Where::new("unit", index).at("access"), what);
                }
            }
        }
    }

    fn whole(&mut self) {
        let Document { portals, targets, units, .. } = self.document;
        let at = |section| Where::new(section, 0);
        let sockets = self.setting.iscsi_sockets;
        let nobody = "without a [[portal]] nobody reaches the targets";
        match (portals.is_empty(), targets.is_empty(), sockets) {
            // They may come by and by.
            (true, false, Some(false)) => self.warn(at("target"), nobody),
            (true, false, None) => {
                self.warn(at("target"), format!("{nobody}, unless sockets are passed to the daemon"));
            }
            (false, true, _) => {
                self.warn(at("portal"), "without a [[target]] there is nothing to log in to");
            }
            (true, true, Some(true)) => {
                self.warn(Where::new("", 0), "without a [[target]] there is nothing to log in to");
            }
            _ => {}
        }
        let shown = self.shown();
        for (index, unit) in units.iter().enumerate() {
            if unit.lun.is_none() && !shown.contains(unit.name.as_str()) {
                let what = format!(
                    "the unit `{}` is seen by nobody: no target or export names it, and it has no `lun`",
                    unit.name
                );
                self.warn(Where::new("unit", index), what);
            }
        }
    }

    /// The units that are named by targets and exports.
    fn shown(&self) -> HashSet<&'a str> {
        let document = self.document;
        let of_targets = document.targets.iter().flat_map(maps_of);
        let of_exports = document.vhost_user.iter().filter_map(|export| export.units.as_ref());
        let names = of_targets.flat_map(BTreeMap::values).chain(of_exports.flat_map(BTreeMap::values));
        names.map(Name::as_str).collect()
    }
}

/// The groups of the portals and of the sockets that are there, or may be.
fn groups_of_portals(document: &Document, setting: Setting) -> BTreeSet<PortGroup> {
    let of_sockets = (setting.iscsi_sockets != Some(false)).then(PortGroup::default);
    document.portals.iter().map(|portal| portal.group).chain(of_sockets).collect()
}

/// The maps of a target and of its rules.
fn maps_of(target: &Target) -> impl Iterator<Item = &super::iscsi::Luns> {
    target.units.iter().chain(target.access.iter().filter_map(|rule| rule.units.as_ref()))
}

/// Through which target port groups units are shown.
struct Groups<'a> {
    named: HashSet<(&'a str, PortGroup)>,
    /// Those of all units that have a `lun`, for virtual machines, and of the target 0, for iSCSI.
    all: BTreeSet<PortGroup>,
    all_of_target_0: BTreeSet<PortGroup>,
}

impl<'a> Groups<'a> {
    fn of(document: &'a Document, setting: Setting) -> Self {
        let portals = groups_of_portals(document, setting);
        let has_sockets = setting.vhost_user_sockets != Some(false);
        let mut groups = Self {
            named: HashSet::new(),
            all: has_sockets.then(PortGroup::default).into_iter().collect(),
            all_of_target_0: BTreeSet::new(),
        };
        for target in &document.targets {
            let of_target = if target.groups.is_empty() { &portals } else { &target.groups };
            for name in maps_of(target).flat_map(BTreeMap::values) {
                groups.named.extend(of_target.iter().map(|group| (name.as_str(), *group)));
            }
            if target.units.is_none() {
                groups.all_of_target_0.extend(of_target);
            }
        }
        for VhostUser { port_group, units, .. } in &document.vhost_user {
            match units {
                Some(units) => groups.named.extend(units.values().map(|name| (name.as_str(), *port_group))),
                None => drop(groups.all.insert(*port_group)),
            }
        }
        groups
    }

    fn show(&self, unit: &Unit, group: PortGroup) -> bool {
        let by_lun = unit.lun.is_some()
            && (self.all.contains(&group) || unit.target == 0 && self.all_of_target_0.contains(&group));
        by_lun || self.named.contains(&(unit.name.as_str(), group))
    }
}
