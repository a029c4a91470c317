//! FUA, WCE, SYNCHRONIZE CACHE and START STOP UNIT.

use crate::Options;
use crate::testing::*;
use lunette_scsi::Opcode;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use std::sync::Arc;

const FUA: u8 = 0x08;
const FUA_NV: u8 = 0x02;

fn cached() -> Rig {
    Rig::with(Options::default(), |caps| caps.volatile_cache = true)
}

/// Sets WCE of the Caching mode page.
fn set_wce(rig: &mut Rig, on: bool) -> Answer {
    rig.ask(&SET_WCE, &wce(on), 0)
}

const SET_WCE: [u8; 6] = [0x15, 0x10, 0, 0, 24, 0];

fn wce(on: bool) -> [u8; 24] {
    let mut list = [0; 24];
    list[4..7].copy_from_slice(&[0x08, 0x12, if on { 0x04 } else { 0 }]);
    list
}

fn durable(rig: &mut Rig, opcode: Opcode, flags: u8) -> bool {
    rig.seen();
    rig.ask(&with(cdb(opcode, 1, 1), 1, flags), &pattern(1), 0).good();
    match rig.seen()[..] {
        [Seen::Write(512, 512, durable)] => durable,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_reaches_the_medium_when_it_has_to() {
    let mut rig = cached();
    for opcode in [Opcode::WRITE_10, Opcode::WRITE_12, Opcode::WRITE_16] {
        assert!(!durable(&mut rig, opcode, 0));
        assert!(durable(&mut rig, opcode, FUA));
        assert!(durable(&mut rig, opcode, FUA_NV));
    }
    set_wce(&mut rig, false).good();
    for opcode in [Opcode::WRITE_6, Opcode::WRITE_10, Opcode::WRITE_12, Opcode::WRITE_16] {
        assert!(durable(&mut rig, opcode, 0));
    }
    set_wce(&mut rig, true).good();
    assert!(!durable(&mut rig, Opcode::WRITE_10, 0));
}

#[test]
fn a_read_from_the_medium_finds_there_what_was_cached() {
    for opcode in [Opcode::READ_10, Opcode::READ_12, Opcode::READ_16] {
        let mut rig = cached();
        rig.write(1, &pattern(1000));
        for flag in [FUA, FUA_NV] {
            rig.seen();
            for room in [0, 100, 1000 * 512, 1001 * 512] {
                let answer = rig.ask(&with(cdb(opcode, 1, 1000), 1, flag), &[], room);
                assert_eq!(answer.outcome.wanted_in, 1000 * 512);
                assert_eq!(answer.good(), pattern(1000)[..room.min(1000 * 512)]);
                assert_eq!(rig.seen()[0], Seen::Flush);
            }
            assert_eq!(rig.ask(&with(cdb(opcode, 2048, 1), 1, flag), &[], 512).refused(), OUT_OF_RANGE);
        }
        let mut rig = Rig::new();
        rig.ask(&with(cdb(opcode, 1, 1), 1, FUA), &[], 512).good();
        assert_eq!(rig.seen(), [Seen::Read(512, 512)], "there is no cache");
    }
    let large = Arc::new(Ram::new(128 << 20).unwrap());
    let mut rig = Rig::over(Options::default(), large, |caps| caps.volatile_cache = true);
    rig.ask(&[0x08, FUA_NV, 0, 0, 1, 0], &[], 512).good();
    assert_eq!(rig.seen(), [Seen::Read(64 << 20, 512)], "a bit of the block address");
    rig.ask(&[0x0a, FUA_NV, 0, 0, 1, 0], &pattern(1), 0).good();
    assert_eq!(rig.seen(), [Seen::Write(64 << 20, 512, false)]);
}

#[test]
fn disabling_the_cache_empties_it() {
    let mut rig = cached();
    set_wce(&mut rig, false).good();
    assert_eq!(rig.seen(), [Seen::Flush]);
    set_wce(&mut rig, true).good();
    assert_eq!(rig.seen(), []);
}

#[test]
fn a_cache_that_could_not_be_emptied_is_emptied_by_the_next_who_disables_it() {
    let away = Arc::new(Away::new(Arc::new(Ram::new(SIZE).unwrap())));
    let mut rig = Rig::over(Options::default(), away.clone(), |caps| caps.volatile_cache = true);
    away.set(true);
    assert!(set_wce(&mut rig, false).code().is_some());
    away.set(false);
    rig.seen();
    set_wce(&mut rig, false).good();
    assert_eq!(rig.seen(), [Seen::Flush]);
}

#[test]
fn a_write_that_ends_after_the_cache_was_disabled_is_on_the_medium() {
    // One that waits for its data meanwhile.
    let mut rig = cached();
    let write = rig.admit(&cdb(Opcode::WRITE_10, 1, 1), 512);
    set_wce(&mut rig, false).good();
    rig.seen();
    rig.start(write, &pattern(1)).good();
    assert_eq!(rig.seen(), [Seen::Write(512, 512, true)]);
    // And one that is being written.
    let slow = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "delay:20".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(slow), |caps| caps.volatile_cache = true);
    let second = rig.log_in();
    rig.begin(&cdb(Opcode::WRITE_10, 1, 1), &pattern(1));
    rig.send(second, &SET_WCE, &wce(false));
    assert_eq!(rig.seen(), [Seen::Write(512, 512, false)]);
    rig.ended().good();
    rig.answer(second).good();
    assert_eq!(rig.seen(), [Seen::Flush]);
}

#[test]
fn without_a_cache_nothing_is_to_be_done() {
    let mut rig = Rig::new();
    assert!(!durable(&mut rig, Opcode::WRITE_10, FUA));
    rig.ask(&cdb(Opcode::SYNCHRONIZE_CACHE_10, 0, 0), &[], 0).good();
    assert_eq!(rig.seen(), []);
    let refused = set_wce(&mut rig, true);
    assert_eq!((refused.refused(), refused.field()), (INVALID_PARAMETER, Some((6, Some(2)))));
}

#[test]
fn what_is_zeroed_or_unmapped_is_flushed_where_writes_are_durable() {
    let mut rig = cached();
    rig.ask(&cdb(Opcode::WRITE_SAME_10, 0, 4), &[0; 512], 0).good();
    assert_eq!(rig.seen(), [Seen::Zero(0, 2048, false)]);
    set_wce(&mut rig, false).good();
    rig.seen();
    rig.ask(&cdb(Opcode::WRITE_SAME_10, 0, 4), &[0; 512], 0).good();
    assert_eq!(rig.seen(), [Seen::Zero(0, 2048, false), Seen::Flush]);
}

#[test]
fn synchronize_cache() {
    for opcode in [Opcode::SYNCHRONIZE_CACHE_10, Opcode::SYNCHRONIZE_CACHE_16] {
        let mut rig = cached();
        for (lba, blocks) in [(0, 0), (7, 9), (2048, 0), (2047, 1)] {
            rig.ask(&cdb(opcode, lba, blocks), &[], 0).good();
            rig.ask(&with(cdb(opcode, lba, blocks), 1, 0x02), &[], 0).good();
            assert_eq!(rig.seen(), [Seen::Flush, Seen::Flush]);
        }
        for (lba, blocks) in [(2048, 1), (2049, 0)] {
            assert_eq!(rig.ask(&cdb(opcode, lba, blocks), &[], 0).refused(), OUT_OF_RANGE);
        }
        // SYNC_NV, dropped by SBC-4.
        assert_eq!(rig.ask(&with(cdb(opcode, 0, 0), 1, 0x04), &[], 0).refused(), INVALID_FIELD);
    }
}

#[test]
fn stopping_flushes() {
    const NO_FLUSH: u8 = 0x04;
    const LOEJ: u8 = 0x02;
    const START: u8 = 0x01;
    let mut rig = cached();
    let mut start_stop = |bits| {
        let answer = rig.ask(&[0x1b, 0, 0, 0, bits, 0], &[], 0);
        (answer.code(), rig.seen())
    };
    assert_eq!(start_stop(START), (None, vec![]));
    assert_eq!(start_stop(START | LOEJ), (None, vec![]));
    assert_eq!(start_stop(0), (None, vec![Seen::Flush]));
    assert_eq!(start_stop(NO_FLUSH), (None, vec![]));
    assert_eq!(start_stop(LOEJ), (Some(INVALID_FIELD), vec![]));
    for known in [0x10, 0x20, 0x30, 0x70, 0xa0, 0xb0] {
        assert_eq!(start_stop(known), (None, vec![]));
    }
}
