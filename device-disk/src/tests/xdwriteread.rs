//! XDWRITEREAD.

use crate::Options;
use crate::testing::*;
use lunette_engine::Residual;
use lunette_scsi::Opcode;
use lunette_store::ram::Ram;
use std::sync::Arc;

const BLOCKS: u64 = SIZE / 512;
const DISABLE_WRITE: u8 = 0x04;
const FUA: u8 = 0x08;

fn exchange(lba: u64, blocks: u32) -> Vec<u8> {
    cdb(Opcode::XDWRITEREAD_10, lba, blocks)
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

#[test]
fn old_and_new_data_come_back_combined() {
    let mut rig = Rig::new();
    // More than is moved at a time.
    let (old, new) = (pattern(1200), pattern(1300).split_off(100 * 512));
    rig.write(3, &old);
    let answer = rig.ask(&exchange(3, 1200), &new, 1200 * 512);
    let outcome = &answer.outcome;
    assert_eq!(
        (outcome.residual_in(1200 * 512), outcome.residual_out(1200 * 512)),
        (Residual::None, Residual::None)
    );
    assert_eq!((outcome.moved_in, outcome.moved_out), (1200 * 512, 1200 * 512));
    assert_eq!(answer.good(), xor(&old, &new));
    assert_eq!(rig.read(3, 1200), new);
    assert_eq!((rig.read(2, 1), rig.read(1203, 1)), (vec![0; 512], vec![0; 512]));

    let asked = rig.ask(&with(exchange(3, 2), 1, DISABLE_WRITE), &[0xff; 1024], 1024).good();
    assert_eq!(asked, xor(&new[..1024], &[0xff; 1024]));
    assert_eq!(rig.read(3, 1200), new);
    assert_eq!(rig.ask(&exchange(0, 0), &[], 0).good(), b"");
}

#[test]
fn buffers_of_other_lengths_leave_residuals() {
    let mut rig = Rig::new();
    rig.write(0, &[1; 4 * 512]);
    // Whole blocks are exchanged, and data-in that has no room is not given.
    let short = rig.ask(&exchange(0, 4), &[3; 1100], 700);
    let outcome = &short.outcome;
    assert_eq!(outcome.residual_out(1100), Residual::Overflow(948));
    assert_eq!(outcome.residual_in(700), Residual::Overflow(324));
    assert_eq!(short.data, [2; 700]);
    assert_eq!(rig.read(0, 4), [[3; 1024], [1; 1024]].concat());
    let long = rig.ask(&exchange(2, 1), &[9; 2048], 2048);
    assert_eq!(long.outcome.residual_out(2048), Residual::Underflow(1536));
    assert_eq!(long.outcome.residual_in(2048), Residual::Underflow(1536));
    assert_eq!(long.good(), [8; 512]);
    assert_eq!(rig.read(2, 2), [[9; 512], [1; 512]].concat());
    for (sent, room) in [(0, 512), (512, 0), (0, 0)] {
        let answer = rig.ask(&exchange(3, 1), &vec![5; sent], room);
        assert_eq!((answer.outcome.wanted_out, answer.outcome.wanted_in), (512, sent as u64));
        assert_eq!(rig.read(3, 1), [if sent > 0 { 5 } else { 1 }; 512], "{sent} {room}");
        rig.write(3, &[1; 512]);
    }
}

#[test]
fn writing_keeps_the_rules_of_writing() {
    let store = Arc::new(Ram::new(SIZE).unwrap().read_only());
    let mut rig = Rig::over(Options::default(), store, |_| {});
    assert_eq!(rig.ask(&exchange(0, 1), &[1; 512], 512).refused(), PROTECTED);
    assert_eq!(rig.ask(&with(exchange(0, 1), 1, DISABLE_WRITE), &[1; 512], 512).good(), [1; 512]);

    let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
    rig.ask(&with(exchange(0, 1), 1, FUA), &[1; 512], 512).good();
    rig.ask(&exchange(1, 1), &[1; 512], 512).good();
    let (read, write) = (Seen::Read, Seen::Write);
    let expected = [Seen::Flush, read(0, 512), write(0, 512, true), read(512, 512), write(512, 512, false)];
    assert_eq!(rig.seen(), expected);

    for (lba, blocks) in [(BLOCKS, 1), (BLOCKS - 1, 2), (u64::from(u32::MAX), 1)] {
        assert_eq!(rig.ask(&exchange(lba, blocks), &[1; 512], 512).refused(), OUT_OF_RANGE);
    }
    for bits in [0x01, 0x20, 0x80] {
        assert_eq!(rig.ask(&with(exchange(0, 1), 1, bits), &[1; 512], 512).refused(), INVALID_FIELD);
    }
    let mut rig = Rig::with(Options::default(), |caps| caps.max_transfer = 1024);
    assert_eq!(rig.ask(&exchange(0, 3), &[1; 1536], 1536).field(), Some((7, None)));
}

#[test]
fn a_failure_of_the_medium_is_reported_where_it_is() {
    use lunette_store::layer::fault::Fault;
    let ram = Arc::new(Ram::new(SIZE).unwrap());
    let fault = Arc::new(Fault::new(ram, "eio:1024".parse().unwrap()));
    let mut rig = Rig::over(Options::default(), fault, |caps| caps.max_transfer = 4096);
    let failed = rig.ask(&exchange(2, 1), &[1; 512], 512);
    assert_eq!((failed.refused().0, failed.information()), (3, Some(2)));
    assert_eq!(failed.outcome.moved_in, 0);
}
