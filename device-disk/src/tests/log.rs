//! LOG SENSE and LOG SELECT.

use crate::Options;
use crate::testing::*;
use lunette_scsi::Opcode;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use std::sync::Arc;

const CUMULATIVE: u8 = 0x40;
const DEFAULT: u8 = 0xc0;
const LOG_PARAMETERS_CHANGED: Code = (6, 0x2a, 2);
const PAGES: [u8; 10] = [0x00, 0x02, 0x03, 0x05, 0x0c, 0x0d, 0x0e, 0x10, 0x19, 0x2f];

fn sense(rig: &mut Rig, control: u8, page: u8, subpage: u8, first: u8) -> Answer {
    rig.ask(&[0x4d, 0, control | page, subpage, 0, 0, first, 4, 0, 0], &[], 1024)
}

/// The parameters of a page.
fn parameters(rig: &mut Rig, page: u8) -> Vec<(u16, Vec<u8>)> {
    let data = sense(rig, CUMULATIVE, page, 0, 0).good();
    assert_eq!((data[0] & 0x3f, data[1]), (page, 0));
    assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])), data.len() - 4);
    let (mut rest, mut found) = (&data[4..], Vec::new());
    while let [high, low, _, length, ..] = *rest {
        let end = 4 + usize::from(length);
        found.push((u16::from_be_bytes([high, low]), rest[4..end].to_vec()));
        rest = &rest[end..];
    }
    found
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

