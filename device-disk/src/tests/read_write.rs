//! READ, WRITE, READ CAPACITY, and where a medium ends.

use crate::Options;
use crate::testing::*;
use lunette_engine::Residual;
use lunette_scsi::{Capacity, Opcode};
use lunette_store::Size;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use std::sync::Arc;

const READS: [Opcode; 4] = [Opcode::READ_6, Opcode::READ_10, Opcode::READ_12, Opcode::READ_16];
const WRITES: [Opcode; 4] = [Opcode::WRITE_6, Opcode::WRITE_10, Opcode::WRITE_12, Opcode::WRITE_16];
const BLOCKS: u64 = SIZE / 512;

#[test]
fn what_is_written_is_read_whatever_the_form() {
    for (write, read) in WRITES.into_iter().zip(READS) {
        let mut rig = Rig::new();
        let data = pattern(3);
        assert_eq!(rig.ask(&cdb(write, 7, 3), &data, 0).outcome.moved_out, 1536);
        assert_eq!(rig.ask(&cdb(read, 7, 3), &[], 1536).good(), data);
        assert_eq!(rig.ask(&cdb(read, BLOCKS - 1, 1), &[], 512).good(), [0; 512], "the last block");
    }
}

#[test]
fn a_length_of_zero_is_256_blocks_in_the_6_byte_form_only() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&cdb(Opcode::READ_6, 0, 0), &[], 1 << 20).good().len(), 256 * 512);
    for opcode in &READS[1..] {
        assert_eq!(rig.ask(&cdb(*opcode, 0, 0), &[], 512).good(), b"");
    }
    assert_eq!(rig.seen(), [Seen::Read(0, 131_072)]);
}

#[test]
fn nothing_lies_beyond_the_end() {
    let mut rig = Rig::new();
    for opcode in READS.into_iter().chain(WRITES) {
        for (lba, blocks) in [(BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS + 1, 1)] {
            let data = pattern(2);
            assert_eq!(rig.ask(&cdb(opcode, lba, blocks), &data, 1024).refused(), OUT_OF_RANGE, "{opcode:?}");
        }
    }
    for lba in [BLOCKS + 1, 1 << 63, u64::MAX] {
        assert_eq!(rig.ask(&cdb(Opcode::READ_16, lba, 0), &[], 0).refused(), OUT_OF_RANGE);
        assert_eq!(rig.ask(&cdb(Opcode::WRITE_16, lba, u32::MAX), &[], 0).refused(), OUT_OF_RANGE);
    }
    rig.ask(&cdb(Opcode::READ_16, BLOCKS, 0), &[], 0).good();
    rig.ask(&cdb(Opcode::WRITE_10, BLOCKS, 0), &[], 0).good();
    assert_eq!(rig.seen(), []);
}

#[test]
fn more_than_the_maximum_transfer_is_refused() {
    let mut rig = Rig::with(Options::default(), |caps| caps.max_transfer = 16 * 512);
    rig.ask(&cdb(Opcode::READ_10, 0, 16), &[], 8192).good();
    for (opcode, at) in [(Opcode::READ_10, 7), (Opcode::WRITE_12, 6), (Opcode::READ_16, 10)] {
        let answer = rig.ask(&cdb(opcode, 0, 17), &[], 8704);
        assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((at, None))));
    }
}

#[test]
fn protection_and_reserved_bits_are_refused() {
    let mut rig = Rig::new();
    for opcode in READS[1..].iter().chain(&WRITES[1..]) {
        let one = cdb(*opcode, 0, 1);
        for protect in 1..8 {
            let answer = rig.ask(&with(one.clone(), 1, protect << 5), &pattern(1), 512);
            assert_eq!(answer.refused(), INVALID_FIELD);
            assert_eq!(answer.field().unwrap().0, 1);
        }
        let linked = with(one.clone(), one.len() - 1, 0x01);
        assert_eq!(rig.ask(&linked, &pattern(1), 512).field(), Some((one.len() as u16 - 1, Some(0))));
        for flags in [0x10, 0x08, 0x02, 0x18] {
            rig.ask(&with(one.clone(), 1, flags), &pattern(1), 512).good();
        }
    }
}

