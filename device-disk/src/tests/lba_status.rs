//! GET LBA STATUS.

use crate::Options;
use crate::testing::*;
use lunette_scsi::Opcode;
use lunette_scsi::lba_status::{CompletionCondition as Condition, parse_lba_status};
use lunette_store::SeekTarget;
use lunette_store::ram::Ram;
use std::sync::Arc;

const BLOCKS: u64 = SIZE / 512;
const MAPPED: u8 = 0;
const GONE: u8 = 1;

/// LBA, number of blocks, provisioning status.
type Status = (u64, u32, u8);

fn cdb_16(lba: u64, report: u8, allocation: u32) -> Vec<u8> {
    [&[0x9e, 0x12][..], &lba.to_be_bytes(), &allocation.to_be_bytes(), &[report, 0]].concat()
}

fn cdb_32(lba: u64, report: u8, scan: u32, allocation: u32) -> Vec<u8> {
    let head = [0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 0x12, report, 0];
    [&head[..], &lba.to_be_bytes(), &scan.to_be_bytes(), &[0; 4], &allocation.to_be_bytes()].concat()
}

fn parsed(answer: Answer) -> (Vec<Status>, Condition) {
    let data = answer.good();
    let (list, condition) = parse_lba_status(&data);
    assert_eq!(data.len(), 8 + 16 * list.len());
    assert_eq!((data[4..7].to_vec(), data[7] & 1), (vec![0; 3], 1));
    (list.iter().map(|status| (status.lba, status.blocks, status.status.0)).collect(), condition)
}

fn ask(rig: &mut Rig, lba: u64, report: u8) -> (Vec<Status>, Condition) {
    parsed(rig.ask(&cdb_16(lba, report, 4096), &[], 4096))
}

/// Blocks 64 to 128 and the last 8 are written.
fn written() -> Rig {
    let mut rig = Rig::new();
    rig.write(64, &[7; 64 * 512]);
    rig.write(BLOCKS - 8, &[7; 8 * 512]);
    rig
}

#[test]
fn what_is_written_is_mapped() {
    let mut rig = Rig::new();
    assert_eq!(ask(&mut rig, 0, 0), (vec![(0, 2048, GONE)], Condition::CAPACITY));
    let mut rig = written();
    let all = vec![(0, 64, GONE), (64, 64, MAPPED), (128, 1912, GONE), (2040, 8, MAPPED)];
    assert_eq!(ask(&mut rig, 0, 0), (all.clone(), Condition::CAPACITY));
    assert_eq!(ask(&mut rig, 100, 0).0, [(100, 28, MAPPED), (128, 1912, GONE), (2040, 8, MAPPED)]);
    assert_eq!(ask(&mut rig, BLOCKS - 1, 0).0, [(2047, 1, MAPPED)]);
    let long = parsed(rig.ask(&cdb_32(0, 0, 0, 4096), &[], 4096));
    assert_eq!(long, (all, Condition::CAPACITY));
    let list = lunette_scsi::unmap::encode_unmap_list(&[(72, 8)]).unwrap();
    rig.ask(&[0x42, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], &list, 0).good();
    assert_eq!(ask(&mut rig, 64, 0).0[..3], [(64, 8, MAPPED), (72, 8, GONE), (80, 48, MAPPED)]);
}

#[test]
fn only_what_the_report_type_names_is_told() {
    let mut rig = written();
    let (gone, mapped) = ([(0, 64, GONE), (128, 1912, GONE)], [(64, 64, MAPPED), (2040, 8, MAPPED)]);
    for (report, expected) in [(1, &gone[..]), (2, &mapped), (3, &gone), (4, &[]), (0x10, &[])] {
        assert_eq!(ask(&mut rig, 0, report), (expected.to_vec(), Condition::CAPACITY), "{report}");
    }
    for reserved in [5, 0x0f, 0x11, 0xff] {
        let short = rig.ask(&cdb_16(0, reserved, 4096), &[], 4096);
        assert_eq!((short.refused(), short.field()), (INVALID_FIELD, Some((14, None))));
        let long = rig.ask(&cdb_32(0, reserved, 0, 4096), &[], 4096);
        assert_eq!((long.refused(), long.field()), (INVALID_FIELD, Some((10, None))));
    }
}

#[test]
fn an_answer_ends_where_the_command_says() {
    let mut rig = written();
    let first = parsed(rig.ask(&cdb_16(0, 0, 24), &[], 24));
    assert_eq!(first, (vec![(0, 64, GONE)], Condition::ALLOCATION_LENGTH));
    let two = parsed(rig.ask(&cdb_16(0, 2, 40), &[], 40));
    assert_eq!(two.0, [(64, 64, MAPPED), (2040, 8, MAPPED)]);
    let scanned = parsed(rig.ask(&cdb_32(0, 0, 100, 4096), &[], 4096));
    assert_eq!(scanned, (vec![(0, 64, GONE), (64, 36, MAPPED)], Condition::SCAN_LENGTH));
    for scan in [2048, u32::MAX] {
        assert_eq!(parsed(rig.ask(&cdb_32(0, 4, scan, 4096), &[], 4096)), (vec![], Condition::CAPACITY));
    }
    for allocation in 0..24 {
        let cut = rig.ask(&cdb_16(0, 0, allocation), &[], 64);
        assert_eq!(
            cut.good(),
            &[0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 0]
                [..allocation as usize]
        );
    }
    // The allocation length is not what is given, so there is nothing that did not fit.
    let answer = rig.ask(&cdb_16(0, 0, 4096), &[], 100);
    assert_eq!((answer.outcome.wanted_in, answer.outcome.moved_in), (72, 72));
    let answer = rig.ask(&cdb_16(0, 0, 4096), &[], 30);
    assert_eq!((answer.outcome.wanted_in, answer.outcome.moved_in), (72, 30));
}

