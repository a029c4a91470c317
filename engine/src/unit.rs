//! A logical unit as all reactors share it.

use crate::access::{ExplicitAccess, Paths};
use crate::allegiance::Allegiance;
use crate::buffers::Buffers;
use crate::clock::{Clock, Origin};
use crate::command::{CommandTable, Owner, Row};
use crate::copy::Copies;
use crate::limit::Limiter;
use crate::log::LogBases;
use crate::mode::{ModePages, SavedModes};
use crate::nexus::ItlNexus;
use crate::priority::Priorities;
use crate::ranges::Ranges;
use crate::readiness::{NotReady, Observer};
use crate::reservation::Reservations;
use crate::room::Waiting;
use crate::saved::{Saved, StateError, StateKeeper};
use crate::self_test::SelfTests;
use crate::spc::IdentifyingInformation;
use crate::statistics::Statistics;
use crate::stuck::Patience;
use crate::task_set::Coordination;
use crate::turns::Turns;
use crate::{CommandFilter, Decoded, Device, Identity, Nexus, NexusId, Request, spc};
use lunette_scsi::AdditionalSense;
use lunette_store::{Backing, Post, ReactorId};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

/// A logical unit: a device, its identity and its bytes.
pub struct LogicalUnit {
    number: u64,
    /// A name for logs and people.
    pub name: String,
    /// Who it says it is.
    pub identity: Identity,
    device: Box<dyn Device>,
    backing: Option<Arc<dyn Backing>>,
    commands: Arc<CommandTable>,
    home: OnceLock<Box<[ReactorId]>>,
    pub(crate) flags: AtomicU32,
    retired: AtomicBool,
    /// It goes on with what was interrupted: twice would be two that write the same.
    resumed: AtomicBool,
    turns: Turns,
    /// For what the operator changes.
    changes: Turns,
    ranges: Ranges,
    waiting: Waiting,
    keeper: OnceLock<Arc<dyn StateKeeper>>,
    pub(crate) readiness_observer: OnceLock<Observer>,
    statistics: Statistics,
    log_bases: LogBases,
    self_tests: SelfTests,
    buffers: Buffers,
    copies: Copies,
    clock: Clock,
    pub(crate) patience: Patience,
    state: Mutex<State>,
    coordination: Mutex<Coordination>,
}

/// What changes rarely and is looked at only off the hot path.
#[derive(Default)]
pub(crate) struct State {
    /// Those that have left too, as long as they have commands there.
    pub(crate) nexuses: Vec<Met>,
    pub(crate) modes: ModePages,
    /// What its device says.
    pub(crate) not_ready: Option<NotReady>,
    /// A self-test in the foreground.
    pub(crate) testing: Option<NotReady>,
    /// The reactors whose operations its store has for too long.
    pub(crate) stuck: BTreeSet<ReactorId>,
    /// What is kept of the unit cannot be used. Nothing but a restart makes it ready.
    pub(crate) damaged: bool,
    /// The operator forbids to write.
    pub(crate) read_only: bool,
    /// A lower power condition, which lasts until the medium is needed.
    pub(crate) resting: Option<AdditionalSense>,
    /// Reads and writes take their ranges.
    has_ranges: bool,
    saved: Arc<Saved>,
    identifying_information: IdentifyingInformation,
    pub(crate) reservations: Reservations,
    /// Who has reserved the unit with RESERVE.
    pub(crate) reserved_by: Option<NexusId>,
    pub(crate) priorities: Priorities,
    pub(crate) paths: Paths,
    pub(crate) allegiance: Option<Allegiance>,
    pub(crate) limiter: Option<Arc<dyn Limiter>>,
    /// What is not as nexuses know it that go on from another process.
    pub(crate) news: Vec<AdditionalSense>,
}

/// A nexus that has met the unit.
#[derive(Clone)]
pub(crate) struct Met {
    pub(crate) nexus: Weak<Nexus>,
    pub(crate) itl: Weak<ItlNexus>,
}

impl LogicalUnit {
    /// Puts a unit together. `backing` is `None` for devices that keep no bytes.
    pub fn new(
        name: impl Into<String>,
        identity: Identity,
        device: Box<dyn Device>,
        backing: Option<Arc<dyn Backing>>,
    ) -> Arc<Self> {
        Self::filtered(name, identity, device, backing, &CommandFilter::default())
    }

