//! What a driver is told without asking: the events of the event queue (VIRTIO 1.2 5.6.6.3).
//!
//! An event comes into being on any reactor, usually as a unit attention condition for the virtual machine. It is posted to
//! the home of the export, whose event queue gives it to the driver. Nothing is kept for a driver that has no buffer ready:
//! the event is dropped, and the next one says that some were missed. The unit attention stays.

use crate::local::{ExportId, Local};
use lunette_engine::{AttentionObserver, Inventory, InventoryChange, LogicalUnit};
use lunette_scsi::{AdditionalSense, Lun, NotificationClasses, PeripheralDeviceType};
use lunette_store::{Cx, Post, ReactorId};
use lunette_vhost_user::Features;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// Logical units come and go, told by events.
pub(crate) const HOTPLUG: Features = Features::from_bits_retain(1 << 1);
/// Parameters of logical units change, told by events.
pub(crate) const CHANGE: Features = Features::from_bits_retain(1 << 2);

/// Most events on their way to the event queue's reactor; more are dropped.
const LIMIT: usize = 256;
/// Most subscriptions that are taken over.
const MOST_SUBSCRIPTIONS: usize = 1 << 16;

/// `struct virtio_scsi_event`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    event: u32,
    /// Target and logical unit.
    unit: (u8, u32),
    reason: u32,
}

impl Event {
    /// Bytes of an event.
    pub(crate) const SIZE: usize = 16;

    const EVENTS_MISSED: u32 = 1 << 31;
    const NO_EVENT: u32 = 0;
    const TRANSPORT_RESET: u32 = 1;
    const ASYNC_NOTIFY: u32 = 2;
    const PARAM_CHANGE: u32 = 3;

    const RESET_HARD: u32 = 0;
    const RESET_RESCAN: u32 = 1;
    const RESET_REMOVED: u32 = 2;

    /// Tells nothing but that others were missed, if they were.
    const NOTHING: Self = Self { event: Self::NO_EVENT, unit: (0, 0), reason: 0 };

    /// What a unit attention condition is as an event.
    fn of(condition: AdditionalSense, target: u8, unit: &LogicalUnit, lun: u32) -> Option<Self> {
        match condition {
            // Sent for LUN 0 it is about the whole target.
            AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED => {
                Some(Self { event: Self::TRANSPORT_RESET, unit: (target, 0), reason: Self::RESET_RESCAN })
            }
            AdditionalSense { asc: 0x29, .. } => {
                Some(Self { event: Self::TRANSPORT_RESET, unit: (target, lun), reason: Self::RESET_HARD })
            }
            // MMC devices have notifications instead (5.6.6.3.2).
            _ if is_change(condition) && !is_optical(unit) => {
                let reason = u32::from(condition.asc) | u32::from(condition.ascq) << 8;
                Some(Self { event: Self::PARAM_CHANGE, unit: (target, lun), reason })
            }
            _ => None,
        }
    }

    /// What a driver does about one logical unit: it adds or removes it. Where LUN 0 comes, it looks at the whole target.
    fn of_inventory(change: InventoryChange, target: u8) -> Self {
        let reason = match change {
            InventoryChange::Came { .. } => Self::RESET_RESCAN,
            InventoryChange::Went { .. } => Self::RESET_REMOVED,
        };
        Self { event: Self::TRANSPORT_RESET, unit: (target, change.lun()), reason }
    }

    fn is_of_inventory(&self) -> bool {
        self.event == Self::TRANSPORT_RESET && self.reason != Self::RESET_HARD
    }

    /// What a driver must have acknowledged to be told.
    fn needs(&self) -> Features {
        match self.event {
            Self::PARAM_CHANGE => CHANGE,
            _ if self.is_of_inventory() => HOTPLUG,
            _ => Features::empty(),
        }
    }

    /// Whether it says nothing new after `pending`. That a unit comes is news after it went.
    fn is_known(&self, pending: &VecDeque<Self>) -> bool {
        let is_about_it = |other: &&Self| other.is_of_inventory() && other.unit == self.unit;
        match self.is_of_inventory() {
            true => pending.iter().rev().find(is_about_it) == Some(self),
            false => pending.contains(self),
        }
    }

