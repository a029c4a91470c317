//! What is served, and how that changes: the running configuration beside the objects that it stands for.
//!
//! Whoever changes something edits a copy of the running configuration ([`change`]). The way there is a plan of steps, each
//! of which is done to the objects and then to the running configuration, so the two always say the same. Who only looks
//! waits for none of them: the lock of what there is now is held for moments.

mod change;
mod exports;
mod handover;
mod keep;
mod lease;
mod link;
mod ports;
mod prepare;
mod secrets;
mod show;
mod sizes;
mod step;
mod targets;
mod units;

pub(crate) use change::{Cut, Done, Permit, failure};
pub(crate) use keep::Keeper;
pub(crate) use link::{Link, LinkState};
pub(crate) use show::{Shown, luns_of_all, places_of_all};
pub(crate) use sizes::Wanted;
pub(crate) use units::LONGEST;

use crate::config::values::{Bytes, Label, StoreSpec, TargetName};
use crate::config::{self, Model, PortalKey, Setting};
use crate::control::events;
use crate::handover::Recorder;
use crate::inherited::Inherited;
use crate::iscsi;
use crate::state::StateDir;
use crate::stop::{self, Deadline};
use crate::summary;
use crate::throttle::Throttles;
use crate::units::Units;
use anyhow::{Context, Result};
use exports::{Export, Ready};
use lease::Leases;
use lunette_control::Events;
use lunette_engine::{Delays, LogicalUnit};
use lunette_reactor::Reactors;
use lunette_store::ReactorId;
use lunette_transport_iscsi::{NetworkEntity, Portal, PortalOptions};
use lunette_transport_vhost_user::Endpoint;
use ports::PortIds;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use targets::{Gate, PortalSocket, Target};

/// What is served.
pub(crate) struct Running {
    this: Weak<Self>,
    pub(crate) reactors: &'static Reactors,
    pub(crate) entity: Arc<NetworkEntity>,
    state: StateDir,
    events: Events,
    throttles: Throttles,
    leases: Leases,
    /// Which sockets were there already.
    pub(crate) setting: Setting,
    ways_in: Arc<WaysIn>,
    /// Nothing where nothing is saved.
    pub(crate) keeper: Option<Keeper>,
    /// Nothing where nobody goes on after a kill.
    pub(crate) recorder: Option<Arc<Recorder>>,
    /// Is had by who changes the configuration.
    changing: Mutex<()>,
    now: RwLock<Now>,
}

/// What there is now.
pub(crate) struct Now {
    pub(crate) model: Model,
    pub(crate) units: Units,
    /// The secrets of discovery.
    secrets: iscsi::Secrets,
    targets: BTreeMap<TargetName, Target>,
    portals: BTreeMap<PortalKey, Gate>,
    exports: BTreeMap<Label, Export>,
    /// Those of sockets that were there already, which show all units.
    adopted_portals: Vec<Portal>,
    /// There are some, or will be when there are targets.
    has_sockets: bool,
    adopted_exports: Vec<Export>,
    ids: PortIds,
}

/// What a daemon runs on.
pub(crate) struct Basis {
    pub(crate) reactors: &'static Reactors,
    pub(crate) state: StateDir,
    pub(crate) events: Events,
    pub(crate) keeper: Option<Keeper>,
    /// Called when the last front end of those that were handed over has gone, and there is no other way in.
    pub(crate) all_ended: Box<dyn Fn() + Send + Sync>,
    /// Who keeps what would be needed after a kill.
    pub(crate) recorder: Option<Arc<Recorder>>,
}

/// Counts the ways in.
struct WaysIn {
    /// Where more may come.
    open: AtomicUsize,
    /// Front ends that were handed over.
    connected: AtomicUsize,
    all_ended: Box<dyn Fn() + Send + Sync>,
}

impl WaysIn {
    /// There is one more place where more may come; until the other value is dropped.
    fn open(self: &Arc<Self>) -> WayIn {
        self.open.fetch_add(1, Ordering::AcqRel);
        WayIn(self.clone())
    }

    /// A front end that was handed over has gone.
    fn one_ended(&self) {
        if self.connected.fetch_sub(1, Ordering::AcqRel) == 1 && self.open.load(Ordering::Acquire) == 0 {
            (self.all_ended)();
        }
    }
}

/// A place where more may come.
struct WayIn(Arc<WaysIn>);

