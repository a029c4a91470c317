//! VERIFY and WRITE AND VERIFY.

use crate::Options;
use crate::testing::*;
use lunette_engine::Residual;
use lunette_scsi::Opcode;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use std::sync::Arc;

const VERIFIES: [Opcode; 3] = [Opcode::VERIFY_10, Opcode::VERIFY_12, Opcode::VERIFY_16];
const WRITES: [Opcode; 3] =
    [Opcode::WRITE_AND_VERIFY_10, Opcode::WRITE_AND_VERIFY_12, Opcode::WRITE_AND_VERIFY_16];
const BLOCKS: u64 = SIZE / 512;
/// BYTCHK in byte 1.
const EACH: u8 = 0b01 << 1;
const SAME: u8 = 0b11 << 1;

#[test]
fn data_out_is_compared_byte_by_byte() {
    let mut rig = Rig::new();
    // More than one step.
    let data = pattern(1100);
    rig.write(5, &data);
    for opcode in VERIFIES {
        let verify = with(cdb(opcode, 5, 1100), 1, EACH);
        rig.ask(&verify, &data, 0).good();
        for at in [0, 1, 511, 262_144, data.len() - 1] {
            let mut other = data.clone();
            other[at] ^= 1;
            let answer = rig.ask(&verify, &other, 0);
            assert_eq!((answer.refused(), answer.information()), (MISCOMPARE, Some(at as u64)));
        }
    }
    assert_eq!(rig.read(5, 1100), data);
}

#[test]
fn one_block_is_compared_with_every_block() {
    let mut rig = Rig::new();
    rig.write(0, &pattern(1)[..512].repeat(600));
    for opcode in VERIFIES {
        let verify = with(cdb(opcode, 0, 600), 1, SAME);
        rig.ask(&verify, &pattern(1), 0).good();
        assert_eq!(rig.ask(&verify, &pattern(2), 0).refused(), INVALID_FIELD);
        assert_eq!(rig.ask(&verify, &[], 0).refused(), INVALID_FIELD);
    }
    rig.write(599, &[0; 512]);
    let answer = rig.ask(&with(cdb(Opcode::VERIFY_10, 0, 600), 1, SAME), &pattern(1), 0);
    assert_eq!((answer.refused(), answer.information()), (MISCOMPARE, Some(599 * 512 + 1)));
}

#[test]
fn without_comparison_the_blocks_only_have_to_be_readable() {
    let faults = "eio:520192".parse().unwrap();
    let store = Arc::new(Fault::new(Arc::new(Ram::new(SIZE).unwrap()), faults));
    let mut rig = Rig::over(Options::default(), store, |_| {});
    for opcode in VERIFIES {
        rig.ask(&cdb(opcode, 0, 1016), &[], 0).good();
        rig.ask(&cdb(opcode, 0, 1), &pattern(1), 0).good();
        assert_eq!(rig.ask(&cdb(opcode, 0, 1017), &[], 0).refused(), (3, 0x11, 0));
    }
}

#[test]
fn a_whole_disk_is_verified_in_steps() {
    for (max_transfer, step) in [(u64::MAX, 1 << 18), (1 << 16, 1 << 16), (5000, 4608)] {
        let mut rig = Rig::with(Options::default(), |caps| caps.max_transfer = max_transfer);
        rig.ask(&cdb(Opcode::VERIFY_16, 0, BLOCKS as u32), &[], 0).good();
        let reads = (0..SIZE).step_by(step).map(|at| Seen::Read(at, (SIZE - at).min(step as u64)));
        assert_eq!(rig.seen(), reads.collect::<Vec<_>>());
    }
    let mut rig = Rig::with(Options::default(), |caps| caps.max_transfer = 4096);
    let compare = with(cdb(Opcode::VERIFY_16, 0, 9), 1, EACH);
    assert_eq!(rig.ask(&compare, &pattern(9), 0).field(), Some((10, None)), "transfers are limited");
}

#[test]
fn a_long_verification_lets_others_have_their_turn() {
    let large = Arc::new(Ram::new(64 << 20).unwrap());
    let mut rig = Rig::over(Options::default(), large, |_| {});
    for (blocks, at_once) in [(8, true), (128 << 10, false)] {
        let answer = rig.ask(&cdb(Opcode::VERIFY_16, 0, blocks), &[], 0);
        assert_eq!(answer.at_once, at_once);
        answer.good();
    }
    assert_eq!(rig.seen().len(), 1 + 256);
}

