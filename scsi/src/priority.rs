//! Priorities of I_T_L nexuses: the parameter data of REPORT PRIORITY and the parameter list of SET PRIORITY (SPC-4 6.34, 6.44).

use crate::bytes::{put, u8_at, u16_at};
use crate::error::ParseError;
use crate::sense::{AdditionalSense, Sense};
use crate::transport_id::TransportId;

/// A priority descriptor, which is the parameter list of SET PRIORITY as well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NexusPriority {
    /// CURRENT PRIORITY or PRIORITY TO SET: 1, the highest, to 15; 0 for the initial command priority.
    pub priority: u8,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub relative_port: u16,
    /// The initiator port.
    pub initiator: TransportId,
}

const HEADER: usize = 8;

impl NexusPriority {
    /// Where the target port is.
    pub const RELATIVE_PORT_AT: u16 = 2;
    const ID_LENGTH_AT: u16 = 6;
    /// Where the TransportID begins.
    pub const INITIATOR_AT: u16 = 8;

    /// The priority in a list of which only that is looked at.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR if there is none.
    pub fn parse_priority(list: &[u8]) -> Result<u8, Sense> {
        let first =
            list.first().ok_or(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR))?;
        Ok(first & 0x0f)
    }

    /// Parses a whole list; what follows is not looked at.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR if a part is missing; INVALID FIELD IN PARAMETER LIST for a TransportID that is none.
    pub fn parse(list: &[u8]) -> Result<Self, Sense> {
        let length_error = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        let end = HEADER + usize::from(u16_at(list, Self::ID_LENGTH_AT.into()));
        let id = list.get(HEADER..end).ok_or(length_error)?;
        let invalid = |at| Sense::invalid_field_in_parameter_list(at, None);
        let (initiator, length) = TransportId::parse(id).map_err(|error| match error {
            // Of an id that is cut short there may be nothing to point at.
            ParseError::Truncated { .. } => invalid(Self::ID_LENGTH_AT),
            ParseError::Invalid { .. } => invalid(Self::INITIATOR_AT),
        })?;
        if length != id.len() {
            return Err(invalid(Self::ID_LENGTH_AT));
        }
        Ok(Self { priority: u8_at(list, 0) & 0x0f, relative_port: u16_at(list, 2), initiator })
    }

    /// The bytes of the descriptor, or list.
    pub fn encode(&self) -> Vec<u8> {
        let id = self.initiator.encode();
        let mut out = vec![0; HEADER];
        out[0] = self.priority & 0x0f;
        put(&mut out, 2, &self.relative_port.to_be_bytes());
        put(&mut out, 6, &(id.len() as u16).to_be_bytes());
        out.extend(id);
        out
    }
}

/// The parameter data of REPORT PRIORITY.
pub fn encode_priorities(priorities: &[NexusPriority]) -> Vec<u8> {
    let descriptors: Vec<u8> = priorities.iter().flat_map(NexusPriority::encode).collect();
    [&(descriptors.len() as u32).to_be_bytes()[..], &descriptors].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one() -> NexusPriority {
        let initiator = TransportId::Sas([0x30, 1, 2, 3, 4, 5, 6, 7]);
        NexusPriority { priority: 3, relative_port: 0x102, initiator }
    }

    #[test]
    fn layout() {
        let bytes = one().encode();
        assert_eq!(bytes[..16], [3, 0, 1, 2, 0, 0, 0, 24, 6, 0, 0, 0, 0x30, 1, 2, 3]);
        assert_eq!(NexusPriority::parse(&bytes), Ok(one()));
        let data = encode_priorities(&[one(), one()]);
        assert_eq!(data, [&[0, 0, 0, 64][..], &bytes, &bytes].concat());
        assert_eq!(encode_priorities(&[]), [0; 4]);
    }

    #[test]
    fn mistakes() {
        let whole = one().encode();
        let length_error = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        for length in 8..whole.len() {
            assert_eq!(NexusPriority::parse(&whole[..length]), Err(length_error), "{length}");
        }
        assert_eq!(NexusPriority::parse(&[]), Err(length_error));
        assert_eq!(
            (NexusPriority::parse_priority(&[]), NexusPriority::parse_priority(&[0x15])),
            (Err(length_error), Ok(5))
        );
        let with = |at: usize, byte: u8| {
            let mut bytes = [&whole[..], &[0; 8]].concat();
            bytes[at] = byte;
            NexusPriority::parse(&bytes)
        };
        for id_length in [0, 20, 28] {
            assert_eq!(
                with(7, id_length),
                Err(Sense::invalid_field_in_parameter_list(6, None)),
                "{id_length}"
            );
        }
        assert_eq!(with(8, 0x85), Err(Sense::invalid_field_in_parameter_list(8, None)));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (NexusPriority::parse(&bytes), NexusPriority::parse_priority(&bytes));
        }
    }
}
