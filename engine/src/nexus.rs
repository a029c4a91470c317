//! Target ports, initiator ports and the I_T nexuses between them (SAM-5 4.5 to 4.8).

use crate::attention::Attentions;
use crate::limit::Limits;
use crate::priority::INITIAL_PRIORITY;
use crate::reservation::Registrant;
use crate::statistics::{Record, Usage};
use crate::{Inventory, InventoryChange, LogicalUnit, LunMap, Reservation};
use lunette_scsi::designator::Protocol;
use lunette_scsi::{AdditionalSense, Lun, Sense, SenseKey, TransportId};
use lunette_store::{Post, ReactorId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// A way in: a target port and the logical units that are seen through it, by everybody or by some initiators.
pub struct TargetPort {
    /// The port's name: a SCSI name string, as an iSCSI port has it (`iqn…,t,0x0001`).
    pub name: String,
    /// Relative target port identifier, from 1.
    pub relative_id: u16,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Its target port group (SPC-4 5.15).
    pub group: u16,
    luns: Arc<LunMap>,
}

impl TargetPort {
    /// The target port group of ports for which no other is named.
    pub const DEFAULT_GROUP: u16 = 1;

    /// A port of the default group that shows `units` by logical unit number.
    pub fn new(
        name: impl Into<String>,
        relative_id: u16,
        protocol: Protocol,
        units: BTreeMap<u32, Arc<LogicalUnit>>,
    ) -> Arc<Self> {
        Self::in_group(Self::DEFAULT_GROUP, name, relative_id, protocol, units)
    }

    /// The same in the target port group `group`, which must not be FFFFh.
    pub fn in_group(
        group: u16,
        name: impl Into<String>,
        relative_id: u16,
        protocol: Protocol,
        units: BTreeMap<u32, Arc<LogicalUnit>>,
    ) -> Arc<Self> {
        let name = name.into();
        let make = |this: &Weak<Self>| {
            let luns = LunMap::new(this.clone(), units);
            Self { name, relative_id, protocol, group, luns }
        };
        let port = Arc::new_cyclic(make);
        port.show(&port.luns);
        port
    }

    /// What initiators see for which no other map is named.
    pub fn luns(&self) -> &Arc<LunMap> {
        &self.luns
    }

    /// A map for some initiators: they see `units` through this port, by logical unit number, instead of what others see.
    /// The port is among the target ports of these units, once however many maps they are in, for as long as one of these
    /// maps is there and shows them.
    pub fn map(self: &Arc<Self>, units: BTreeMap<u32, Arc<LogicalUnit>>) -> Arc<LunMap> {
        let luns = self.luns.beside(units);
        self.show(&luns);
        luns
    }

    fn show(self: &Arc<Self>, luns: &Arc<LunMap>) {
        luns.inventory().each_unit().for_each(|unit| unit.seen_through(self, luns));
    }
}

/// Is told of unit attention conditions for an I_T nexus that others have caused, when they are established: for
/// transports that can tell an initiator before it asks.
pub trait AttentionObserver: Send + Sync {
    /// `condition` is pending at `unit`, which the initiator sees as `lun`. Called on any reactor, with no lock held; must
    /// not wait.
    fn attention(&self, unit: &LogicalUnit, lun: u32, condition: AdditionalSense);

    /// The initiator sees other logical units than before, `inventory`: what is different, by logical unit number. REPORTED
    /// LUNS DATA HAS CHANGED is pending at those units that it has used and still sees, if there are any, of which
    /// [`attention`](Self::attention) does not tell. Called on any thread, in the order of the changes; must neither wait
    /// nor change a map.
    fn inventory_changed(&self, inventory: &Inventory, changes: &[InventoryChange]);
}

/// Identifies an I_T nexus within the program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NexusId(u64);

/// An initiator port and a target port that talk to each other. What is pending for the initiator is kept for as long as
/// this lives, across all [`Session`](crate::Session)s of it.
pub struct Nexus {
    id: NexusId,
    /// The initiator port's name: a SCSI name string, `iqn…,i,0x…` or `naa.…`. Registrations are kept under it.
    pub initiator: String,
    /// The target port.
    pub port: Arc<TargetPort>,
    luns: Arc<LunMap>,
    /// The I_T_L nexuses met so far, by the number of their logical unit, of what the initiator still sees. The units know
    /// them too, but do not keep them.
    itls: Mutex<HashMap<u64, Arc<ItlNexus>>>,
    /// Where there may be something of it: wherever a session was opened, or a command sent.
    reactors: Mutex<BTreeSet<ReactorId>>,
    observer: Option<Arc<dyn AttentionObserver>>,
    registrant: Registrant,
    name: Arc<str>,
    /// How often it was lost.
    losses: AtomicU64,
    this: Weak<Self>,
}

impl Nexus {
    /// A new nexus, of which no logical unit knows yet: the first command for each learns that it was powered on. The
    /// initiator sees what the port shows to everybody.
    pub fn new(initiator: impl Into<String>, port: Arc<TargetPort>) -> Arc<Self> {
        let luns = port.luns.clone();
        Self::with(initiator.into(), port, luns, None)
    }

    /// A new nexus whose unit attention conditions `observer` is told of.
    pub fn observed(
        initiator: impl Into<String>,
        port: Arc<TargetPort>,
        observer: Arc<dyn AttentionObserver>,
    ) -> Arc<Self> {
        let luns = port.luns.clone();
        Self::with(initiator.into(), port, luns, Some(observer))
    }

    /// A new nexus whose initiator sees `luns`, which must be a [map](TargetPort::map) of `port`. It may have an observer.
    pub fn mapped(
        initiator: impl Into<String>,
        port: Arc<TargetPort>,
        luns: Arc<LunMap>,
        observer: Option<Arc<dyn AttentionObserver>>,
    ) -> Arc<Self> {
        Self::with(initiator.into(), port, luns, observer)
    }

    fn with(
        initiator: String,
        port: Arc<TargetPort>,
        luns: Arc<LunMap>,
        observer: Option<Arc<dyn AttentionObserver>>,
    ) -> Arc<Self> {
        debug_assert!(luns.is_of(&port), "a map of another port");
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NexusId(NEXT.fetch_add(1, Ordering::Relaxed));
        let registrant =
            Registrant { initiator: TransportId::from_name(&initiator), port: port.name.as_str().into() };
        let name = initiator.split_once(",i,").map_or(&*initiator, |(name, _)| name).into();
        let nexus = Arc::new_cyclic(|this| Self {
            id,
            name,
            initiator,
            port,
            luns,
            registrant,
            itls: Mutex::default(),
            reactors: Mutex::default(),
            observer,
            losses: AtomicU64::new(0),
            this: this.clone(),
        });
        nexus.luns.join(&nexus);
        nexus
    }

    /// Its identity.
    pub fn id(&self) -> NexusId {
        self.id
    }

    /// Its name in persistent reservations.
    pub(crate) fn registrant(&self) -> &Registrant {
        &self.registrant
    }

    /// Through what the initiator sees logical units.
    pub fn luns(&self) -> &Arc<LunMap> {
        &self.luns
    }

    /// The logical units that the initiator sees now.
    pub fn inventory(&self) -> Arc<Inventory> {
        self.luns.inventory()
    }

    /// What answers at `lun`. If it is a logical unit, its unit attention conditions concern this nexus from now on.
    pub fn meet(&self, lun: Lun) -> Arc<LogicalUnit> {
        loop {
            // Met in vain if it goes just now.
            let unit = self.inventory().resolve(lun).clone();
            if self.itl(&unit).is_some() {
                return unit;
            }
        }
    }

    /// There may be something of the nexus on this reactor from now on.
    pub(crate) fn works_on(&self, reactor: ReactorId) {
        self.reactors.lock().unwrap_or_else(PoisonError::into_inner).insert(reactor);
    }

    /// The reactors where there may be something of it.
    pub(crate) fn reactors(&self) -> BTreeSet<ReactorId> {
        self.reactors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the observer of a condition that another nexus has caused.
    pub(crate) fn tell(&self, unit: &LogicalUnit, condition: AdditionalSense) {
        if let Some(observer) = &self.observer {
            self.inventory().luns_of(unit).for_each(|lun| observer.attention(unit, lun, condition));
        }
    }

    /// The initiator sees `after` now, and units that are `gone` no more: what it has asked for there ends.
    pub(crate) fn inventory_changed(
        &self,
        after: &Inventory,
        gone: &[Arc<LogicalUnit>],
        changes: &[InventoryChange],
        post: &dyn Post,
    ) {
        self.leave_units(gone, post);
        let itls = self.itls();
        let is_placeholder = |number: u64| after.placeholders().have(number);
        let known = itls.iter().filter(|(number, _)| !is_placeholder(**number));
        known.for_each(|(_, itl)| itl.establish(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED));
        drop(itls);
        self.tell_of_inventory(after, changes);
    }

    /// The initiator does not see these units any more: what it has asked for there ends.
    pub(crate) fn leave_units(&self, gone: &[Arc<LogicalUnit>], post: &dyn Post) {
        let mut itls = self.itls();
        let left = gone.iter().filter(|unit| {
            let itl = itls.remove(&unit.number());
            itl.inspect(|itl| itl.leave()).is_some()
        });
        let left: Vec<_> = left.collect();
        drop(itls);
        for unit in left {
            unit.lose(self);
            unit.end_allegiance(|faulted| faulted == self.id, post);
        }
    }

    /// How often the nexus was lost so far: what a session sends that was opened before the last time comes too late.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// The nexus is lost.
    pub(crate) fn lose(&self) {
        self.losses.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn this(&self) -> &Weak<Self> {
        &self.this
    }

    /// The state of the I_T_L nexus with `unit`, made when it is first asked for; `None` if the initiator does not see the
    /// unit any more.
    pub(crate) fn itl(&self, unit: &LogicalUnit) -> Option<Arc<ItlNexus>> {
        let mut itls = self.itls();
        if let Some(known) = itls.get(&unit.number()) {
            return Some(known.clone());
        }
        // Looked at with the lock, which whoever changes that takes later, to find what was made before.
        self.inventory().shows(unit).then(|| {
            let itl = unit.meet(self);
            itls.insert(unit.number(), itl.clone());
            itl
        })
    }

    /// The same, if it was asked for before.
    pub(crate) fn known_itl(&self, unit: &LogicalUnit) -> Option<Arc<ItlNexus>> {
        self.itls().get(&unit.number()).cloned()
    }

    /// Tells the observer that the initiator sees something else than it knows.
    pub(crate) fn tell_of_inventory(&self, after: &Inventory, changes: &[InventoryChange]) {
        if let Some(observer) = &self.observer {
            observer.inventory_changed(after, changes);
        }
    }

    fn itls(&self) -> MutexGuard<'_, HashMap<u64, Arc<ItlNexus>>> {
        self.itls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The initiator's name, without what tells its ports apart: iSCSI initiators choose that as they like (RFC 7143 10.2).
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How many I_T_L nexuses it keeps.
    #[cfg(test)]
    pub(crate) fn itl_count(&self) -> usize {
        self.itls().len()
    }

    /// The initiator has learnt of the logical units, or that it should ask: no other of them has to tell it again
    /// (SPC-4 7.8, LUICLR).
    pub(crate) fn forget_reported_luns(&self) {
        for itl in self.itls().values() {
            itl.forget_attention(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED);
        }
    }

    /// Takes the unit attention condition that a logical unit reports next.
    pub(crate) fn take_attention(&self, itl: &ItlNexus) -> Option<Sense> {
        let sense = itl.take_attention()?;
        if sense.additional == AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED {
            self.forget_reported_luns();
        }
        Some(sense)
    }
}

impl Drop for Nexus {
    fn drop(&mut self) {
        self.luns.leave(self.id);
    }
}

/// What must be looked at before a command of an I_T_L nexus is processed, in one word: zero means go ahead.
#[derive(Default, Debug)]
pub(crate) struct Gate(AtomicU32);

impl Gate {
    const ATTENTION: u32 = 1;
    const NOT_READY: u32 = 1 << 1;
    const EXCLUDED_FROM_READING: u32 = 1 << 2;
    const EXCLUDED_FROM_WRITING: u32 = 1 << 3;
    const EXCLUDED: u32 = 1 << 4;
    const RANGES: u32 = 1 << 5;
    const INACTIVE_PORT: u32 = 1 << 6;
    const ALLEGIANCE: u32 = 1 << 7;
    const RETIRED: u32 = 1 << 8;
    /// Commands pay before they begin; this does not close it.
    const LIMITED: u32 = 1 << 9;

    /// The one load of the hot path.
    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) & !Self::LIMITED == 0
    }

    /// Whether commands count for limits.
    pub(crate) fn is_limited(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::LIMITED != 0
    }

    /// Whether the unit is not ready.
    pub(crate) fn is_unready(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::NOT_READY != 0
    }

    /// Whether the target port does not let every command through.
    pub(crate) fn has_inactive_port(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::INACTIVE_PORT != 0
    }

    /// Whether reads and writes take their ranges.
    pub(crate) fn has_ranges(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::RANGES != 0
    }

    /// Whether an auto contingent allegiance is established.
    pub(crate) fn has_allegiance(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::ALLEGIANCE != 0
    }

    /// Whether the unit takes no commands any more.
    pub(crate) fn is_retired(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::RETIRED != 0
    }

    /// Whether a reservation of another nexus excludes a command.
    pub(crate) fn excludes(&self, reservation: Reservation) -> bool {
        let excluding = match reservation {
            Reservation::Exempt => 0,
            Reservation::Allowed => Self::EXCLUDED,
            Reservation::Read => Self::EXCLUDED | Self::EXCLUDED_FROM_READING,
            Reservation::Write => Self::EXCLUDED | Self::EXCLUDED_FROM_WRITING,
        };
        self.0.load(Ordering::Acquire) & excluding != 0
    }

    fn set(&self, flags: u32, on: bool) {
        if on {
            self.0.fetch_or(flags, Ordering::AcqRel);
        } else {
            self.0.fetch_and(!flags, Ordering::AcqRel);
        }
    }
}

/// What the reservations of others keep a nexus from.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Exclusion {
    pub(crate) from_reading: bool,
    pub(crate) from_writing: bool,
    /// From everything but what is exempt.
    pub(crate) from_all: bool,
}

