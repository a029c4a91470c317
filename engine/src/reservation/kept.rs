//! How reservations that persist are saved. PRGENERATION is not: it starts anew with the program (SPC-4 6.15.2). To another
//! process that goes on with the unit, all is handed over.

use super::{Held, MAX_REGISTRATIONS, Registrant, Registration, Reservations};
use crate::saved::HexBytes;
use lunette_scsi::reservation::reservation_type;
use lunette_scsi::{ReservationType, TransportId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::collections::HashSet;
use std::sync::Arc;

/// All reservations, for another process.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct HandedReservations {
    generation: u32,
    persist: bool,
    #[serde(flatten)]
    kept: Reservations,
}

/// An I_T nexus, for another process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct HandedRegistrant {
    /// The TransportID.
    initiator: HexBytes,
    port: String,
}

impl From<&Registrant> for HandedRegistrant {
    fn from(nexus: &Registrant) -> Self {
        Self { initiator: HexBytes(nexus.initiator.encode()), port: nexus.port.to_string() }
    }
}

impl HandedRegistrant {
    pub(crate) fn restore(self) -> Option<Registrant> {
        registrant(&self.initiator, &self.port)
    }
}

impl Reservations {
    pub(crate) fn hand_over(&self) -> HandedReservations {
        HandedReservations { generation: self.generation, persist: self.persist, kept: self.clone() }
    }

    pub(crate) fn take_over(from: HandedReservations) -> Self {
        Self { generation: from.generation, persist: from.persist, ..from.kept }
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    registrations: Vec<KeptRegistration>,
    reservation: Option<KeptReservation>,
}

#[derive(Serialize, Deserialize)]
struct KeptRegistration {
    /// The TransportID.
    initiator: HexBytes,
    port: String,
    key: u64,
}

#[derive(Serialize, Deserialize)]
struct KeptReservation {
    #[serde(rename = "type")]
    kind: u8,
    /// Which of the registrations holds it; none if all do.
    holder: Option<usize>,
}

impl Serialize for Reservations {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let registration = |Registration { nexus, key }: &Registration| KeptRegistration {
            initiator: HexBytes(nexus.initiator.encode()),
            port: nexus.port.to_string(),
            key: *key,
        };
        let index = |holder: &Registrant| self.registrations.iter().position(|one| one.nexus == *holder);
        let reservation =
            |held: &Held| KeptReservation { kind: held.kind.0, holder: held.holder.as_ref().and_then(index) };
        let registrations = self.registrations.iter().map(registration).collect();
        Kept { registrations, reservation: self.held.as_ref().map(reservation) }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Reservations {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let kept = Kept::deserialize(from)?;
        kept.restore().ok_or_else(|| D::Error::custom("reservations that cannot be"))
    }
}

impl Kept {
    /// `None` if that is no state that was ever saved.
    fn restore(&self) -> Option<Reservations> {
        let registrations: Vec<_> =
            self.registrations.iter().map(KeptRegistration::restore).collect::<Option<_>>()?;
        let nexuses: HashSet<_> = registrations.iter().map(|one| &one.nexus).collect();
        if registrations.len() > MAX_REGISTRATIONS || nexuses.len() < registrations.len() {
            return None;
        }
        let held = match &self.reservation {
            None => None,
            Some(KeptReservation { kind, holder }) => {
                let kind: ReservationType = reservation_type(*kind).filter(|known| known.0 == *kind)?;
                let holder = match holder {
                    None => None,
                    Some(index) => Some(registrations.get(*index)?.nexus.clone()),
                };
                if registrations.is_empty() || kind.is_held_by_all() != holder.is_none() {
                    return None;
                }
                Some(Held { kind, holder })
            }
        };
        Some(Reservations { generation: 0, registrations, held, persist: true })
    }
}

impl KeptRegistration {
    fn restore(&self) -> Option<Registration> {
        let nexus = registrant(&self.initiator, &self.port)?;
        (self.key != 0).then_some(Registration { nexus, key: self.key })
    }
}

/// `None` if `initiator` is no TransportID.
fn registrant(HexBytes(bytes): &HexBytes, port: &str) -> Option<Registrant> {
    let (initiator, length) = TransportId::parse(bytes).ok()?;
    (length == bytes.len()).then(|| Registrant { initiator, port: Arc::from(port) })
}
