//! SEND DIAGNOSTIC, RECEIVE DIAGNOSTIC RESULTS, and the results of self-tests.

use crate::Options;
use crate::testing::*;
use lunette_scsi::{Opcode, TaskAttribute};
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use std::sync::Arc;
use std::time::Duration;

const BACKGROUND_SHORT: u8 = 1;
const BACKGROUND_EXTENDED: u8 = 2;
const ABORT: u8 = 4;
const FOREGROUND_SHORT: u8 = 5;
const FOREGROUND_EXTENDED: u8 = 6;
const TESTING: Code = (2, 4, 9);
const FAILED: Code = (4, 0x3e, 3);
const NOT_FAILED: u64 = u64::MAX;

fn test(rig: &mut Rig, code: u8) -> Answer {
    rig.ask(&[0x1d, code << 5, 0, 0, 0, 0], &[], 0)
}

/// Self-test code, result and address of the first failure of the newest tests.
fn results(rig: &mut Rig) -> Vec<(u8, u8, u64)> {
    let data = rig.ask(&[0x4d, 0, 0x50, 0, 0, 0, 0, 4, 0, 0], &[], 1024).good();
    assert_eq!(data[..4], [0x90, 0, 1, 0x90]);
    let results: Vec<&[u8]> = data[4..].chunks(20).collect();
    for (number, result) in (1..).zip(&results) {
        assert_eq!(result[..4], [0, number, 0x23, 16]);
    }
    let shown = results.iter().filter(|result| result[4..] != [0; 16]);
    shown
        .map(|result| {
            let address = u64::from_be_bytes(result[8..16].try_into().unwrap());
            (result[4] >> 5, result[4] & 0xf, address)
        })
        .collect()
}

/// Sense key and codes of REQUEST SENSE, and the progress in it.
fn requested(rig: &mut Rig) -> (Code, Option<u16>) {
    let data = rig.ask(&[3, 0, 0, 0, 252, 0], &[], 252).good();
    let progress = (data[15] & 0x80 != 0).then(|| u16::from_be_bytes([data[16], data[17]]));
    ((data[2] & 0xf, data[12], data[13]), progress)
}

fn broken(at: u64) -> Rig {
    let store = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), format!("eio:{at}").parse().unwrap());
    Rig::over(Options::default(), Arc::new(store), |_| {})
}

#[test]
fn there_is_one_page() {
    let mut rig = Rig::new();
    for page_code_valid in [0, 1] {
        let page = rig.ask(&[0x1c, page_code_valid, 0, 0, 255, 0], &[], 255).good();
        assert_eq!(page, [0, 0, 0, 1, 0]);
    }
    assert_eq!(rig.ask(&[0x1c, 0, 0x40, 0, 255, 0], &[], 255).good(), [0, 0, 0, 1, 0]);
    assert_eq!(rig.ask(&[0x1c, 1, 0, 0, 2, 0], &[], 255).good(), [0, 0]);
    assert_eq!(rig.ask(&[0x1c, 1, 0x40, 0, 255, 0], &[], 255).field(), Some((2, None)));
    let mut send = |byte_1, list: &[u8]| {
        let answer = rig.ask(&[0x1d, byte_1, 0, 0, list.len() as u8, 0], list, 0);
        (answer.code(), answer.field())
    };
    assert_eq!(send(0x10, &[0, 0, 0, 0]), (None, None));
    assert_eq!(send(0x10, &[]), (None, None));
    assert_eq!(send(0x00, &[0, 0, 0, 0]), (Some(INVALID_FIELD), Some((1, Some(4)))));
    assert_eq!(send(0x10, &[0x40, 0, 0, 0]), (Some(INVALID_PARAMETER), Some((0, None))));
    assert_eq!(send(0x10, &[0, 0, 0, 1, 0]), (Some(INVALID_PARAMETER), Some((2, None))));
    assert_eq!(send(0x10, &[0, 0, 0]), (Some(LIST_LENGTH), None));
    assert_eq!(send(0x14, &[0, 0, 0, 0]), (Some(INVALID_FIELD), Some((3, None))));
    for code in [0x24, 0x60, 0xe0] {
        assert_eq!(send(code, &[]), (Some(INVALID_FIELD), Some((1, Some(7)))));
    }
}

