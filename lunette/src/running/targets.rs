//! iSCSI targets and portals.

use super::ports::{Port, PortId};
use super::{Now, Running, WayIn};
use crate::config::diff::{Effect, Plan};
use crate::config::values::{Lun, Name, TargetName};
use crate::config::{self, Luns, PortalKey};
use crate::iscsi;
use crate::units::Units;
use anyhow::{Context, Result};
use lunette_engine::{LogicalUnit, TargetPort};
use lunette_scsi::Protocol;
use lunette_transport_iscsi::{AccessControl, AccessRule, Portal, TargetOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// A target that is served.
pub(super) struct Target {
    /// What it is, with its secrets.
    terms: iscsi::Target,
    /// Its ports, by portal group.
    pub(super) ports: BTreeMap<u16, Port>,
}

/// A portal that listens.
pub(super) struct Gate {
    pub(super) portal: Portal,
    _way_in: WayIn,
}

/// A socket that listens already.
pub(super) enum PortalSocket {
    /// The program was started with it.
    Given(TcpListener),
    /// Another daemon has made it, and left it.
    Handed(TcpListener),
}

/// Logical units by logical unit number.
type Shown = BTreeMap<u32, Arc<LogicalUnit>>;

/// How much longer than its connections a portal takes to stop.
const GRACE: Duration = Duration::from_secs(1);

impl Running {
    /// Makes the target of this name what the running configuration says, with `terms` if it is new or these are others than
    /// before. Sessions that may go on do.
    pub(super) fn arrange_target(&self, name: &TargetName, terms: Option<iscsi::Target>) -> Result<()> {
        let (options, is_new) = {
            let mut now = self.now_mut();
            let groups = now.groups_of(name);
            let Now { model, units, targets, ids, .. } = &mut *now;
            let wanted = model.targets.get(name).with_context(|| format!("there is no target {name}"))?;
            let known = targets.get(name);
            let is_there = |group: &&u16| known.is_some_and(|known| known.ports.contains_key(*group));
            let fresh =
                groups.iter().filter(|group| !is_there(group)).map(|group| Ok((*group, ids.take(1)?)));
            let fresh = fresh.collect::<Result<Vec<_>>>()?;
            let before = targets.remove(name);
            let is_new = before.is_none();
            let (known, mut ports) = before.map(|target| (target.terms, target.ports)).unzip();
            let terms = terms.or(known).with_context(|| format!("the target {name} is not served"))?;
            let mut ports = ports.take().unwrap_or_default();
            ports.retain(|group, _| groups.contains(group));
            let shown = shown(wanted, units);
            ports.extend(fresh.into_iter().map(|(group, id)| (group, port(name, group, id, &shown))));
            let mut target = Target { terms, ports };
            target.take_luns(wanted);
            let options = target.options(units);
            targets.insert(name.clone(), target);
            (options, is_new)
        };
        let done = match is_new {
            true => self.entity.add(options).map(drop),
            false => self.entity.update(options, self.reactors),
        };
        if let (Err(_), true) = (&done, is_new) {
            self.now_mut().targets.remove(name);
        }
        self.show_target(name);
        Ok(done?)
    }

    /// What the targets that a plan is about are, with secrets that may not be found again.
    pub(super) fn terms_in(&self, plan: &Plan) -> BTreeMap<TargetName, iscsi::Target> {
        let now = self.now();
        let names = plan.steps.iter().filter_map(|step| match &step.effect {
            Effect::Target(target) => Some(&target.name),
            Effect::NoTarget(name) | Effect::Rules(name, _) => Some(name),
            _ => None,
        });
        let terms = |name: &TargetName| Some((name.clone(), now.targets.get(name)?.terms.clone()));
        names.filter_map(terms).collect()
    }

    /// Has the ports of a target show what the running configuration says.
    pub(super) fn show_target(&self, name: &TargetName) {
        let now = self.now();
        let Some((target, wanted)) = now.targets.get(name).zip(now.model.targets.get(name)) else { return };
        let shown = shown(wanted, &now.units);
        let post = self.reactors.poster();
        for Port { port, .. } in target.ports.values() {
            port.luns().change(&*post, |units| units.clone_from(&shown));
        }
    }

    /// Has all targets that are reached through every portal have a port in each portal group.
    pub(super) fn arrange_groups(&self) -> Result<()> {
        let everywhere: Vec<TargetName> = {
            let now = self.now();
            let everywhere = now.model.targets.values().filter(|target| target.groups.is_empty());
            let is_otherwise = |target: &&config::Target| {
                let ports =
                    now.targets.get(&target.name).map(|target| target.ports.keys().copied().collect());
                ports.is_some_and(|ports: BTreeSet<u16>| ports != now.groups_of(&target.name))
            };
            everywhere.filter(is_otherwise).map(|target| target.name.clone()).collect()
        };
        everywhere.iter().try_for_each(|name| self.arrange_target(name, None))
    }

    /// The target is served no more: its initiators are asked to log out.
    pub(super) fn remove_target(&self, name: &TargetName) {
        self.entity.remove(&name.to_string(), self.reactors);
        let removed = self.now_mut().targets.remove(name);
        drop(removed);
    }

    /// Listens at a portal, maybe with a socket that does so already.
    pub(super) fn start_portal(
        &self,
        key: PortalKey,
        wanted: &config::Portal,
        socket: Option<PortalSocket>,
    ) -> Result<()> {
        let iscsi::Portal { listen, options } = wanted.into();
        let portal = match socket {
            Some(PortalSocket::Given(socket)) => Portal::adopt(socket, options, &self.entity, self.reactors)?,
            Some(PortalSocket::Handed(socket)) => {
                Portal::resume(socket, options, &self.entity, self.reactors)?
            }
            None => Portal::start(listen, options, &self.entity, self.reactors)?,
        };
        let gate = Gate { portal, _way_in: self.ways_in.open() };
        self.now_mut().portals.insert(key, gate);
        Ok(())
    }

    /// Has a portal tell initiators other addresses.
    pub(super) fn advertise(&self, key: &PortalKey, wanted: &config::Portal) {
        if let Some(gate) = self.now().portals.get(key) {
            gate.portal.advertise(iscsi::Portal::from(wanted).options.advertised);
        }
    }

    /// Stops to listen at a portal, and ends what has come in by it.
    pub(super) fn stop_portal(&self, key: &PortalKey) {
        let Some(Gate { portal, _way_in }) = self.now_mut().portals.remove(key) else { return };
        portal.begin_stop(self.reactors);
        let stop_time = iscsi::stop_time(&self.now().model.iscsi);
        if !portal.wait(stop_time + GRACE) {
            let (address, connections) = (portal.address(), portal.connection_count());
            tracing::warn!(%address, connections, "iSCSI connections of a portal that was removed have not ended yet");
        }
    }
}

impl Now {
    /// The portal groups of a target.
    fn groups_of(&self, name: &TargetName) -> BTreeSet<u16> {
        let named =
            self.model.targets.get(name).map(|target| &target.groups).filter(|groups| !groups.is_empty());
        match named {
            Some(groups) => groups.iter().map(|group| group.0).collect(),
            None => {
                let adopted = self.has_sockets.then_some(TargetPort::DEFAULT_GROUP);
                let of_portals = self.model.portals.values().map(|portal| portal.group.0);
                adopted.into_iter().chain(of_portals).collect()
            }
        }
    }

    /// The targets that name a unit, in a rule or for everybody, or show all units of target 0 if it is one of them.
    pub(super) fn targets_with(&self, unit: &Name, is_in_target_0: bool) -> Vec<(TargetName, bool)> {
        let names = |luns: Option<&Luns>| luns.is_some_and(|luns| luns.values().any(|name| name == unit));
        let with = |target: &config::Target| {
            let in_rule = target.access.iter().any(|rule| names(rule.units.as_ref()));
            let for_all = names(target.units.as_ref()) || target.units.is_none() && is_in_target_0;
            (in_rule || for_all).then(|| (target.name.clone(), in_rule))
        };
        self.model.targets.values().filter_map(with).collect()
    }
}

impl Target {
    /// Its rules, with their secrets.
    pub(super) fn rules(&self) -> &[iscsi::Rule] {
        &self.terms.access
    }

    /// The secrets of its rules.
    pub(super) fn secrets(&self) -> &iscsi::Secrets {
        &self.terms.secrets
    }

    /// Shows what the configuration says.
    fn take_luns(&mut self, wanted: &config::Target) {
        self.terms.luns.clone_from(&wanted.units);
        for (rule, wanted) in self.terms.access.iter_mut().zip(&wanted.access) {
            rule.luns.clone_from(&wanted.units);
        }
    }

    /// The same in the words of the transport.
    fn options(&self, units: &Units) -> TargetOptions {
        let iscsi::Target { name, alias, redirect, settings, access, .. } = &self.terms;
        let rule = |rule: &iscsi::Rule| AccessRule {
            initiators: rule.initiators.clone(),
            addresses: rule.addresses.clone(),
            chap: rule.chap.clone(),
            luns: rule.luns.as_ref().map(|luns| resolve(luns, units)),
        };
        TargetOptions {
            name: name.clone(),
            alias: alias.clone(),
            groups: self.ports.iter().map(|(group, port)| (*group, port.port.clone())).collect(),
            settings: *settings,
            access: AccessControl { rules: access.iter().map(rule).collect() },
            redirect: *redirect,
        }
    }
}

/// A target portal group has the number of its target port group; RFC 7143 4.4.3 makes the port's name from it.
fn port(target: &TargetName, group: u16, id: PortId, shown: &Shown) -> Port {
    let name = format!("{target},t,0x{group:04x}");
    id.port(|id| TargetPort::in_group(group, name, id, Protocol::ISCSI, shown.clone()))
}

/// What a target shows to everybody: what it names, or the units whose place is in target 0.
fn shown(target: &config::Target, units: &Units) -> Shown {
    let of_all = || {
        let places = units.values().filter_map(|unit| Some((unit.place?, unit)));
        let places = places.filter(|(place, _)| place.target == 0);
        places.map(|(place, unit)| (place.lun, unit.unit.clone())).collect()
    };
    target.units.as_ref().map_or_else(of_all, |luns| resolve(luns, units))
}

fn resolve(luns: &Luns, units: &Units) -> Shown {
    luns.iter().filter_map(|(Lun(lun), name)| Some((*lun, units.get(name)?.unit.clone()))).collect()
}
