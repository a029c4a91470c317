//! The ways in: a target port for the iSCSI portals of each target port group, and one for each vhost-user socket and target.

use crate::access::Grouped;
use crate::iscsi::{Iscsi, Plan};
use crate::state::{Key, PortRole, StateDir};
use crate::stop::{self, Deadline};
use crate::summary;
use crate::units::{Unit, Units};
use anyhow::{Context, Result, bail};
use lunette_engine::{LogicalUnit, TargetPort};
use lunette_reactor::Reactors;
use lunette_scsi::Protocol;
use lunette_store::ReactorId;
use lunette_transport_vhost_user::{
    Endpoint, Handle, Options as VhostUserOptions, VhostUserExport, reactor_of,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The units of each target, by logical unit number.
type Targets = BTreeMap<u8, BTreeMap<u32, Arc<LogicalUnit>>>;

/// Where the units are served.
pub(crate) struct Places {
    pub(crate) iscsi: Plan,
    /// Sockets that listen for iSCSI already.
    pub(crate) iscsi_sockets: Vec<TcpListener>,
    pub(crate) vhost_user: Vec<Grouped<Endpoint>>,
    /// Whether guest memory is pinned.
    pub(crate) pin_memory: bool,
}

impl Places {
    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.iscsi.portals.len() + self.iscsi_sockets.len() + self.vhost_user.len()
    }
}

/// What is being served where.
pub(crate) struct Exports {
    iscsi: Option<Iscsi>,
    vhost_user: Vec<Handle>,
}

impl Exports {
    /// Starts to serve `units` at all `places`; at none if one of them is not possible. Calls `all_ended` when none is
    /// left: connections that were handed over end with the front end.
    pub(crate) fn start(
        mut places: Places,
        units: &Units,
        state: &StateDir,
        reactors: &Reactors,
        all_ended: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self> {
        let mut targets = Targets::new();
        let all: Vec<ReactorId> = (0..reactors.count()).map(ReactorId).collect();
        for (address, unit) in units {
            bind(unit, &all);
            targets.entry(address.target).or_default().insert(address.lun, unit.unit.clone());
        }
        let mut exports = Self { iscsi: None, vhost_user: Vec::new() };
        let left = AtomicUsize::new(places.count());
        let one_ended: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                all_ended();
            }
        });
        let started = exports
            .start_iscsi(&mut places, units, reactors)
            .and_then(|ids| {
                exports.start_vhost_user(places, &targets, ids, state, (reactors, &all), &one_ended)
            })
            .and_then(|()| check_groups(units));
        match started {
            Ok(()) => Ok(exports),
            Err(error) => {
                exports.stop(reactors, Deadline::after(stop::EXPORTS));
                Err(error)
            }
        }
    }

    /// Returns the relative target port identifiers that are left; the first is iSCSI's in any case.
    fn start_iscsi(
        &mut self,
        places: &mut Places,
        units: &Units,
        reactors: &Reactors,
    ) -> Result<RangeInclusive<u16>> {
        let mut ids = 1..=u16::MAX;
        let sockets = std::mem::take(&mut places.iscsi_sockets);
        if places.iscsi.portals.is_empty() && sockets.is_empty() {
            ids.next();
            return Ok(ids);
        }
        let hidden = units.keys().find(|address| !places.iscsi.shows(address));
        if let Some(address) = hidden.filter(|_| places.vhost_user.is_empty()) {
            bail!(
                "{address} would be seen by nobody: an iSCSI target shows the units of target 0, unless the file of \
                 --iscsi-config says more. Serve it with --vhost-user, name it in the file, or leave the target out"
            );
        }
        let iscsi = Iscsi::new(&places.iscsi, !sockets.is_empty(), units, &mut ids)?;
        self.iscsi.insert(iscsi).listen(&places.iscsi, sockets, reactors)?;
        Ok(ids)
    }

    fn start_vhost_user(
        &mut self,
        places: Places,
        targets: &Targets,
        mut relative_ids: RangeInclusive<u16>,
        state: &StateDir,
        (reactors, all): (&Reactors, &[ReactorId]),
        one_ended: &Arc<dyn Fn() + Send + Sync>,
    ) -> Result<()> {
        let keys: Vec<Key> =
            places.vhost_user.iter().map(|export| Key::endpoint(&export.place.name())).collect();
        let records = state.identities(&keys)?;
        for (Grouped { place, group }, record) in places.vhost_user.into_iter().zip(records) {
            let ports = targets.iter().map(|(target, units)| {
                let id = relative_ids.next().context("there are too many vhost-user sockets and targets")?;
                let name = record.port_name(PortRole::Target(*target)).to_string();
                Ok((*target, TargetPort::in_group(group, name, id, Protocol::SAS, units.clone())))
            });
            let initiator = record.port_name(PortRole::Initiator).to_string();
            let pin_memory = places.pin_memory;
            let options = VhostUserOptions { initiator, pin_memory, ..VhostUserOptions::with(place) };
            let ended = one_ended.clone();
            let export =
                VhostUserExport::new(options, ports.collect::<Result<_>>()?).when_ended(move || ended());
            self.vhost_user.push(export.start(reactors.poster(), all)?);
        }
        Ok(())
    }

    /// What is served by iSCSI, if anything is.
    pub(crate) fn iscsi(&self) -> Option<&Iscsi> {
        self.iscsi.as_ref()
    }

    /// How to connect to all of them.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        text += &self.iscsi.as_ref().map(Iscsi::summary).unwrap_or_default();
        for (index, handle) in self.vhost_user.iter().enumerate() {
            let _ = write!(text, "{}", summary::VhostUser { name: handle.name(), index });
        }
        text
    }

    /// Has all of them stop to listen, let what is in flight finish and end their connections. Returns those that have not
    /// done so before the deadline.
    pub(crate) fn stop(&self, reactors: &Reactors, deadline: Deadline) -> Vec<String> {
        self.vhost_user.iter().for_each(Handle::begin_stop);
        self.iscsi.iter().for_each(|iscsi| iscsi.begin_stop(reactors));
        let vhost_user = self.vhost_user.iter().filter(|handle| !handle.wait(deadline.left()));
        let vhost_user = vhost_user.map(|handle| format!("vhost-user on {}", handle.name()));
        vhost_user.chain(self.iscsi.iter().flat_map(|iscsi| iscsi.wait(deadline))).collect()
    }
}

/// Whether all target port groups are there for which access was configured.
fn check_groups(units: &Units) -> Result<()> {
    for (address, Unit { unit, groups, .. }) in units {
        let there = unit.port_groups();
        if let Some(group) = groups.iter().find(|group| there.iter().all(|port| port.id != **group)) {
            bail!(
                "access= of {address} names target port group {group}, but no socket or portal has group={group}"
            );
        }
    }
    Ok(())
}

/// Lets a unit live on the reactors of its request queues.
fn bind(unit: &Unit, all: &[ReactorId]) {
    let homes: BTreeSet<ReactorId> = unit.queues.iter().map(|queue| reactor_of(*queue, all)).collect();
    if !homes.is_empty() {
        unit.unit.live_on(Vec::from_iter(homes));
    }
}