#[test]
fn the_default_test_looks_at_samples() {
    let mut rig = Rig::new();
    for byte_1 in [0x04, 0x06, 0x05] {
        rig.ask(&[0x1d, byte_1, 0, 0, 0, 0], &[], 0).good();
        assert_eq!(rig.seen().len(), 64);
    }
    assert_eq!(results(&mut rig), []);
    assert_eq!(broken(0).ask(&[0x1d, 4, 0, 0, 0, 0], &[], 0).refused(), FAILED);
}

#[test]
fn tests_in_the_foreground() {
    let mut rig = Rig::new();
    test(&mut rig, FOREGROUND_SHORT).good();
    rig.seen();
    test(&mut rig, FOREGROUND_EXTENDED).good();
    let reads: Vec<_> = (0..SIZE).step_by(1 << 18).map(|at| Seen::Read(at, 1 << 18)).collect();
    assert_eq!(rig.seen(), reads);
    assert_eq!(results(&mut rig), [(6, 0, NOT_FAILED), (5, 0, NOT_FAILED)]);
    rig.ask(&[0; 6], &[], 0).good();

    let mut rig = broken(SIZE / 2);
    assert_eq!(test(&mut rig, FOREGROUND_EXTENDED).refused(), FAILED);
    assert_eq!(results(&mut rig), [(6, 7, SIZE / 2 / 512)]);
    rig.ask(&[0; 6], &[], 0).good();
}

#[test]
fn a_test_in_the_background_lets_commands_through() {
    let mut rig = Rig::new();
    test(&mut rig, BACKGROUND_EXTENDED).good();
    assert_eq!(results(&mut rig), [(2, 0xf, NOT_FAILED)]);
    assert_eq!(requested(&mut rig).0, TESTING);
    for other in [BACKGROUND_SHORT, FOREGROUND_EXTENDED] {
        assert_eq!(test(&mut rig, other).refused(), TESTING);
    }
    rig.ask(&[0; 6], &[], 0).good();
    rig.write(0, &pattern(1));
    rig.pass(Duration::from_millis(2));
    let (code, progress) = requested(&mut rig);
    assert!(code == TESTING && progress.is_some_and(|progress| progress > 0), "{progress:?}");
    rig.pass(Duration::from_secs(1));
    assert_eq!(results(&mut rig), [(2, 0, NOT_FAILED)]);
    assert_eq!(requested(&mut rig), ((0, 0, 0), None));

    let mut rig = broken(SIZE / 2);
    test(&mut rig, BACKGROUND_EXTENDED).good();
    rig.pass(Duration::from_secs(1));
    assert_eq!(results(&mut rig), [(2, 7, SIZE / 2 / 512)]);
}

#[test]
fn a_test_in_the_background_can_be_ended() {
    let mut rig = Rig::new();
    let abort = test(&mut rig, ABORT);
    assert_eq!((abort.refused(), abort.field()), (INVALID_FIELD, Some((1, Some(7)))));
    test(&mut rig, BACKGROUND_EXTENDED).good();
    test(&mut rig, ABORT).good();
    rig.pass(Duration::from_millis(2));
    assert_eq!(results(&mut rig), [(2, 1, NOT_FAILED)]);
    test(&mut rig, BACKGROUND_SHORT).good();
    rig.reset();
    rig.pass(Duration::from_millis(2));
    assert_eq!(results(&mut rig), [(1, 2, NOT_FAILED), (2, 1, NOT_FAILED)]);
    test(&mut rig, BACKGROUND_SHORT).good();
    rig.pass(Duration::from_secs(1));
    assert_eq!(results(&mut rig)[0], (1, 0, NOT_FAILED));
    rig.ask(&[0x4c, 2, 0x50, 0, 0, 0, 0, 0, 0, 0], &[], 0).good();
    assert_eq!(results(&mut rig), []);
}

