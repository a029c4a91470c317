//! Units that several daemons can serve, one at a time: the one where their virtual machine is.
//!
//! Such a unit stands by until the rings of a virtual machine start that sees it: its store is not open, and nobody sees it. Then it is
//! taken: locked in the state directory, opened, made from what is kept of it. When the virtual machine leaves, it is given up: what
//! was written is made durable, what is neither configured nor saved is put into its state, and when its store and its lock are
//! let go of, others may take it. So the two locks alone say who serves it, and they end with the process.

mod back;
mod give;
mod late;
mod take;
mod turns;

pub(super) use take::{begin_first_term, forget_departure};
pub(super) use turns::Turn;

use super::exports::Export;
use super::units::wanted_size;
use super::{Now, Running, say_size};
use crate::config::values::{Label, Name};
use crate::config::{self, Model};
use crate::reasons;
use lunette_control::{Failure, Work};
use lunette_engine::{Nexus, UnitState};
use lunette_reactor::Workers;
use lunette_scsi::Naa;
use lunette_transport_vhost_user::{DeviceState, Given, Lease, Taken};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use turns::Turns;

/// For how many virtual machines units come or go at a time. Stores that hang hold up no more.
const AT_A_TIME: usize = 64;

/// When something is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is kept of the unit besides what it saves itself.
const SECTION: &str = "lease";

/// For how long, and in which state, a unit is served by one of those that can.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Term {
    /// How often the unit was taken; 0: never.
    number: u64,
    /// What whoever gave it up has left for the next one. It is taken out before the next one serves the unit, so it counts once.
    departure: Option<Departure>,
}

/// What goes along with a unit that is given up.
#[derive(Clone, Serialize, Deserialize)]
struct Departure {
    /// The same for all units that were given up together, and for no others.
    journey: u64,
    /// The initiator port that the virtual machine is.
    guest: String,
    unit: UnitState,
    device: Option<DeviceState>,
}

/// What all exports of a daemon need for this.
pub(super) struct Leases {
    /// One that starts the others: reactors, which ask for units, cannot start threads.
    foreman: Workers,
    workers: Workers,
    /// One of them waits until it is time to try again to give up what others have used.
    is_patient: AtomicBool,
    /// One of them waits until it is time to try again to take what running virtual machines miss.
    is_late: AtomicBool,
    /// There are, or were, such units, and threads that wait for work.
    is_ready: AtomicBool,
    turns: Turns,
    /// The kept world-wide names of such units, as far as they are known.
    known: Mutex<BTreeMap<Name, Naa>>,
}

impl Leases {
    pub(super) fn new() -> Self {
        let (is_patient, is_late, is_ready, turns, known) = Default::default();
        let [foreman, workers] = [1, AT_A_TIME].map(|most| Workers::new("lease", most));
        Self { foreman, workers, is_patient, is_late, is_ready, turns, known }
    }

    /// There are such units.
    fn prepare(&self) {
        if !self.is_ready.swap(true, Ordering::AcqRel) {
            self.foreman.run(Box::new(|| ()));
        }
    }

    fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    fn know(&self, name: &Name, naa: Naa) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), naa);
    }

    fn naa(&self, name: &Name) -> Option<Naa> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }
}

/// The units of one export, of those that others could serve too.
pub(super) struct ExportLease {
    this: Weak<Self>,
    running: Weak<Running>,
    /// What the configuration calls the export, if it is there.
    name: Option<Mutex<Label>>,
    /// The initiator port that the virtual machine is.
    guest: String,
    phase: Mutex<Phase>,
    /// Who shows what has come or gone while the virtual machine stands still.
    shown_by: Mutex<Vec<ThreadId>>,
    /// Somebody brings what it misses while the virtual machine runs.
    is_coming: AtomicBool,
    /// Its units are being given up.
    is_leaving: AtomicBool,
    /// Why that cannot be had, as was told last.
    why_late: Mutex<Option<String>>,
}

/// Where a virtual machine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Not here.
    Gone,
    /// Not here, and never again: the export ends.
    Ended,
    /// Its rings are about to start, and wait for its units.
    Waits,
    /// It runs here.
    Here,
}

impl ExportLease {
    /// The export is called otherwise.
    pub(super) fn rename(&self, to: &Label) {
        if let Some(name) = &self.name {
            name.lock().unwrap_or_else(PoisonError::into_inner).clone_from(to);
        }
    }

