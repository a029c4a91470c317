//! Asymmetric logical unit access: the parameter data of REPORT TARGET PORT GROUPS and the parameter list of SET TARGET PORT
//! GROUPS (SPC-4 6.37, 6.45).

use crate::bytes::{bit, bit_at, u8_at, u16_at, u32_at};
use crate::codes::codes;
use crate::error::ParseError;
use crate::sense::{AdditionalSense, Sense};

codes! {
    /// ASYMMETRIC ACCESS STATE: how well a logical unit is accessible through a target port (SPC-4 5.15.2.4).
    pub struct AccessState(u8);
    ACTIVE_OPTIMIZED = 0x0, "active/optimized";
    ACTIVE_NON_OPTIMIZED = 0x1, "active/non-optimized";
    STANDBY = 0x2, "standby";
    UNAVAILABLE = 0x3, "unavailable";
    LOGICAL_BLOCK_DEPENDENT = 0x4, "logical block dependent";
    OFFLINE = 0xe, "offline";
    TRANSITIONING = 0xf, "transitioning";
}

impl AccessState {
    /// Its bit among those of the supported states (byte 1 of a target port group descriptor).
    pub const fn support_bit(self) -> u8 {
        match self {
            Self::ACTIVE_OPTIMIZED => 0x01,
            Self::ACTIVE_NON_OPTIMIZED => 0x02,
            Self::STANDBY => 0x04,
            Self::UNAVAILABLE => 0x08,
            Self::LOGICAL_BLOCK_DEPENDENT => 0x10,
            Self::OFFLINE => 0x40,
            Self::TRANSITIONING => 0x80,
            _ => 0,
        }
    }
}

codes! {
    /// STATUS CODE: why a target port group is in its state.
    pub struct AccessStatus(u8);
    NONE = 0x00, "no status available";
    EXPLICIT = 0x01, "altered by SET TARGET PORT GROUPS";
    IMPLICIT = 0x02, "altered by implicit asymmetric access behaviour";
}

/// A target port group descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetPortGroup {
    /// TARGET PORT GROUP.
    pub id: u16,
    /// ASYMMETRIC ACCESS STATE.
    pub state: AccessState,
    /// PREF: access through this group is preferred, whatever its state.
    pub preferred: bool,
    /// The states that it can have, as [`AccessState::support_bit`]s.
    pub supported: u8,
    /// STATUS CODE.
    pub status: AccessStatus,
    /// Relative target port identifiers of its ports; a descriptor has room for 255.
    pub ports: Vec<u16>,
}

const GROUP: usize = 8;
const PORT: usize = 4;
const LENGTH: usize = 4;
/// RETURN DATA FORMAT of the extended header.
const EXTENDED_FORMAT: u8 = 0x10;

/// The whole parameter data, with the length only header, or with the extended one if there is an `implicit_time`: the
/// seconds that an implicit transition takes at most, 0 if that is not known. The device server cuts them to the allocation
/// length.
pub fn encode_target_port_groups(groups: &[TargetPortGroup], implicit_time: Option<u8>) -> Vec<u8> {
    let mut out = vec![0; LENGTH];
    if let Some(seconds) = implicit_time {
        out.extend([EXTENDED_FORMAT, seconds, 0, 0]);
    }
    for group in groups {
        let ports = &group.ports[..group.ports.len().min(u8::MAX.into())];
        out.extend([bit(group.preferred, 7) | (group.state.0 & 0x0f), group.supported]);
        out.extend(group.id.to_be_bytes());
        out.extend([0, group.status.0, 0, ports.len() as u8]);
        for port in ports {
            out.extend([0, 0]);
            out.extend(port.to_be_bytes());
        }
    }
    let length = (out.len() - LENGTH) as u32;
    out[..LENGTH].copy_from_slice(&length.to_be_bytes());
    out
}

/// The groups in `bytes`, which have the `extended` header or the length only one and may have been cut short; a group of
/// which not all is there is left out.
pub fn parse_target_port_groups(bytes: &[u8], extended: bool) -> Result<Vec<TargetPortGroup>, ParseError> {
    let header = if extended { 2 * LENGTH } else { LENGTH };
    ParseError::check_length("target port group data", bytes, header)?;
    let announced = (u32_at(bytes, 0) as usize).saturating_add(LENGTH);
    let mut rest = bytes[..bytes.len().min(announced)].get(header..).unwrap_or_default();
    let mut groups = Vec::new();
    while let Some(ports) = rest.get(GROUP..GROUP + PORT * usize::from(u8_at(rest, 7))) {
        groups.push(TargetPortGroup {
            id: u16_at(rest, 2),
            state: AccessState(u8_at(rest, 0) & 0x0f),
            preferred: bit_at(rest, 0, 7),
            supported: u8_at(rest, 1),
            status: AccessStatus(u8_at(rest, 5)),
            ports: ports.chunks_exact(PORT).map(|port| u16_at(port, 2)).collect(),
        });
        rest = &rest[GROUP + ports.len()..];
    }
    Ok(groups)
}