#[test]
fn where_nothing_is_to_be_verified() {
    let mut rig = Rig::new();
    for opcode in VERIFIES {
        rig.ask(&with(cdb(opcode, 0, 0), 1, SAME), &[], 0).good();
    }
    for opcode in VERIFIES.into_iter().chain(WRITES) {
        for bytchk in [0, EACH] {
            rig.ask(&with(cdb(opcode, 0, 0), 1, bytchk), &[], 0).good();
            rig.ask(&with(cdb(opcode, BLOCKS, 0), 1, bytchk), &[], 0).good();
            for (lba, blocks) in [(BLOCKS + 1, 0), (BLOCKS, 1), (BLOCKS - 1, 2)] {
                let cdb = with(cdb(opcode, lba, blocks), 1, bytchk);
                assert_eq!(rig.ask(&cdb, &pattern(2), 0).refused(), OUT_OF_RANGE);
            }
        }
        let reserved = with(cdb(opcode, 0, 1), 1, 0b10 << 1);
        assert_eq!(rig.ask(&reserved, &pattern(1), 0).field(), Some((1, Some(2))));
        let protected = with(cdb(opcode, 0, 1), 1, 0x20);
        assert_eq!(rig.ask(&protected, &pattern(1), 0).field(), Some((1, Some(5))));
        rig.ask(&with(cdb(opcode, 0, 1), 1, 0x10), &pattern(1), 0).good();
    }
}

#[test]
fn what_is_written_is_verified_on_the_medium() {
    for (opcode, bytchk) in WRITES.into_iter().flat_map(|opcode| [(opcode, 0), (opcode, EACH)]) {
        let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
        let data = pattern(2);
        let answer = rig.ask(&with(cdb(opcode, 4, 2), 1, bytchk), &data, 0);
        assert_eq!(answer.outcome.moved_out, 1024);
        answer.good();
        assert_eq!(rig.seen(), [Seen::Write(2048, 1024, true), Seen::Read(2048, 1024)]);
        assert_eq!(rig.read(4, 2), data);
    }
}

#[test]
fn what_is_verified_is_on_the_medium() {
    for opcode in VERIFIES {
        let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
        for (bytchk, data) in [(0, 0), (EACH, 1024), (SAME, 512)] {
            rig.ask(&with(cdb(opcode, 4, 2), 1, bytchk), &vec![0; data], 0).good();
            assert_eq!(rig.seen(), [Seen::Flush, Seen::Read(2048, 1024)]);
        }
    }
}

#[test]
fn every_step_may_take_its_time() {
    let slow =
        Arc::new(Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "delay:3+eio:1048000".parse().unwrap()));
    let mut rig = Rig::over(Options::default(), slow, |caps| caps.volatile_cache = true);
    let data = pattern(1100);
    rig.ask(&with(cdb(Opcode::WRITE_AND_VERIFY_16, 3, 1100), 1, EACH), &data, 0).good();
    let answer = rig.ask(&with(cdb(Opcode::VERIFY_16, 3, 1100), 1, EACH), &data, 0);
    assert!(!answer.at_once);
    answer.good();
    rig.ask(&cdb(Opcode::WRITE_SAME_16, 3, 1100), &[1; 512], 0).good();
    rig.ask(&cdb(Opcode::SYNCHRONIZE_CACHE_10, 0, 0), &[], 0).good();
    assert_eq!(rig.read(3, 1100), [1; 1100 * 512]);
    assert_eq!(rig.ask(&cdb(Opcode::WRITE_SAME_16, 3, 2045), &[1; 512], 0).refused(), (3, 0x0c, 0));
}

#[test]
fn residuals_of_write_and_verify() {
    let mut rig = Rig::new();
    let one = with(cdb(Opcode::WRITE_AND_VERIFY_10, 0, 2), 1, EACH);
    let answer = rig.ask(&one, &[7; 700], 0);
    assert_eq!(answer.outcome.residual_out(700), Residual::Overflow(324));
    answer.good();
    assert_eq!(rig.read(0, 2), [[7; 512], [0; 512]].concat());
    let answer = rig.ask(&one, &[], 0);
    assert_eq!(answer.outcome.residual_out(0), Residual::Overflow(1024));
    answer.good();
    let answer = rig.ask(&one, &[8; 2000], 0);
    assert_eq!(answer.outcome.residual_out(2000), Residual::Underflow(976));
    answer.good();
}
