//! UNMAP and WRITE SAME.

use crate::Options;
use crate::testing::*;
use lunette_scsi::Opcode;
use lunette_scsi::unmap::encode_unmap_list;
use lunette_store::Discard;

const BLOCKS: u64 = SIZE / 512;
const SAMES: [Opcode; 2] = [Opcode::WRITE_SAME_10, Opcode::WRITE_SAME_16];
const UNMAP: u8 = 0x08;
const ANCHOR: u8 = 0x10;
const NDOB: u8 = 0x01;

fn unmap(rig: &mut Rig, list: &[u8]) -> Answer {
    let [high, low] = (list.len() as u16).to_be_bytes();
    rig.ask(&[0x42, 0, 0, 0, 0, 0, 0, high, low, 0], list, 0)
}

fn unmap_ranges(rig: &mut Rig, ranges: &[(u64, u32)]) -> Answer {
    unmap(rig, &encode_unmap_list(ranges).unwrap())
}

fn full() -> Rig {
    Rig::with(Options::default(), |caps| caps.discard = None)
}

#[test]
fn unmapped_blocks_read_as_zero() {
    let mut rig = Rig::new();
    rig.write(0, &[7; 8 * 512]);
    rig.seen();
    unmap_ranges(&mut rig, &[(1, 2), (5, 1)]).good();
    assert_eq!(rig.seen(), [Seen::Discard(512, 1024), Seen::Discard(2560, 512)]);
    let expected: Vec<u8> = [7, 0, 0, 7, 7, 0, 7, 7].into_iter().flat_map(|byte| [byte; 512]).collect();
    assert_eq!(rig.read(0, 8), expected);
}

#[test]
fn unmapping_nothing_is_no_error() {
    let mut rig = Rig::new();
    unmap(&mut rig, &[]).good();
    unmap_ranges(&mut rig, &[]).good();
    unmap_ranges(&mut rig, &[(0, 0), (BLOCKS, 0)]).good();
    unmap_ranges(&mut rig, &[(3, 0); 256]).good();
    assert_eq!(rig.seen(), []);
}

