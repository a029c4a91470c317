//! The service actions of PERSISTENT RESERVE OUT (SPC-4 5.12.5 to 5.12.11).

use super::{Change, Held, MAX_REGISTRATIONS, Registrant, Registration, Reservations};
use crate::checks::Refusal;
use lunette_scsi::reservation::{LU_SCOPE, RegisterAndMoveList, ReserveOutList, reservation_type, scope};
use lunette_scsi::{AdditionalSense, ReservationType, Sense, TransportId};
use std::sync::Arc;

/// What a REGISTER asks of the key that the nexus has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Existing {
    /// It is RESERVATION KEY, or none if that is zero.
    Matches,
    /// REGISTER AND IGNORE EXISTING KEY.
    Ignored,
}

impl Reservations {
    /// REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 5.12.7), through the target ports `ports` if all are meant.
    pub(crate) fn register(
        &self,
        by: &Registrant,
        existing: Existing,
        list: &ReserveOutList,
        ports: &[Arc<str>],
    ) -> Result<Change, Refusal> {
        let own = self.key_of(by);
        let matches = |key: Option<u64>| existing == Existing::Ignored || key.unwrap_or(0) == list.key;
        if !matches(own) {
            return Err(Refusal::Conflict);
        }
        if list.specify_initiator_ports && (existing == Existing::Ignored || own.is_some()) {
            let (byte, bit) = ReserveOutList::SPECIFY_INITIATOR_PORTS_AT;
            return Err(Sense::invalid_field_in_parameter_list(byte, bit).into());
        }
        let mut change = Change::of(self);
        if own.is_none() && list.action_key == 0 {
            return Ok(change);
        }
        let ports = if list.all_target_ports { ports } else { &[] };
        for port in std::iter::once(&by.port).chain(ports.iter().filter(|port| **port != by.port)) {
            let through =
                |initiator: &TransportId| Registrant { initiator: initiator.clone(), port: port.clone() };
            // Through another port it may not match, and would have been refused there.
            let nexus = through(&by.initiator);
            if matches(self.key_of(&nexus)) {
                change.set_key(nexus, list.action_key);
            }
            for nexus in list.initiators.iter().map(through) {
                // No key is changed for somebody else.
                if self.key_of(&nexus).is_some() {
                    let at = ReserveOutList::INITIATORS_AT;
                    return Err(Sense::invalid_field_in_parameter_list(at, None).into());
                }
                change.set_key(nexus, list.action_key);
                change.check_room()?;
            }
        }
        change.after.persist = list.persist;
        change.counted()
    }

    /// RESERVE (SPC-4 5.12.9).
    pub(crate) fn reserve(&self, by: &Registrant, key: u64, scope_type: u8) -> Result<Change, Refusal> {
        let kind = checked_type(scope_type)?;
        self.check(by, key)?;
        let mut change = Change::of(self);
        match self.held {
            None => change.after.held = Some(Held::new(kind, by)),
            Some(_) if self.holds(by) == Some(kind) => {}
            Some(_) => return Err(Refusal::Conflict),
        }
        Ok(change)
    }

    /// RELEASE (SPC-4 5.12.11.2.2).
    pub(crate) fn release(&self, by: &Registrant, key: u64, scope_type: u8) -> Result<Change, Refusal> {
        self.check(by, key)?;
        let mut change = Change::of(self);
        let Some(kind) = self.holds(by) else { return Ok(change) };
        if scope(scope_type) != LU_SCOPE || reservation_type(scope_type) != Some(kind) {
            let wrong = AdditionalSense::INVALID_RELEASE_OF_PERSISTENT_RESERVATION;
            return Err(Sense::illegal_request(wrong).into());
        }
        change.after.held = None;
        if kind.admits_registrants() {
            change.tell_registrants(AdditionalSense::RESERVATIONS_RELEASED, by);
        }
        Ok(change)
    }

    /// CLEAR (SPC-4 5.12.11.2.7).
    pub(crate) fn clear(&self, by: &Registrant, key: u64) -> Result<Change, Refusal> {
        self.check(by, key)?;
        let mut change = Change::of(self);
        change.tell_registrants(AdditionalSense::RESERVATIONS_PREEMPTED, by);
        change.after.registrations.clear();
        change.after.held = None;
        change.counted()
    }

    /// PREEMPT (SPC-4 5.12.11.2.4), and PREEMPT AND ABORT but for what it aborts: removes the registrations with the key
    /// `target`, and takes over the reservation if it is held under that key.
    pub(crate) fn preempt(
        &self,
        by: &Registrant,
        key: u64,
        target: u64,
        scope_type: u8,
    ) -> Result<Change, Refusal> {
        self.check(by, key)?;
        // What all hold has the key zero, and all lose it.
        let taken = self.reservation().filter(|(held_under, _)| *held_under == target);
        let mut change = Change::of(self);
        if let Some((_, before)) = taken {
            let kind = checked_type(scope_type)?;
            change.remove(|one| one.nexus != *by && (target == 0 || one.key == target));
            change.after.held = Some(Held::new(kind, by));
            if kind != before {
                change.tell_registrants(AdditionalSense::RESERVATIONS_RELEASED, by);
            }
        } else if target == 0 {
            return Err(Sense::invalid_field_in_parameter_list(8, None).into());
        } else {
            change.remove(|one| one.key == target);
            if change.losers.is_empty() {
                return Err(Refusal::Conflict);
            }
            if change.after.registrations.is_empty() {
                change.after.held = None;
            }
        }
        let others = change.losers.iter().filter(|nexus| *nexus != by).cloned();
        change.attentions.extend(others.map(|nexus| (nexus, AdditionalSense::REGISTRATIONS_PREEMPTED)));
        change.counted()
    }

