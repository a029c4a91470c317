//! Persistent reservations: parameter data of PERSISTENT RESERVE IN and parameter lists of PERSISTENT RESERVE OUT
//! (SPC-4 6.15, 6.16).

use crate::bytes::{bit, bit_at, put, u8_at, u16_at, u32_at, u64_at};
use crate::codes::codes;
use crate::error::ParseError;
use crate::sense::{AdditionalSense, Sense};
use crate::transport_id::TransportId;

codes! {
    /// TYPE of a persistent reservation (SPC-4 6.15.3.4).
    pub struct ReservationType(u8);
    WRITE_EXCLUSIVE = 1, "Write Exclusive";
    EXCLUSIVE_ACCESS = 3, "Exclusive Access";
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5, "Write Exclusive - Registrants Only";
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6, "Exclusive Access - Registrants Only";
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7, "Write Exclusive - All Registrants";
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8, "Exclusive Access - All Registrants";
}

impl ReservationType {
    /// Whether all who are registered hold it together.
    pub const fn is_held_by_all(self) -> bool {
        matches!(self, Self::WRITE_EXCLUSIVE_ALL_REGISTRANTS | Self::EXCLUSIVE_ACCESS_ALL_REGISTRANTS)
    }

    /// Whether it lets in all who are registered.
    pub const fn admits_registrants(self) -> bool {
        self.is_held_by_all()
            || matches!(
                self,
                Self::WRITE_EXCLUSIVE_REGISTRANTS_ONLY | Self::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
            )
    }

    /// Whether it keeps others from reading, and not only from writing.
    pub const fn excludes_reading(self) -> bool {
        matches!(
            self,
            Self::EXCLUSIVE_ACCESS
                | Self::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
                | Self::EXCLUSIVE_ACCESS_ALL_REGISTRANTS
        )
    }
}

/// SCOPE of a persistent reservation: the logical unit. There is no other (SPC-4 6.15.3.3).
pub const LU_SCOPE: u8 = 0;

/// The parameter list of every service action of PERSISTENT RESERVE OUT but REGISTER AND MOVE (SPC-4 6.16.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReserveOutList {
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub action_key: u64,
    /// SPEC_I_PT: the registration is also for [`initiators`](Self::initiators).
    pub specify_initiator_ports: bool,
    /// ALL_TG_PT: the registration is for all target ports.
    pub all_target_ports: bool,
    /// APTPL: reservations are to persist through power loss.
    pub persist: bool,
    /// The TransportIDs that follow if SPEC_I_PT is set.
    pub initiators: Vec<TransportId>,
}

/// The parameter list of REGISTER AND MOVE (SPC-4 6.16.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterAndMoveList {
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub action_key: u64,
    /// UNREG: the I_T nexus that the reservation is moved from is unregistered.
    pub unregister: bool,
    /// APTPL: reservations are to persist through power loss.
    pub persist: bool,
    /// RELATIVE TARGET PORT IDENTIFIER of the I_T nexus that the reservation is moved to.
    pub relative_port: u16,
    /// Its initiator port.
    pub initiator: TransportId,
}

const BASIC_LENGTH: usize = 24;
const SPECIFY_INITIATOR_PORTS: u8 = 3;
const ALL_TARGET_PORTS: u8 = 2;
const PERSIST: u8 = 0;
const UNREGISTER: u8 = 1;

const LENGTH_ERROR: Sense = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

impl ReserveOutList {
    /// Two keys and nothing else.
    pub const fn new(key: u64, action_key: u64) -> Self {
        Self {
            key,
            action_key,
            specify_initiator_ports: false,
            all_target_ports: false,
            persist: false,
            initiators: Vec::new(),
        }
    }

    /// Where the byte with SPEC_I_PT, ALL_TG_PT and APTPL is, and the most significant bits of the three.
    pub const SPECIFY_INITIATOR_PORTS_AT: (u16, Option<u8>) = (20, Some(SPECIFY_INITIATOR_PORTS));
    /// Where APTPL is.
    pub const PERSIST_AT: (u16, Option<u8>) = (20, Some(PERSIST));
    /// Where the TransportIDs begin.
    pub const INITIATORS_AT: u16 = 28;

