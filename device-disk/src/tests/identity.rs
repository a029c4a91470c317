//! INQUIRY, vital product data, and commands that are not there.

use crate::Options;
use crate::testing::*;
use lunette_scsi::inquiry::SpcVersion;
use lunette_scsi::vpd::{
    BlockDeviceCharacteristics, BlockLimits, ExtendedInquiry, LogicalBlockProvisioning, PortDescription,
    ScsiPorts,
};
use lunette_scsi::{Identifier, StandardInquiry};

fn vpd(rig: &mut Rig, page: u8) -> Vec<u8> {
    rig.ask(&[0x12, 1, page, 0, 255, 0], &[], 255).good()
}

#[test]
fn standard_inquiry_data() {
    let mut rig = Rig::with(Options { removable: true, ..Options::default() }, |_| {});
    let data = rig.ask(&[0x12, 0, 0, 1, 0, 0], &[], 256).good();
    assert_eq!(data.len(), 96);
    assert_eq!(data[..8], [0, 0x80, 6, 0x32, 91, 0x38, 0, 2]);
    let inquiry = StandardInquiry::parse(&data).unwrap();
    assert_eq!(inquiry.version_descriptors[..5], [0x00a0, 0x0460, 0x0600, 0x04c0, 0]);
    for length in 0..=255 {
        let cut = rig.ask(&[0x12, 0, 0, 0, length, 0], &[], 255).good();
        assert_eq!(cut, data[..usize::from(length).min(96)]);
    }
    assert_eq!(rig.ask(&[0x12, 0, 1, 0, 96, 0], &[], 96).field(), Some((2, None)), "a page without EVPD");
    assert_eq!(rig.ask(&[0x12, 2, 0, 0, 96, 0], &[], 96).field(), Some((1, Some(1))), "CMDDT");
}

#[test]
fn an_older_standard_can_be_claimed() {
    let mut rig = Rig::claiming(SpcVersion::SPC_3);
    let inquiry = StandardInquiry::parse(&rig.ask(&[0x12, 0, 0, 0, 96, 0], &[], 96).good()).unwrap();
    assert_eq!(inquiry.version, 5);
    assert_eq!(inquiry.version_descriptors[..4], [0x00a0, 0x0300, 0x0600, 0x04c0]);
}

#[test]
fn every_page_is_listed_and_there() {
    let mut rig = Rig::new();
    let list = vpd(&mut rig, 0);
    assert_eq!(list, [0, 0, 0, 11, 0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8a, 0x8f, 0xb0, 0xb1, 0xb2]);
    for page in 0..=255 {
        let answer = rig.ask(&[0x12, 1, page, 0, 255, 0], &[], 255);
        if list[4..].contains(&page) {
            let data = answer.good();
            assert_eq!((data[0], data[1]), (0, page));
            assert_eq!(data.len(), 4 + usize::from(data[3]));
        } else {
            assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((2, None))));
        }
    }
}

#[test]
fn ports_and_policies() {
    let mut rig = Rig::new();
    let ports = ScsiPorts::parse(&vpd(&mut rig, 0x88)).unwrap();
    let [PortDescription { relative_id: 1, names }] = &ports.0[..] else { panic!("{ports:?}") };
    assert_eq!(names[0].identifier, Identifier::ScsiName("target,t,0x0001".into()));
    assert_eq!(vpd(&mut rig, 0x87), [0, 0x87, 0, 4, 0x3f, 0xff, 0, 0]);
    let extended = ExtendedInquiry::parse(&vpd(&mut rig, 0x86)).unwrap();
    assert_eq!((extended.maximum_sense_length, extended.priority), (252, true));
}

#[test]
fn power_conditions_can_be_entered_by_command_alone() {
    let mut rig = Rig::new();
    let page = vpd(&mut rig, 0x8a);
    assert_eq!((page.len(), &page[..6]), (18, &[0, 0x8a, 0, 14, 0x03, 0x07][..]));
    // Idle_a, b and c and standby_z and y, and no more.
    for (condition, modifiers) in [(0x20, 3), (0x30, 2)] {
        for modifier in 0..16 {
            let answer = rig.ask(&[0x1b, 0, 0, modifier, condition, 0], &[], 0);
            assert_eq!(answer.code().is_none(), modifier < modifiers);
        }
    }
    assert_eq!(rig.ask(&[0x1a, 8, 0x5a, 0, 255, 0], &[], 255).good()[6..], [0; 38], "no timer can be set");
}

#[test]
fn limits_and_characteristics_follow_the_store() {
    let mut rig = Rig::with(Options::default(), |caps| {
        caps.volatile_cache = true;
        caps.max_transfer = 1 << 20;
        caps.rotational = true;
    });
    let limits = BlockLimits::parse(&vpd(&mut rig, 0xb0)).unwrap();
    let expected = BlockLimits {
        maximum_compare_and_write: 255,
        maximum_atomic_transfer: 2048,
        optimal_transfer_granularity: 8,
        maximum_transfer: 2048,
        maximum_unmap_blocks: u32::MAX,
        maximum_unmap_descriptors: 256,
        optimal_unmap_granularity: 8,
        unmap_granularity_alignment: Some(0),
        maximum_write_same: 8 << 20,
        ..BlockLimits::default()
    };
    assert_eq!(limits, expected);
    assert_eq!(vpd(&mut rig, 0xb0).len(), 0x3c + 4);
    let characteristics = BlockDeviceCharacteristics::parse(&vpd(&mut rig, 0xb1)).unwrap();
    assert_eq!(characteristics.medium_rotation_rate, 0);
    assert!(ExtendedInquiry::parse(&vpd(&mut rig, 0x86)).unwrap().volatile_cache);

    let mut full = Rig::with(Options { rotational: Some(false), ..Options::default() }, |caps| {
        caps.discard = None;
        caps.rotational = true;
    });
    let limits = BlockLimits::parse(&vpd(&mut full, 0xb0)).unwrap();
    assert_eq!((limits.maximum_unmap_blocks, limits.maximum_unmap_descriptors), (0, 0));
    assert_eq!(limits.maximum_transfer, 65536, "no more than a transport buffers");
    let provisioning = LogicalBlockProvisioning::parse(&vpd(&mut full, 0xb2)).unwrap();
    assert_eq!(provisioning, LogicalBlockProvisioning::default());
    let characteristics = BlockDeviceCharacteristics::parse(&vpd(&mut full, 0xb1)).unwrap();
    assert_eq!(characteristics.medium_rotation_rate, 1);
}

#[test]
fn unknown_commands_are_refused() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&[0xc0, 0, 0, 0, 0, 0], &[], 0).refused(), INVALID_OPCODE);
    let action = rig.ask(&[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[], 32);
    assert_eq!((action.refused(), action.field()), (INVALID_FIELD, Some((1, Some(4)))));
    assert_eq!(rig.ask(&[0x7f], &[], 0).field(), Some((1, None)), "it ends before its service action");
}