    /// REGISTER AND MOVE (SPC-4 5.12.8) to a nexus through the target port `port`; `None` if there is no such port.
    pub(crate) fn register_and_move(
        &self,
        by: &Registrant,
        list: &RegisterAndMoveList,
        port: Option<Arc<str>>,
    ) -> Result<Change, Refusal> {
        type List = RegisterAndMoveList;
        let invalid = |byte| Refusal::from(Sense::invalid_field_in_parameter_list(byte, None));
        self.check(by, list.key)?;
        if self.held.is_none() {
            return Err(Sense::invalid_field_in_cdb(1, Some(4)).into());
        }
        let kind = self.holds(by).filter(|kind| !kind.is_held_by_all()).ok_or(Refusal::Conflict)?;
        if list.action_key == 0 {
            return Err(invalid(List::ACTION_KEY_AT));
        }
        let port = port.ok_or_else(|| invalid(List::RELATIVE_PORT_AT))?;
        let to = Registrant { initiator: list.initiator.clone(), port };
        if to.initiator == by.initiator || matches!(to.initiator, TransportId::Iscsi { isid: None, .. }) {
            return Err(invalid(List::INITIATOR_AT));
        }
        let mut change = Change::of(self);
        change.set_key(to.clone(), list.action_key);
        change.after.held = Some(Held::new(kind, &to));
        if list.unregister {
            change.after.registrations.retain(|one| one.nexus != *by);
        }
        change.after.persist = list.persist;
        change.counted()
    }

    /// A nexus that is not registered, or not with this key, is told of a conflict.
    fn check(&self, nexus: &Registrant, key: u64) -> Result<(), Refusal> {
        (self.key_of(nexus) == Some(key)).then_some(()).ok_or(Refusal::Conflict)
    }
}

fn checked_type(scope_type: u8) -> Result<ReservationType, Refusal> {
    if scope(scope_type) != LU_SCOPE {
        return Err(Sense::invalid_field_in_cdb(2, Some(7)).into());
    }
    reservation_type(scope_type).ok_or_else(|| Sense::invalid_field_in_cdb(2, Some(3)).into())
}

impl Held {
    fn new(kind: ReservationType, by: &Registrant) -> Self {
        Self { kind, holder: (!kind.is_held_by_all()).then(|| by.clone()) }
    }
}

impl Change {
    fn of(before: &Reservations) -> Self {
        Self { after: before.clone(), attentions: Vec::new(), losers: Vec::new() }
    }

    /// Registers a nexus, changes its key, or unregisters it if `key` is zero.
    fn set_key(&mut self, nexus: Registrant, key: u64) {
        let registrations = &mut self.after.registrations;
        match registrations.iter_mut().find(|one| one.nexus == nexus) {
            _ if key == 0 => self.unregister(&nexus),
            Some(known) => known.key = key,
            None => registrations.push(Registration { nexus, key }),
        }
    }

    /// What a nexus holds is released with its registration (SPC-4 5.12.11.2.3).
    fn unregister(&mut self, nexus: &Registrant) {
        let held = self.after.holds(nexus);
        self.after.registrations.retain(|one| one.nexus != *nexus);
        let Some(kind) = held else { return };
        if kind.is_held_by_all() && !self.after.registrations.is_empty() {
            return;
        }
        self.after.held = None;
        if kind.admits_registrants() {
            self.tell_registrants(AdditionalSense::RESERVATIONS_RELEASED, nexus);
        }
    }

    /// Removes registrations from those who are told so.
    fn remove(&mut self, which: impl Fn(&Registration) -> bool) {
        let removed = self.after.registrations.extract_if(.., |one| which(one));
        self.losers.extend(removed.map(|one| one.nexus));
    }

    /// A unit attention condition for all who are registered, but not for `except`.
    fn tell_registrants(&mut self, condition: AdditionalSense, except: &Registrant) {
        let others = self.after.registrations.iter().filter(|one| one.nexus != *except);
        self.attentions.extend(others.map(|one| (one.nexus.clone(), condition)));
    }

    fn check_room(&self) -> Result<(), Refusal> {
        let full = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
        let fits = self.after.registrations.len() <= MAX_REGISTRATIONS;
        fits.then_some(()).ok_or(Sense::illegal_request(full).into())
    }

    /// The change of a service action that PRGENERATION counts.
    fn counted(mut self) -> Result<Self, Refusal> {
        self.check_room()?;
        self.after.generation = self.after.generation.wrapping_add(1);
        Ok(self)
    }
}