/// A disk on which each operation takes a while, with a second initiator.
fn slow(options: Options) -> (Rig, usize) {
    let store = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "delay:20".parse().unwrap());
    let mut rig = Rig::over(options, Arc::new(store), |_| {});
    let second = rig.log_in();
    (rig, second)
}

#[test]
fn a_test_is_ended_when_the_turn_of_the_command_has_come() {
    let (mut rig, second) = slow(Options::default());
    test(&mut rig, BACKGROUND_EXTENDED).good();
    rig.begin(&cdb(Opcode::VERIFY_10, 0, 2048), &[]);
    rig.send_as(TaskAttribute::Ordered, second, &[0x1d, ABORT << 5, 0, 0, 0, 0], &[]);
    rig.ended().good();
    rig.answer(second).good();
    rig.pass(Duration::from_millis(100));
    assert_eq!(results(&mut rig), [(2, 1, NOT_FAILED)]);
}

#[test]
fn a_test_in_the_foreground_keeps_others_out() {
    let (mut rig, second) = slow(Options::default());
    rig.begin(&[0x1d, FOREGROUND_EXTENDED << 5, 0, 0, 0, 0], &[]);
    rig.ask_from(second, &[0x12, 0, 0, 0, 36, 0], &[], 36).good();
    rig.ask_from(second, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[], 16).good();
    let sense = rig.ask_from(second, &[3, 0, 0, 0, 18, 0], &[], 18).good();
    assert_eq!((sense[2], sense[12], sense[13]), TESTING);
    for refused in [[0; 6], [0x1a, 8, 0x0a, 0, 255, 0], [0x1d, ABORT << 5, 0, 0, 0, 0], [0x16, 0, 0, 0, 0, 0]]
    {
        assert_eq!(rig.ask_from(second, &refused, &[], 255).refused(), TESTING, "{refused:x?}");
    }
    rig.ended().good();
    rig.ask_from(second, &[0x1a, 8, 0x0a, 0, 255, 0], &[], 255).good();
    assert_eq!(results(&mut rig), [(6, 0, NOT_FAILED)]);
}

#[test]
fn what_changes_the_medium_ends_a_test_of_it() {
    let commands: [&[u8]; 4] = [
        &[0x04, 0, 0, 0, 0, 0],
        &[0x48, 0x83, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x1b, 0, 0, 0, 0, 0],
        &[0x1b, 0, 0, 0, 2, 0],
    ];
    for command in commands {
        let removable = command[4] == 2;
        let (mut rig, _) = slow(Options { removable, ..Options::default() });
        test(&mut rig, BACKGROUND_EXTENDED).good();
        rig.ask(command, &[], 0).good();
        rig.pass(Duration::from_millis(1000));
        assert_eq!(results(&mut rig), [(2, 2, NOT_FAILED)], "{command:x?}");
    }
    let (mut rig, _) = slow(Options::default());
    test(&mut rig, BACKGROUND_EXTENDED).good();
    rig.ask(&[0x1b, 0, 0, 0, 1, 0], &[], 0).good();
    rig.pass(Duration::from_millis(1000));
    assert_eq!(results(&mut rig), [(2, 0, NOT_FAILED)]);
}

#[test]
fn twenty_results_are_kept() {
    let mut rig = Rig::new();
    test(&mut rig, FOREGROUND_EXTENDED).good();
    for _ in 0..20 {
        test(&mut rig, FOREGROUND_SHORT).good();
    }
    assert_eq!(results(&mut rig), [(5, 0, NOT_FAILED); 20]);
}