    /// The same, with only the commands that pass `filter`.
    pub fn filtered(
        name: impl Into<String>,
        identity: Identity,
        device: Box<dyn Device>,
        backing: Option<Arc<dyn Backing>>,
        filter: &CommandFilter,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let primary: &[&'static spc::PrimaryCommand] =
            if device.is_placeholder() { &[] } else { spc::COMMANDS };
        let commands = CommandTable::shared(primary.iter().map(|row| &row.spec), device.commands(), filter);
        let mut unit = Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            identity,
            device,
            backing,
            commands,
            home: OnceLock::new(),
            flags: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            resumed: AtomicBool::new(false),
            turns: Turns::of(1),
            changes: Turns::of(1),
            ranges: Ranges::default(),
            waiting: Waiting::default(),
            keeper: OnceLock::new(),
            readiness_observer: OnceLock::new(),
            statistics: Statistics::default(),
            log_bases: LogBases::default(),
            self_tests: SelfTests::default(),
            buffers: Buffers::default(),
            copies: Copies::default(),
            clock: Clock::default(),
            patience: Patience::default(),
            state: Mutex::default(),
            coordination: Mutex::default(),
        };
        let mut specs = spc::pages::mode_pages();
        specs.retain(|_| !unit.device.is_placeholder());
        specs.extend(unit.device.mode_pages(&unit));
        unit.state.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).modes = ModePages::new(specs);
        unit.apply_modes();
        Arc::new(unit)
    }

    /// Binds the unit to some reactors: commands that come to others with all their data are executed on one of these. To
    /// be said once, before the first session; said again, it has no effect.
    pub fn live_on(&self, reactors: impl Into<Box<[ReactorId]>>) {
        let _ = self.home.set(reactors.into());
    }

    /// Keeps the unit's state from now on, and puts the kept one into effect. To be said once, before the first session.
    ///
    /// # Errors
    /// When the kept state cannot be used. The unit is then not ready: what it has forgotten, a reservation maybe, was
    /// promised to somebody.
    pub fn keep_state(&self, keeper: Arc<dyn StateKeeper>) -> Result<(), StateError> {
        let kept =
            keeper.load().and_then(|bytes| bytes.as_deref().map_or(Ok(Saved::default()), Saved::parse));
        kept.and_then(|saved| self.restore(saved))
            .and_then(|()| self.device.restore(self))
            .map(|()| drop(self.keeper.set(keeper)))
            .inspect_err(|_| self.change_readiness(|state| state.damaged = true))
    }

    /// Puts the kept state into effect.
    fn restore(&self, saved: Saved) -> Result<(), StateError> {
        let reservations: Option<Reservations> = saved.get(Reservations::SECTION)?;
        let modes: SavedModes = saved.get(SavedModes::SECTION)?;
        let identifying_information = IdentifyingInformation::of(&saved)?;
        let explicit_access = saved.get(ExplicitAccess::SECTION)?;
        let mut state = self.state();
        state.reservations = reservations.unwrap_or_default();
        state.modes.set_saved(&modes);
        state.modes.reset();
        state.identifying_information = identifying_information;
        state.saved = Arc::new(saved);
        drop(state);
        self.apply_modes();
        self.restore_access(explicit_access);
        Ok(())
    }

    /// Goes on with the operations that were going on when the state was saved, if that can be used. To be said once, when
    /// the reactors run and the unit is where it is to [live](Self::live_on); said again, it has no effect.
    pub fn resume(self: &Arc<Self>, post: &dyn Post) {
        if self.intact().is_ok() && !self.resumed.swap(true, Ordering::AcqRel) {
            self.device.resume(self, post);
        }
    }

    /// Whether its state outlives the program.
    pub fn keeps_state(&self) -> bool {
        self.keeper.get().is_some()
    }

    pub(crate) fn keeper(&self) -> Option<&Arc<dyn StateKeeper>> {
        self.keeper.get()
    }

    /// The saved state.
    pub fn saved(&self) -> Arc<Saved> {
        self.state().saved.clone()
    }

    /// Has a section of the saved state say something else, durably. To be said before the first session; may block.
    ///
    /// # Errors
    /// When it cannot be saved, or nothing is kept of the unit.
    pub fn save_at_once<T: Serialize>(&self, section: &str, value: &T) -> Result<(), StateError> {
        let keeper = self.keeper().ok_or_else(|| StateError("nothing is kept of the logical unit".into()))?;
        let mut saved = Saved::clone(&self.saved());
        saved.set(section, value)?;
        keeper.save(&saved.encode()?)?;
        self.set_saved(saved);
        Ok(())
    }

    pub(crate) fn set_saved(&self, saved: Saved) {
        let saved = Arc::new(saved);
        // What was there may be long: it goes when nobody waits for the lock.
        let before = std::mem::replace(&mut self.state().saved, saved);
        drop(before);
    }

    pub(crate) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    pub(crate) fn log_bases(&self) -> &LogBases {
        &self.log_bases
    }

    pub(crate) fn self_tests(&self) -> &SelfTests {
        &self.self_tests
    }

    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    pub(crate) fn copies(&self) -> &Copies {
        &self.copies
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Sets the timestamp (SPC-4 5.2): `milliseconds` since the beginning of 1970 when the program started.
    pub fn set_clock(&self, milliseconds: u64) {
        self.clock.set(Origin::Program, milliseconds, Duration::ZERO);
    }

    pub(crate) fn identifying_information(&self) -> IdentifyingInformation {
        self.state().identifying_information.clone()
    }

    pub(crate) fn set_identifying_information(&self, information: IdentifyingInformation) {
        self.state().identifying_information = information;
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    pub(crate) fn changes(&self) -> &Turns {
        &self.changes
    }

    pub(crate) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    pub(crate) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Reads and writes that begin from now on take their ranges.
    pub(crate) fn take_ranges(&self) {
        let mut state = self.state();
        state.has_ranges = true;
        // Still locked, so that no nexus misses it.
        state.itls().for_each(|itl| itl.take_ranges());
    }

    /// The reactors that it is bound to.
    pub(crate) fn home(&self) -> &[ReactorId] {
        self.home.get().map_or(&[], |home| home)
    }

    /// Where a command that comes to `reactor` is executed.
    pub(crate) fn home_of(&self, reactor: ReactorId) -> ReactorId {
        match self.home() {
            [] => reactor,
            home if home.contains(&reactor) => reactor,
            home => home[usize::from(reactor.0) % home.len()],
        }
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// What keeps its bytes.
    pub fn backing(&self) -> Option<&Arc<dyn Backing>> {
        self.backing.as_ref()
    }

    /// Establishes a unit attention condition for every nexus, or for every one but `except`.
    pub fn establish_attention(&self, condition: AdditionalSense, except: Option<&Nexus>) {
        for (nexus, itl) in self.met() {
            if !itl.has_left() && except.is_none_or(|except| except.id() != nexus.id()) {
                itl.establish(condition);
                nexus.tell(self, condition);
            }
        }
    }

    /// The nexuses whose initiators have used the unit and still see it.
    pub fn users(&self) -> Vec<Arc<Nexus>> {
        self.met().into_iter().filter(|(_, itl)| !itl.has_left()).map(|(nexus, _)| nexus).collect()
    }

    /// The nexuses that know this unit, also those that only have commands there. They are called with no lock held.
    pub(crate) fn nexuses(&self) -> Vec<Arc<Nexus>> {
        self.met().into_iter().map(|(nexus, _)| nexus).collect()
    }

    /// The same with what there is between them and this unit.
    pub(crate) fn met(&self) -> Vec<(Arc<Nexus>, Arc<ItlNexus>)> {
        // A nexus that ends may have to do with the state.
        let known: Vec<_> = self.state().nexuses.iter().map(Met::clone).collect();
        known.iter().filter_map(|met| Some((met.nexus.upgrade()?, met.itl.upgrade()?))).collect()
    }

    /// Takes no commands from now on. Returns whether it did before.
    pub(crate) fn close(&self) -> bool {
        let state = self.state();
        let was_open = !self.retired.swap(true, Ordering::AcqRel);
        // Still locked, so that no nexus misses it.
        state.itls().for_each(|itl| itl.retire());
        was_open
    }

    /// Whether it takes no commands any more.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The state of a new I_T_L nexus; [`Nexus::itl`] keeps it.
    pub(crate) fn meet(&self, nexus: &Nexus) -> Arc<ItlNexus> {
        let itl = ItlNexus::new();
        if self.device.is_placeholder() {
            itl.take_attention();
        } else {
            let mut state = self.state();
            state.nexuses.retain(|met| met.itl.strong_count() > 0);
            state.nexuses.push(Met { nexus: nexus.this().clone(), itl: Arc::downgrade(&itl) });
            itl.set_ready(state.is_ready());
            itl.set_active(state.paths.is_active(&nexus.port));
            if state.has_ranges {
                itl.take_ranges();
            }
            itl.set_allegiance(state.allegiance.is_some());
            itl.exclude(state.judge(nexus));
            itl.limit(state.limiter.as_ref().map(|limiter| limiter.limits(nexus)).unwrap_or_default());
            itl.set_priority(state.priorities.of(nexus.registrant()));
            if self.is_retired() {
                itl.retire();
            }
        }
        itl
    }

    /// A logical unit reset (SAM-5 6.3.3), but for the tasks, which the caller aborts.
    pub(crate) fn reset(&self, condition: AdditionalSense, by: &Nexus) {
        let mut state = self.state();
        state.modes.reset();
        state.release(|_| true);
        state.reset_priorities();
        drop(state);
        self.apply_modes();
        self.device.reset(self);
        self.self_tests.abort_otherwise();
        self.copies.forget_all();
        by.itl(self).iter().for_each(|itl| itl.establish(condition));
        self.establish_attention(condition, Some(by));
    }

    /// A nexus is lost, or does not see the unit any more.
    pub(crate) fn lose(&self, nexus: &Nexus) {
        self.state().release(|holder| holder == nexus.id());
        self.copies.forget(nexus.id());
        self.device.nexus_lost(self, nexus.id());
    }

    pub(crate) fn coordination(&self) -> MutexGuard<'_, Coordination> {
        self.coordination.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn commands(&self) -> &CommandTable {
        &self.commands
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn decode(&self, row: &Row, request: &Request<'_>) -> Decoded {
        match row.owner {
            Owner::Primary(index) => (spc::COMMANDS[index].decode)(self, request),
            Owner::Device(index) => self.device.decode(index, request),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for LogicalUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogicalUnit").field("name", &self.name).finish_non_exhaustive()
    }
}