    /// Parses a list, whose length has to be just that of what is in it.
    ///
    /// # Errors
    ///
    /// PARAMETER LIST LENGTH ERROR; INVALID FIELD IN PARAMETER LIST for a TransportID that is none.
    pub fn parse(list: &[u8]) -> Result<Self, Sense> {
        if list.len() < BASIC_LENGTH {
            return Err(LENGTH_ERROR);
        }
        let specify_initiator_ports = bit_at(list, 20, SPECIFY_INITIATOR_PORTS);
        let initiators = match list.len() {
            BASIC_LENGTH if !specify_initiator_ports => Vec::new(),
            _ if specify_initiator_ports => parse_initiators(list)?,
            _ => return Err(LENGTH_ERROR),
        };
        Ok(Self {
            key: u64_at(list, 0),
            action_key: u64_at(list, 8),
            specify_initiator_ports,
            all_target_ports: bit_at(list, 20, ALL_TARGET_PORTS),
            persist: bit_at(list, 20, PERSIST),
            initiators,
        })
    }

    /// The bytes of the list, for initiators.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; BASIC_LENGTH];
        put(&mut out, 0, &self.key.to_be_bytes());
        put(&mut out, 8, &self.action_key.to_be_bytes());
        out[20] = bit(self.specify_initiator_ports, SPECIFY_INITIATOR_PORTS)
            | bit(self.all_target_ports, ALL_TARGET_PORTS)
            | bit(self.persist, PERSIST);
        if self.specify_initiator_ports {
            let ids: Vec<u8> = self.initiators.iter().flat_map(TransportId::encode).collect();
            out.extend((ids.len() as u32).to_be_bytes());
            out.extend(ids);
        }
        out
    }
}

fn parse_initiators(list: &[u8]) -> Result<Vec<TransportId>, Sense> {
    let start = usize::from(ReserveOutList::INITIATORS_AT);
    let length = u32_at(list, BASIC_LENGTH) as usize;
    if list.len() < start || list.len() - start != length {
        return Err(LENGTH_ERROR);
    }
    let mut initiators = Vec::new();
    let mut at = start;
    while at < list.len() {
        let (initiator, length) = TransportId::parse(&list[at..]).map_err(|error| refused(at, error))?;
        initiators.push(initiator);
        at += length;
    }
    Ok(initiators)
}

/// The sense data for a TransportID at `at` that is none.
fn refused(at: usize, error: ParseError) -> Sense {
    let byte = match error {
        ParseError::Truncated { .. } => 0,
        ParseError::Invalid { byte, .. } => byte,
    };
    Sense::invalid_field_in_parameter_list(u16::try_from(at + byte).unwrap_or(u16::MAX), None)
}

impl RegisterAndMoveList {
    /// Where SERVICE ACTION RESERVATION KEY is.
    pub const ACTION_KEY_AT: u16 = 8;
    /// Where APTPL is.
    pub const PERSIST_AT: (u16, Option<u8>) = (17, Some(PERSIST));
    /// Where RELATIVE TARGET PORT IDENTIFIER is.
    pub const RELATIVE_PORT_AT: u16 = 18;
    /// Where the TransportID begins.
    pub const INITIATOR_AT: u16 = 24;

    /// Parses a list, whose length has to be just that of what is in it.
    ///
    /// # Errors
    ///
    /// PARAMETER LIST LENGTH ERROR; INVALID FIELD IN PARAMETER LIST for a TransportID that is none.
    pub fn parse(list: &[u8]) -> Result<Self, Sense> {
        let start = usize::from(Self::INITIATOR_AT);
        if list.len() < start || list.len() - start != u32_at(list, 20) as usize {
            return Err(LENGTH_ERROR);
        }
        let wrong_length = Sense::invalid_field_in_parameter_list(20, None);
        if list.len() == start {
            return Err(wrong_length);
        }
        let (initiator, length) =
            TransportId::parse(&list[start..]).map_err(|error| refused(start, error))?;
        if list.len() != start + length {
            return Err(wrong_length);
        }
        Ok(Self {
            key: u64_at(list, 0),
            action_key: u64_at(list, 8),
            unregister: bit_at(list, 17, UNREGISTER),
            persist: bit_at(list, 17, PERSIST),
            relative_port: u16_at(list, 18),
            initiator,
        })
    }

    /// The bytes of the list, for initiators.
    pub fn encode(&self) -> Vec<u8> {
        let id = self.initiator.encode();
        let mut out = vec![0; usize::from(Self::INITIATOR_AT)];
        put(&mut out, 0, &self.key.to_be_bytes());
        put(&mut out, 8, &self.action_key.to_be_bytes());
        out[17] = bit(self.unregister, UNREGISTER) | bit(self.persist, PERSIST);
        put(&mut out, 18, &self.relative_port.to_be_bytes());
        put(&mut out, 20, &(id.len() as u32).to_be_bytes());
        out.extend(id);
        out
    }
}