#[test]
fn residuals_count_both_ways() {
    let mut rig = Rig::new();
    rig.write(0, &pattern(4));
    let read = |rig: &mut Rig, blocks, room: usize| {
        let answer = rig.ask(&cdb(Opcode::READ_10, 0, blocks), &[], room);
        let residual = answer.outcome.residual_in(room as u64);
        (answer.good(), residual)
    };
    assert_eq!(read(&mut rig, 1, 2000), (pattern(4)[..512].to_vec(), Residual::Underflow(1488)));
    assert_eq!(read(&mut rig, 1, 200), (pattern(4)[..200].to_vec(), Residual::Overflow(312)));
    assert_eq!(read(&mut rig, 2, 0), (Vec::new(), Residual::Overflow(1024)));
    assert_eq!(read(&mut rig, 4, 1100), (pattern(4)[..1100].to_vec(), Residual::Overflow(948)));
    assert_eq!(read(&mut rig, 2000, 700_001).1, Residual::Overflow(2000 * 512 - 700_001));

    let answer = rig.ask(&cdb(Opcode::WRITE_10, 0, 2), &[0xbb; 700], 0);
    assert_eq!(answer.outcome.residual_out(700), Residual::Overflow(324));
    answer.good();
    assert_eq!(rig.read(0, 2), [&[0xbb; 512][..], &pattern(4)[512..1024]].concat(), "only whole blocks");
    let answer = rig.ask(&cdb(Opcode::WRITE_10, 0, 1), &[0xcc; 1024], 0);
    assert_eq!(answer.outcome.residual_out(1024), Residual::Underflow(512));
    assert_eq!(rig.read(0, 2), [&[0xcc; 512][..], &pattern(4)[512..1024]].concat());
    let answer = rig.ask(&cdb(Opcode::WRITE_10, 0, 1), &[], 0);
    assert_eq!(answer.outcome.residual_out(0), Residual::Overflow(512));
    answer.good();
}

#[test]
fn blocks_of_4096_bytes() {
    let mut rig = Rig::with(Options { block_length: 4096, ..Options::default() }, |_| {});
    rig.write(3, &pattern(8));
    assert_eq!(rig.read(3, 1), pattern(8));
    assert_eq!(rig.seen(), [Seen::Write(3 * 4096, 4096, false), Seen::Read(3 * 4096, 4096)]);
    let capacity = rig.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8).good();
    assert_eq!(capacity, [0, 0, 0, 255, 0, 0, 16, 0]);
    assert_eq!(rig.ask(&cdb(Opcode::READ_10, 256, 1), &[], 4096).refused(), OUT_OF_RANGE);
}

fn read_capacity_16(rig: &mut Rig, allocation_length: u8) -> Vec<u8> {
    let cdb = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, allocation_length, 0, 0];
    rig.ask(&cdb, &[], 255).good()
}

#[test]
fn capacity() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8).good(), [0, 0, 7, 255, 0, 0, 2, 0]);
    assert_eq!(rig.ask(&[0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0], &[], 8).field(), Some((5, Some(0))));
    let capacity = Capacity::parse_16(&read_capacity_16(&mut rig, 32)).unwrap();
    let expected = Capacity {
        last_lba: 2047,
        block_length: 512,
        physical_block_exponent: 3,
        provisioned: true,
        read_zeros: true,
        ..Capacity::default()
    };
    assert_eq!(capacity, expected);
    for length in 0..=40 {
        assert_eq!(read_capacity_16(&mut rig, length).len(), usize::from(length.min(32)));
    }
}