#[test]
fn an_answer_has_a_longest_length() {
    let mut rig = Rig::with(Options { block_length: 4096, ..Options::default() }, |_| {});
    let every_second: Vec<_> = (0..256).step_by(2).collect();
    every_second.iter().for_each(|lba| rig.write(*lba, &[1; 4096]));
    let (list, condition) = parsed(rig.ask(&cdb_16(0, 0, u32::MAX), &[], 8192));
    assert_eq!((list.len(), condition), (256, Condition::CAPACITY));
    let large = Arc::new(Ram::new(2 << 20).unwrap());
    let mut rig = Rig::over(Options { block_length: 4096, ..Options::default() }, large, |_| {});
    (0..512).step_by(2).for_each(|lba| rig.write(lba, &[1; 4096]));
    let (list, condition) = parsed(rig.ask(&cdb_16(0, 0, u32::MAX), &[], 8192));
    assert_eq!((list.len(), list[255], condition), (256, (255, 1, GONE), Condition::NONE));
}

#[test]
fn runs_of_more_than_four_billion_blocks_are_split() {
    let large = Arc::new(Ram::new(5 << 40).unwrap());
    let mut rig = Rig::over(Options::default(), large, |_| {});
    let most = u32::MAX;
    let rest = (5 << 31) - 2 * u64::from(most);
    let expected =
        [(0, most, GONE), (most.into(), most, GONE), (2 * u64::from(most), rest.try_into().unwrap(), GONE)];
    assert_eq!(ask(&mut rig, 0, 0).0, expected);
    let (list, condition) = parsed(rig.ask(&cdb_16(0, 0, 40), &[], 40));
    assert_eq!((&list[..], condition), (&expected[..2], Condition::ALLOCATION_LENGTH));
}

#[test]
fn blocks_of_a_disk_that_is_not_thin_are_mapped() {
    let mut full = Rig::with(Options { thin: false, ..Options::default() }, |_| {});
    assert_eq!(ask(&mut full, 5, 0), (vec![(5, 2043, MAPPED)], Condition::CAPACITY));
    assert_eq!(ask(&mut full, 5, 1), (vec![], Condition::CAPACITY));
    assert_eq!(full.seen(), []);
}

#[test]
fn a_block_is_mapped_if_any_byte_of_it_is() {
    let mut rig = Rig::with(Options { block_length: 4096, ..Options::default() }, |_| {});
    rig.write(3, &[1; 4096]);
    rig.seen();
    assert_eq!(ask(&mut rig, 3, 0).0, [(3, 1, MAPPED), (4, 252, GONE)]);
    let (data, hole) = (SeekTarget::Data, SeekTarget::Hole);
    assert_eq!(rig.seen(), [Seen::Seek(3 << 12, data), Seen::Seek(4 << 12, hole), Seen::Seek(4 << 12, data)]);
}

#[test]
fn lbas_and_cdbs_are_checked() {
    let mut rig = Rig::new();
    for lba in [BLOCKS, BLOCKS + 1, u64::MAX] {
        assert_eq!(rig.ask(&cdb_16(lba, 0, 24), &[], 24).refused(), OUT_OF_RANGE);
        assert_eq!(rig.ask(&cdb_32(lba, 0, 1, 24), &[], 24).refused(), OUT_OF_RANGE);
    }
    let good = cdb_32(0, 0, 0, 24);
    for (byte, bits, field) in [
        (1, 0x08, (1, Some(3))),
        (3, 0x10, (3, Some(4))),
        (11, 0x80, (11, Some(7))),
        (27, 0x01, (27, Some(0))),
        (7, 0x04, (7, None)),
        (8, 0x01, (8, None)),
    ] {
        let answer = rig.ask(&with(good.clone(), byte, bits), &[], 24);
        assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some(field)), "byte {byte}");
    }
    // One that is announced as shorter than the command is, and one that ends early.
    let mut short = good.clone();
    short[7] = 0x10;
    for cdb in [&short[..], &short[..24], &good[..31], &good[..10]] {
        assert_eq!(rig.ask(cdb, &[], 24).field(), Some((7, None)), "{cdb:x?}");
    }
    let opcode = Opcode::VARIABLE_LENGTH_CDB.0;
    let usage = rig.ask(&[0xa3, 0x0c, 0x02, opcode, 0, 0x12, 0, 0, 1, 0, 0, 0], &[], 256).good();
    assert_eq!((usage[1], usage[3], usage[11], usage[13]), (3, 32, 0x18, 0x12));
}