/// The parameter data of READ KEYS (SPC-4 6.15.2).
pub fn encode_keys(generation: u32, keys: &[u64]) -> Vec<u8> {
    let keys: Vec<u8> = keys.iter().flat_map(|key| key.to_be_bytes()).collect();
    with_header(generation, &keys)
}

/// The parameter data of READ RESERVATION (SPC-4 6.15.3): the key and the type of the reservation, if there is one. The key
/// of one that all registrants hold is zero.
pub fn encode_reservation(generation: u32, reservation: Option<(u64, ReservationType)>) -> Vec<u8> {
    let Some((key, kind)) = reservation else { return with_header(generation, &[]) };
    let mut bytes = [0; 16];
    put(&mut bytes, 0, &key.to_be_bytes());
    bytes[13] = LU_SCOPE << 4 | kind.0;
    with_header(generation, &bytes)
}

/// One registration as READ FULL STATUS tells it (SPC-4 6.15.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FullStatus {
    /// RESERVATION KEY.
    pub key: u64,
    /// The type of the reservation, if this I_T nexus holds it.
    pub holds: Option<ReservationType>,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub relative_port: u16,
    /// The initiator port.
    pub initiator: TransportId,
}

/// The parameter data of READ FULL STATUS.
pub fn encode_full_status(generation: u32, registrations: &[FullStatus]) -> Vec<u8> {
    let mut out = Vec::new();
    for registration in registrations {
        let id = registration.initiator.encode();
        let mut bytes = [0; 24];
        put(&mut bytes, 0, &registration.key.to_be_bytes());
        bytes[12] = bit(registration.holds.is_some(), 0);
        bytes[13] = registration.holds.map_or(0, |kind| LU_SCOPE << 4 | kind.0);
        put(&mut bytes, 18, &registration.relative_port.to_be_bytes());
        put(&mut bytes, 20, &(id.len() as u32).to_be_bytes());
        out.extend(bytes);
        out.extend(id);
    }
    with_header(generation, &out)
}

fn with_header(generation: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + data.len());
    out.extend(generation.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}

/// The parameter data of REPORT CAPABILITIES (SPC-4 6.15.4) of a device server that can do all but replace lost
/// reservations: whether reservations can persist through power loss, and whether they do now.
pub fn encode_capabilities(can_persist: bool, persists: bool) -> [u8; 8] {
    const COMPATIBLE_RESERVATION_HANDLING: u8 = 1 << 4;
    const SPECIFY_INITIATOR_PORTS: u8 = 1 << 3;
    const ALL_TARGET_PORTS: u8 = 1 << 2;
    const TYPE_MASK_VALID: u8 = 1 << 7;
    /// TEST UNIT READY and what tells of copies pass every reservation of another, and what asks without touching the medium,
    /// MODE SENSE for one, those that only exclude writing.
    const ALLOW_COMMANDS: u8 = 0b100 << 4;
    const TYPES: [u8; 2] = [0b1110_1010, 0b0000_0001];
    [
        0,
        8,
        COMPATIBLE_RESERVATION_HANDLING | SPECIFY_INITIATOR_PORTS | ALL_TARGET_PORTS | bit(can_persist, 0),
        TYPE_MASK_VALID | ALLOW_COMMANDS | bit(persists, 0),
        TYPES[0],
        TYPES[1],
        0,
        0,
    ]
}

/// SCOPE of byte 2 of a CDB of PERSISTENT RESERVE OUT.
pub const fn scope(byte: u8) -> u8 {
    byte >> 4
}

/// TYPE of byte 2 of a CDB of PERSISTENT RESERVE OUT, if there is such a type.
pub fn reservation_type(byte: u8) -> Option<ReservationType> {
    let kind = ReservationType(byte & 0x0f);
    kind.name().map(|_| kind)
}

/// Keys of a READ KEYS answer, for initiators; only as many as there are whole.
pub fn parse_keys(data: &[u8]) -> (u32, Vec<u64>) {
    let length = (u32_at(data, 4) as usize).min(data.len().saturating_sub(8));
    let keys = data.get(8..8 + length).unwrap_or_default().chunks_exact(8);
    (u32_at(data, 0), keys.map(|key| u64_at(key, 0)).collect())
}

/// Generation, and key and type of the reservation of a READ RESERVATION answer, for initiators.
pub fn parse_reservation(data: &[u8]) -> (u32, Option<(u64, ReservationType)>) {
    let there = u32_at(data, 4) >= 16 && data.len() >= 24;
    let reservation = there.then(|| (u64_at(data, 8), ReservationType(u8_at(data, 21) & 0x0f)));
    (u32_at(data, 0), reservation)
}

#[cfg(test)]
mod tests;
