//! What initiators see through a target port, and how that changes while they use it (SAM-5 4.7, SPC-4 6.33).

use crate::engine::Engine;
use crate::inventory::Placeholders;
use crate::{Inventory, InventoryChange, LogicalUnit, Nexus, NexusId, TargetPort};
use lunette_store::{Post, ReactorId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What some initiators see through a target port. It is the same for as long as they see through it; the [`Inventory`] that
/// it shows may change.
///
/// A port has one for everybody, [`TargetPort::luns`]; [`TargetPort::map`] makes others, for [`Nexus::mapped`].
pub struct LunMap {
    port: Weak<TargetPort>,
    inventory: Mutex<Arc<Inventory>>,
    /// How often that has changed.
    epoch: AtomicU64,
    /// Whose initiators see through it.
    nexuses: Mutex<HashMap<NexusId, Weak<Nexus>>>,
    /// Is had by who changes it, before any other lock.
    changing: Mutex<()>,
}

impl LunMap {
    /// The first map of a port.
    pub(crate) fn new(port: Weak<TargetPort>, units: BTreeMap<u32, Arc<LogicalUnit>>) -> Arc<Self> {
        Self::with(port, Inventory::new(units, Placeholders::new()))
    }

    /// Another map of the same port.
    pub(crate) fn beside(&self, units: BTreeMap<u32, Arc<LogicalUnit>>) -> Arc<Self> {
        Self::with(self.port.clone(), Inventory::new(units, self.inventory().placeholders().clone()))
    }

    fn with(port: Weak<TargetPort>, inventory: Arc<Inventory>) -> Arc<Self> {
        Arc::new(Self {
            port,
            inventory: Mutex::new(inventory),
            epoch: AtomicU64::new(0),
            nexuses: Mutex::default(),
            changing: Mutex::default(),
        })
    }

    /// What is there now.
    pub fn inventory(&self) -> Arc<Inventory> {
        lock(&self.inventory).clone()
    }

    /// Changes what is there; returns what `edit` does, which must change no map.
    ///
    /// When this returns, no command begins at a logical unit whose number means another one now, or none. What has begun
    /// comes to its end; what an initiator has asked for at a unit that it sees no more, a RESERVE or that the removal of the
    /// medium is prevented, ends as when a nexus is lost, but persistent reservations stay. Each initiator is told by a unit
    /// attention condition at the units that it still sees, REPORTED LUNS DATA HAS CHANGED, and by its
    /// [observer](crate::AttentionObserver). A unit that no map of a port shows any more does not name that port.
    pub fn change<R>(
        self: &Arc<Self>,
        post: &dyn Post,
        edit: impl FnOnce(&mut BTreeMap<u32, Arc<LogicalUnit>>) -> R,
    ) -> R {
        self.change_and(Nexus::inventory_changed, post, edit)
    }

    /// The same, but no initiator is told: for initiators that stand still while their units go to another process, or come back,
    /// and that see the same when they go on.
    pub fn change_unnoticed<R>(
        self: &Arc<Self>,
        post: &dyn Post,
        edit: impl FnOnce(&mut BTreeMap<u32, Arc<LogicalUnit>>) -> R,
    ) -> R {
        let leave = |nexus: &Nexus, _: &Inventory, gone: &[_], _: &[_], post: &dyn Post| {
            nexus.leave_units(gone, post)
        };
        self.change_and(leave, post, edit)
    }

    fn change_and<R>(
        self: &Arc<Self>,
        tell: impl Fn(&Nexus, &Inventory, &[Arc<LogicalUnit>], &[InventoryChange], &dyn Post),
        post: &dyn Post,
        edit: impl FnOnce(&mut BTreeMap<u32, Arc<LogicalUnit>>) -> R,
    ) -> R {
        // To the end, so that observers are told of changes in their order.
        let _changing = lock(&self.changing);
        let before = self.inventory();
        let mut units = before.units().clone();
        let result = edit(&mut units);
        let after = Inventory::new(units, before.placeholders().clone());
        let changes = before.changes_to(&after);
        if changes.is_empty() {
            return result;
        }
        let (gone, port) = (before.without(&after), self.port.upgrade());
        for unit in after.without(&before) {
            port.iter().for_each(|port| unit.seen_through(port, self));
        }
        self.replace(&after);
        let nexuses = self.nexuses();
        let reactors: BTreeSet<ReactorId> = nexuses.iter().flat_map(|nexus| nexus.reactors()).collect();
        gone.iter().for_each(|unit| unit.was_seen_on(&reactors));
        nexuses.iter().for_each(|nexus| tell(nexus, &after, &gone, &changes, post));
        gone.iter().for_each(|unit| unit.seen_no_more_through(self));
        for reactor in reactors {
            post.post(reactor, Engine::message(|engine, _| engine.forget_left()));
        }
        result
    }

    fn replace(&self, after: &Arc<Inventory>) {
        let mut inventory = lock(&self.inventory);
        let before = std::mem::replace(&mut *inventory, after.clone());
        self.epoch.fetch_add(1, Ordering::Release);
        drop(inventory);
        drop(before);
    }

    /// Whoever knows the same number knows what is there.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The initiator of a nexus sees through it.
    pub(crate) fn join(&self, nexus: &Arc<Nexus>) {
        lock(&self.nexuses).insert(nexus.id(), Arc::downgrade(nexus));
    }

    /// A nexus is no more.
    pub(crate) fn leave(&self, nexus: NexusId) {
        lock(&self.nexuses).remove(&nexus);
    }

    /// They end, if they do, with no lock held.
    fn nexuses(&self) -> Vec<Arc<Nexus>> {
        let known: Vec<_> = lock(&self.nexuses).values().cloned().collect();
        known.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether it is a map of `port`.
    pub fn is_of(&self, port: &TargetPort) -> bool {
        std::ptr::eq(self.port.as_ptr(), port)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for LunMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inventory().fmt(f)
    }
}
