//! EXTENDED COPY(LID1) within a disk, and what RECEIVE COPY STATUS(LID1) says of it.

use crate::testing::*;
use lunette_scsi::inquiry::SpcVersion;
use lunette_scsi::{Designator, Identifier, Naa};

const COPY_ABORTED: u8 = 0x0a;

/// A segment of `count` blocks (type 02h) or bytes with an offset (type 0Ah).
pub(super) fn segment(kind: u8, count: u32, from: u64, to: u64, offsets: [u16; 2]) -> Vec<u8> {
    let length = if kind == 0x0a { 0x1c } else { 0x18 };
    let mut out = vec![kind, 0, 0, length, 0, 0, 0, 0];
    out.extend(count.to_be_bytes());
    out.extend(from.to_be_bytes());
    out.extend(to.to_be_bytes());
    out.extend(offsets.iter().flat_map(|offset| offset.to_be_bytes()));
    out.truncate(usize::from(length) + 4);
    out
}

pub(super) fn list(id: u8, segments: &[Vec<u8>]) -> Vec<u8> {
    let segments = segments.concat();
    let mut out = vec![id, 0, 0, 32, 0, 0, 0, 0];
    out.extend((segments.len() as u32).to_be_bytes());
    out.extend([0; 4]);
    let mut cscd = vec![0xe4, 0, 0, 0];
    cscd.extend(Designator::logical_unit(Identifier::Naa(Naa::locally_assigned(1))).encode());
    cscd.resize(32, 0);
    cscd[30] = 2;
    [out, cscd, segments].concat()
}