/// A descriptor of SET TARGET PORT GROUPS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetTargetPortGroup {
    /// The state that is asked for.
    pub state: AccessState,
    /// A target port group; the relative identifier of a target port if the state is [`AccessState::OFFLINE`].
    pub id: u16,
    /// Where the descriptor begins in the parameter list, for field pointers.
    pub offset: u16,
}

impl SetTargetPortGroup {
    /// Where the state is, from [`offset`](Self::offset) on.
    pub const STATE_AT: u16 = 0;
    /// Where the group or port is.
    pub const ID_AT: u16 = 2;

    /// The descriptors of a whole parameter list, of which a part may be missing.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR if it ends inside its header or a descriptor.
    pub fn parse_list(list: &[u8]) -> Result<Vec<Self>, Sense> {
        const HEADER: usize = 4;
        const DESCRIPTOR: usize = 4;
        let length_error = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let descriptors = list.get(HEADER..).ok_or(length_error)?;
        if !descriptors.len().is_multiple_of(DESCRIPTOR) || list.len() > u16::MAX.into() {
            return Err(length_error);
        }
        let offsets = (HEADER..).step_by(DESCRIPTOR).map(|offset| offset as u16);
        let descriptor = |(bytes, offset): (&[u8], u16)| Self {
            state: AccessState(bytes[0] & 0x0f),
            id: u16_at(bytes, 2),
            offset,
        };
        Ok(descriptors.chunks_exact(DESCRIPTOR).zip(offsets).map(descriptor).collect())
    }
}

/// The parameter list that asks for states of groups and ports, for initiators.
pub fn encode_set_target_port_groups(wanted: &[(AccessState, u16)]) -> Vec<u8> {
    let descriptor = |(state, id): &(AccessState, u16)| {
        let [high, low] = id.to_be_bytes();
        [state.0 & 0x0f, 0, high, low]
    };
    let mut out = vec![0; 4];
    out.extend(wanted.iter().flat_map(descriptor));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(id: u16, state: AccessState, ports: &[u16]) -> TargetPortGroup {
        let status = AccessStatus::IMPLICIT;
        TargetPortGroup { id, state, preferred: id == 1, supported: 0xcf, status, ports: ports.into() }
    }

    #[test]
    fn layout() {
        let groups = [
            group(1, AccessState::ACTIVE_OPTIMIZED, &[1, 0x203]),
            group(0x102, AccessState::TRANSITIONING, &[]),
        ];
        let descriptors =
            [&[0x80, 0xcf, 0, 1, 0, 2, 0, 2, 0, 0, 0, 1, 0, 0, 2, 3][..], &[0x0f, 0xcf, 1, 2, 0, 2, 0, 0]]
                .concat();
        let short = encode_target_port_groups(&groups, None);
        assert_eq!(short, [&[0, 0, 0, 24][..], &descriptors].concat());
        assert_eq!(parse_target_port_groups(&short, false), Ok(groups.to_vec()));
        let extended = encode_target_port_groups(&groups, Some(7));
        assert_eq!(extended, [&[0, 0, 0, 28, 0x10, 7, 0, 0][..], &descriptors].concat());
        assert_eq!(parse_target_port_groups(&extended, true), Ok(groups.to_vec()));
        for (cut, whole) in [(19, 0), (20, 1), (27, 1), (28, 2)] {
            assert_eq!(parse_target_port_groups(&short[..cut], false).unwrap().len(), whole, "{cut}");
        }
    }

    #[test]
    fn no_more_ports_are_listed_than_can_be_counted() {
        let ports: Vec<u16> = (1..=300).collect();
        let data = encode_target_port_groups(&[group(1, AccessState::STANDBY, &ports)], None);
        let groups = parse_target_port_groups(&data, false).unwrap();
        assert_eq!((data.len(), &groups[0].ports[..]), (4 + 8 + 4 * 255, &ports[..255]));
    }

    #[test]
    fn every_state_has_its_support_bit() {
        let bits = (0..16).map(|state| AccessState(state).support_bit());
        assert_eq!(bits.collect::<Vec<_>>(), [1, 2, 4, 8, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x80]);
    }

    #[test]
    fn lists_of_states() {
        let list = encode_set_target_port_groups(&[(AccessState::STANDBY, 2), (AccessState::OFFLINE, 0x304)]);
        assert_eq!(list, [0, 0, 0, 0, 2, 0, 0, 2, 0x0e, 0, 3, 4]);
        let parsed = [
            SetTargetPortGroup { state: AccessState::STANDBY, id: 2, offset: 4 },
            SetTargetPortGroup { state: AccessState::OFFLINE, id: 0x304, offset: 8 },
        ];
        assert_eq!(SetTargetPortGroup::parse_list(&list), Ok(parsed.to_vec()));
        for length in 0..=list.len() {
            let whole = [0, 4, 8, 12].contains(&length);
            assert_eq!(SetTargetPortGroup::parse_list(&list[..length]).is_ok(), whole, "{length}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), extended: bool) {
            let _ = parse_target_port_groups(&bytes, extended);
            let _ = SetTargetPortGroup::parse_list(&bytes);
        }
    }
}