    /// Whether the virtual machine, which does not run, is not to notice what this thread shows: units that come or go.
    pub(super) fn stands_still(&self) -> bool {
        let shown_by = self.shown_by.lock().unwrap_or_else(PoisonError::into_inner);
        shown_by.contains(&std::thread::current().id())
    }

    /// The export is about to end, by a change that gives its units up then.
    pub(super) fn end(&self) {
        self.set(Phase::Ended);
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != Phase::Ended {
            *now = phase;
        }
    }

    /// It has its units, unless it has gone meanwhile.
    fn arrive(&self) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Waits {
            *phase = Phase::Here;
            self.forget_news();
        }
    }

    /// Whether the virtual machine's rings run, or are about to.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.phase(), Phase::Waits | Phase::Here)
    }

    /// Whether its units are being given up.
    fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Whether there are no such units, so that nobody need wait for anything.
    fn has_none(&self) -> bool {
        self.running.upgrade().is_none_or(|running| running.now().units_of(self).0.is_empty())
    }

    /// Has `act` done where one may wait, and `done` told what has become of it.
    fn work<T: Send + 'static>(
        &self,
        done: Done<T>,
        act: impl FnOnce(&Running, &Self) -> anyhow::Result<T> + Send + 'static,
    ) {
        let mut told = Told(Some(done));
        let Some((running, lease)) = self.running.upgrade().zip(self.this.upgrade()) else { return };
        let act = move |running: &Running| {
            let result = act(running, &lease);
            told.tell(result.map_err(|error| reasons(&error)));
        };
        running.begin(act);
    }
}

impl Lease for ExportLease {
    fn check(&self) -> Result<(), String> {
        let running = self.running.upgrade().filter(|running| running.leases.is_ready());
        running.map_or(Ok(()), |running| running.now().may_leave(self))
    }

    fn terms(&self) -> BTreeMap<String, u64> {
        let running = self.running.upgrade().filter(|running| running.leases.is_ready());
        running.map(|running| running.now().terms(self)).unwrap_or_default()
    }

    fn take(&self, goes_on: bool, done: Taken) {
        if self.phase() == Phase::Ended {
            return done(Err("the export ends".to_owned()));
        }
        self.set(Phase::Waits);
        if self.has_none() {
            // A change that brings one from now on finds the virtual machine here.
            self.arrive();
            if let Some(running) = self.running.upgrade().filter(|_| !self.has_none()) {
                running.begin_late(self, ());
            }
            return done(Ok(None));
        }
        self.work(done, move |running, lease| running.take_for(lease, goes_on));
    }

    fn give(&self, state: DeviceState, done: Given) {
        // Who ends the export waits for that, and has the turn of changes.
        if self.phase() == Phase::Ended {
            return done(Ok(()));
        }
        if self.has_none() {
            self.running.upgrade().into_iter().for_each(|running| running.has_left(self));
            return done(Ok(()));
        }
        self.work(done, |running, lease| {
            running.give_for(lease, state).inspect_err(|_| running.keep_for(lease))
        });
    }
}

/// What is called with the result.
type Done<T> = Box<dyn FnOnce(Result<T, String>) + Send>;

/// Somebody who waits, and is told also when the work is dropped.
struct Told<T>(Option<Done<T>>);

impl<T> Told<T> {
    fn tell(&mut self, result: Result<T, String>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl<T> Drop for Told<T> {
    fn drop(&mut self) {
        self.tell(Err("no thread could do it".to_owned()));
    }
}

/// While it lives, nothing more comes for the virtual machine, whose units are being given up.
struct Leaving<'a>(&'a ExportLease);

impl<'a> Leaving<'a> {
    fn begin(lease: &'a ExportLease) -> Self {
        lease.is_leaving.store(true, Ordering::Release);
        Self(lease)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.is_leaving.store(false, Ordering::Release);
    }
}

/// While it lives, a virtual machine that stands still does not notice what this thread shows it.
struct Still<'a>(&'a ExportLease);

impl<'a> Still<'a> {
    fn of(lease: &'a ExportLease) -> Self {
        let still = Self(lease);
        still.shown_by().push(std::thread::current().id());
        still
    }

    fn shown_by(&self) -> MutexGuard<'a, Vec<ThreadId>> {
        self.0.shown_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        let this = std::thread::current().id();
        self.shown_by().retain(|thread| *thread != this);
    }
}

impl Running {
    /// What an export asks about its units whose virtual machine is the initiator port `guest`.
    pub(super) fn lease(&self, guest: String, name: Option<&Label>) -> Arc<ExportLease> {
        Arc::new_cyclic(|this| ExportLease {
            this: this.clone(),
            running: self.this.clone(),
            name: name.cloned().map(Mutex::new),
            guest,
            phase: Mutex::new(Phase::Gone),
            shown_by: Mutex::default(),
            is_coming: AtomicBool::default(),
            is_leaving: AtomicBool::default(),
            why_late: Mutex::default(),
        })
    }

