//! Additional header segments (RFC 7143 11.2.2).

use thiserror::Error;

use crate::limits::MAX_CDB;

const EXTENDED_CDB: u8 = 1;
const BIDIRECTIONAL_READ_LENGTH: u8 = 2;

/// The additional header segments are not well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed additional header segment")]
pub struct MalformedAhs;

/// The additional header segments of one SCSI Command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdditionalHeaders<'a> {
    /// Bytes 16 and on of the CDB; empty if the CDB has at most 16.
    pub extended_cdb: &'a [u8],
    /// Expected read length of a bidirectional command, in bytes.
    pub bidirectional_read_length: Option<u32>,
}

impl<'a> AdditionalHeaders<'a> {
    /// Parses the bytes between the basic header and its digest. Segments of unknown type are passed over.
    pub fn parse(mut bytes: &'a [u8]) -> Result<Self, MalformedAhs> {
        let mut headers = Self::default();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_first_chunk::<3>().ok_or(MalformedAhs)?;
            // The length counts the type-specific byte that follows the type.
            let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
            let body = rest.get(..length).ok_or(MalformedAhs)?;
            match head[2] & 0x3f {
                EXTENDED_CDB => {
                    let tail = body.get(1..).ok_or(MalformedAhs)?;
                    if !headers.extended_cdb.is_empty() || tail.is_empty() || 16 + tail.len() > MAX_CDB {
                        return Err(MalformedAhs);
                    }
                    headers.extended_cdb = tail;
                }
                BIDIRECTIONAL_READ_LENGTH => {
                    let length: [u8; 5] = body.try_into().map_err(|_| MalformedAhs)?;
                    let [_, length @ ..] = length;
                    if headers.bidirectional_read_length.replace(u32::from_be_bytes(length)).is_some() {
                        return Err(MalformedAhs);
                    }
                }
                _ => {}
            }
            let padded = (3 + length).next_multiple_of(4);
            bytes = bytes.get(padded..).ok_or(MalformedAhs)?;
        }
        Ok(headers)
    }

    /// Appends the segments, each padded to 4 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if !self.extended_cdb.is_empty() {
            let length = (self.extended_cdb.len() + 1) as u16;
            out.extend(length.to_be_bytes());
            out.extend([EXTENDED_CDB, 0]);
            out.extend(self.extended_cdb);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        if let Some(length) = self.bidirectional_read_length {
            out.extend([0, 5, BIDIRECTIONAL_READ_LENGTH, 0]);
            out.extend(length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for tail in [&[][..], &[7; 16], &[9; 17], &[1; 244]] {
            for read in [None, Some(0x0102_0304)] {
                let headers = AdditionalHeaders { extended_cdb: tail, bidirectional_read_length: read };
                let mut bytes = Vec::new();
                headers.encode(&mut bytes);
                assert_eq!(bytes.len() % 4, 0);
                assert!(bytes.len() <= crate::limits::MAX_AHS);
                assert_eq!(AdditionalHeaders::parse(&bytes), Ok(headers));
            }
        }
    }

    #[test]
    fn malformed() {
        for bytes in [
            &[0, 9, 1, 0][..],         // longer than the segment
            &[0, 0, 1, 0],             // no room for the reserved byte
            &[0, 1, 1, 0],             // empty CDB
            &[0, 4, 2, 0, 1, 2, 3, 4], // short read length
            &[0, 5, 2],                // cut
            &[0, 1, 9, 0, 0],          // trailing byte
            &[0, 5, 2, 0, 1, 2, 3, 4, 0, 5, 2, 0, 1, 2, 3, 4],
        ] {
            assert_eq!(AdditionalHeaders::parse(bytes), Err(MalformedAhs), "{bytes:?}");
        }
        let mut long = vec![0, 246, 1, 0];
        long.resize(4 + 248, 0);
        assert_eq!(AdditionalHeaders::parse(&long), Err(MalformedAhs), "CDB over 260 bytes");
    }

    #[test]
    fn unknown_types_are_passed_over() {
        let bytes = [0, 1, 0x3e, 0, 0, 5, 2, 0, 0, 0, 0, 9];
        assert_eq!(AdditionalHeaders::parse(&bytes).unwrap().bidirectional_read_length, Some(9));
    }
}