    fn bytes(&self, missed: bool) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let event = self.event | if missed { Self::EVENTS_MISSED } else { 0 };
        bytes[..4].copy_from_slice(&event.to_le_bytes());
        if self.event != Self::NO_EVENT {
            let (target, lun) = self.unit;
            bytes[4..6].copy_from_slice(&[1, target]);
            bytes[6..8].copy_from_slice(&Lun::from_index(lun).to_bytes()[..2]);
        }
        bytes[12..].copy_from_slice(&self.reason.to_le_bytes());
        bytes
    }
}

/// Whether what INQUIRY, MODE SENSE or READ CAPACITY answers has changed.
fn is_change(condition: AdditionalSense) -> bool {
    matches!(
        condition,
        AdditionalSense::PARAMETERS_CHANGED
            | AdditionalSense::MODE_PARAMETERS_CHANGED
            | AdditionalSense::CAPACITY_DATA_HAS_CHANGED
            | AdditionalSense::INQUIRY_DATA_HAS_CHANGED
    )
}

fn is_optical(unit: &LogicalUnit) -> bool {
    unit.device().peripheral() == PeripheralDeviceType::OPTICAL.0
}

/// The events of an export, and what its driver wants to be told. The driver is the same after a reconnection, unless its
/// control queue starts anew.
pub(crate) struct Events {
    export: ExportId,
    home: ReactorId,
    poster: Arc<dyn Post>,
    state: Mutex<State>,
}

/// What is handed over of the events of an export.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HandedEvents {
    features: Features,
    /// Targets, logical units and notification classes.
    subscriptions: Vec<(u8, u32, u8)>,
    missed: bool,
}

#[cfg(test)]
impl HandedEvents {
    /// Operational changes of these targets and units are subscribed to.
    pub(crate) fn subscribed(units: Vec<(u8, u32)>) -> Self {
        let class = NotificationClasses::OPERATIONAL_CHANGE.0;
        let subscriptions = units.into_iter().map(|(target, lun)| (target, lun, class)).collect();
        Self { subscriptions, ..Self::default() }
    }
}

#[derive(Default)]
struct State {
    features: Features,
    subscriptions: HashMap<(u8, u32), NotificationClasses>,
    pending: VecDeque<Event>,
    /// Some were dropped since the last one that was delivered.
    missed: bool,
    /// The home reactor has been called and has not come yet.
    called: bool,
}

impl Events {
    pub(crate) fn new(export: ExportId, home: ReactorId, poster: Arc<dyn Post>) -> Self {
        Self { export, home, poster, state: Mutex::default() }
    }

    /// Who observes the unit attention conditions of `target`.
    pub(crate) fn observer(self: &Arc<Self>, target: u8) -> Arc<dyn AttentionObserver> {
        Arc::new(Observer { target, events: self.clone() })
    }

    /// The driver has acknowledged `features`.
    pub(crate) fn set_features(&self, features: Features) {
        self.state().features = features;
    }

    /// The driver wants to be told of `classes` of a logical unit, and of no others.
    pub(crate) fn subscribe(&self, target: u8, lun: u32, classes: NotificationClasses) {
        let subscriptions = &mut self.state().subscriptions;
        match classes.is_empty() {
            true => subscriptions.remove(&(target, lun)),
            false => subscriptions.insert((target, lun), classes),
        };
    }

    /// A driver has just set up the control queue, by which it will subscribe: what was subscribed to was the last one's.
    pub(crate) fn unsubscribe(&self) {
        self.state().subscriptions.clear();
    }