    /// Has something done where one may wait.
    fn begin(&self, act: impl FnOnce(&Self) + Send + 'static) {
        let Some(running) = self.this.upgrade() else { return };
        self.leases.foreman.run(Box::new(move || {
            let on = running.clone();
            on.leases.workers.run(Box::new(move || act(&running)));
        }));
    }

    /// The same after a while.
    fn begin_after(&self, pause: Duration, act: impl FnOnce(&Self) + Send + 'static) {
        let this = self.this.clone();
        self.leases.foreman.run(Box::new(move || {
            let Some(running) = this.upgrade() else { return };
            running.leases.workers.run(Box::new(move || {
                std::thread::sleep(pause);
                if let Some(running) = this.upgrade() {
                    act(&running);
                }
            }));
        }));
    }

    /// Has `act` done after a pause, once however often that is asked for meanwhile; `is_due` says that it is going to be.
    fn later(&self, is_due: fn(&Leases) -> &AtomicBool, act: fn(&Self)) {
        if is_due(&self.leases).swap(true, Ordering::AcqRel) {
            return;
        }
        self.begin_after(AGAIN, move |running| {
            is_due(&running.leases).swap(false, Ordering::AcqRel);
            act(running);
        });
    }

    /// Waits for the turn of some units of an export; nothing when `is_wanted` has become false. Which they are may change until then.
    fn turn_of(
        &self,
        units: impl Fn(&Now) -> BTreeSet<Name>,
        is_wanted: impl Fn() -> bool,
    ) -> Option<(Turn<'_>, BTreeSet<Name>)> {
        loop {
            let names = units(&self.now());
            let turn = self.leases.turns.wait(&names, &is_wanted)?;
            let names = units(&self.now());
            if turn.covers(&names) {
                return Some((turn, names));
            }
        }
    }

    /// Waits for the turn of the units that a change from one configuration to the other is about, of those that several daemons could
    /// serve, but no longer than `most`. Their sizes may be known better after that. Nothing when `work` is cancelled.
    pub(super) fn turn_to_change(
        &self,
        before: &mut Model,
        wanted: &mut Model,
        work: &Work,
        most: Duration,
    ) -> Result<Turn<'_>, Failure> {
        let names = before.units.keys().chain(wanted.units.keys());
        let is_concerned = |name: &&Name| {
            let both = [before.units.get(*name), wanted.units.get(*name)];
            both[0] != both[1] && both.into_iter().flatten().any(|spec| spec.migratable)
        };
        let turn = self.turn_while(names.filter(is_concerned).cloned().collect(), work, most)?;
        for (name, now) in self.model().units {
            let Some(old) = before.units.get_mut(&name).filter(|old| **old != now) else { continue };
            let wanted = wanted.units.get_mut(&name);
            let same_size = wanted.filter(|new| wanted_size(new) == wanted_size(old));
            same_size.zip(wanted_size(&now)).into_iter().for_each(|(new, size)| say_size(new, size));
            *old = now;
        }
        Ok(turn)
    }

    /// Waits for the turn of these units, unless `work` is cancelled, but no longer than `most`.
    pub(super) fn turn_while(
        &self,
        names: BTreeSet<Name>,
        work: &Work,
        most: Duration,
    ) -> Result<Turn<'_>, Failure> {
        let deadline = Instant::now() + most;
        let turn = self.leases.turns.wait(&names, || work.go_on().is_ok() && Instant::now() < deadline);
        let late = || {
            work.go_on()?;
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let names = names.join(", ");
            Err(Failure::failed(format!("it takes more than {most:?} to take or to give up one of {names}")))
        };
        turn.map_or_else(late, Ok)
    }

    /// There is a unit that others could serve too, which stands by for now.
    pub(super) fn expect_unit(&self, spec: &config::Unit) {
        self.leases.prepare();
        if let Err(error) = self.record_of(spec) {
            tracing::warn!("{} stands by, but cannot be taken as things are: {error:#}", spec.name);
        }
    }

    /// Why a unit stands by.
    pub(crate) fn why_standby(&self, name: &Name) -> String {
        let holder = self.leases.naa(name).and_then(|naa| self.state.holder(naa));
        match holder {
            Some(holder) => format!("served by {holder}"),
            None => "no virtual machine uses it here".to_owned(),
        }
    }
}