/// The state of one I_T_L nexus, shared by all reactors.
#[derive(Debug)]
pub(crate) struct ItlNexus {
    pub(crate) gate: Gate,
    attentions: Mutex<Attentions>,
    /// Of commands that name none.
    priority: AtomicU8,
    /// The initiator does not see the unit any more. Some of its commands may still be there.
    left: AtomicBool,
    /// What is counted for it, once it has been used.
    record: OnceLock<Record>,
    limits: Mutex<Limits>,
    /// Which time these have been changed.
    limits_epoch: AtomicU64,
}

impl ItlNexus {
    /// A new one, whose first command learns that the unit was powered on or reset (SAM-5 5.14.5).
    pub(crate) fn new() -> Arc<Self> {
        let priority = INITIAL_PRIORITY.into();
        let left = AtomicBool::new(false);
        let itl = Self {
            gate: Gate::default(),
            attentions: Mutex::default(),
            priority,
            left,
            record: OnceLock::new(),
            limits: Mutex::default(),
            limits_epoch: AtomicU64::new(0),
        };
        itl.establish(AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED);
        Arc::new(itl)
    }

    /// The counters of what `nexus` does with `unit` on one reactor.
    pub(crate) fn usage(&self, unit: &Arc<LogicalUnit>, nexus: &Nexus, reactor: ReactorId) -> Arc<Usage> {
        self.record.get_or_init(|| Record::new(unit, nexus)).part(unit, reactor)
    }

