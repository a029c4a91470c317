//! Handing logical units and nexuses to another process, which goes on with them: what is neither configured nor saved, but
//! initiators rely on.
//!
//! One process asks for the states when nothing is in flight any more; the other puts them into effect before it opens the first
//! session. What it serves otherwise than the first has done becomes a unit attention condition. What is missing in a state is as
//! after a power cycle; of what only lasts for a while by any standard, data of copies and buffers, nothing is handed over.

use crate::access::ExplicitAccess;
use crate::allegiance::Allegiance;
use crate::clock::Origin;
use crate::mode::SavedModes;
use crate::nexus::ItlNexus;
use crate::priority::HandedPriority;
use crate::reservation::{HandedReservations, Reservations};
use crate::{Inventory, InventoryChange, LogicalUnit, Nexus, Saved, StateError};
use lunette_scsi::AdditionalSense;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is handed over of a [`LogicalUnit`].
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitState {
    /// Bytes, if it keeps any.
    size: Option<u64>,
    reservations: HandedReservations,
    modes: SavedModes,
    priorities: Vec<HandedPriority>,
    access: ExplicitAccess,
    /// The timestamp that a command has set, in milliseconds since it was the beginning of 1970 by the clock of the machine.
    timestamp_ahead: Option<u64>,
    /// Bytes of its store were lost: no flush is to succeed.
    failed: bool,
    device: Saved,
}

/// What is handed over of a [`Nexus`].
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct NexusState {
    /// What the initiator saw: world-wide names by logical unit number.
    luns: BTreeMap<u32, String>,
    /// What there is between it and the units that it has met, by their names.
    units: BTreeMap<String, ItlState>,
}

#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
struct ItlState {
    /// Pending unit attention conditions: additional sense codes and their qualifiers.
    attentions: Vec<(u8, u8)>,
    /// It has reserved the unit with RESERVE.
    reserved: bool,
    /// An auto contingent allegiance for it is established.
    faulted: bool,
    device: Saved,
}

impl UnitState {
    /// Whether bytes of its store were lost, so that no flush is to succeed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }
}

impl LogicalUnit {
    /// Its state for another process. `now` is the time of the reactors, `wall` that of the machine since the beginning of 1970.
    pub fn hand_over(&self, now: Duration, wall: Duration) -> UnitState {
        let device = self.device().hand_over();
        let (origin, timestamp) = self.clock().read(now);
        let state = self.state();
        UnitState {
            size: self.size(),
            reservations: state.reservations.hand_over(),
            modes: state.modes.in_force(),
            priorities: state.priorities.hand_over(),
            access: state.paths.explicit(),
            timestamp_ahead: (origin == Origin::Command)
                .then(|| timestamp.wrapping_sub(wall.as_millis() as u64)),
            failed: self.backing().is_some_and(|backing| backing.has_failed()),
            device,
        }
    }

    /// Bytes, if it keeps any.
    fn size(&self) -> Option<u64> {
        self.backing().map(|backing| backing.caps().size.get())
    }

    /// Goes on from there. To be said after the kept state is put into effect, and before the first session.
    ///
    /// # Errors
    /// When the device's part is none; nothing of that is in effect then.
    pub fn take_over(&self, from: UnitState, now: Duration, wall: Duration) -> Result<(), StateError> {
        if let Some(ahead) = from.timestamp_ahead {
            self.clock().set(Origin::Command, ahead.wrapping_add(wall.as_millis() as u64), now);
        }
        if from.failed
            && let Some(backing) = self.backing()
        {
            backing.set_failed();
        }
        let mut state = self.state();
        state.reservations = Reservations::take_over(from.reservations);
        state.modes.put_in_force(&from.modes);
        state.priorities.take_over(from.priorities);
        let resized = from.size.is_some() && from.size != self.size();
        state.news.extend(resized.then_some(AdditionalSense::CAPACITY_DATA_HAS_CHANGED));
        drop(state);
        self.apply_modes();
        self.restore_access(from.access);
        self.device().take_over(self, &from.device)
    }
}

impl NexusState {
    /// The world-wide names of the logical units that the initiator saw.
    pub fn units(&self) -> impl Iterator<Item = &str> {
        self.luns.values().map(String::as_str)
    }
}

impl Nexus {
    /// Its state for another process.
    pub fn hand_over(&self) -> NexusState {
        let inventory = self.inventory();
        let state_of = |unit: &LogicalUnit| Some((name(unit), self.known_itl(unit)?.hand_over(unit, self)));
        NexusState {
            luns: names(&inventory),
            units: inventory.each_unit().filter_map(|unit| state_of(unit)).collect(),
        }
    }

    /// Goes on from there. To be said before its first session is opened, and when the units have taken over theirs.
    ///
    /// # Errors
    /// When a device's part is none; that unit is as if it was powered on.
    pub fn take_over(&self, from: &NexusState) -> Result<(), StateError> {
        let inventory = self.inventory();
        let changes = changes(&from.luns, &names(&inventory));
        let mut result = Ok(());
        for unit in inventory.each_unit() {
            let (Some(state), Some(itl)) = (from.units.get(&name(unit)), self.itl(unit)) else { continue };
            result = result.and(itl.take_over(state, unit, self));
            if !changes.is_empty() {
                itl.establish(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED);
            }
        }
        if !changes.is_empty() {
            self.tell_of_inventory(&inventory, &changes);
        }
        result
    }
}

impl ItlNexus {
    fn hand_over(&self, unit: &LogicalUnit, nexus: &Nexus) -> ItlState {
        let device = unit.device().hand_over_nexus(nexus.id());
        let attentions = self.attentions().iter().map(|condition| (condition.asc, condition.ascq)).collect();
        let state = unit.state();
        ItlState {
            attentions,
            reserved: state.reserved_by == Some(nexus.id()),
            faulted: state.allegiance.as_ref().is_some_and(|allegiance| allegiance.is_of(nexus.id())),
            device,
        }
    }

    fn take_over(&self, from: &ItlState, unit: &LogicalUnit, nexus: &Nexus) -> Result<(), StateError> {
        unit.device().take_over_nexus(unit, nexus.id(), &from.device)?;
        let before = from.attentions.iter().map(|&(asc, ascq)| AdditionalSense::new(asc, ascq));
        let mut state = unit.state();
        self.go_on(before.chain(state.news.iter().copied()));
        if from.reserved && state.reserved_by.is_none() {
            state.reserved_by = Some(nexus.id());
            state.judge_all();
        }
        if from.faulted && state.allegiance.is_none() {
            state.allegiance = Some(Allegiance::of(nexus.id()));
            state.itls().for_each(|itl| itl.set_allegiance(true));
        }
        Ok(())
    }
}

/// What units are known by in both processes.
fn name(unit: &LogicalUnit) -> String {
    unit.identity.naa.to_string()
}

fn names(inventory: &Inventory) -> BTreeMap<u32, String> {
    inventory.units().iter().map(|(lun, unit)| (*lun, name(unit))).collect()
}

/// What is different in `after`.
fn changes(before: &BTreeMap<u32, String>, after: &BTreeMap<u32, String>) -> Vec<InventoryChange> {
    let luns: BTreeSet<u32> = before.keys().chain(after.keys()).copied().collect();
    let change = |lun: u32| {
        let (before, after) = (before.get(&lun), after.get(&lun));
        let differs = before != after;
        let went = (differs && before.is_some()).then_some(InventoryChange::Went { lun });
        let came = (differs && after.is_some()).then_some(InventoryChange::Came { lun });
        went.into_iter().chain(came)
    };
    luns.into_iter().flat_map(change).collect()
}
