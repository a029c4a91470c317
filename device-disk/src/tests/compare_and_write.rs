//! COMPARE AND WRITE and ORWRITE.

use crate::Options;
use crate::testing::*;
use lunette_engine::Residual;
use lunette_scsi::Opcode;

const BLOCKS: u64 = SIZE / 512;
const FUA: u8 = 0x08;

fn compare_and_write(lba: u64, blocks: u8) -> Vec<u8> {
    let mut cdb = cdb(Opcode::COMPARE_AND_WRITE, lba, 0);
    cdb[13] = blocks;
    cdb
}

#[test]
fn equal_blocks_are_replaced() {
    let mut rig = Rig::new();
    for blocks in [1, 2, 255] {
        let (old, new) = (pattern(blocks), vec![blocks as u8; blocks * 512]);
        rig.write(3, &old);
        let answer = rig.ask(&compare_and_write(3, blocks as u8), &[&old[..], &new].concat(), 0);
        assert_eq!(answer.outcome.residual_out(1024 * blocks as u64), Residual::None);
        assert_eq!(answer.good(), b"");
        assert_eq!(rig.read(3, blocks as u32), new);
        assert_eq!((rig.read(2, 1), rig.read(3 + blocks as u64, 1)), (vec![0; 512], vec![0; 512]));
    }
}

#[test]
fn blocks_that_differ_stay_and_the_first_byte_that_does_is_told() {
    let mut rig = Rig::new();
    let old = pattern(200);
    rig.write(0, &old);
    for at in [0, 1, 511, 512, 70_000, 200 * 512 - 1] {
        let mut expected = old.clone();
        expected[at..].iter_mut().for_each(|byte| *byte ^= 0x10);
        let answer = rig.ask(&compare_and_write(0, 200), &[expected, vec![9; 200 * 512]].concat(), 0);
        assert_eq!((answer.refused(), answer.information()), (MISCOMPARE, Some(at as u64)));
        assert_eq!(rig.read(0, 200), old);
    }
}

#[test]
fn fua_makes_the_write_durable() {
    let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
    for (bits, durable) in [(0, false), (FUA, true), (0x10, false)] {
        let command = with(compare_and_write(5, 1), 1, bits);
        rig.ask(&command, &[0; 1024], 0).good();
        let expected = [Seen::Read(2560, 512), Seen::Write(2560, 512, durable)];
        assert_eq!(rig.seen(), expected);
    }
}

#[test]
fn lengths_are_checked() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&compare_and_write(7, 0), &[], 0).good(), b"");
    assert_eq!(rig.ask(&compare_and_write(BLOCKS, 0), &[], 0).good(), b"");
    assert_eq!(rig.ask(&compare_and_write(BLOCKS, 1), &[0; 1024], 0).refused(), OUT_OF_RANGE);
    assert_eq!(rig.ask(&compare_and_write(u64::MAX, 2), &[0; 2048], 0).refused(), OUT_OF_RANGE);
    // 256 blocks, of which one byte of the CDB says nothing.
    assert_eq!(rig.ask(&compare_and_write(0, 0), &[0; 512 * 512], 0).refused(), INVALID_FIELD);
    for sent in [0, 512, 1023, 1025, 1536, 2048] {
        let answer = rig.ask(&compare_and_write(0, 1), &vec![0; sent], 0);
        assert_eq!(answer.refused(), INVALID_FIELD, "{sent}");
    }
    assert_eq!(rig.seen(), []);
    let protect = rig.ask(&with(compare_and_write(0, 1), 1, 0x20), &[0; 1024], 0);
    assert_eq!((protect.refused(), protect.field()), (INVALID_FIELD, Some((1, Some(5)))));
    let mut small = Rig::with(Options::default(), |caps| caps.max_transfer = 4096);
    let long = small.ask(&compare_and_write(0, 5), &[0; 5120], 0);
    assert_eq!((long.refused(), long.field()), (INVALID_FIELD, Some((13, None))));
    small.ask(&compare_and_write(0, 4), &[0; 4096], 0).good();
}

#[test]
fn a_protected_disk_compares_nothing() {
    let mut rig = Rig::with(Options::default(), |caps| caps.read_only = true);
    assert_eq!(rig.ask(&compare_and_write(0, 1), &[0; 1024], 0).refused(), PROTECTED);
    assert_eq!(rig.ask(&cdb(Opcode::ORWRITE_16, 0, 1), &[0; 512], 0).refused(), PROTECTED);
}

#[test]
fn orwrite_sets_bits() {
    let mut rig = Rig::new();
    // More than is moved at a time.
    let (old, bits) = (pattern(1200), pattern(1300).split_off(100 * 512));
    rig.write(1, &old);
    rig.ask(&cdb(Opcode::ORWRITE_16, 1, 1200), &bits, 0).good();
    let both: Vec<u8> = old.iter().zip(&bits).map(|(old, bits)| old | bits).collect();
    assert_eq!(rig.read(1, 1200), both);
    // Whole blocks of what there is.
    let short = rig.ask(&cdb(Opcode::ORWRITE_16, 1, 2), &[0xff; 600], 0);
    assert_eq!(short.outcome.residual_out(600), Residual::Overflow(424));
    assert_eq!(rig.read(1, 2), [&[0xff; 512][..], &both[512..1024]].concat());
    assert_eq!(rig.ask(&cdb(Opcode::ORWRITE_16, BLOCKS - 1, 2), &[0; 1024], 0).refused(), OUT_OF_RANGE);
    rig.ask(&cdb(Opcode::ORWRITE_16, BLOCKS, 0), &[], 0).good();
}

#[test]
fn reads_and_writes_stay_the_same_when_ranges_are_taken() {
    let mut rig = Rig::new();
    let asks = |rig: &mut Rig| {
        let read = |rig: &mut Rig, room| {
            let answer = rig.ask(&cdb(Opcode::READ_10, 1, 4), &[], room);
            (answer.outcome, answer.data)
        };
        let written = rig.ask(&cdb(Opcode::WRITE_10, 1, 4), &[7; 1100], 0).outcome;
        let none = rig.ask(&cdb(Opcode::WRITE_10, 1, 4), &[], 0).outcome;
        let flushed = rig.ask(&cdb(Opcode::SYNCHRONIZE_CACHE_10, 0, 0), &[], 0).outcome;
        let beyond = rig.ask(&cdb(Opcode::READ_10, BLOCKS as u32 as u64, 1), &[], 512).outcome;
        (written, none, flushed, beyond, [0, 100, 512, 2048, 4096].map(|room| read(rig, room)))
    };
    let before = asks(&mut rig);
    rig.seen();
    rig.ask(&compare_and_write(0, 1), &[0; 1024], 0).good();
    assert_eq!(asks(&mut rig), before);
    let whole = rig.ask(&cdb(Opcode::READ_10, 1, 4), &[], 2048);
    assert!(whole.at_once, "nobody has a claim");
    // No copies of what was read.
    rig.seen();
    rig.read(0, 2048);
    assert_eq!(rig.seen(), [Seen::Read(0, SIZE)]);
}