/// Bytes and errors of an error counter page.
fn counters(rig: &mut Rig, page: u8) -> (u64, u64) {
    let found = parameters(rig, page);
    assert_eq!(found.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    assert!(found[..5].iter().all(|(_, value)| number(value) == 0));
    (number(&found[5].1), number(&found[6].1))
}

/// Reads, writes, blocks written, blocks read.
fn statistics(rig: &mut Rig) -> [u64; 4] {
    let [(1, value), (2, idle), (3, interval)] = &parameters(rig, 0x19)[..] else { panic!() };
    assert_eq!((&idle[..], &interval[..]), (&[0; 8][..], &[0; 8][..]));
    assert_eq!(value.len(), 64);
    std::array::from_fn(|n| number(&value[8 * n..8 * n + 8]))
}

fn select(rig: &mut Rig, byte_1: u8, byte_2: u8, list: &[u8]) -> Answer {
    let [high, low] = (list.len() as u16).to_be_bytes();
    rig.ask(&[0x4c, byte_1, byte_2, 0, 0, 0, 0, high, low, 0], list, 0)
}

#[test]
fn every_page_is_listed_and_there() {
    let mut rig = Rig::new();
    assert_eq!(sense(&mut rig, CUMULATIVE, 0, 0, 0).good()[4..], PAGES);
    let all = sense(&mut rig, CUMULATIVE, 0, 0xff, 0).good();
    assert_eq!(all[..8], [0x40, 0xff, 0, 22, 0, 0, 0, 0xff]);
    for page in 0..0x40 {
        let answer = sense(&mut rig, CUMULATIVE, page, 0, 0);
        if PAGES.contains(&page) {
            let data = answer.good();
            let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
            assert_eq!((data[0] & 0x3f, data[1], data.len()), (page, 0, 4 + length));
        } else {
            assert_eq!(answer.field(), Some((2, Some(5))));
        }
    }
    assert_eq!(sense(&mut rig, CUMULATIVE, 2, 1, 0).field(), Some((3, None)));
    for threshold in [0x00, 0x80] {
        assert_eq!(sense(&mut rig, threshold, 2, 0, 0).field(), Some((2, Some(7))));
    }
    assert_eq!(rig.ask(&[0x4d, 1, 0x42, 0, 0, 0, 0, 0, 64, 0], &[], 64).field(), Some((1, Some(0))), "SP");
    assert_eq!(rig.ask(&[0x4d, 2, 0x42, 0, 0, 0, 0, 0, 64, 0], &[], 64).field(), Some((1, Some(1))), "PPC");
    assert_eq!(parameters(&mut rig, 0x2f), [(0, vec![0, 0, 0xff, 0])]);
    assert_eq!(parameters(&mut rig, 0x0d), [(0, vec![0, 0xff]), (1, vec![0, 0xff])], "no thermometer");
}

#[test]
fn starts_are_counted() {
    let mut rig = Rig::new();
    let mut cycles = |start_stop: &[u8]| {
        start_stop.iter().for_each(|bits| drop(rig.ask(&[0x1b, 0, 0, 0, *bits, 0], &[], 0).good()));
        parameters(&mut rig, 0x0e)
    };
    assert_eq!(cycles(&[1]), [(4, vec![0; 4])]);
    assert_eq!(cycles(&[0, 0]), [(4, vec![0; 4])]);
    assert_eq!(cycles(&[1, 1]), [(4, vec![0, 0, 0, 1])]);
    assert_eq!(cycles(&[0, 1]), [(4, vec![0, 0, 0, 2])]);
    rig.ask(&[0x1b, 0, 0, 0, 0, 0], &[], 0).good();
    rig.reset();
    assert_eq!(parameters(&mut rig, 0x0e), [(4, vec![0, 0, 0, 3])]);
}

#[test]
fn pages_begin_where_they_are_asked_to() {
    let mut rig = Rig::new();
    let whole = sense(&mut rig, CUMULATIVE, 2, 0, 0).good();
    let part = sense(&mut rig, CUMULATIVE, 2, 0, 5).good();
    assert_eq!(part[..4], [0x82, 0, 0, 24]);
    assert_eq!(part[4..], whole[whole.len() - 24..]);
    assert_eq!(sense(&mut rig, CUMULATIVE, 2, 0, 7).field(), Some((5, None)));
    assert_eq!(sense(&mut rig, CUMULATIVE, 0, 0, 1).field(), Some((5, None)));
    for length in 0..=whole.len() {
        let cut = rig.ask(&[0x4d, 0, 0x42, 0, 0, 0, 0, 0, length as u8, 0], &[], 255).good();
        assert_eq!(cut, whole[..length]);
    }
}

#[test]
fn commands_and_bytes_are_counted() {
    let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
    rig.write(0, &pattern(3));
    rig.ask(&cdb(Opcode::WRITE_10, 0, 2), &pattern(1), 0).good();
    rig.read(0, 4);
    rig.ask(&cdb(Opcode::READ_10, 0, 4), &[], 600).good();
    // With FUA, so in several steps.
    rig.ask(&with(cdb(Opcode::READ_10, 0, 1), 1, 0x08), &[], 512).good();
    assert_eq!(statistics(&mut rig), [3, 2, 4, (4 * 512 + 600 + 512) / 512]);
    assert_eq!(counters(&mut rig, 2), (4 * 512, 0));
    assert_eq!(counters(&mut rig, 3), (4 * 512 + 600 + 512, 0));
    assert_eq!(counters(&mut rig, 5), (0, 0));
    rig.ask(&cdb(Opcode::VERIFY_10, 0, 9), &[], 0).good();
    let compared = rig.ask(&with(cdb(Opcode::VERIFY_10, 0, 1), 1, 0x02), &[0xff; 512], 0);
    assert_eq!(compared.refused(), MISCOMPARE);
    rig.ask(&cdb(Opcode::WRITE_AND_VERIFY_10, 0, 2), &pattern(2), 0).good();
    assert_eq!(counters(&mut rig, 5), (11 * 512, 0));
    assert_eq!(statistics(&mut rig)[1..3], [3, 6]);
    assert_eq!(rig.ask(&cdb(Opcode::READ_10, 2048, 1), &[], 512).refused(), OUT_OF_RANGE);
    assert_eq!(counters(&mut rig, 3).1, 0, "the medium is not at fault");
    assert_eq!(statistics(&mut rig)[0], 3);
}

/// Blocks processed by commands that transfer more or fewer, and what the pages then say: reads, writes, blocks received and
/// transmitted, and bytes written and read.
#[test]
fn what_is_processed_and_what_is_transferred_are_two_things() {
    let mut rig = Rig::new();
    let mut counted = |cdb: &[u8], data: &[u8], room| {
        rig.ask(cdb, data, room).good();
        let ([writes, reads], bytes) =
            ([2, 3].map(|page| counters(&mut rig, page).0 / 512), statistics(&mut rig));
        rig.ask(&[0x4c, 2, 0xc0, 0, 0, 0, 0, 0, 0, 0], &[], 0).good();
        (bytes, [writes, reads])
    };
    let one = pattern(1);
    assert_eq!(counted(&cdb(Opcode::WRITE_SAME_10, 0, 8), &one, 0), ([0, 1, 1, 0], [8, 0]));
    let ndob = with(cdb(Opcode::WRITE_SAME_16, 0, 8), 1, 0x01);
    assert_eq!(counted(&ndob, &[], 0), ([0, 1, 0, 0], [8, 0]));
    let mut compare = cdb(Opcode::COMPARE_AND_WRITE, 0, 0);
    compare[13] = 2;
    let both = [[0; 1024].to_vec(), pattern(2)].concat();
    assert_eq!(counted(&compare, &both, 0), ([0, 1, 4, 0], [2, 0]));
    assert_eq!(counted(&cdb(Opcode::ORWRITE_16, 0, 3), &pattern(3), 0), ([0, 1, 3, 0], [3, 0]));
    assert_eq!(counted(&cdb(Opcode::XDWRITEREAD_10, 0, 2), &pattern(2), 1024), ([1, 1, 2, 2], [2, 2]));
    let only_read = with(cdb(Opcode::XDWRITEREAD_10, 0, 2), 1, 0x04);
    assert_eq!(counted(&only_read, &pattern(2), 1024), ([1, 1, 2, 2], [0, 2]));
    let mut atomic = cdb(Opcode::WRITE_ATOMIC_16, 0, 0);
    atomic[13] = 4;
    assert_eq!(counted(&atomic, &pattern(4), 0), ([0, 1, 4, 0], [4, 0]));
    assert_eq!(counted(&cdb(Opcode::WRITE_AND_VERIFY_10, 0, 4), &pattern(4), 0), ([0, 1, 4, 0], [4, 0]));
    // A copy passes no port.
    let (copy, list) = copy_of(5);
    assert_eq!(counted(&copy, &list, 0), ([0, 0, 0, 0], [5, 5]));
}

/// EXTENDED COPY of some blocks to elsewhere on the disk.
fn copy_of(blocks: u32) -> (Vec<u8>, Vec<u8>) {
    let segment = super::extended_copy::segment(0x02, blocks, 0, 100, [0, 0]);
    let list = super::extended_copy::list(0, &[segment]);
    let mut cdb = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb.extend((list.len() as u32).to_be_bytes());
    cdb.extend([0, 0]);
    (cdb, list)
}

#[test]
fn failures_of_the_medium_are_counted() {
    let store = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "eio:4096".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(store), |_| {});
    assert_eq!(rig.ask(&cdb(Opcode::READ_10, 8, 1), &[], 512).refused(), (3, 0x11, 0));
    assert_eq!(rig.ask(&cdb(Opcode::WRITE_10, 8, 1), &pattern(1), 0).refused(), (3, 0x0c, 0));
    assert_eq!(rig.ask(&cdb(Opcode::VERIFY_10, 8, 1), &[], 0).refused(), (3, 0x11, 0));
    for page in [2, 3, 5] {
        assert_eq!(counters(&mut rig, page), (0, 1));
    }
    assert_eq!(rig.ask(&cdb(Opcode::WRITE_SAME_10, 8, 1), &pattern(1), 0).refused(), (3, 0x0c, 0));
    let (copy, list) = copy_of(9);
    assert_eq!(rig.ask(&copy, &list, 0).refused().0, 0x0a);
    assert_eq!([2, 3].map(|page| counters(&mut rig, page)), [(0, 2), (0, 2)]);
}

