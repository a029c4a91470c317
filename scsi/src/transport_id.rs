//! TransportIDs: initiator ports in persistent reservations (SPC-4 7.6.4).

use crate::bytes::{array_at, prefix, put, u8_at, u16_at};
use crate::designator::{Naa, Protocol};
use crate::error::ParseError;

/// The name of an initiator port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TransportId {
    /// Fibre Channel: N_PORT NAME.
    FibreChannel([u8; 8]),
    /// SRP: INITIATOR PORT IDENTIFIER.
    Srp([u8; 16]),
    /// iSCSI: the initiator's name, at most 223 bytes, and, unless all its ports are meant, the
    /// ISID.
    Iscsi {
        /// iSCSI name.
        name: String,
        /// Initiator session identifier.
        isid: Option<[u8; 6]>,
    },
    /// SAS: SAS ADDRESS.
    Sas([u8; 8]),
    /// Any other protocol: all its bytes.
    Other(Vec<u8>),
}

const WHAT: &str = "TransportID";
const FIXED_LENGTH: usize = 24;
const ISCSI_HEADER: usize = 4;
const ISCSI_MINIMUM: usize = 20;
const ISCSI_NAME_MAXIMUM: usize = 223;
const ISID_SEPARATOR: &str = ",i,0x";

impl TransportId {
    /// The TransportID of the initiator port with this SCSI name string (SPC-4 7.8.6.11): `iqn…,i,0x…` or `naa.…`. Any other
    /// name is taken for an iSCSI one.
    pub fn from_name(name: &str) -> Self {
        if let Some((name, digits)) = name.rsplit_once(ISID_SEPARATOR)
            && let Some(isid) = parse_isid(digits)
        {
            return Self::Iscsi { name: iscsi_name(name), isid: Some(isid) };
        }
        match name.parse::<Naa>().map(|naa| naa.as_bytes().try_into()) {
            Ok(Ok(address)) => Self::Sas(address),
            _ => Self::Iscsi { name: iscsi_name(name), isid: None },
        }
    }

    /// The encoded form; 24 bytes but for iSCSI.
    pub fn encode(&self) -> Vec<u8> {
        let fixed = |protocol: Protocol, at: usize, name: &[u8]| {
            let mut out = vec![0; FIXED_LENGTH];
            out[0] = protocol.0;
            put(&mut out, at, name);
            out
        };
        match self {
            Self::FibreChannel(name) => fixed(Protocol::FIBRE_CHANNEL, 8, name),
            Self::Srp(port) => fixed(Protocol::SRP, 8, port),
            Self::Sas(address) => fixed(Protocol::SAS, 4, address),
            Self::Iscsi { name, isid } => encode_iscsi(name, *isid),
            Self::Other(bytes) => bytes.clone(),
        }
    }

    /// Decodes the first TransportID in `bytes`; also returns how long it was.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), ParseError> {
        ParseError::check_length(WHAT, bytes, FIXED_LENGTH)?;
        let (format, protocol) = (bytes[0] >> 6, Protocol(bytes[0] & 0x0f));
        let id = match (format, protocol) {
            (_, Protocol::ISCSI) => return parse_iscsi(bytes),
            (0, Protocol::FIBRE_CHANNEL) => Self::FibreChannel(array_at(bytes, 8)),
            (0, Protocol::SRP) => Self::Srp(array_at(bytes, 8)),
            (0, Protocol::SAS) => Self::Sas(array_at(bytes, 4)),
            _ => Self::Other(bytes[..FIXED_LENGTH].to_vec()),
        };
        Ok((id, FIXED_LENGTH))
    }
}

/// Names that differ only in case are the same (RFC 7143 4.2.7.1), but others than iSCSI's come here too, such as paths. What
/// is cut here is not cut again when it is encoded, so that it reads back as the same.
fn iscsi_name(name: &str) -> String {
    let begins_with = |kind: &&str| name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(kind));
    if ["iqn.", "eui.", "naa."].iter().any(begins_with) {
        prefix(&name.to_lowercase(), ISCSI_NAME_MAXIMUM).to_owned()
    } else {
        prefix(name, ISCSI_NAME_MAXIMUM).to_owned()
    }
}

fn encode_iscsi(name: &str, isid: Option<[u8; 6]>) -> Vec<u8> {
    let mut text = prefix(name, ISCSI_NAME_MAXIMUM).to_owned();
    if let Some(isid) = isid {
        text.push_str(ISID_SEPARATOR);
        text.extend(isid.iter().map(|byte| format!("{byte:02x}")));
    }
    let length = (text.len() + 1).next_multiple_of(4).max(ISCSI_MINIMUM);
    let mut out = vec![0; ISCSI_HEADER + length];
    out[0] = u8::from(isid.is_some()) << 6 | Protocol::ISCSI.0;
    put(&mut out, 2, &(length as u16).to_be_bytes());
    put(&mut out, ISCSI_HEADER, text.as_bytes());
    out
}

