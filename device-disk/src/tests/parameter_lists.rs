//! Parameter lists of every length, for every command that takes one.

use crate::Options;
use crate::testing::*;
use lunette_engine::{CommandSpec, Direction, Needs, spc};
use lunette_scsi::Opcode;
use lunette_store::ram::Ram;
use std::collections::BTreeSet;
use std::sync::Arc;

const LONGEST: usize = 4096;
/// Bytes of the disk, which is formatted often.
const SMALL: u64 = 16 << 10;

/// A row, and what its CDB counts.
struct Taker {
    spec: &'static CommandSpec,
    /// The length counts blocks: bytes sent for each.
    unit: usize,
}

impl Taker {
    fn of(spec: &'static CommandSpec) -> Self {
        let unit = match spec.opcode {
            Opcode::COMPARE_AND_WRITE => 1024,
            Opcode::UNMAP => 1,
            _ if spec.needs == Needs::Ready => 512,
            _ => 1,
        };
        Self { spec, unit }
    }

    /// A CDB with some of the bits that the row knows, which says that `length` bytes are sent.
    fn cdb(&self, length: usize, mut bits: impl FnMut() -> u8) -> Vec<u8> {
        let CommandSpec { opcode, usage, service_action, .. } = *self.spec;
        let mut cdb = vec![0; usage.len()];
        let flags = if self.unit == 1 && opcode != Opcode::UNMAP { 1..usage.len() - 1 } else { 1..2 };
        for at in flags {
            cdb[at] = usage[at] & bits();
        }
        if let Some(action) = service_action {
            cdb[1] = cdb[1] & 0xe0 | action as u8;
        }
        if let Some((at, width)) = opcode.data_out_length_at() {
            let named = (length.div_ceil(self.unit) as u32).to_be_bytes();
            cdb[at..at + width].copy_from_slice(&named[4 - width..]);
        }
        cdb[0] = opcode.0;
        cdb
    }
}

/// Bytes that look like nothing, and differ from one seed to the next.
fn noise(seed: usize) -> impl FnMut() -> u8 {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Lengths and codes are small as a rule.
        if state & 0x300 == 0 { state as u8 } else { state as u8 & 0x13 }
    }
}

/// They are refused or carried out, but nothing beyond them is looked at: the canaries of the rig, and the checks of indices
/// and arithmetic in tests, would tell.
#[test]
fn lists_of_every_length_are_answered() {
    let rows = spc::COMMANDS.iter().map(|command| &command.spec);
    let rows = Rig::new().unit.device().commands().chain(rows);
    let rows = rows.filter(|spec| matches!(spec.direction, Direction::Out | Direction::Both));
    let mut number = 0;
    for spec in rows {
        let (taker, mut codes) = (Taker::of(spec), BTreeSet::new());
        let mut rig = Rig::over(Options::default(), Arc::new(Ram::new(SMALL).unwrap()), |_| {});
        for length in 0..=LONGEST {
            for kind in 0..2 {
                number += 1;
                let mut noise = noise(number);
                let list: Vec<u8> = match (kind, length % 5) {
                    (0, _) => (0..length).map(|_| noise()).collect(),
                    (_, 0) => vec![0xff; length],
                    _ => vec![0; length],
                };
                // It says how much there is, or that there is more or less.
                let said = [length, length, length + 1, length / 2][(length + kind) % 4];
                let cdb = match length / 2 % 3 {
                    0 => taker.cdb(said, || 0),
                    1 => taker.cdb(said, || 0xff),
                    _ => taker.cdb(said, &mut noise),
                };
                codes.insert(rig.ask(&cdb, &list, length).code());
            }
        }
        codes.retain(|code| ![Some(INVALID_FIELD), Some(INVALID_OPCODE)].contains(code));
        // Of security protocols nothing is taken.
        let takes_none = spec.opcode == Opcode::SECURITY_PROTOCOL_OUT;
        assert_eq!(codes.is_empty(), takes_none, "lists that reached {}: {codes:?}", spec.name);
    }
}
