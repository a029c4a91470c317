//! Persistent reservations of one logical unit (SPC-4 5.12), as plain data: who is registered, who holds a reservation, and
//! what each service action makes of that. Nothing here waits, saves or tells anybody; `unit.rs` does.

mod actions;
mod kept;
mod unit;

#[cfg(test)]
mod tests;

pub(crate) use actions::Existing;
pub(crate) use kept::{HandedRegistrant, HandedReservations};

use crate::nexus::Exclusion;
use lunette_scsi::{AdditionalSense, ReservationType, TransportId};
use std::sync::Arc;

/// How many I_T nexuses can be registered.
pub(crate) const MAX_REGISTRATIONS: usize = 1024;

/// An I_T nexus by the names of its ports, which last longer than it: registrations are kept under them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Registrant {
    pub(crate) initiator: TransportId,
    /// The target port's name. Its relative identifier may be another after a restart.
    pub(crate) port: Arc<str>,
}

/// Who is registered, and the reservation.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Reservations {
    generation: u32,
    /// In the order in which they came.
    registrations: Vec<Registration>,
    held: Option<Held>,
    /// APTPL of the last registration: all this outlives the program.
    persist: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Registration {
    pub(crate) nexus: Registrant,
    /// Never zero.
    pub(crate) key: u64,
}

/// A persistent reservation. Its scope is the logical unit.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    kind: ReservationType,
    /// `None` if all registrants hold it.
    holder: Option<Registrant>,
}

/// What a service action makes of the reservations, and what follows.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) after: Reservations,
    /// Whose initiators have to be told of what.
    pub(crate) attentions: Vec<(Registrant, AdditionalSense)>,
    /// Whose registrations were pre-empted.
    pub(crate) losers: Vec<Registrant>,
}

impl Reservations {
    /// Where they are saved.
    pub(crate) const SECTION: &str = "reservations";

    /// PRGENERATION.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether they persist through power loss (PTPL_A).
    pub(crate) fn persist(&self) -> bool {
        self.persist
    }

    pub(crate) fn registrations(&self) -> &[Registration] {
        &self.registrations
    }

    /// The key and the type of the reservation. The key of one that all registrants hold is zero.
    pub(crate) fn reservation(&self) -> Option<(u64, ReservationType)> {
        let held = self.held.as_ref()?;
        let key = held.holder.as_ref().and_then(|holder| self.key_of(holder)).unwrap_or(0);
        Some((key, held.kind))
    }

    /// The type of the reservation if `nexus` holds it.
    pub(crate) fn holds(&self, nexus: &Registrant) -> Option<ReservationType> {
        let held = self.held.as_ref()?;
        let holds = match &held.holder {
            Some(holder) => holder == nexus,
            None => self.key_of(nexus).is_some(),
        };
        holds.then_some(held.kind)
    }

    /// Whether `nexus` holds the reservation, or is registered and that is enough to be let in: RESERVE and RELEASE then
    /// do nothing, with GOOD (SPC-4 5.12.3).
    pub(crate) fn lets_in(&self, nexus: &Registrant) -> bool {
        let admits = |held: &Held| held.kind.admits_registrants() && self.key_of(nexus).is_some();
        self.holds(nexus).is_some() || self.held.as_ref().is_some_and(admits)
    }

    /// What the reservation keeps `nexus` from.
    pub(crate) fn exclusion(&self, nexus: &Registrant) -> Exclusion {
        match &self.held {
            Some(held) if !self.lets_in(nexus) => {
                Exclusion { from_reading: held.kind.excludes_reading(), from_writing: true, from_all: false }
            }
            _ => Exclusion::default(),
        }
    }

    fn key_of(&self, nexus: &Registrant) -> Option<u64> {
        self.registrations.iter().find(|one| one.nexus == *nexus).map(|one| one.key)
    }
}
