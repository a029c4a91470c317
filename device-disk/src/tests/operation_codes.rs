//! REPORT SUPPORTED OPERATION CODES says what the table says.

use crate::Options;
use crate::testing::*;
use lunette_engine::{CommandSpec, spc};
use lunette_scsi::Opcode;
use std::collections::BTreeMap;

const TIMEOUTS: u8 = 0x80;

fn report(rig: &mut Rig, options: u8, opcode: u8, action: u16) -> Answer {
    let [high, low] = action.to_be_bytes();
    rig.ask(&[0xa3, 0x0c, options, opcode, high, low, 0, 0, 0xff, 0xff, 0, 0], &[], 0xffff)
}

/// All rows that the disk of `rig` has, its own and those of every device.
fn table(rig: &Rig) -> BTreeMap<(u8, Option<u16>), &'static CommandSpec> {
    let own = rig.unit.device().commands();
    let all = own.chain(spc::COMMANDS.iter().map(|command| &command.spec));
    all.map(|spec| ((spec.opcode.0, spec.service_action), spec)).collect()
}

#[test]
fn all_commands() {
    for thin in [true, false] {
        let mut rig = Rig::with(Options { thin, ..Options::default() }, |_| {});
        let table = table(&rig);
        assert_eq!(table.contains_key(&(0x42, None)), thin);
        for (options, size) in [(0, 8), (TIMEOUTS, 20)] {
            let data = report(&mut rig, options, 0, 0).good();
            assert_eq!(u32::from_be_bytes(data[..4].try_into().unwrap()) as usize, data.len() - 4);
            let listed: Vec<_> = data[4..].chunks(size).collect();
            assert_eq!(listed.len(), table.len());
            for (bytes, ((opcode, action), spec)) in listed.iter().zip(&table) {
                let flags = u8::from(action.is_some()) | if size == 20 { 0x02 } else { 0 };
                let [high, low] = action.unwrap_or(0).to_be_bytes();
                assert_eq!(bytes[..8], [*opcode, 0, high, low, 0, flags, 0, spec.usage.len() as u8]);
                if size == 20 {
                    assert_eq!(bytes[8..12], [0, 0x0a, 0, 0]);
                    assert_eq!(bytes[16..20], (spec.timeouts.recommended.as_secs() as u32).to_be_bytes());
                }
            }
        }
    }
}

#[test]
fn one_command() {
    let mut rig = Rig::new();
    for ((opcode, action), spec) in table(&rig) {
        let (right, wrong) = if action.is_some() { (2, 1) } else { (1, 2) };
        let data = report(&mut rig, right, opcode, action.unwrap_or(0)).good();
        let expected = [&[0, 3, 0, spec.usage.len() as u8][..], &spec.usage_data()].concat();
        assert_eq!(data, expected, "{}", spec.name);
        assert_eq!(report(&mut rig, 3, opcode, action.unwrap_or(0)).good(), expected);
        let answer = report(&mut rig, wrong, opcode, action.unwrap_or(0));
        assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((2, Some(2)))));
        let timed = report(&mut rig, right | TIMEOUTS, opcode, action.unwrap_or(0)).good();
        assert_eq!((timed[1], timed.len()), (0x83, expected.len() + 12));
    }
}

#[test]
fn commands_that_are_not_there() {
    let mut rig = Rig::new();
    let unsupported = [0, 1, 0, 0];
    for (options, opcode, action) in [(1, 0xc0, 0), (2, 0xc0, 1), (3, 0xc0, 0), (2, 0x9e, 0x1f), (3, 0x28, 1)]
    {
        assert_eq!(report(&mut rig, options, opcode, action).good(), unsupported);
    }
    for reserved in 4..8 {
        assert_eq!(report(&mut rig, reserved, 0, 0).field(), Some((2, Some(2))));
    }
}

