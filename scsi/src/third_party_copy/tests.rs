use super::*;
use crate::SenseKey;
use crate::designator::{Identifier, Naa};
use proptest::prelude::*;

const LIMITS: CopyLimits = CopyLimits {
    cscds: 2,
    segments: 3,
    list_length: 160,
    segment_length: 1 << 20,
    concurrent: 7,
    granularity: 9,
};

fn naa() -> Designator {
    Designator::logical_unit(Identifier::Naa(Naa::locally_assigned(7)))
}

fn cscd() -> Vec<u8> {
    let mut bytes = vec![0xe4, 0xc0, 0, 0];
    bytes.extend(naa().encode());
    bytes.resize(CSCD, 0);
    bytes[30] = 2;
    bytes
}

fn segment() -> Vec<u8> {
    let mut bytes = vec![0x02, 0x02, 0, 0x18, 0, 1, 0xff, 0xff, 0, 0, 0x12, 0x34];
    bytes.extend(5u64.to_be_bytes());
    bytes.extend(6u64.to_be_bytes());
    bytes
}

fn segment_with_offset() -> Vec<u8> {
    let mut bytes = segment();
    bytes[0] = 0x0a;
    bytes[3] = 0x1c;
    bytes.extend([0, 8, 0, 9]);
    bytes
}

fn list(cscds: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (cscds, segments) = (cscds.concat(), segments.concat());
    let mut out = vec![0; HEADER];
    out[0] = 3;
    put(&mut out, 2, &(cscds.len() as u16).to_be_bytes());
    put(&mut out, 8, &(segments.len() as u32).to_be_bytes());
    [out, cscds, segments].concat()
}

fn refusal(list: &[u8]) -> (AdditionalSense, Option<u16>) {
    let sense = ExtendedCopyList::parse(list, &LIMITS, SpcVersion::SPC_4).unwrap_err();
    let byte = match sense.sense_key_specific {
        Some(SenseKeySpecific::FieldPointer { in_cdb: false, byte, .. }) => Some(byte),
        _ => None,
    };
    (sense.additional, byte)
}

#[test]
fn layout_of_a_list() {
    let bytes = list(&[cscd()], &[segment(), segment_with_offset()]);
    let list = ExtendedCopyList::parse(&bytes, &LIMITS, SpcVersion::SPC_4).unwrap();
    assert_eq!(list.list_id, Some(3));
    let device_type = PeripheralDeviceType::DISK;
    assert_eq!(
        list.cscds,
        [Cscd { device_type, designator: naa(), block_length: 512, null: false, offset: 16 }]
    );
    let source = SegmentEnd { cscd: 1, lba: 5, byte_offset: 0 };
    let destination = SegmentEnd { cscd: SegmentEnd::COPY_MANAGER, lba: 6, byte_offset: 0 };
    let first = Segment { amount: Amount::DestinationBlocks(0x1234), source, destination };
    let second = Segment {
        amount: Amount::Bytes(0x1234),
        source: SegmentEnd { byte_offset: 8, ..source },
        destination: SegmentEnd { byte_offset: 9, ..destination },
    };
    assert_eq!(list.segments, [first, second]);
}

#[test]
fn lists_that_end_too_early_or_are_too_long() {
    let whole = list(&[cscd()], &[segment()]);
    for length in 4..whole.len() {
        assert_eq!(
            refusal(&whole[..length]),
            (AdditionalSense::PARAMETER_LIST_LENGTH_ERROR, None),
            "{length}"
        );
    }
    let long = list(&vec![cscd(); 6], &[]);
    assert_eq!(refusal(&long), (AdditionalSense::PARAMETER_LIST_LENGTH_ERROR, None));
    let mut huge = whole;
    huge[8..12].fill(0xff);
    assert_eq!(refusal(&huge), (AdditionalSense::PARAMETER_LIST_LENGTH_ERROR, None));
}

