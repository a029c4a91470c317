use proptest::prelude::*;

use super::*;

fn any_identifier() -> impl Strategy<Value = Identifier> {
    prop_oneof![
        (any::<[u8; 8]>(), prop::collection::vec(any::<u8>(), 0..240))
            .prop_map(|(vendor, specific)| Identifier::T10Vendor { vendor, specific }),
        any::<[u8; 8]>().prop_map(Identifier::Eui64),
        any::<u64>().prop_map(|id| Identifier::Naa(Naa::locally_assigned(id))),
        any::<(u32, u64, u64)>()
            .prop_map(|(a, b, c)| Identifier::Naa(Naa::ieee_registered_extended(a, b, c))),
        any::<u16>().prop_map(Identifier::RelativeTargetPort),
        any::<u16>().prop_map(Identifier::TargetPortGroup),
        any::<u16>().prop_map(Identifier::LogicalUnitGroup),
        "[a-z0-9.:é-]{0,120}".prop_map(Identifier::ScsiName),
        any::<[u8; 16]>().prop_map(Identifier::Uuid),
        prop::collection::vec(any::<u8>(), 0..=255).prop_map(|bytes| Identifier::Other {
            kind: 0,
            code_set: CodeSet::ASCII,
            bytes
        }),
    ]
}

proptest! {
    #[test]
    fn designators_round_trip(
        identifier in any_identifier(),
        association in 0u8..4,
        protocol in prop::option::of(0u8..16),
    ) {
        let designator =
            Designator { association: Association(association), protocol: protocol.map(Protocol), identifier };
        let bytes = designator.encode();
        prop_assert_eq!(Designator::parse(&bytes), Ok((designator, bytes.len())));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok((designator, length)) = Designator::parse(&bytes) {
            prop_assert!(length <= bytes.len());
            prop_assert_eq!(Designator::parse(&designator.encode()).map(|(parsed, _)| parsed), Ok(designator));
        }
    }

    #[test]
    fn naa_round_trips(company: u32, id: u64, extension: u64) {
        for naa in [
            Naa::locally_assigned(id),
            Naa::ieee_registered(company, id),
            Naa::ieee_registered_extended(company, id, extension),
        ] {
            prop_assert_eq!(Naa::from_bytes(naa.as_bytes()), Ok(naa));
            prop_assert_eq!(naa.to_string().parse(), Ok(naa));
        }
    }

    #[test]
    fn naa_of_random_text_never_panics(text in "\\PC{0,40}") {
        let _ = text.parse::<Naa>();
    }
}

#[test]
fn naa_layouts() {
    assert_eq!(Naa::locally_assigned(u64::MAX).to_string(), "naa.3fffffffffffffff");
    assert_eq!(Naa::ieee_registered(0x00_1405, 0x1_2345_6789).to_string(), "naa.5001405123456789");
    assert_eq!(
        Naa::ieee_registered_extended(0x00_1405, 0xa_0b1c_2d3e, 1).to_string(),
        "naa.6001405a0b1c2d3e0000000000000001"
    );
}

#[test]
fn naa_spellings() {
    let expected = Naa::ieee_registered(0x00_1405, 0x1_2345_6789);
    for text in ["naa.5001405123456789", "0x5001405123456789", " 5001405123456789 ", "NAA.5001405123456789"] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
}

#[test]
fn naa_mistakes() {
    let wrong = |text: &str| text.parse::<Naa>().unwrap_err();
    assert_eq!(wrong("5001405"), NaaError::NotHexadecimal);
    assert_eq!(wrong("+001405123456789"), NaaError::NotHexadecimal);
    assert_eq!(wrong("4001405123456789"), NaaError::UnknownType(4));
    assert_eq!(wrong("6001405123456789"), NaaError::WrongLength { kind: 6, expected: 16, actual: 8 });
    assert!(wrong("50014051234567890000000000000000").to_string().contains("has 8 bytes, not 16"));
}

#[test]
fn scsi_names_are_ended_and_padded() {
    let length = |count| Designator::logical_unit(Identifier::ScsiName("n".repeat(count))).encode()[3];
    assert_eq!([length(3), length(4), length(251), length(300)], [4, 8, 252, 252]);
    let name = Designator::new(Association::TARGET_DEVICE, Identifier::ScsiName("iqn".into()))
        .with_protocol(Protocol::ISCSI);
    assert_eq!(name.encode(), b"\x53\xa8\x00\x04iqn\0");
}

#[test]
fn what_is_not_understood_is_kept() {
    let bytes = [0x01, 0x03, 0, 3, 0x60, 1, 2];
    let (designator, _) = Designator::parse(&bytes).unwrap();
    assert!(matches!(designator.identifier, Identifier::Other { kind: 3, .. }));
    assert_eq!(designator.encode(), bytes);
}