#[test]
fn every_row_is_well_formed() {
    for thin in [true, false] {
        let rig = Rig::with(Options { thin, ..Options::default() }, |_| {});
        for ((opcode, action), spec) in table(&rig) {
            assert_eq!(spec.usage[0], opcode, "{}", spec.name);
            let variable = spec.opcode == Opcode::VARIABLE_LENGTH_CDB;
            let additional = || 8 + usize::from(spec.usage[7]);
            assert_eq!(
                spec.usage.len(),
                spec.opcode.cdb_length().unwrap_or_else(additional),
                "{}",
                spec.name
            );
            assert_eq!(Some(spec.name), lunette_scsi::command_name(spec.opcode, action));
            match action {
                Some(action) if variable => assert_eq!(spec.usage[8..10], action.to_be_bytes()),
                Some(action) => assert_eq!(u16::from(spec.usage[1] & 0x1f), action, "{}", spec.name),
                None => {}
            }
            assert!(spec.timeouts.nominal <= spec.timeouts.recommended);
        }
        let count = rig.unit.device().commands().count() + spc::COMMANDS.len();
        assert_eq!(count, table(&rig).len(), "no command has two rows");
    }
}

#[test]
fn commands_that_are_filtered_out_are_not_there() {
    let mut rig = Rig::filtered("deny:write-10+get-lba-status");
    let status = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    assert_eq!(rig.ask(&cdb(Opcode::WRITE_10, 0, 1), &pattern(1), 0).refused(), INVALID_OPCODE);
    assert_eq!(rig.ask(&status, &[], 32).refused(), INVALID_OPCODE);
    let capacity = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    rig.ask(&capacity, &[], 32).good();
    rig.write(0, &pattern(1));
    for (options, opcode, action) in [(1, 0x2a, 0), (2, 0x9e, 0x12), (2, 0x7f, 0x12), (3, 0x2a, 0)] {
        assert_eq!(report(&mut rig, options, opcode, action).good(), [0, 1, 0, 0]);
    }
    let all = report(&mut rig, 0, 0, 0).good();
    let listed = |opcode, action| all[4..].chunks(8).any(|row| (row[0], row[3]) == (opcode, action));
    assert!(!listed(0x2a, 0) && !listed(0x9e, 0x12) && !listed(0x7f, 0x12));
    assert!(listed(0x8a, 0) && listed(0x9e, 0x10));

    let mut rig = Rig::filtered("allow:read");
    rig.ask(&[0; 6], &[], 0).good();
    assert_eq!(rig.ask(&cdb(Opcode::READ_10, 0, 1), &[], 512).good().len(), 512);
    assert_eq!(rig.ask(&cdb(Opcode::READ_16, 0, 1), &[], 512).good().len(), 512);
    assert_eq!(report(&mut rig, 0, 0, 0).refused(), INVALID_OPCODE);
}

/// Each has the reason beside its row.
#[test]
fn commands_that_must_not_be_carried_out_twice() {
    let rig = Rig::with(Options::default(), |_| {});
    let table = table(&rig);
    let once: Vec<_> = table.values().filter(|spec| !spec.repeatable).map(|spec| spec.name).collect();
    let expected = [
        "FORMAT UNIT",
        "SANITIZE OVERWRITE",
        "SANITIZE BLOCK ERASE",
        "SANITIZE CRYPTOGRAPHIC ERASE",
        "SANITIZE EXIT FAILURE MODE",
        "XDWRITEREAD(10)",
        "PERSISTENT RESERVE OUT REGISTER",
        "PERSISTENT RESERVE OUT RESERVE",
        "PERSISTENT RESERVE OUT RELEASE",
        "PERSISTENT RESERVE OUT CLEAR",
        "PERSISTENT RESERVE OUT PREEMPT",
        "PERSISTENT RESERVE OUT PREEMPT AND ABORT",
        "PERSISTENT RESERVE OUT REGISTER AND IGNORE EXISTING KEY",
        "PERSISTENT RESERVE OUT REGISTER AND MOVE",
        "EXTENDED COPY(LID1)",
        "COMPARE AND WRITE",
        "SET TIMESTAMP",
    ];
    assert_eq!(once, expected);
}