#[test]
fn what_is_not_understood_is_pointed_at() {
    let with = |at: usize, byte: u8| {
        let mut bytes = list(&[cscd()], &[segment()]);
        bytes[at] = byte;
        refusal(&bytes)
    };
    assert_eq!(with(1, 0x08), (AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST, Some(1)));
    assert_eq!(with(1, 0x18), (AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST, Some(0)));
    assert_eq!(with(15, 1), (AdditionalSense::INLINE_DATA_LENGTH_EXCEEDED, Some(12)));
    assert_eq!(with(16, 0xe0), (AdditionalSense::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE, Some(16)));
    assert_eq!(with(17, 0x20), (AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST, Some(17)));
    assert_eq!(with(23, 21), (AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST, Some(23)));
    assert_eq!(with(48, 0x03), (AdditionalSense::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE, Some(48)));
    assert_eq!(with(51, 0x17), (AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST, Some(50)));
    let many = AdditionalSense::TOO_MANY_TARGET_DESCRIPTORS;
    assert_eq!(refusal(&list(&vec![cscd(); 3], &[])), (many, Some(2)));
    let many = AdditionalSense::TOO_MANY_SEGMENT_DESCRIPTORS;
    assert_eq!(refusal(&list(&[], &vec![segment(); 4])), (many, Some(8)));
    let part = cscd()[..31].to_vec();
    assert_eq!(refusal(&list(&[part], &[])), (AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST, Some(2)));
}

#[test]
fn spc_3_has_fields_that_are_obsolete_later() {
    let parse = |byte, version| {
        let mut bytes = list(&[cscd()], &[]);
        bytes[17] = byte;
        ExtendedCopyList::parse(&bytes, &LIMITS, version).map(|list| list.cscds[0].null)
    };
    assert_eq!(parse(0x20, SpcVersion::SPC_3), Ok(true));
    assert_eq!(parse(0x00, SpcVersion::SPC_3), Ok(false));
    assert_eq!(parse(0xc0, SpcVersion::SPC_4), Ok(false));
    let refused = Sense::invalid_field_in_parameter_list(17, Some(7));
    assert_eq!(parse(0x40, SpcVersion::SPC_3), Err(refused));
}

#[test]
fn a_copy_without_an_identifier() {
    let mut bytes = list(&[], &[]);
    bytes[..2].copy_from_slice(&[0, 0x18]);
    assert_eq!(ExtendedCopyList::parse(&bytes, &LIMITS, SpcVersion::SPC_4).unwrap().list_id, None);
}

#[test]
fn operating_parameters() {
    let data = LIMITS.encode_operating_parameters();
    assert_eq!(data[..12], [0, 0, 0, 43, 1, 0, 0, 0, 0, 2, 0, 3]);
    assert_eq!(data[12..20], [0, 0, 0, 160, 0, 0x10, 0, 0]);
    assert_eq!(data[34..38], [0, 7, 7, 9]);
    assert_eq!(data[43..], [3, 0x02, 0x0a, 0xe4]);
}

#[test]
fn status_in_units_that_have_room() {
    let status = |bytes| CopyStatus { state: CopyState::COMPLETED, segments: 0x102, bytes }.encode();
    assert_eq!(status(512), [0, 0, 0, 8, 1, 1, 2, 0, 0, 0, 2, 0]);
    assert_eq!(status(1 << 32)[7..], [1, 0, 0x40, 0, 0]);
    assert_eq!(status(u64::MAX)[7], 4);
}

#[test]
fn details_of_a_failure() {
    assert_eq!(encode_failure_details(None), [0; 4]);
    let sense = Sense::new(SenseKey::COPY_ABORTED, AdditionalSense::THIRD_PARTY_DEVICE_FAILURE).to_fixed();
    let details = encode_failure_details(Some(&sense));
    assert_eq!((details.len(), &details[..4]), (60 + 18, &[0, 0, 0, 74][..]));
    assert_eq!(details[56..62], [2, 0, 0, 18, 0x70, 0]);
    assert_eq!(details[60..], sense[..]);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ExtendedCopyList::parse(&bytes, &LIMITS, SpcVersion::SPC_3);
    }

    #[test]
    fn random_descriptors_never_panic(bytes in prop::collection::vec(any::<u8>(), 16..160), cscds in 0..5u16) {
        let mut bytes = bytes;
        let cscds = (cscds * 32).min((bytes.len() - 16) as u16);
        bytes[2..4].copy_from_slice(&cscds.to_be_bytes());
        let segments = bytes.len() as u32 - 16 - u32::from(cscds);
        bytes[8..12].copy_from_slice(&segments.to_be_bytes());
        let _ = ExtendedCopyList::parse(&bytes, &LIMITS, SpcVersion::SPC_3);
    }
}

#[test]
fn a_segment_that_is_cut_off_is_pointed_at_inside_the_list() {
    for there in 1..4 {
        let mut list = vec![0; 16];
        list[11] = there;
        list.extend(&[0x02, 0, 0][..there.into()]);
        let expected = Sense::invalid_field_in_parameter_list(8, None);
        assert_eq!(ExtendedCopyList::parse(&list, &LIMITS, SpcVersion::SPC_4), Err(expected), "{there}");
    }
}