#[test]
fn counters_begin_anew() {
    let mut rig = Rig::new();
    let second = rig.log_in();
    rig.write(0, &pattern(2));
    rig.read(0, 1);
    let defaults = sense(&mut rig, DEFAULT, 2, 0, 0).good();
    assert_eq!(sense(&mut rig, DEFAULT, 0x19, 0, 0).good()[8..72], [0; 64]);
    // One page.
    select(&mut rig, 0x02, CUMULATIVE | 0x02, &[]).good();
    assert_eq!(rig.ask_from(second, &[0; 6], &[], 0).refused(), LOG_PARAMETERS_CHANGED);
    rig.ask(&[0; 6], &[], 0).good();
    assert_eq!(counters(&mut rig, 2), (0, 0));
    assert_eq!(sense(&mut rig, CUMULATIVE, 2, 0, 0).good(), defaults);
    assert_eq!((counters(&mut rig, 3), statistics(&mut rig)), ((512, 0), [1, 1, 2, 1]));
    rig.write(0, &pattern(1));
    assert_eq!(counters(&mut rig, 2), (512, 0));
    // All, by either way.
    for (byte_1, byte_2) in [(0x02, CUMULATIVE), (0x00, DEFAULT)] {
        rig.read(0, 1);
        select(&mut rig, byte_1, byte_2, &[]).good();
        assert_eq!((counters(&mut rig, 2), counters(&mut rig, 3)), ((0, 0), (0, 0)));
        assert_eq!(statistics(&mut rig), [0; 4]);
    }
    for nothing in [0x00, CUMULATIVE, 0x80] {
        rig.read(0, 1);
        select(&mut rig, 0, nothing, &[]).good();
        assert_ne!(counters(&mut rig, 3), (0, 0));
    }
    assert_eq!(select(&mut rig, 0x02, CUMULATIVE | 0x04, &[]).field(), Some((2, Some(5))));
    // With the subpages of a page, which are none; and those of the list of pages, which has no counters.
    let mut subpages = |page, subpage| {
        rig.ask(&[0x4c, 2, CUMULATIVE | page, subpage, 0, 0, 0, 0, 0, 0], &[], 0).field();
        (counters(&mut rig, 3), statistics(&mut rig)[0])
    };
    let (read, reads) = subpages(0, 0xff);
    assert!(read.0 > 0 && reads > 0);
    assert_eq!(subpages(3, 0xff), ((0, 0), reads));
    assert_eq!(subpages(0x19, 0xff), ((0, 0), 0));
    assert_eq!(
        rig.ask(&[0x4c, 2, CUMULATIVE | 4, 0xff, 0, 0, 0, 0, 0, 0], &[], 0).field(),
        Some((2, Some(5)))
    );
}