#[test]
fn an_unmap_list_is_checked_as_a_whole() {
    let mut rig = Rig::new();
    for wrong in [(BLOCKS, 1), (BLOCKS + 1, 0), (u64::MAX, 1), (0, u32::MAX)] {
        assert_eq!(unmap_ranges(&mut rig, &[(0, 1), wrong]).refused(), OUT_OF_RANGE);
    }
    let too_many = unmap_ranges(&mut rig, &[(0, 1); 257]);
    assert_eq!((too_many.refused(), too_many.field()), (INVALID_PARAMETER, Some((2, None))));
    let list = encode_unmap_list(&[(0, 1), (1, 1)]).unwrap();
    for length in 1..list.len() {
        assert_eq!(unmap(&mut rig, &list[..length]).refused(), LIST_LENGTH);
    }
    assert_eq!(rig.ask(&[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &list[..24], 0).refused(), LIST_LENGTH);
    assert_eq!(rig.ask(&[0x42, 1, 0, 0, 0, 0, 0, 0, 40, 0], &list, 0).field(), Some((1, Some(0))));
    assert_eq!(rig.seen(), []);
}

#[test]
fn parameter_lists_of_any_length_are_answered() {
    let mut rig = Rig::new();
    for length in 0..=64 {
        for byte in [0, 0x10, 0xff] {
            unmap(&mut rig, &vec![byte; length]);
        }
    }
}

#[test]
fn a_full_disk_cannot_unmap() {
    let mut rig = full();
    assert_eq!(unmap_ranges(&mut rig, &[(0, 1)]).refused(), INVALID_OPCODE);
    for opcode in SAMES {
        let cdb = with(cdb(opcode, 0, 1), 1, UNMAP);
        assert_eq!(rig.ask(&cdb, &[0; 512], 0).field(), Some((1, Some(3))));
    }
    let mut thick = Rig::with(Options { thin: false, ..Options::default() }, |_| {});
    assert_eq!(unmap_ranges(&mut thick, &[(0, 1)]).refused(), INVALID_OPCODE);
}

#[test]
fn a_pattern_is_written_to_every_block() {
    for opcode in SAMES {
        let mut rig = Rig::new();
        rig.write(0, &[9; 512]);
        rig.ask(&cdb(opcode, 1, 1200), &pattern(1), 0).good();
        assert_eq!(rig.read(1, 1200), pattern(1).repeat(1200));
        assert_eq!((rig.read(0, 1), rig.read(1201, 1)), (vec![9; 512], vec![0; 512]));
        // UNMAP is only a permission: these blocks would not read back the same.
        rig.ask(&with(cdb(opcode, 0, 2), 1, UNMAP), &[5; 512], 0).good();
        assert_eq!(rig.read(0, 2), [5; 1024]);
    }
}

#[test]
fn a_pattern_is_written_in_transfers_that_the_store_takes() {
    let mut rig = Rig::with(Options::default(), |caps| caps.max_transfer = 1024);
    rig.ask(&cdb(Opcode::WRITE_SAME_10, 1, 3), &pattern(1), 0).good();
    assert_eq!(rig.seen(), [Seen::Write(512, 1024, false), Seen::Write(1536, 512, false)]);
    assert_eq!(rig.read(1, 2), pattern(1).repeat(2));
}

#[test]
fn zeroes_are_left_to_the_store() {
    for opcode in SAMES {
        let mut rig = Rig::new();
        rig.write(0, &[9; 4096]);
        rig.seen();
        rig.ask(&cdb(opcode, 0, 2), &[0; 512], 0).good();
        rig.ask(&with(cdb(opcode, 2, 2), 1, UNMAP), &[0; 512], 0).good();
        assert_eq!(rig.seen(), [Seen::Zero(0, 1024, false), Seen::Zero(1024, 1024, true)]);
        assert_eq!(rig.read(0, 8), [[0; 2048], [9; 2048]].concat());
    }
}

#[test]
fn write_same_without_data_out() {
    for (mut rig, unmap) in [(Rig::new(), UNMAP), (full(), 0)] {
        rig.write(0, &[9; 2048]);
        rig.seen();
        let answer = rig.ask(&with(cdb(Opcode::WRITE_SAME_16, 1, 2), 1, NDOB | unmap), &[], 0);
        assert_eq!(answer.outcome.wanted_out, 0);
        answer.good();
        assert_eq!(rig.seen(), [Seen::Zero(512, 1024, unmap != 0)]);
        assert_eq!(rig.read(0, 4), [[9; 512], [0; 512], [0; 512], [9; 512]].concat());
        assert_eq!(
            rig.ask(&with(cdb(Opcode::WRITE_SAME_10, 1, 2), 1, NDOB), &[], 0).refused(),
            INVALID_FIELD
        );
    }
}

#[test]
fn data_out_is_one_block() {
    let mut rig = Rig::new();
    for opcode in SAMES {
        for length in [0, 256, 511, 513, 1024] {
            assert_eq!(rig.ask(&cdb(opcode, 0, 1), &vec![1; length], 0).refused(), INVALID_FIELD);
        }
        for bits in [ANCHOR, ANCHOR | UNMAP, 0x20, 0xe0, 0x06] {
            assert_eq!(rig.ask(&with(cdb(opcode, 0, 1), 1, bits), &[1; 512], 0).refused(), INVALID_FIELD);
        }
    }
    assert_eq!(rig.seen(), []);
}

#[test]
fn write_same_names_its_blocks() {
    let mut rig = Rig::new();
    for opcode in SAMES {
        for (lba, bits) in [(0, 0), (0, UNMAP), (BLOCKS - 3, UNMAP), (BLOCKS - 1, 0)] {
            rig.ask(&with(cdb(opcode, lba, 0), 1, bits), &[0; 512], 0).good();
            assert_eq!(rig.seen(), [Seen::Zero(lba * 512, SIZE - lba * 512, bits != 0)]);
        }
        for (lba, blocks) in
            [(BLOCKS, 0), (BLOCKS + 1, 0), (BLOCKS, 1), (BLOCKS - 1, 2), (0, BLOCKS as u32 + 1)]
        {
            assert_eq!(rig.ask(&cdb(opcode, lba, blocks), &[0; 512], 0).refused(), OUT_OF_RANGE);
        }
    }
    assert_eq!(rig.seen(), []);
}

#[test]
fn the_maximum_write_same_length_holds() {
    use lunette_store::ram::Ram;
    const MAXIMUM: u32 = 8 << 20;
    let large = std::sync::Arc::new(Ram::new(5 << 30).unwrap());
    let mut rig = Rig::over(Options::default(), large, |_| {});
    let limits = rig.ask(&[0x12, 1, 0xb0, 0, 64, 0], &[], 64).good();
    assert_eq!(limits[36..44], u64::from(MAXIMUM).to_be_bytes());
    let zero = |lba, blocks| cdb(Opcode::WRITE_SAME_16, lba, blocks);
    rig.ask(&zero(1, MAXIMUM), &[0; 512], 0).good();
    assert_eq!(rig.seen().len(), 4, "in steps of 1 GiB");
    assert_eq!(rig.ask(&zero(1, MAXIMUM + 1), &[0; 512], 0).field(), Some((10, None)));
    assert_eq!(rig.ask(&zero(0, 0), &[0; 512], 0).field(), Some((10, None)), "all that follow");
}

#[test]
fn discards_that_do_not_read_as_zero_are_not_called_so() {
    let mut rig = Rig::with(Options::default(), |caps| {
        caps.discard = Some(Discard { granularity: 65536, reads_zero: false });
    });
    let capacity = rig.ask(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[], 32).good();
    assert_eq!(capacity[14], 0x80, "LBPME without LBPRZ");
    let page = rig.ask(&[0x12, 1, 0xb2, 0, 255, 0], &[], 255).good();
    assert_eq!(page[5..7], [0xe0, 0x02]);
    let limits = rig.ask(&[0x12, 1, 0xb0, 0, 255, 0], &[], 255).good();
    assert_eq!(limits[28..36], [0, 0, 0, 128, 0x80, 0, 0, 0]);
}
