//! Sessions without digests, and PDUs made and looked at by hand.

use super::{Pair, cdb, split, wire};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{NopOut, Opcode, Reject, RejectReason, ScsiCommand};

/// No digests, small bursts, R2T for all but immediate data.
pub const PLAIN: Parameters = Parameters {
    header_digest: false,
    data_digest: false,
    initial_r2t: true,
    immediate_data: false,
    max_burst_length: 4096,
    first_burst_length: 2048,
    ..Parameters::PREFERRED
};

pub const WRITE: u8 = 0x20;
pub const READ: u8 = 0x40;
pub const FINAL: u8 = 0x80;

pub fn plain() -> Pair {
    Pair::logged_in(PLAIN, PLAIN)
}

pub fn command(tag: u32, cmd_sn: u32, flags: u8, length: u32) -> ScsiCommand {
    ScsiCommand {
        flags,
        task_tag: tag.into(),
        cmd_sn: cmd_sn.into(),
        expected_length: length.into(),
        cdb: cdb(0, length, 0),
        ..Default::default()
    }
}

pub fn header<T: Copy>(pdu: &([u8; 48], Vec<u8>)) -> T
where
    [u8; 48]: AsRef<T>,
{
    *pdu.0.as_ref()
}

pub fn opcode(pdu: &([u8; 48], Vec<u8>)) -> Opcode {
    Opcode(pdu.0[0]).kind()
}

pub fn reject_reason(answer: &[u8]) -> RejectReason {
    let pdus = split(answer);
    assert_eq!(opcode(&pdus[0]), Opcode::REJECT);
    header::<Reject>(&pdus[0]).reason
}

/// The session still works.
pub fn assert_alive(pair: &mut Pair) {
    assert_eq!(pair.target.error, None);
    let answer = pair
        .inject(&wire(NopOut { task_tag: 0xabc.into(), opcode: Opcode(0x40), ..Default::default() }, b"hi"));
    let pdus = split(&answer);
    assert_eq!((opcode(&pdus[0]), pdus[0].1.as_slice()), (Opcode::NOP_IN, &b"hi"[..]));
}