fn parse_iscsi(bytes: &[u8]) -> Result<(TransportId, usize), ParseError> {
    let invalid = |byte, reason| ParseError::Invalid { what: WHAT, byte, reason };
    let length = usize::from(u16_at(bytes, 2));
    if length < ISCSI_MINIMUM || length % 4 != 0 {
        return Err(invalid(2, "the additional length is no multiple of four from 20 up"));
    }
    let end = ISCSI_HEADER + length;
    ParseError::check_length(WHAT, bytes, end)?;
    let text = bytes[ISCSI_HEADER..end].split(|&byte| byte == 0).next().unwrap_or_default();
    let text = str::from_utf8(text).map_err(|_| invalid(ISCSI_HEADER, "the iSCSI name is not UTF-8"))?;
    let (name, isid) = match u8_at(bytes, 0) >> 6 {
        0 => (text, None),
        1 => {
            // The last one: nothing keeps an initiator from having it in its name.
            let (name, digits) = text
                .rsplit_once(ISID_SEPARATOR)
                .ok_or(invalid(ISCSI_HEADER, "there is no ISID after the iSCSI name"))?;
            (
                name,
                Some(
                    parse_isid(digits)
                        .ok_or(invalid(ISCSI_HEADER, "the ISID is not 12 hexadecimal digits"))?,
                ),
            )
        }
        _ => return Err(invalid(0, "unknown format of an iSCSI TransportID")),
    };
    if name.is_empty() || name.len() > ISCSI_NAME_MAXIMUM {
        return Err(invalid(ISCSI_HEADER, "the iSCSI name is empty or longer than 223 bytes"));
    }
    Ok((TransportId::Iscsi { name: iscsi_name(name), isid }, end))
}

fn parse_isid(digits: &str) -> Option<[u8; 6]> {
    if digits.len() != 12 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(digits, 16).ok()?;
    Some(array_at(&value.to_be_bytes(), 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_id() -> impl Strategy<Value = TransportId> {
        prop_oneof![
            any::<[u8; 8]>().prop_map(TransportId::FibreChannel),
            any::<[u8; 16]>().prop_map(TransportId::Srp),
            any::<[u8; 8]>().prop_map(TransportId::Sas),
            ("[a-z0-9.:é-]{1,100}", any::<Option<[u8; 6]>>())
                .prop_map(|(name, isid)| TransportId::Iscsi { name, isid }),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(id in any_id()) {
            let bytes = id.encode();
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert_eq!(TransportId::parse(&bytes), Ok((id, bytes.len())));
        }

        /// Registrations are saved in this form: one that does not come back is a reservation that is lost.
        #[test]
        fn whatever_an_initiator_is_called_comes_back(
            name in "(iqn\\.)?[^\0]{1,10}(,i,0x[0-9a-f]{12}){0,2}|[İẞΣß]{1,130}(,i,0x[0-9a-f]{12})?",
        ) {
            let id = TransportId::from_name(&name);
            let bytes = id.encode();
            prop_assert_eq!(TransportId::parse(&bytes), Ok((id, bytes.len())));
        }

        #[test]
        fn what_was_parsed_is_encoded_as_it_is(name in "[^\0]{1,8}|[İẞΣß]{1,111}", isid: Option<[u8; 6]>) {
            let (id, _) = TransportId::parse(&encode_iscsi(&name, isid)).unwrap();
            let bytes = id.encode();
            prop_assert_eq!(TransportId::parse(&bytes), Ok((id, bytes.len())));
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..100), format in 0u8..4) {
            let _ = TransportId::parse(&bytes);
            if bytes.len() > 3 {
                bytes[0] = format << 6 | 5;
                bytes[2] = 0;
                let _ = TransportId::parse(&bytes);
            }
        }
    }

    #[test]
    fn iscsi_layout() {
        let id = TransportId::Iscsi { name: "iqn.x:y".into(), isid: Some([0x40, 0, 0, 0, 0, 0xAB]) };
        let bytes = id.encode();
        assert_eq!(bytes[..4], [0x45, 0, 0, 28]);
        assert_eq!(&bytes[4..], b"iqn.x:y,i,0x4000000000ab\0\0\0\0");
        let short = TransportId::Iscsi { name: "iqn.x:y".into(), isid: None }.encode();
        assert_eq!((short.len(), short[0], short[3]), (24, 0x05, 20));
    }

    #[test]
    fn names_of_ports_become_transport_ids() {
        let isid = Some([0x40, 0, 0, 0, 0, 0xAB]);
        for (name, id) in [
            ("iqn.X:y,i,0x4000000000AB", TransportId::Iscsi { name: "iqn.x:y".into(), isid }),
            ("naa.3102030405060708", TransportId::Sas([0x31, 2, 3, 4, 5, 6, 7, 8])),
            (
                "naa.3102030405060708,i,0x4000000000ab",
                TransportId::Iscsi { name: "naa.3102030405060708".into(), isid },
            ),
            ("IQN.X:É", TransportId::Iscsi { name: "iqn.x:é".into(), isid: None }),
            ("Eui.02004567A425678D", TransportId::Iscsi { name: "eui.02004567a425678d".into(), isid: None }),
            // A path is another if its case differs.
            ("/run/Guest.sock", TransportId::Iscsi { name: "/run/Guest.sock".into(), isid: None }),
            (
                "iqn.x,i,0x400000000000,i,0x000000000001",
                TransportId::Iscsi { name: "iqn.x,i,0x400000000000".into(), isid: Some([0, 0, 0, 0, 0, 1]) },
            ),
            ("iqn.x,i,0x40", TransportId::Iscsi { name: "iqn.x,i,0x40".into(), isid: None }),
        ] {
            assert_eq!(TransportId::from_name(name), id);
            assert_eq!(TransportId::parse(&id.encode()), Ok((id.clone(), id.encode().len())));
        }
    }

    #[test]
    fn sas_layout() {
        let bytes = TransportId::Sas([1, 2, 3, 4, 5, 6, 7, 8]).encode();
        assert_eq!(bytes[..14], [6, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]);
    }

    #[test]
    fn mistakes() {
        let good = TransportId::Iscsi { name: "iqn.x:y".into(), isid: Some([0; 6]) }.encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            TransportId::parse(&bytes)
        };
        assert!(TransportId::parse(&good[..23]).is_err());
        for (at, value) in [(3, 27), (3, 16), (3, 32), (0, 0x85), (4, 0), (11, b';'), (16, b'g'), (4, 0xff)] {
            assert!(with(at, value).is_err(), "byte {at} = {value:#x}");
        }
    }
}
