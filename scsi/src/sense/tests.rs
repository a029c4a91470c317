use proptest::option;
use proptest::prelude::*;

use super::*;

fn specific_for(key: SenseKey) -> BoxedStrategy<Option<SenseKeySpecific>> {
    let pointer = || (any::<bool>(), any::<u16>(), option::of(0u8..8));
    match key.0 {
        0x5 => option::of(pointer().prop_map(|(in_cdb, byte, bit)| SenseKeySpecific::FieldPointer {
            in_cdb,
            byte,
            bit,
        }))
        .boxed(),
        0xa => option::of(pointer().prop_map(|(in_segment_descriptor, byte, bit)| {
            SenseKeySpecific::SegmentPointer { in_segment_descriptor, byte, bit }
        }))
        .boxed(),
        0x0 | 0x2 => option::of(any::<u16>().prop_map(SenseKeySpecific::Progress)).boxed(),
        0x1 | 0x3 | 0x4 => option::of(any::<u16>().prop_map(SenseKeySpecific::ActualRetryCount)).boxed(),
        0x6 => {
            option::of(any::<bool>().prop_map(|overflow| SenseKeySpecific::UnitAttentionQueue { overflow }))
                .boxed()
        }
        _ => Just(None).boxed(),
    }
}

prop_compose! {
    fn any_sense()(key in (0u8..16).prop_map(SenseKey))(
        specific in specific_for(key),
        key in Just(key),
        asc in any::<u8>(),
        ascq in any::<u8>(),
        deferred in any::<bool>(),
        information in option::of(any::<u64>()),
        command_specific in option::of(any::<u64>()),
        field_replaceable_unit in any::<u8>(),
        flags in prop::sample::select(vec![0u8, 0x01, 0x20, 0x80, 0x40, 0xc0, 0xa0]),
    ) -> Sense {
        Sense {
            key,
            additional: AdditionalSense::new(asc, ascq),
            deferred,
            information,
            command_specific,
            field_replaceable_unit,
            sense_key_specific: specific,
            flags: SenseFlags::from_bits_retain(flags),
        }
    }
}

proptest! {
    #[test]
    fn descriptor_format_keeps_everything(sense in any_sense()) {
        prop_assert_eq!(Sense::parse(&sense.to_descriptor()), Some(sense));
    }

    #[test]
    fn fixed_format_keeps_what_fits(mut sense in any_sense()) {
        sense.information = sense.information.map(|value| value & 0x7fff_ffff);
        sense.command_specific = sense.command_specific.map(|value| 1 + (value & 0xffff));
        sense.flags.remove(SenseFlags::BLOCK_ILI);
        prop_assert_eq!(Sense::parse(&sense.to_fixed()), Some(sense));
    }

    #[test]
    fn a_truncated_encoding_keeps_key_and_code(sense in any_sense(), cut in 0usize..64) {
        for format in [SenseFormat::Fixed, SenseFormat::Descriptor] {
            let bytes = sense.encode(format);
            let bytes = &bytes[..bytes.len().min(14 + cut)];
            let parsed = Sense::parse(bytes).unwrap();
            prop_assert_eq!((parsed.key, parsed.additional), (sense.key, sense.additional));
        }
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), code in 0x70u8..0x75) {
        let _ = Sense::parse(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = code;
        }
        let _ = Sense::parse(&bytes).map(|sense| sense.to_string());
        prop_assert!(SenseBytes::from_slice(&bytes).len() <= SenseBytes::CAPACITY);
    }
}

#[test]
fn fixed_layout() {
    let sense =
        Sense::invalid_field_in_cdb(2, Some(5)).with_information(0x0102_0304).with_command_specific(0x0506);
    assert_eq!(
        *sense.to_fixed(),
        [0xf0, 0, 5, 1, 2, 3, 4, 10, 0, 0, 5, 6, 0x24, 0, 0, 0xcd, 0, 2],
        "response code, key, information, length, command specific, code, field pointer"
    );
}

#[test]
fn descriptor_layout() {
    let sense = Sense::invalid_field_in_parameter_list(0x0102, None).with_information(7);
    assert_eq!(
        *sense.to_descriptor(),
        [0x72, 5, 0x26, 0, 0, 0, 0, 20, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 7, 2, 6, 0, 0, 0x80, 1, 2, 0]
    );
    assert_eq!(Sense::miscompare(1).deferred().to_descriptor()[0], 0x73);
}

#[test]
fn wide_information_is_not_valid_in_fixed_format() {
    let sense = Sense::medium_error(AdditionalSense::UNRECOVERED_READ_ERROR).with_information(1 << 32);
    let bytes = sense.to_fixed();
    assert_eq!(bytes[0], 0x70);
    assert_eq!(bytes[3..7], [0; 4]);
    assert_eq!(Sense::parse(&sense.to_descriptor()).unwrap().information, Some(1 << 32));
}

#[test]
fn residues_of_stream_commands_are_signed() {
    let residue = (-3i64).cast_unsigned();
    let sense = Sense::new(SenseKey::NO_SENSE, AdditionalSense::FILEMARK_DETECTED)
        .with_flags(SenseFlags::FILEMARK)
        .with_information(residue);
    let bytes = sense.to_fixed();
    assert_eq!((bytes[0], bytes[2]), (0xf0, 0x80));
    assert_eq!(bytes[3..7], [0xff, 0xff, 0xff, 0xfd]);
    assert_eq!(Sense::parse(&bytes), Some(sense));
    assert_eq!(sense.with_information(u64::from(u32::MAX)).to_fixed()[0], 0x70);
}

#[test]
fn the_combined_block_descriptor_is_understood() {
    let mut bytes = vec![0x72, 3, 0x11, 0, 0, 0, 0, 32, 0x0d, 30, 0xa0, 0, 0x80, 0, 9, 4];
    bytes.extend(77u64.to_be_bytes());
    bytes.extend(5u64.to_be_bytes());
    bytes.extend([0; 8]);
    let expected = Sense {
        field_replaceable_unit: 4,
        command_specific: Some(5),
        ..Sense::medium_error(AdditionalSense::UNRECOVERED_READ_ERROR)
            .with_information(77)
            .with_flags(SenseFlags::BLOCK_ILI)
            .with_specific(SenseKeySpecific::ActualRetryCount(9))
    };
    assert_eq!(Sense::parse(&bytes), Some(expected));
}

#[test]
fn what_is_no_sense_data_is_refused() {
    for bytes in [&[][..], &[0x70], &[0x70, 0], &[0x72], &[0x74, 0, 0, 0], &[0x7f; 18]] {
        assert_eq!(Sense::parse(bytes), None, "{bytes:02x?}");
    }
}

#[test]
fn display() {
    let sense = Sense::invalid_field_in_cdb(14, Some(7)).with_information(16).deferred();
    assert_eq!(
        sense.to_string(),
        "deferred ILLEGAL REQUEST, 24h/00h INVALID FIELD IN CDB, information 0x10, CDB byte 14 bit 7"
    );
    let formatting =
        Sense::not_ready(AdditionalSense::LOGICAL_UNIT_NOT_READY_FORMAT_IN_PROGRESS).with_progress(0x8000);
    assert!(formatting.to_string().ends_with(", 50 % done"));
}