#[test]
fn counters_can_be_set() {
    let mut rig = Rig::new();
    rig.read(0, 2);
    let list = |code: u8, control: u8, value: &[u8]| {
        let parameter = [&[0, code, control, value.len() as u8], value].concat();
        [&[0x03, 0, 0, parameter.len() as u8], &parameter[..]].concat()
    };
    select(&mut rig, 0, CUMULATIVE, &list(5, 0, &77_u64.to_be_bytes())).good();
    rig.read(0, 1);
    assert_eq!(counters(&mut rig, 3), (77 + 512, 0));
    // What is sensed can be selected.
    let page = sense(&mut rig, CUMULATIVE, 3, 0, 0).good();
    select(&mut rig, 0, CUMULATIVE, &page).good();
    assert_eq!(counters(&mut rig, 3), (77 + 512, 0));

    let mut refused = |byte_1, byte_2, list: &[u8]| {
        let answer = select(&mut rig, byte_1, byte_2, list);
        (answer.refused(), answer.field())
    };
    let good = list(5, 0, &[0; 8]);
    let parameter = |byte, bit| (INVALID_PARAMETER, Some((byte, bit)));
    assert_eq!(refused(0x02, CUMULATIVE, &good), (INVALID_FIELD, Some((1, Some(1)))));
    assert_eq!(refused(0x01, CUMULATIVE, &good), (INVALID_FIELD, Some((1, Some(0)))));
    assert_eq!(refused(0, 0, &good), (INVALID_FIELD, Some((2, Some(7)))));
    assert_eq!(refused(0, CUMULATIVE | 3, &good), (INVALID_FIELD, Some((2, Some(5)))));
    assert_eq!(refused(0, CUMULATIVE, &list(7, 0, &[0; 8])), parameter(4, None));
    assert_eq!(refused(0, CUMULATIVE, &list(5, 0x10, &[0; 8])), parameter(6, Some(4)));
    assert_eq!(refused(0, CUMULATIVE, &list(5, 0, &[0; 7])), parameter(7, None));
    assert_eq!(refused(0, CUMULATIVE, &[0x04, 0, 0, 4, 0, 0, 0, 0]), parameter(0, Some(5)));
    assert_eq!(refused(0, CUMULATIVE, &[0x19, 0, 0, 4, 0, 1, 0, 0]), parameter(4, None));
    assert_eq!(refused(0, CUMULATIVE, &good[..15]), (LIST_LENGTH, None));
    assert_eq!(counters(&mut rig, 3), (77 + 512, 0));
}
