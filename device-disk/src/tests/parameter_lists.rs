//! Parameter lists of every length, for every command that takes one.

use crate::testing::*;
use lunette_engine::{CommandSpec, Direction, spc};

/// Bytes that look like nothing, and differ from one list to the next.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Lengths and codes are small as a rule.
        if state & 0x300 == 0 { state as u8 } else { state as u8 & 0x13 }
    };
    (0..length).map(next).collect()
}

/// Where a CDB has its parameter list length, and of how many bytes.
fn length_field(spec: &CommandSpec) -> (usize, usize) {
    match (spec.opcode.0, spec.usage.len()) {
        (0x1d, _) => (3, 2),
        (0x3b, _) => (6, 3),
        (0x42, _) => (7, 2),
        (0x5f, _) => (5, 4),
        (_, 6) => (4, 1),
        (_, 10) => (7, 2),
        (_, 12) => (6, 4),
        _ => (10, 4),
    }
}

/// One that is refused, or carried out, but never more than that: the canaries of the rig, and the checks of arithmetic in
/// tests, would tell.
#[test]
fn lists_of_every_length_are_answered() {
    let mut rig = Rig::new();
    let rows: Vec<&CommandSpec> =
        rig.unit.device().commands().chain(spc::COMMANDS.iter().map(|command| &command.spec)).collect();
    let rows = rows.into_iter().filter(|spec| matches!(spec.direction, Direction::Out | Direction::Both));
    for (number, spec) in rows.enumerate() {
        let (at, width) = length_field(spec);
        for length in 0..=4096 {
            let list = noise(number << 16 | length, length);
            let mut cdb = vec![0; spec.usage.len()];
            cdb[0] = spec.opcode.0;
            if let Some(action) = spec.service_action {
                cdb[1] = action as u8;
            }
            // PF, BYTCHK and the like, each in its turn.
            cdb[1] |= spec.usage[1] & [0x00, 0x10, 0x11, 0x02][length % 4];
            let blocks = length.div_ceil(512);
            let named = if spec.needs == lunette_engine::Needs::Ready && spec.opcode.0 != 0x42 {
                blocks
            } else {
                length
            };
            let bytes = (named as u32).to_be_bytes();
            cdb[at..at + width].copy_from_slice(&bytes[4 - width..]);
            rig.ask(&cdb, &list, length);
            rig.ask(&[0; 6], &[], 0);
        }
        // Whatever became of it.
        let _ = rig.ask(&[0x1b, 0, 0, 0, 1, 0], &[], 0);
    }
}
