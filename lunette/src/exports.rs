//! The ways in: one target port for iSCSI with all its portals, and one for each vhost-user socket.

use crate::state::{Key, PortRole, StateDir};
use crate::stop::{self, Deadline};
use crate::summary;
use crate::units::{Unit, Units};
use anyhow::{Context, Result, bail};
use lunette_engine::{LogicalUnit, TargetPort};
use lunette_reactor::Reactors;
use lunette_scsi::Protocol;
use lunette_store::ReactorId;
use lunette_transport_iscsi::{self as iscsi, Portal};
use lunette_transport_vhost_user::{
    Endpoint, Handle, Options as VhostUserOptions, VhostUserExport, reactor_of,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The units of each target, by logical unit number.
type Targets = BTreeMap<u8, BTreeMap<u32, Arc<LogicalUnit>>>;

/// Where the units are served.
pub(crate) struct Places {
    /// Name of the iSCSI target.
    pub(crate) target: String,
    pub(crate) iscsi: Vec<SocketAddr>,
    /// Sockets that listen for iSCSI already.
    pub(crate) iscsi_sockets: Vec<TcpListener>,
    pub(crate) vhost_user: Vec<Endpoint>,
    /// Whether guest memory is pinned.
    pub(crate) pin_memory: bool,
}

impl Places {
    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.iscsi.len() + self.iscsi_sockets.len() + self.vhost_user.len()
    }
}

/// What is being served where.
pub(crate) struct Exports {
    target: String,
    luns: Vec<u32>,
    portals: Vec<Portal>,
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
        let mut exports = Self {
            target: places.target.clone(),
            luns: units.keys().map(|address| address.lun).collect(),
            portals: Vec::new(),
            vhost_user: Vec::new(),
        };
        let left = AtomicUsize::new(places.count());
        let one_ended: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                all_ended();
            }
        });
        let started = exports
            .start_iscsi(&mut places, &targets, reactors)
            .and_then(|()| exports.start_vhost_user(places, &targets, state, (reactors, &all), &one_ended));
        match started {
            Ok(()) => Ok(exports),
            Err(error) => {
                exports.stop(reactors, Deadline::after(stop::EXPORTS));
                Err(error)
            }
        }
    }

    fn start_iscsi(&mut self, places: &mut Places, targets: &Targets, reactors: &Reactors) -> Result<()> {
        if places.iscsi.is_empty() && places.iscsi_sockets.is_empty() {
            return Ok(());
        }
        if let Some(target) = targets.keys().find(|target| **target != 0) {
            bail!(
                "target={target} is for virtual machines: an iSCSI target shows the units of target 0 only. \
                 Serve the units with --vhost-user and without --iscsi, or leave the target out"
            );
        }
        let units = targets.get(&0).cloned().unwrap_or_default();
        // Target portal group tag 1 (RFC 7143 4.4.3 makes the port's name from both).
        let port = TargetPort::new(format!("{},t,0x0001", places.target), 1, Protocol::ISCSI, units);
        let options = iscsi::Options { name: places.target.clone(), ..iscsi::Options::default() };
        let target = iscsi::Target::new(options, port)?;
        for address in &places.iscsi {
            self.portals.push(Portal::start(*address, &target, reactors)?);
        }
        for socket in places.iscsi_sockets.drain(..) {
            self.portals.push(Portal::adopt(socket, &target, reactors)?);
        }
        Ok(())
    }

    fn start_vhost_user(
        &mut self,
        places: Places,
        targets: &Targets,
        state: &StateDir,
        (reactors, all): (&Reactors, &[ReactorId]),
        one_ended: &Arc<dyn Fn() + Send + Sync>,
    ) -> Result<()> {
        let keys: Vec<Key> = places.vhost_user.iter().map(|place| Key::endpoint(&place.name())).collect();
        let records = state.identities(&keys)?;
        // 1 is iSCSI's.
        let mut relative_ids = 2..=u16::MAX;
        for (endpoint, record) in places.vhost_user.into_iter().zip(records) {
            let ports = targets.iter().map(|(target, units)| {
                let id = relative_ids.next().context("there are too many vhost-user sockets and targets")?;
                let name = record.port_name(PortRole::Target(*target)).to_string();
                Ok((*target, TargetPort::new(name, id, Protocol::SAS, units.clone())))
            });
            let initiator = record.port_name(PortRole::Initiator).to_string();
            let pin_memory = places.pin_memory;
            let options = VhostUserOptions { initiator, pin_memory, ..VhostUserOptions::with(endpoint) };
            let ended = one_ended.clone();
            let export =
                VhostUserExport::new(options, ports.collect::<Result<_>>()?).when_ended(move || ended());
            self.vhost_user.push(export.start(reactors.poster(), all)?);
        }
        Ok(())
    }

    /// How to connect to all of them.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for portal in &self.portals {
            let iscsi = summary::Iscsi { address: portal.address(), target: &self.target, luns: &self.luns };
            let _ = write!(text, "{iscsi}");
        }
        for (index, handle) in self.vhost_user.iter().enumerate() {
            let _ = write!(text, "{}", summary::VhostUser { name: handle.name(), index });
        }
        text
    }

    /// Has all of them stop to listen, let what is in flight finish and end their connections. Returns those that have not
    /// done so before the deadline.
    pub(crate) fn stop(&self, reactors: &Reactors, deadline: Deadline) -> Vec<String> {
        self.vhost_user.iter().for_each(Handle::begin_stop);
        self.portals.iter().for_each(|portal| portal.begin_stop(reactors));
        let vhost_user = self.vhost_user.iter().filter(|handle| !handle.wait(deadline.left()));
        let vhost_user = vhost_user.map(|handle| format!("vhost-user on {}", handle.name()));
        let portals = self.portals.iter().filter(|portal| !portal.wait(deadline.left()));
        vhost_user.chain(portals.map(|portal| format!("iSCSI on {}", portal.address()))).collect()
    }
}

/// Lets a unit live on the reactors of its request queues.
fn bind(unit: &Unit, all: &[ReactorId]) {
    let homes: BTreeSet<ReactorId> = unit.queues.iter().map(|queue| reactor_of(*queue, all)).collect();
    if !homes.is_empty() {
        unit.unit.live_on(Vec::from_iter(homes));
    }
}
