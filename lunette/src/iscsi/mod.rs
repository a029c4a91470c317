//! The iSCSI way in: from a configuration to targets and portals.

mod plan;

pub(crate) use plan::Plan;

use crate::config::Luns;
use crate::config::values::Lun;
use crate::stop::Deadline;
use crate::summary;
use crate::units::Units;
use anyhow::{Context, Result};
use lunette_engine::{LogicalUnit, TargetPort};
use lunette_reactor::Reactors;
use lunette_scsi::Protocol;
use lunette_transport_iscsi::{
    AccessControl, AccessRule, NetworkEntity, Portal, PortalOptions, TargetOptions,
};
use plan::{Rule, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What is served by iSCSI.
pub(crate) struct Iscsi {
    pub(crate) entity: Arc<NetworkEntity>,
    portals: Vec<Portal>,
    /// The targets of each portal group, with the logical unit numbers that they show.
    shown: BTreeMap<u16, Vec<(String, Vec<u32>)>>,
}

impl Iscsi {
    /// Makes the targets of a plan. Their ports take relative target port identifiers from `ids`. `has_sockets`: there will be
    /// portals besides those of the plan.
    pub(crate) fn new(
        plan: &Plan,
        has_sockets: bool,
        units: &Units,
        ids: &mut RangeInclusive<u16>,
    ) -> Result<Self> {
        let mut iscsi = Self {
            entity: NetworkEntity::new(plan.options.clone()),
            portals: Vec::new(),
            shown: BTreeMap::new(),
        };
        let of_sockets = has_sockets.then_some(TargetPort::DEFAULT_GROUP);
        let groups: BTreeSet<u16> =
            plan.portals.iter().map(|portal| portal.options.group_tag).chain(of_sockets).collect();
        for target in &plan.targets {
            iscsi.add(target, &groups, units, ids)?;
        }
        Ok(iscsi)
    }

    /// Listens at the portals of the plan, and with `sockets`, which listen already. What listens when one of them cannot is
    /// to be [stopped](Self::begin_stop).
    pub(crate) fn listen(
        &mut self,
        plan: Plan,
        sockets: Vec<TcpListener>,
        reactors: &Reactors,
    ) -> Result<()> {
        for plan::Portal { listen, options, socket } in plan.portals {
            self.portals.push(match socket {
                Some(socket) => Portal::adopt(socket, options, &self.entity, reactors)?,
                None => Portal::start(listen, options, &self.entity, reactors)?,
            });
        }
        for socket in sockets {
            self.portals.push(Portal::adopt(socket, PortalOptions::default(), &self.entity, reactors)?);
        }
        Ok(())
    }

    fn add(
        &mut self,
        target: &Target,
        all_groups: &BTreeSet<u16>,
        units: &Units,
        ids: &mut RangeInclusive<u16>,
    ) -> Result<()> {
        let name = &target.name;
        let luns = target.luns.as_ref().map_or_else(|| everything(units), |luns| resolve(luns, units));
        let numbers: Vec<u32> = luns.keys().copied().collect();
        let groups = if target.groups.is_empty() { all_groups } else { &target.groups };
        let mut ports = BTreeMap::new();
        for &group in groups {
            // A target portal group has the number of its target port group; RFC 7143 4.4.3 makes the port's name from it.
            let port_name = format!("{name},t,0x{group:04x}");
            let id = ids.next().context("there are too many target port groups")?;
            ports.insert(group, TargetPort::in_group(group, port_name, id, Protocol::ISCSI, luns.clone()));
            self.shown.entry(group).or_default().push((name.clone(), numbers.clone()));
        }
        self.entity.add(TargetOptions {
            name: name.clone(),
            alias: target.alias.clone(),
            groups: ports,
            settings: target.settings,
            access: rules(&target.access, units),
            redirect: target.redirect,
        })?;
        Ok(())
    }

    /// How many portals there are.
    pub(crate) fn portal_count(&self) -> usize {
        self.portals.len()
    }

    /// How to connect.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for portal in &self.portals {
            let targets = self.shown.get(&portal.group_tag()).map_or(&[][..], Vec::as_slice);
            let _ = write!(text, "{}", summary::Iscsi { address: portal.address(), targets });
        }
        text
    }

    /// Has the portals stop to listen and the sessions end.
    pub(crate) fn begin_stop(&self, reactors: &Reactors) {
        self.portals.iter().for_each(|portal| portal.begin_stop(reactors));
    }

    /// The portals that have not ended by the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) -> impl Iterator<Item = String> {
        let left = self.portals.iter().filter(move |portal| !portal.wait(deadline.left()));
        left.map(|portal| format!("iSCSI on {}", portal.address()))
    }
}

/// The units whose place is in target 0.
fn everything(units: &Units) -> BTreeMap<u32, Arc<LogicalUnit>> {
    let places = units.values().filter_map(|unit| Some((unit.place?, unit)));
    places
        .filter(|(place, _)| place.target == 0)
        .map(|(place, unit)| (place.lun, unit.unit.clone()))
        .collect()
}

fn resolve(luns: &Luns, units: &Units) -> BTreeMap<u32, Arc<LogicalUnit>> {
    luns.iter().filter_map(|(Lun(lun), name)| Some((*lun, units.get(name)?.unit.clone()))).collect()
}

fn rules(rules: &[Rule], units: &Units) -> AccessControl {
    let rule = |rule: &Rule| AccessRule {
        initiators: rule.initiators.clone(),
        addresses: rule.addresses.clone(),
        chap: rule.chap.clone(),
        luns: rule.luns.as_ref().map(|luns| resolve(luns, units)),
    };
    AccessControl { rules: rules.iter().map(rule).collect() }
}
