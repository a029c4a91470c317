//! The ways in: a target port for the iSCSI portals of each target port group, and one for each vhost-user socket and target.

use crate::config::values::Place;
use crate::config::{self, Model};
use crate::control::events;
use crate::inherited::Inherited;
use crate::iscsi::{Iscsi, Plan};
use crate::state::{Key, PortRole, StateDir};
use crate::stop::{self, Deadline};
use crate::summary;
use crate::units::{Unit, Units};
use anyhow::{Context, Result, anyhow};
use lunette_control::Events;
use lunette_engine::{LogicalUnit, TargetPort};
use lunette_reactor::Reactors;
use lunette_scsi::Protocol;
use lunette_store::ReactorId;
use lunette_transport_vhost_user::{
    Endpoint, Handle, Options as VhostUserOptions, VhostUserExport, reactor_of,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The units of each target, by logical unit number.
type Targets = BTreeMap<u8, BTreeMap<u32, Arc<LogicalUnit>>>;

/// A way in for virtual machines.
struct Entry {
    endpoint: Endpoint,
    /// The target port group.
    group: u16,
    targets: Targets,
}

/// What is being served where.
pub(crate) struct Exports {
    iscsi: Option<Iscsi>,
    vhost_user: Vec<Handle>,
    events: Events,
}

impl Exports {
    /// Starts to serve `units` as the model says, with this plan for iSCSI, and at the sockets that are there already; nowhere if
    /// one of that is not possible. Calls `all_ended` when none is left: connections that were handed over end with the front
    /// end.
    pub(crate) fn start(
        model: &Model,
        plan: Plan,
        inherited: Inherited,
        units: &Units,
        state: &StateDir,
        (reactors, events): (&Reactors, Events),
        all_ended: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self> {
        let all: Vec<ReactorId> = (0..reactors.count()).map(ReactorId).collect();
        units.values().for_each(|unit| bind(unit, &all));
        let mut exports = Self { iscsi: None, vhost_user: Vec::new(), events };
        let Inherited { vhost_user, iscsi, .. } = inherited;
        let entries = entries(model, vhost_user, units)?;
        let places = plan.portals.len() + iscsi.len() + entries.len();
        let left = AtomicUsize::new(places);
        let one_ended: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                all_ended();
            }
        });
        // The first relative target port identifier is iSCSI's in any case.
        let mut ids = 1..=u16::MAX;
        let started = match plan.portals.is_empty() && iscsi.is_empty() {
            true => {
                ids.next();
                Ok(())
            }
            false => exports.start_iscsi(plan, iscsi, units, reactors, &mut ids),
        };
        let started = started.and_then(|()| {
            exports.start_vhost_user(
                entries,
                model.daemon.pin_memory,
                ids,
                state,
                (reactors, &all),
                &one_ended,
            )
        });
        match started {
            Ok(()) => Ok(exports),
            Err(error) => {
                exports.stop(reactors, Deadline::after(stop::EXPORTS));
                Err(error)
            }
        }
    }

    fn start_iscsi(
        &mut self,
        plan: Plan,
        sockets: Vec<std::net::TcpListener>,
        units: &Units,
        reactors: &Reactors,
        ids: &mut RangeInclusive<u16>,
    ) -> Result<()> {
        let iscsi = Iscsi::new(&plan, !sockets.is_empty(), units, ids)?;
        events::watch_sessions(&iscsi.entity, self.events.clone());
        self.iscsi.insert(iscsi).listen(plan, sockets, reactors)
    }

    fn start_vhost_user(
        &mut self,
        entries: Vec<Entry>,
        pin_memory: bool,
        mut relative_ids: RangeInclusive<u16>,
        state: &StateDir,
        (reactors, all): (&Reactors, &[ReactorId]),
        one_ended: &Arc<dyn Fn() + Send + Sync>,
    ) -> Result<()> {
        let keys: Vec<Key> = entries.iter().map(|entry| Key::endpoint(&entry.endpoint.name())).collect();
        let records = state.identities(&keys)?;
        for (Entry { endpoint, group, targets }, record) in entries.into_iter().zip(records) {
            let ports = targets.into_iter().map(|(target, units)| {
                let id = relative_ids.next().context("there are too many vhost-user sockets and targets")?;
                let name = record.port_name(PortRole::Target(target)).to_string();
                Ok((target, TargetPort::in_group(group, name, id, Protocol::SAS, units)))
            });
            let initiator = record.port_name(PortRole::Initiator).to_string();
            let name = endpoint.name();
            let options = VhostUserOptions { initiator, pin_memory, ..VhostUserOptions::with(endpoint) };
            let ended = one_ended.clone();
            let export =
                VhostUserExport::new(options, ports.collect::<Result<_>>()?).when_ended(move || ended());
            let (events, name) = (self.events.clone(), name);
            let export = export.observed(move |event| events::export(&events, &name, event));
            self.vhost_user.push(export.start(reactors.poster(), all)?);
        }
        Ok(())
    }

    /// What is served by iSCSI, if anything is.
    pub(crate) fn iscsi(&self) -> Option<&Iscsi> {
        self.iscsi.as_ref()
    }

    /// In how many places units are served.
    pub(crate) fn count(&self) -> usize {
        self.vhost_user.len() + self.iscsi.as_ref().map_or(0, Iscsi::portal_count)
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

/// The exports of the model, and the sockets that are there already: one at the path of an export is that export's, and the others
/// show all units.
fn entries(model: &Model, mut inherited: Vec<Endpoint>, units: &Units) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for export in model.exports.values() {
        let access =
            config::access(export).map_err(|why| anyhow!("vhost-user export {}: {why}", export.name))?;
        let own = Endpoint::Path { path: export.socket.as_path().to_owned(), access };
        let given = inherited.iter().position(|endpoint| endpoint.name() == own.name());
        let endpoint = given.map_or(own, |given| inherited.remove(given));
        let targets =
            export.units.as_ref().map_or_else(|| everything(units), |places| resolve(places, units));
        entries.push(Entry { endpoint, group: export.port_group.0, targets });
    }
    let group = TargetPort::DEFAULT_GROUP;
    let shows_all = |endpoint| Entry { endpoint, group, targets: everything(units) };
    entries.extend(inherited.into_iter().map(shows_all));
    Ok(entries)
}

/// All units that have a place of their own.
fn everything(units: &Units) -> Targets {
    targets(units.values().filter_map(|unit| Some((unit.place?, unit))))
}

fn resolve(places: &config::Places, units: &Units) -> Targets {
    targets(places.iter().filter_map(|(place, name)| Some((*place, units.get(name)?))))
}

fn targets<'a>(units: impl Iterator<Item = (Place, &'a Unit)>) -> Targets {
    let mut targets = Targets::new();
    for (Place { target, lun }, unit) in units {
        targets.entry(target).or_default().insert(lun, unit.unit.clone());
    }
    targets
}

/// Lets a unit live on the reactors of its request queues.
fn bind(unit: &Unit, all: &[ReactorId]) {
    let homes: BTreeSet<ReactorId> = unit.queues.iter().map(|queue| reactor_of(*queue, all)).collect();
    if !homes.is_empty() {
        unit.unit.live_on(Vec::from_iter(homes));
    }
}