#[test]
fn capacities_beyond_32_bits() {
    const LARGE: u64 = 3 << 40;
    let mut rig = Rig::over(Options::default(), Arc::new(Ram::new(LARGE).unwrap()), |_| {});
    let ten = rig.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8).good();
    assert_eq!(ten, [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
    let sixteen = Capacity::parse_16(&read_capacity_16(&mut rig, 32)).unwrap();
    assert_eq!(sixteen.last_lba, LARGE / 512 - 1);
    let last = sixteen.last_lba;
    rig.write(last, &pattern(1));
    assert_eq!(rig.read(last, 1), pattern(1));
    assert_eq!(rig.ask(&cdb(Opcode::READ_16, last, 2), &[], 1024).refused(), OUT_OF_RANGE);
}

#[test]
fn a_read_only_store_refuses_every_write() {
    let read_only = Arc::new(Ram::new(SIZE).unwrap().read_only());
    let mut rig = Rig::over(Options::default(), read_only, |_| {});
    let writes = WRITES.into_iter().chain([
        Opcode::WRITE_AND_VERIFY_10,
        Opcode::WRITE_AND_VERIFY_12,
        Opcode::WRITE_AND_VERIFY_16,
        Opcode::WRITE_SAME_10,
        Opcode::WRITE_SAME_16,
    ]);
    for opcode in writes {
        assert_eq!(rig.ask(&cdb(opcode, 0, 1), &pattern(1), 0).refused(), PROTECTED, "{opcode:?}");
    }
    assert_eq!(rig.ask(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &[0; 24], 0).refused(), PROTECTED);
    rig.ask(&cdb(Opcode::SYNCHRONIZE_CACHE_10, 0, 0), &[], 0).good();
    assert_eq!(rig.read(0, 1), [0; 512]);
    let mode = rig.ask(&[0x1a, 0x08, 0x3f, 0, 255, 0], &[], 255).good();
    assert_eq!(mode[2], 0x90, "WP and DPOFUA");
}

#[test]
fn failures_of_the_store_become_sense_data() {
    let faults = "eio:4096+short:8292+enospc:16384".parse().unwrap();
    let store = Arc::new(Fault::new(Arc::new(Ram::new(SIZE).unwrap()), faults));
    let mut rig = Rig::over(Options::default(), store, |_| {});
    let one = rig.ask(&cdb(Opcode::READ_10, 8, 1), &[], 512);
    assert_eq!((one.refused(), one.information()), ((3, 0x11, 0), Some(8)));
    let many = rig.ask(&cdb(Opcode::READ_10, 0, 16), &[], 8192);
    assert_eq!((many.refused(), many.information()), ((3, 0x11, 0), None), "nobody knows which block");
    let short = rig.ask(&cdb(Opcode::READ_10, 15, 4), &[], 2048);
    assert_eq!((short.refused(), short.information()), ((3, 0x11, 0), Some(16)));
    let write = rig.ask(&cdb(Opcode::WRITE_10, 8, 1), &pattern(1), 0);
    assert_eq!((write.refused(), write.information()), ((3, 0x0c, 0), Some(8)));
    assert_eq!(rig.ask(&cdb(Opcode::WRITE_10, 32, 1), &pattern(1), 0).refused(), (7, 0x27, 7));
}

#[test]
fn a_store_that_does_not_suit_is_named() {
    use crate::{Disk, OptionsError};
    let caps = |size, logical_block| {
        let mut caps = lunette_store::Backing::caps(&Ram::new(4096).unwrap()).clone();
        (caps.size, caps.logical_block) = (Size::from(size), logical_block);
        caps
    };
    let error =
        |block_length, caps| Disk::new(&Options { block_length, ..Options::default() }, &caps).unwrap_err();
    assert_eq!(error(520, caps(1 << 20, 1)), OptionsError::BlockLength(520));
    assert_eq!(error(512, caps(1 << 20, 4096)), OptionsError::BlockTooSmall { asked: 512, store: 4096 });
    assert_eq!(error(4096, caps(512, 1)), OptionsError::Empty { size: 512, block_length: 4096 });
    assert_eq!(error(512, caps(1000, 1)), OptionsError::NotWholeBlocks { size: 1000, block_length: 512 });
}