    /// The device was reset: nothing is subscribed to, and the driver knows nothing that could have changed.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        state.subscriptions.clear();
        state.pending.clear();
        state.missed = false;
    }

    /// For another process. What was not delivered counts as missed.
    pub(crate) fn hand_over(&self) -> HandedEvents {
        let state = self.state();
        let subscriptions = state.subscriptions.iter();
        HandedEvents {
            features: state.features,
            subscriptions: subscriptions.map(|(&(target, lun), classes)| (target, lun, classes.0)).collect(),
            missed: state.missed || !state.pending.is_empty(),
        }
    }

    /// Goes on from there.
    pub(crate) fn take_over(&self, from: &HandedEvents) {
        let mut state = self.state();
        state.features = from.features;
        let subscriptions = from.subscriptions.iter().take(MOST_SUBSCRIPTIONS);
        state.subscriptions = subscriptions
            .map(|&(target, lun, classes)| ((target, lun), NotificationClasses(classes)))
            .collect();
        state.missed |= from.missed;
    }

    /// The next event to deliver, in the form that the driver reads.
    pub(crate) fn next(&self) -> Option<[u8; Event::SIZE]> {
        let mut state = self.state();
        state.called = false;
        let event = match state.pending.pop_front() {
            Some(event) => event,
            None if state.missed => Event::NOTHING,
            None => return None,
        };
        Some(event.bytes(std::mem::take(&mut state.missed)))
    }

    /// The event that [`next`](Self::next) gave could not be delivered.
    pub(crate) fn miss(&self) {
        self.state().missed = true;
    }

    /// There is no event queue to deliver by.
    pub(crate) fn miss_all(&self) {
        let mut state = self.state();
        state.called = false;
        state.missed |= !state.pending.is_empty();
        state.pending.clear();
    }

    /// There is another target.
    pub(crate) fn target_came(&self, target: u8) {
        self.report(Event::of_inventory(InventoryChange::Came { lun: 0 }, target));
    }

    /// A target that had these units is there no more.
    pub(crate) fn target_went(&self, target: u8, luns: Vec<u32>) {
        self.state().subscriptions.retain(|(of, _), _| *of != target);
        for lun in luns {
            self.report(Event::of_inventory(InventoryChange::Went { lun }, target));
        }
    }

    fn report(&self, event: Event) {
        let mut state = self.state();
        if !state.features.contains(event.needs()) || event.is_known(&state.pending) {
            return;
        }
        match state.pending.len() {
            LIMIT => state.missed = true,
            _ => state.pending.push_back(event),
        }
        if std::mem::replace(&mut state.called, true) {
            return;
        }
        drop(state);
        let export = self.export;
        let deliver = move |cx: &mut dyn Cx| {
            let listener = Local::on(cx).listeners.borrow().get(&export).cloned();
            if let Some(listener) = listener {
                listener.deliver_events(cx);
            }
        };
        self.poster.post(self.home, Box::new(deliver));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

struct Observer {
    target: u8,
    events: Arc<Events>,
}

impl AttentionObserver for Observer {
    fn attention(&self, unit: &LogicalUnit, lun: u32, condition: AdditionalSense) {
        let Self { target, events } = self;
        if let Some(event) = Event::of(condition, *target, unit, lun) {
            events.report(event);
        }
        let subscribed = events.state().subscriptions.get(&(*target, lun)).copied();
        if let Some(classes) = subscribed.filter(|_| is_change(condition))
            && !(classes & NotificationClasses::OPERATIONAL_CHANGE).is_empty()
        {
            let reason = NotificationClasses::OPERATIONAL_CHANGE.0.into();
            events.report(Event { event: Event::ASYNC_NOTIFY, unit: (*target, lun), reason });
        }
    }

    fn inventory_changed(&self, _: &Inventory, changes: &[InventoryChange]) {
        let Self { target, events } = self;
        for change in changes {
            if let InventoryChange::Went { lun } = *change {
                events.subscribe(*target, lun, NotificationClasses::NONE);
            }
            events.report(Event::of_inventory(*change, *target));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::sim::Sim;

    #[test]
    fn subscriptions_go_along_and_what_was_not_delivered_is_missed() {
        let mut sim = Sim::new(1);
        let poster = sim.cx(0).poster();
        let make = || Events::new(ExportId::next(), ReactorId(0), poster.clone());
        let (before, after) = (make(), make());
        before.set_features(HOTPLUG | CHANGE);
        before.subscribe(3, 5, NotificationClasses::OPERATIONAL_CHANGE);
        assert!(!before.hand_over().missed);
        before.target_came(3);
        let handed = serde_json::to_string(&before.hand_over()).unwrap();
        after.take_over(&serde_json::from_str(&handed).unwrap());
        let state = after.state();
        assert_eq!(state.features, HOTPLUG | CHANGE);
        assert_eq!(state.subscriptions, [((3, 5), NotificationClasses::OPERATIONAL_CHANGE)].into());
        drop(state);
        assert_eq!(after.next(), Some(Event::NOTHING.bytes(true)));
        assert_eq!(after.next(), None);
    }
}