fn copy(rig: &mut Rig, list: &[u8]) -> Answer {
    let mut cdb = [0; 16];
    cdb[0] = 0x83;
    cdb[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
    rig.ask(&cdb, list, 0)
}

fn status(rig: &mut Rig, id: u8) -> Answer {
    rig.ask(&[0x84, 0, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], &[], 64)
}

#[test]
fn blocks_are_copied() {
    let mut rig = Rig::new();
    let data = pattern(1000);
    rig.write(0, &data);
    let segments = [segment(0x02, 1000, 0, 1001, [0, 0]), segment(0x0a, 1024, 1, 2002, [512, 1024])];
    copy(&mut rig, &list(1, &segments)).good();
    assert!(rig.read(1001, 1000) == data);
    assert!(rig.read(2004, 2) == data[1024..2048]);
    assert_eq!(rig.read(2002, 2), [0; 1024]);
}

#[test]
fn overlapping_blocks_arrive_whole() {
    for (from, to) in [(0, 100), (100, 0)] {
        let mut rig = Rig::new();
        let data = pattern(1500);
        rig.write(from, &data);
        copy(&mut rig, &list(1, &[segment(0x02, 1500, from, to, [0, 0])])).good();
        assert!(rig.read(to, 1500) == data);
    }
}

#[test]
fn the_status_is_told_once() {
    let mut rig = Rig::new();
    assert_eq!(
        (status(&mut rig, 5).refused(), status(&mut rig, 5).field()),
        (INVALID_FIELD, Some((2, None)))
    );
    copy(&mut rig, &list(5, &[segment(0x02, 2, 0, 9, [0, 0])])).good();
    assert_eq!(status(&mut rig, 4).refused(), INVALID_FIELD);
    assert_eq!(status(&mut rig, 5).good(), [0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 4, 0]);
    assert_eq!(status(&mut rig, 5).refused(), INVALID_FIELD);
    let outside = [segment(0x02, 1, 0, 1, [0, 0]), segment(0x02, 1, 0, SIZE, [0, 0])];
    let failed = copy(&mut rig, &list(5, &outside));
    assert_eq!(failed.refused(), (COPY_ABORTED, 0, 0));
    assert_eq!(failed.outcome.sense.unwrap().command_specific, Some(1), "the second segment");
    assert_eq!(status(&mut rig, 5).good(), [0, 0, 0, 8, 2, 0, 2, 0, 0, 0, 2, 0]);
    copy(&mut rig, &list(6, &[])).good();
    rig.reset();
    assert_eq!(status(&mut rig, 6).refused(), INVALID_FIELD);
}

fn details(rig: &mut Rig, id: u8, room: u8) -> Answer {
    rig.ask(&[0x84, 4, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, room, 0, 0], &[], room.into())
}

#[test]
fn why_a_copy_has_failed_is_told_until_it_was_heard() {
    let mut rig = Rig::new();
    assert_eq!(details(&mut rig, 5, 255).refused(), INVALID_FIELD);
    copy(&mut rig, &list(5, &[segment(0x02, 2, 0, 9, [0, 0])])).good();
    assert_eq!(details(&mut rig, 5, 255).good(), [0; 4], "it has not failed");
    copy(&mut rig, &list(5, &[segment(0x0a, 100, 0, 9, [0, 0])])).refused();
    assert_eq!(details(&mut rig, 5, 77).good().len(), 77);
    assert_eq!(status(&mut rig, 5).good()[4..7], [2, 0, 1]);
    let whole = details(&mut rig, 5, 255).good();
    assert_eq!((whole.len(), &whole[..4]), (78, &[0, 0, 0, 74][..]));
    assert_eq!((whole[56], whole[59], whole[62], &whole[72..74]), (2, 18, COPY_ABORTED, &[0x26, 0x0d][..]));
    assert_eq!(details(&mut rig, 5, 255).refused(), INVALID_FIELD, "all has been told");
    copy(&mut rig, &list(5, &[segment(0x0a, 100, 0, 9, [0, 0])])).refused();
    details(&mut rig, 5, 0).good();
    assert_eq!(details(&mut rig, 5, 255).good(), [0; 4], "nobody wants to hear");
}

#[test]
fn a_block_length_may_be_left_open() {
    let mut rig = Rig::new();
    rig.write(0, &pattern(2));
    let mut list = list(1, &[segment(0x02, 2, 0, 9, [0, 0])]);
    list[45..48].fill(0);
    copy(&mut rig, &list).good();
    assert!(rig.read(9, 2) == pattern(2));
}

#[test]
fn what_is_copied_from_the_end_on_counts_when_it_is_there() {
    let mut rig = Rig::new();
    copy(&mut rig, &list(1, &[segment(0x02, 1500, 0, 100, [0, 0])])).good();
    assert_eq!(status(&mut rig, 1).good()[4..], [1, 0, 1, 0, 0, 0x0b, 0xb8, 0]);
}

#[test]
fn what_cannot_be_copied() {
    let mut rig = Rig::new();
    let mut refusal = |segment| copy(&mut rig, &list(1, &[segment])).refused();
    assert_eq!(refusal(segment(0x0a, 100, 0, 9, [0, 0])), (COPY_ABORTED, 0x26, 0x0d));
    assert_eq!(refusal(segment(0x0a, 512, 0, 9, [0, 7])), (COPY_ABORTED, 0x26, 0x0d));
    assert_eq!(refusal(segment(0x02, 1, u64::MAX, 9, [0, 0])), (COPY_ABORTED, 0, 0));
    assert_eq!(refusal(segment(0x0a, 512 << 20, 0, 9, [0, 0])), (COPY_ABORTED, 0x26, 0));
    let mut wrong = list(1, &[segment(0x02, 1, 0, 9, [0, 0])]);
    wrong[17] = 1;
    assert_eq!(copy(&mut rig, &wrong).refused(), (COPY_ABORTED, 0x0d, 0x03));
    wrong[17] = 0;
    wrong[46] = 0x10;
    assert_eq!(copy(&mut rig, &wrong).refused(), (COPY_ABORTED, 0x26, 0));
}

#[test]
fn a_null_device_of_spc_3_is_out_of_reach() {
    let mut null = list(1, &[segment(0x02, 1, 0, 9, [0, 0])]);
    null[17] = 0x20;
    assert_eq!(copy(&mut Rig::new(), &null).refused(), (5, 0x26, 0));
    assert_eq!(copy(&mut Rig::claiming(SpcVersion::SPC_3), &null).refused(), (COPY_ABORTED, 0x0d, 0x02));
}

#[test]
fn nothing_is_written_where_that_is_forbidden() {
    let mut rig = Rig::with(crate::Options::default(), |caps| caps.read_only = true);
    let refused = copy(&mut rig, &list(1, &[segment(0x02, 1, 0, 9, [0, 0])])).refused();
    assert_eq!(refused, (COPY_ABORTED, 0x0d, 0x01));
    assert_eq!(rig.seen(), []);
}

#[test]
fn no_list_is_no_error() {
    copy(&mut Rig::new(), &[]).good();
}

#[test]
fn without_the_command_there_is_no_copy_manager() {
    let mut rig = Rig::filtered("deny:extended-copy-lid1");
    assert_eq!(rig.ask(&[0x12, 0, 0, 0, 96, 0], &[], 96).good()[5] & 0x08, 0);
    assert_eq!(rig.ask(&[0x12, 1, 0x8f, 0, 255, 0], &[], 255).refused(), INVALID_FIELD);
}