    /// Commands count for these limits from now on. Returns those for which they did before.
    pub(crate) fn limit(&self, limits: Limits) -> Limits {
        let is_limited = !limits.is_empty();
        let before = std::mem::replace(&mut *self.limits(), limits);
        self.limits_epoch.fetch_add(1, Ordering::Release);
        self.gate.set(Gate::LIMITED, is_limited);
        before
    }

    pub(crate) fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn limits_epoch(&self) -> u64 {
        self.limits_epoch.load(Ordering::Acquire)
    }

    /// What keeps commands that need a ready unit from being processed has come or gone.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.gate.set(Gate::NOT_READY, !ready);
    }

    /// The unit is accessible through the target port to every command from now on, or only to some.
    pub(crate) fn set_active(&self, active: bool) {
        self.gate.set(Gate::INACTIVE_PORT, !active);
    }

    /// Reads and writes that begin from now on take their ranges.
    pub(crate) fn take_ranges(&self) {
        self.gate.set(Gate::RANGES, true);
    }

    /// An auto contingent allegiance is established, or has been cleared.
    pub(crate) fn set_allegiance(&self, on: bool) {
        self.gate.set(Gate::ALLEGIANCE, on);
    }

    /// The unit takes no commands any more.
    pub(crate) fn retire(&self) {
        self.gate.set(Gate::RETIRED, true);
    }

    /// The initiator does not see the unit any more.
    fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Whether it does not. What ends with that must not be begun any more.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// The verdict of the unit's reservations.
    pub(crate) fn exclude(&self, verdict: Exclusion) {
        self.gate.set(Gate::EXCLUDED_FROM_READING, verdict.from_reading);
        self.gate.set(Gate::EXCLUDED_FROM_WRITING, verdict.from_writing);
        self.gate.set(Gate::EXCLUDED, verdict.from_all);
    }

    /// The priority that was set for it, or that there is none.
    pub(crate) fn set_priority(&self, priority: Option<u8>) {
        self.priority.store(priority.unwrap_or(INITIAL_PRIORITY), Ordering::Relaxed);
    }

    /// The priority of a command that came with `priority`.
    pub(crate) fn priority(&self, priority: u8) -> u8 {
        if priority == 0 { self.priority.load(Ordering::Relaxed) } else { priority }
    }

    pub(crate) fn establish(&self, condition: AdditionalSense) {
        self.with(|attentions| attentions.establish(condition));
    }

    pub(crate) fn take_attention(&self) -> Option<Sense> {
        self.with(Attentions::take)
    }

    /// The initiator has not been told of this after all.
    pub(crate) fn give_back(&self, sense: &Sense) {
        if sense.key == SenseKey::UNIT_ATTENTION {
            self.with(|attentions| attentions.give_back(sense.additional));
        }
    }

    pub(crate) fn forget_attention(&self, condition: AdditionalSense) {
        self.with(|attentions| attentions.forget(condition));
    }

    /// All conditions that are pending.
    pub(crate) fn attentions(&self) -> Vec<AdditionalSense> {
        self.with(|attentions| attentions.all().collect())
    }

    /// It goes on from elsewhere, where these were pending.
    pub(crate) fn go_on(&self, before: impl IntoIterator<Item = AdditionalSense>) {
        self.with(|attentions| attentions.go_on(before));
    }

    pub(crate) fn attention(&self) -> Option<AdditionalSense> {
        self.with(|attentions| attentions.peek())
    }

    fn with<R>(&self, act: impl FnOnce(&mut Attentions) -> R) -> R {
        let mut attentions = self.attentions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let result = act(&mut attentions);
        self.gate.set(Gate::ATTENTION, attentions.peek().is_some());
        result
    }
}
