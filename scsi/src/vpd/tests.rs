use proptest::prelude::*;

use super::*;
use crate::Opcode;
use crate::designator::{Association, Designator, Identifier, Naa};
use crate::mode::ModePageCode;

#[test]
fn supported_pages_are_sorted_and_name_themselves() {
    let pages: SupportedPages =
        [BlockLimits::CODE, UnitSerialNumber::CODE, ExtendedInquiry::CODE].into_iter().collect();
    assert_eq!(pages.encode(0), [0, 0, 0, 4, 0x00, 0x80, 0x86, 0xb0]);
    assert_eq!(SupportedPages::parse(&pages.encode(0)), Ok(pages));
}

#[test]
fn serial_number() {
    let serial = UnitSerialNumber("LUN-7".to_owned());
    assert_eq!(serial.encode(0x05), b"\x05\x80\x00\x05LUN-7");
    assert_eq!(UnitSerialNumber::parse(&serial.encode(0)), Ok(serial));
}

#[test]
fn device_identification() {
    let naa = Naa::ieee_registered_extended(0x00_1405, 1, 2);
    let page = DeviceIdentification(vec![
        Designator::logical_unit(Identifier::Naa(naa)),
        Designator::new(Association::TARGET_PORT, Identifier::RelativeTargetPort(1)),
    ]);
    let bytes = page.encode(0);
    assert_eq!(bytes[..8], [0, 0x83, 0, 28, 0x01, 0x03, 0, 16]);
    assert_eq!(bytes[24..], [0x01, 0x14, 0, 4, 0, 0, 0, 1]);
    assert_eq!(DeviceIdentification::parse(&bytes), Ok(page));
    assert!(DeviceIdentification::parse(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn too_many_designators_are_left_out() {
    let one = Designator::logical_unit(Identifier::ScsiName("n".repeat(250)));
    let page = DeviceIdentification(vec![one; 1000]);
    let bytes = page.encode(0);
    assert_eq!(bytes.len() - HEADER, usize::from(u16_at(&bytes, 2)));
    assert_eq!(DeviceIdentification::parse(&bytes).unwrap().0.len(), 65_535 / 256);
}

#[test]
fn extended_inquiry_layout() {
    let page = ExtendedInquiry {
        activate_microcode: 1,
        supported_protection_types: 7,
        reference_tag_check: true,
        head_of_queue: true,
        ordered: true,
        simple: true,
        write_uncorrectable: true,
        volatile_cache: true,
        nexus_clear: true,
        revert_to_defaults: true,
        extended_self_test_minutes: 0x0102,
        power_on_activation: true,
        maximum_sense_length: 252,
        maximum_inquiry_change_logs: 3,
        maximum_mode_page_change_logs: 4,
        ..Default::default()
    };
    let bytes = page.encode(0);
    assert_eq!(bytes.len(), 64);
    assert_eq!(bytes[..12], [0, 0x86, 0, 0x3c, 0x79, 0x07, 0x09, 0x01, 0x08, 0, 1, 2]);
    assert_eq!(bytes[12..20], [0x80, 252, 0, 0, 3, 0, 4, 0]);
}

#[test]
fn block_limits_layout() {
    let page = BlockLimits {
        write_same_non_zero: true,
        maximum_compare_and_write: 2,
        optimal_transfer_granularity: 3,
        maximum_transfer: 4,
        optimal_transfer: 5,
        maximum_prefetch: 6,
        maximum_unmap_blocks: u32::MAX,
        maximum_unmap_descriptors: 8,
        optimal_unmap_granularity: 9,
        unmap_granularity_alignment: Some(10),
        maximum_write_same: 0x0102_0304_0506_0708,
        maximum_atomic_transfer: 11,
        atomic_alignment: 12,
        atomic_transfer_granularity: 13,
        maximum_atomic_transfer_with_boundary: 14,
        maximum_atomic_boundary: 15,
    };
    let bytes = page.encode(0);
    assert_eq!(bytes[..20], [0, 0xb0, 0, 0x3c, 1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6]);
    assert_eq!(bytes[20..32], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 8, 0, 0, 0, 9]);
    assert_eq!(bytes[32..44], [0x80, 0, 0, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bytes[44..], [0, 0, 0, 11, 0, 0, 0, 12, 0, 0, 0, 13, 0, 0, 0, 14, 0, 0, 0, 15]);
}

#[test]
fn other_block_page_layouts() {
    let characteristics = BlockDeviceCharacteristics {
        medium_rotation_rate: 1,
        write_after_block_erase: 1,
        write_after_cryptographic_erase: 2,
        nominal_form_factor: 3,
        fua_behavior: true,
        ..Default::default()
    };
    assert_eq!(characteristics.encode(0)[..9], [0, 0xb1, 0, 0x3c, 0, 1, 0, 0x63, 0x02]);
    let provisioning = LogicalBlockProvisioning {
        unmap: true,
        write_same_16: true,
        write_same_10: true,
        read_zeros: 1,
        anchor: true,
        provisioning_type: 2,
        ..Default::default()
    };
    assert_eq!(provisioning.encode(0), [0, 0xb2, 0, 4, 0, 0xe6, 2, 0]);
}

#[test]
fn policies_and_ports() {
    let all = ModePageCode::subpage(0x3f, 0xff);
    let policy = ModePagePolicy(vec![PagePolicy { code: all, multiple_units: false, policy: 0 }]);
    assert_eq!(policy.encode(0), [0, 0x87, 0, 4, 0x3f, 0xff, 0, 0]);
    assert_eq!(ModePagePolicy::parse(&policy.encode(0)), Ok(policy));
    let name = Designator::new(Association::TARGET_PORT, Identifier::ScsiName("abc".to_owned()));
    let port = |relative_id| PortDescription { relative_id, names: vec![name.clone()] };
    let ports = ScsiPorts(vec![port(1), port(0x203)]);
    let bytes = ports.encode(0);
    assert_eq!(bytes[..16], [0, 0x88, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8]);
    assert_eq!(bytes[24..28], [0, 0, 2, 3]);
    assert_eq!(ScsiPorts::parse(&bytes), Ok(ports));
    for length in 5..bytes.len() {
        assert_eq!(ScsiPorts::parse(&bytes[..length]).is_ok(), length == 24, "{length}");
    }
}

#[test]
fn power_conditions() {
    let page = PowerCondition {
        standby_z: true,
        idle_c: true,
        stopped_recovery: 1,
        standby_y_recovery: 2,
        idle_c_recovery: 3,
        ..PowerCondition::default()
    };
    assert_eq!(page.encode(0), [0, 0x8a, 0, 14, 1, 4, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 3]);
}

#[test]
fn another_page_is_refused() {
    let bytes = BlockLimits::default().encode(0);
    assert!(matches!(ExtendedInquiry::parse(&bytes), Err(ParseError::Invalid { byte: 1, .. })));
    assert!(matches!(BlockLimits::parse(&bytes[..3]), Err(ParseError::Truncated { .. })));
}

#[test]
fn an_older_shorter_page_reads_as_zero_beyond_its_end() {
    let mut bytes =
        BlockLimits { maximum_prefetch: 1, maximum_write_same: 7, ..Default::default() }.encode(0);
    bytes[3] = 0x10;
    let page = BlockLimits::parse(&bytes).unwrap();
    assert_eq!((page.maximum_prefetch, page.maximum_write_same), (1, 0));
}

proptest! {
    #[test]
    fn fixed_pages_round_trip(mut bytes in prop::collection::vec(any::<u8>(), 4..80)) {
        macro_rules! check {
            ($($page:ident),*) => {$(
                bytes[1] = $page::CODE.0;
                let page = $page::parse(&bytes).unwrap();
                prop_assert_eq!($page::parse(&page.encode(0)), Ok(page));
            )*};
        }
        check!(ExtendedInquiry, PowerCondition, BlockLimits, BlockDeviceCharacteristics, LogicalBlockProvisioning, SupportedPages);
        bytes[1] = DeviceIdentification::CODE.0;
        if let Ok(page) = DeviceIdentification::parse(&bytes) {
            prop_assert_eq!(DeviceIdentification::parse(&page.encode(0)), Ok(page));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (SupportedPages::parse(&bytes), UnitSerialNumber::parse(&bytes), DeviceIdentification::parse(&bytes));
        let _ = (ExtendedInquiry::parse(&bytes), BlockLimits::parse(&bytes));
        let _ = (ModePagePolicy::parse(&bytes), ScsiPorts::parse(&bytes));
    }
}

#[test]
fn third_party_copy() {
    let limits = crate::third_party_copy::CopyLimits {
        cscds: 2,
        segments: 3,
        list_length: 0x1000,
        segment_length: 0x10_0000,
        concurrent: 7,
        granularity: 9,
    };
    let commands = vec![(Opcode::THIRD_PARTY_COPY_OUT, vec![0]), (Opcode::THIRD_PARTY_COPY_IN, vec![0, 3])];
    let page = ThirdPartyCopy { commands, limits }.encode(0);
    assert_eq!(page[..4], [0, 0x8f, 0, 96]);
    assert_eq!(page[4..16], [0, 1, 0, 8, 7, 0x83, 1, 0, 0x84, 2, 0, 3]);
    assert_eq!(page[16..32], [0, 4, 0, 28, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0x10, 0]);
    assert_eq!(page[48..56], [0, 8, 0, 4, 3, 0x02, 0x0a, 0xe4]);
    assert_eq!(page[56..64], [0, 0x0c, 0, 4, 0, 2, 0xff, 0xff]);
    assert_eq!(page[64..84], [0x80, 1, 0, 32, 0, 0, 0, 7, 0, 0, 0, 7, 0, 0x10, 0, 0, 9, 0, 0, 0]);
    assert_eq!(page.len(), 100);
}
