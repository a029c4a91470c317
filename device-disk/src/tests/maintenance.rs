//! PRE-FETCH and READ DEFECT DATA.

use crate::testing::*;
use lunette_scsi::Opcode;

#[test]
fn pre_fetch_looks_at_the_range_only() {
    let mut rig = Rig::new();
    for opcode in [Opcode::PRE_FETCH_10, Opcode::PRE_FETCH_16] {
        for (lba, blocks) in [(0, 0), (0, 1), (2047, 1), (2048, 0), (0, 2048)] {
            rig.ask(&cdb(opcode, lba, blocks), &[], 0).good();
            let group = if opcode == Opcode::PRE_FETCH_10 { 6 } else { 14 };
            rig.ask(&with(with(cdb(opcode, lba, blocks), 1, 0x02), group, 0x3f), &[], 0).good();
        }
        for (lba, blocks) in [(2048, 1), (2049, 0), (1, 2048)] {
            assert_eq!(rig.ask(&cdb(opcode, lba, blocks), &[], 0).refused(), OUT_OF_RANGE);
        }
    }
    assert_eq!(rig.seen(), []);
}

#[test]
fn there_are_no_known_defects() {
    let mut rig = Rig::new();
    for asked in 0..0x20 {
        let ten = rig.ask(&[0x37, 0, asked, 0, 0, 0, 0, 0, 32, 0], &[], 32);
        let twelve = rig.ask(&[0xb7, asked, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[], 32);
        if asked & 0b111 < 0b110 {
            assert_eq!(ten.good(), [0, asked, 0, 0]);
            assert_eq!(twelve.good(), [0, asked, 0, 0, 0, 0, 0, 0]);
        } else {
            assert_eq!((ten.field(), twelve.field()), (Some((2, Some(2))), Some((1, Some(2)))));
        }
    }
    assert_eq!(rig.ask(&[0x37, 0, 0x18, 0, 0, 0, 0, 0, 2, 0], &[], 32).good(), [0, 0x18]);
}
