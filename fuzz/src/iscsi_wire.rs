//! Putting PDUs together.

use lunette_iscsi::digest::{Digests, crc32c};
use lunette_iscsi::pdu::BHS;

/// A PDU with the right lengths, padding and digests.
pub(crate) fn wire(header: [u8; BHS], additional: &[u8], data: &[u8], digests: Digests) -> Vec<u8> {
    let mut wire = header.to_vec();
    wire[4] = (additional.len() / 4) as u8;
    wire[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    wire.extend(additional);
    if digests.header {
        wire.extend(crc32c(&wire));
    }
    let start = wire.len();
    wire.extend(data);
    wire.resize(start + data.len().next_multiple_of(4), 0);
    if digests.data && !data.is_empty() {
        wire.extend(crc32c(&wire[start..]));
    }
    wire
}