impl Now {
    /// The units that an export shows: those that others could serve too, and those that they could not.
    fn units_of(&self, lease: &ExportLease) -> (BTreeSet<Name>, BTreeSet<Name>) {
        let label =
            lease.name.as_ref().map(|name| name.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let places = match label.map(|label| self.model.exports.get(&label)) {
            Some(None) => return Default::default(),
            Some(Some(config::VhostUser { units: Some(places), .. })) => places.clone(),
            _ => super::places_of_all(&self.model),
        };
        let is_migratable = |name: &Name| self.model.units.get(name).is_some_and(|spec| spec.migratable);
        places.into_values().partition(is_migratable)
    }

    /// Whether the virtual machine of an export could leave.
    fn may_leave(&self, lease: &ExportLease) -> Result<(), String> {
        let (names, others) = self.units_of(lease);
        match others.first().filter(|_| !names.is_empty()) {
            Some(other) => Err(format!("the unit `{other}` would stay behind: it is not migratable")),
            None => names.iter().try_for_each(|name| self.is_free_but_for(lease, name)),
        }
    }

    /// Whether nobody but the virtual machine of `lease` uses a unit.
    fn is_free_but_for(&self, lease: &ExportLease, name: &Name) -> Result<(), String> {
        let Some(unit) = self.units.get(name) else { return Ok(()) };
        let is_own =
            |nexus: &Nexus| self.export_of(nexus).is_some_and(|export| std::ptr::eq(&*export.lease, lease));
        let other = unit.unit.users().into_iter().find(|nexus| self.is_used(nexus) && !is_own(nexus));
        match other {
            Some(nexus) => Err(format!(
                "the unit `{name}` is in use by others: {} at {}",
                nexus.initiator, nexus.port.name
            )),
            None => Ok(()),
        }
    }

    /// Whether somebody uses a nexus. Those of exports last longer than connections.
    fn is_used(&self, nexus: &Nexus) -> bool {
        self.export_of(nexus).is_none_or(Export::is_connected)
    }

    /// The export that one of the nexus's ports belongs to.
    fn export_of(&self, nexus: &Nexus) -> Option<&Export> {
        let mut exports = self.exports.values().chain(&self.adopted_exports);
        exports.find(|export| export.has(&nexus.port))
    }

    /// The export that has this lease, unless it has ended.
    fn export_with(&self, lease: &ExportLease) -> Option<&Export> {
        let mut exports = self.exports.values().chain(&self.adopted_exports);
        exports.find(|export| std::ptr::eq(&*export.lease, lease))
    }

    /// The units of an export that several daemons could serve, and that are here.
    fn units_here(&self, lease: &ExportLease) -> impl Iterator<Item = Name> {
        self.units_of(lease).0.into_iter().filter(|name| self.units.contains_key(name))
    }

    /// In which term each of them is, by its world-wide name.
    fn terms(&self, lease: &ExportLease) -> BTreeMap<String, u64> {
        self.units_here(lease).filter_map(|name| self.term(&name)).collect()
    }

    /// The same of all units that several daemons could serve.
    pub(super) fn all_terms(&self) -> BTreeMap<String, u64> {
        let migratable = self.model.units.values().filter(|spec| spec.migratable);
        migratable.filter_map(|spec| self.term(&spec.name)).collect()
    }

    fn term(&self, name: &Name) -> Option<(String, u64)> {
        let unit = &self.units.get(name)?.unit;
        let Term { number, .. } = unit.saved().get(SECTION).ok()?;
        Some((unit.identity.naa.to_string(), number))
    }

    /// Those that are not.
    fn missing(&self, lease: &ExportLease) -> impl Iterator<Item = Name> {
        self.units_of(lease).0.into_iter().filter(|name| !self.units.contains_key(name))
    }

    /// The units that several daemons could serve, and that are here although no virtual machine sees them.
    fn unwanted(&self) -> Vec<Name> {
        self.units.keys().filter(|name| self.is_unwanted(name)).cloned().collect()
    }

    fn is_unwanted(&self, name: &Name) -> bool {
        self.model.units.get(name).is_some_and(|spec| spec.migratable) && !self.is_wanted(name)
    }

    /// Whether a virtual machine runs that sees the unit.
    fn is_wanted(&self, name: &Name) -> bool {
        let mut exports = self.exports.values().chain(&self.adopted_exports);
        exports.any(|export| export.is_running() && self.units_of(&export.lease).0.contains(name))
    }
}

#[cfg(test)]
mod tests;
