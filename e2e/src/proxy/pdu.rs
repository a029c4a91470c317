//! Where a PDU begins and ends, and what its parts are (RFC 7143 11.2).

use std::io::{self, Read};
use std::ops::Range;

const BHS: usize = 48;
const DIGEST: usize = 4;
const LOGIN_RESPONSE: u8 = 0x23;
/// Byte 1 of a login response that ends the login: T bit, and NSG is the full-feature phase.
const FINAL: u8 = 0x83;

/// Which digests the PDUs have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) header: bool,
    pub(super) data: bool,
}

/// A PDU as it stands on the wire.
#[derive(Debug)]
pub(super) struct Pdu {
    pub(super) bytes: Vec<u8>,
    /// Basic and additional header segments.
    pub(super) header: Range<usize>,
    pub(super) header_digest: Range<usize>,
    /// The data segment with its padding.
    pub(super) data: Range<usize>,
    pub(super) data_digest: Range<usize>,
}

impl Pdu {
    /// Reads one; `None` when the stream ends. `digests` is asked when the header has come: what decides about it was on
    /// the wire before.
    pub(super) fn read(stream: &mut impl Read, digests: impl FnOnce() -> Digests) -> io::Result<Option<Pdu>> {
        let mut bytes = vec![0; BHS];
        match stream.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let digests = digests();
        let length = usize::from(bytes[5]) << 16 | usize::from(bytes[6]) << 8 | usize::from(bytes[7]);
        let end = |start: usize, present: bool| start + if present { DIGEST } else { 0 };
        let header = 0..BHS + 4 * usize::from(bytes[4]);
        let header_digest = header.end..end(header.end, digests.header);
        let data = header_digest.end..header_digest.end + length.next_multiple_of(4);
        let data_digest = data.end..end(data.end, digests.data && length > 0);
        bytes.resize(data_digest.end, 0);
        stream.read_exact(&mut bytes[BHS..])?;
        Ok(Some(Pdu { bytes, header, header_digest, data, data_digest }))
    }

    /// What a login response says about digests: which it agrees to, and whether the login is over.
    pub(super) fn login_answer(&self) -> Option<(Digests, bool)> {
        if self.bytes[0] & 0x3f != LOGIN_RESPONSE {
            return None;
        }
        let agreed =
            |key: &[u8]| self.bytes[self.data.clone()].split(|byte| *byte == 0).any(|pair| pair == key);
        let digests = Digests { header: agreed(b"HeaderDigest=CRC32C"), data: agreed(b"DataDigest=CRC32C") };
        let succeeded = self.bytes[36] == 0;
        Some((digests, succeeded && self.bytes[1] & FINAL == FINAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: u8, flags: u8, additional: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0; BHS];
        (bytes[0], bytes[1], bytes[4], bytes[7]) = (opcode, flags, additional, length);
        bytes
    }

    #[test]
    fn parts_are_told_apart() {
        let mut wire = header(0x01, 0, 1, 5);
        wire.resize(BHS + 4 + DIGEST + 8 + DIGEST, 1);
        wire.extend(header(0x00, 0, 0, 0));
        wire.resize(wire.len() + DIGEST, 2);
        let mut stream = &wire[..];
        let both = || Digests { header: true, data: true };
        let first = Pdu::read(&mut stream, both).unwrap().unwrap();
        assert_eq!((first.header, first.header_digest), (0..52, 52..56));
        assert_eq!((first.data, first.data_digest), (56..64, 64..68));
        let second = Pdu::read(&mut stream, both).unwrap().unwrap();
        assert_eq!((second.header_digest, second.data, second.data_digest), (48..52, 52..52, 52..52));
        assert!(Pdu::read(&mut stream, both).unwrap().is_none());
    }

    #[test]
    fn the_last_login_response_ends_the_login() {
        let text = b"HeaderDigest=CRC32C\0DataDigest=None\0";
        let read = |opcode: u8, flags: u8| {
            let mut wire = header(opcode, flags, 0, text.len() as u8);
            wire.extend(text);
            Pdu::read(&mut &wire[..], Digests::default).unwrap().unwrap().login_answer()
        };
        let agreed = Digests { header: true, data: false };
        assert_eq!(read(LOGIN_RESPONSE, 0x87), Some((agreed, true)));
        assert_eq!(read(LOGIN_RESPONSE, 0x81), Some((agreed, false)));
        assert_eq!(read(0x24, 0x87), None);
    }
}