impl Drop for WayIn {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Running {
    /// Serves `units` as the model says, with this plan for iSCSI, and at the sockets that are there already; nowhere if one of
    /// that is not possible.
    pub(crate) fn start(
        model: Model,
        plan: iscsi::Plan,
        units: Units,
        mut inherited: Inherited,
        basis: Basis,
    ) -> Result<Arc<Self>> {
        let Basis { reactors, state, events, keeper, all_ended, recorder } = basis;
        let setting = Setting {
            iscsi_sockets: Some(!inherited.iscsi.is_empty()),
            vhost_user_sockets: Some(!inherited.vhost_user.is_empty()),
            looks_at_system: false,
            is_whole: true,
        };
        let entity = NetworkEntity::new(plan.options);
        events::watch_sessions(&entity, events.clone());
        let now = Now {
            model,
            units,
            secrets: plan.secrets,
            targets: BTreeMap::new(),
            portals: BTreeMap::new(),
            exports: BTreeMap::new(),
            adopted_portals: Vec::new(),
            has_sockets: false,
            adopted_exports: Vec::new(),
            ids: PortIds::default(),
        };
        let ways_in = WaysIn { open: AtomicUsize::new(0), connected: AtomicUsize::new(0), all_ended };
        let running = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            reactors,
            entity,
            state,
            events,
            throttles: Throttles::new(reactors.clock()),
            leases: Leases::new(),
            setting,
            ways_in: Arc::new(ways_in),
            keeper,
            recorder,
            changing: Mutex::default(),
            now: RwLock::new(now),
        });
        for (name, unit) in running.units() {
            lease::forget_departure(&unit.unit).with_context(|| name.to_string())?;
        }
        running.settle_sizes();
        running.keeper.iter().for_each(|keeper| keeper.begin(&running.now().model));
        running.throttle();
        running.units().values().for_each(|unit| running.throttles.add_unit(&unit.unit, &*reactors.poster()));
        running.take_units_over(&mut inherited.handed);
        match running.open_ways_in(plan.targets, inherited) {
            Ok(()) => Ok(running),
            Err(error) => {
                running.stop(Deadline::after(stop::EXPORTS));
                Err(error)
            }
        }
    }

    fn open_ways_in(&self, targets: Vec<iscsi::Target>, mut inherited: Inherited) -> Result<()> {
        // Virtual machines that go on at once ask for their units when everything is there.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let model = self.now().model.clone();
        self.now().units.values().for_each(|unit| self.bind(unit));
        model.units.values().filter(|spec| spec.migratable).for_each(|spec| self.expect_unit(spec));
        let mut handed = std::mem::take(&mut inherited.handed);
        self.take_back(&mut handed);
        if handed.is_planned() {
            self.entity.hold();
        }
        let socket = |(key, wanted): (&PortalKey, &config::Portal)| {
            let given = inherited.at_address(wanted.listen.0).map(PortalSocket::Given);
            given.or_else(|| handed.portal(key).map(PortalSocket::Handed))
        };
        let sockets: Vec<_> = model.portals.iter().map(socket).collect();
        self.now_mut().has_sockets = !inherited.iscsi.is_empty();
        for terms in targets {
            if let Ok(name) = terms.name.parse() {
                self.arrange_target(&name, Some(terms))?;
            }
        }
        for ((key, wanted), socket) in model.portals.iter().zip(sockets) {
            self.start_portal(*key, wanted, socket)?;
        }
        for socket in inherited.iscsi {
            let portal = Portal::adopt(socket, PortalOptions::default(), &self.entity, self.reactors)?;
            self.ways_in.open.fetch_add(1, Ordering::AcqRel);
            self.now_mut().adopted_portals.push(portal);
        }
        let connected =
            inherited.vhost_user.iter().filter(|one| matches!(one.endpoint, Endpoint::Connected(_)));
        self.ways_in.connected.store(connected.count(), Ordering::Release);
        // Nobody is served before all nexuses are there, with what each has reserved and is to be told.
        let exports = self.prepare_exports(&model.exports, inherited.vhost_user, &mut handed)?;
        if handed.is_planned() {
            let (sessions, served) = (handed.sessions(), self.now().exports.len());
            let (all, resumed) = (sessions.len(), self.entity.resume(sessions, self.reactors));
            tracing::info!(
                exports = served,
                "going on with {resumed} of {all} iSCSI sessions of another process"
            );
        }
        exports.into_iter().for_each(Ready::open);
        Ok(())
    }

    /// What there is now, to be looked at for a moment.
    pub(crate) fn now(&self) -> RwLockReadGuard<'_, Now> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is now, to be changed in a moment, by who has [`Self::changing`], or the turn of a unit that comes or goes.
    fn now_mut(&self) -> RwLockWriteGuard<'_, Now> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The units that there are now.
    pub(crate) fn units(&self) -> Units {
        self.now().units.clone()
    }

    /// The logical unit of this name.
    pub(crate) fn unit(&self, name: &str) -> Option<Arc<LogicalUnit>> {
        self.now().units.get(name).map(|unit| unit.unit.clone())
    }

    /// The configuration that is in force, with the sizes that units have by now.
    pub(crate) fn model(&self) -> Model {
        self.settle_sizes();
        self.now().model.clone()
    }

    /// A configuration without what it has that is not served, since it could not be made again when a change had failed.
    fn served(&self, mut model: Model) -> Model {
        let now = self.now();
        model.units.retain(|name, spec| spec.migratable || now.units.contains_key(name));
        model.targets.retain(|name, _| now.targets.contains_key(name));
        model.portals.retain(|key, _| now.portals.contains_key(key));
        model.exports.retain(|name, _| now.exports.contains_key(name));
        model
    }

    /// Resized units say what size they have.
    pub(crate) fn settle_sizes(&self) {
        let Now { model, units, .. } = &mut *self.now_mut();
        for (name, spec) in &mut model.units {
            let Some(said) = units::wanted_size(spec) else { continue };
            let size = units.get(name).and_then(|unit| units::size_of(&unit.unit));
            let Some(size) = size.filter(|size| *size != said) else { continue };
            say_size(spec, size);
        }
    }

    /// Has those throttles count that the running configuration has.
    fn throttle(&self) {
        let throttles = self.now().model.throttles.clone();
        self.throttles.set(throttles.values(), &*self.reactors.poster());
    }

    /// What is counted of those who wait for each throttle.
    pub(crate) fn delays(&self) -> BTreeMap<Label, Arc<Delays>> {
        self.throttles.delays()
    }

    fn all_reactors(&self) -> Vec<ReactorId> {
        (0..self.reactors.count()).map(ReactorId).collect()
    }

    /// What is served, in a few words.
    pub(crate) fn status(&self) -> String {
        let now = self.now();
        let portals = now.portals.len() + now.adopted_portals.len();
        summary::status(now.units.len(), portals + now.exports.len() + now.adopted_exports.len())
    }

    /// How to connect to all of them.
    pub(crate) fn summary(&self) -> String {
        let now = self.now();
        let mut text = String::new();
        for portal in now.portals.values().map(|gate| &gate.portal).chain(&now.adopted_portals) {
            let of_group = |(name, target): (&TargetName, &Target)| {
                let port = &target.ports.get(&portal.group_tag())?.port;
                Some((name.to_string(), port.luns().inventory().units().keys().copied().collect()))
            };
            let targets: Vec<_> = now.targets.iter().filter_map(of_group).collect();
            let _ = write!(text, "{}", summary::Iscsi { address: portal.address(), targets: &targets });
        }
        for (index, export) in now.exports.values().chain(&now.adopted_exports).enumerate() {
            let is_client = matches!(export.link().state, LinkState::Connecting | LinkState::Waiting);
            let _ = write!(text, "{}", summary::VhostUser { name: export.handle.name(), is_client, index });
        }
        text
    }

    /// Where it keeps its state.
    pub(crate) fn state_directory(&self) -> &Path {
        self.state.path()
    }

    /// Has all ways in stop to listen, let what is in flight finish and end their connections. Returns those that have not
    /// done so before the deadline.
    pub(crate) fn stop(&self, deadline: Deadline) -> Vec<String> {
        let now = self.now();
        let exports: Vec<_> =
            now.exports.values().chain(&now.adopted_exports).map(|export| export.handle.clone()).collect();
        exports.iter().for_each(|handle| handle.begin_stop());
        let portals = now.portals.values().map(|gate| &gate.portal).chain(&now.adopted_portals);
        portals.for_each(|portal| portal.begin_stop(self.reactors));
        drop(now);
        // Meanwhile they give their units up, so there are others.
        let exports = exports.into_iter().filter(|handle| !handle.wait(deadline.left()));
        let exports: Vec<_> = exports.map(|handle| format!("vhost-user on {}", handle.name())).collect();
        let now = self.now();
        let portals = now.portals.values().map(|gate| &gate.portal).chain(&now.adopted_portals);
        let portals = portals.filter(|portal| !portal.wait(deadline.left()));
        exports.into_iter().chain(portals.map(|portal| format!("iSCSI on {}", portal.address()))).collect()
    }
}

/// Has the configuration of a unit say a size, if it says one.
fn say_size(spec: &mut Arc<config::Unit>, size: u64) {
    if units::wanted_size(spec).is_none_or(|said| said == size) {
        return;
    }
    let spec = Arc::make_mut(spec);
    match &mut spec.store {
        StoreSpec::Ram(said) => *said = size,
        StoreSpec::Path(_) => spec.size = Some(Bytes(size)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