fn buffer(opcode: Opcode, mode: u8, id: u8, offset: u32, length: u32) -> Vec<u8> {
    let ([_, o @ ..], [_, l @ ..]) = (offset.to_be_bytes(), length.to_be_bytes());
    vec![opcode.0, mode, id, o[0], o[1], o[2], l[0], l[1], l[2], 0]
}

#[test]
fn the_data_buffer_keeps_what_is_written() {
    const READ: Opcode = Opcode::READ_BUFFER_10;
    const WRITE: Opcode = Opcode::WRITE_BUFFER;
    const SIZE: u32 = 64 << 10;
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&buffer(READ, 3, 0, 0, 255), &[], 255).good(), SIZE.to_be_bytes());
    assert_eq!(rig.ask(&buffer(READ, 3, 1, 0, 255), &[], 255).good(), [0; 4]);
    assert_eq!(rig.ask(&buffer(READ, 2, 0, SIZE - 2, 9), &[], 9).good(), [0; 2]);
    rig.ask(&buffer(WRITE, 2, 0, 7, 3), &[1, 2, 3], 0).good();
    assert_eq!(rig.ask(&buffer(READ, 2, 0, 6, 5), &[], 255).good(), [0, 1, 2, 3, 0]);
    rig.ask(&buffer(WRITE, 2, 0, SIZE - 1, 1), &[9], 0).good();
    rig.ask(&buffer(WRITE, 2, 0, SIZE, 0), &[], 0).good();
    assert_eq!(rig.ask(&buffer(READ, 2, 0, SIZE - 1, 5), &[], 255).good(), [9]);
    for opcode in [READ, WRITE] {
        assert_eq!(rig.ask(&buffer(opcode, 2, 1, 0, 0), &[], 0).field(), Some((2, None)));
        assert_eq!(rig.ask(&buffer(opcode, 2, 0, SIZE + 1, 0), &[], 0).field(), Some((3, None)));
        for mode in [0, 1, 4, 5, 0x0c, 0x1c, 0x1f] {
            assert_eq!(rig.ask(&buffer(opcode, mode, 0, 0, 0), &[], 0).field(), Some((1, Some(4))));
        }
    }
    assert_eq!(rig.ask(&buffer(WRITE, 2, 0, 1, SIZE), &[0; 4], 0).field(), Some((6, None)));
}

#[test]
fn the_echo_buffer_knows_whose_it_is() {
    const READ: Opcode = Opcode::READ_BUFFER_10;
    const WRITE: Opcode = Opcode::WRITE_BUFFER;
    let mut rig = Rig::new();
    let second = rig.log_in();
    let read = buffer(READ, 0x0a, 0, 0, 4096);
    assert_eq!(rig.ask(&buffer(READ, 0x0b, 0, 0, 4), &[], 4).good(), [1, 0, 0x10, 0]);
    assert_eq!(rig.ask(&read, &[], 4096).refused(), (5, 0x2c, 0));
    rig.ask(&buffer(WRITE, 0x0a, 0, 0, 5), b"first", 0).good();
    assert_eq!(rig.ask(&read, &[], 4096).good(), b"first");
    assert_eq!(rig.ask(&read, &[], 4096).good(), b"first");
    assert_eq!(rig.ask_from(second, &read, &[], 4096).refused(), (5, 0x2c, 0));
    rig.ask_from(second, &buffer(WRITE, 0x0a, 0, 0, 6), b"second", 0).good();
    assert_eq!(rig.ask(&read, &[], 4096).refused(), (0xb, 0x3f, 0x0f));
    assert_eq!(rig.ask_from(second, &read, &[], 4).good(), b"seco");
    rig.ask(&buffer(WRITE, 0x0a, 0, 0, 5), b"third", 0).good();
    assert_eq!(rig.ask(&read, &[], 4096).good(), b"third");
    assert_eq!(rig.ask(&buffer(WRITE, 0x0a, 0, 0, 4097), &[0; 4097], 0).field(), Some((6, None)));
}
