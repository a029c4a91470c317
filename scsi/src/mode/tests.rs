use proptest::prelude::*;

use super::*;
use crate::sense::{AdditionalSense, Sense, SenseKeySpecific};

fn pointer(sense: Sense) -> (AdditionalSense, u16) {
    match sense.sense_key_specific {
        Some(SenseKeySpecific::FieldPointer { in_cdb: false, byte, .. }) => (sense.additional, byte),
        _ => (sense.additional, 0),
    }
}

#[test]
fn page_layouts() {
    let caching = Caching {
        write_cache_enabled: true,
        disable_read_ahead: true,
        cache_segment_size: 0x0102,
        ..Default::default()
    };
    assert_eq!(
        caching.encode(true),
        [0x88, 0x12, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 1, 2, 0, 0, 0, 0]
    );
    let control = Control {
        task_set_type: 1,
        descriptor_sense: true,
        queue_algorithm_modifier: 1,
        queue_error_management: 3,
        unit_attention_interlock: 2,
        software_write_protect: true,
        task_aborted_status: true,
        busy_timeout_period: 0xffff,
        ..Default::default()
    };
    assert_eq!(control.encode(false), [0x0a, 0x0a, 0x24, 0x16, 0x28, 0x40, 0, 0, 0xff, 0xff, 0, 0]);
    let extension = ControlExtension {
        implicit_asymmetric_access: true,
        initial_command_priority: 9,
        ..Default::default()
    };
    assert_eq!(extension.encode(false)[..7], [0x4a, 0x01, 0, 0x1c, 0x01, 0x09, 0]);
    let recovery = ReadWriteErrorRecovery {
        automatic_write_reallocation: true,
        provisioning_error_reporting: true,
        read_retry_count: 1,
        write_retry_count: 2,
        recovery_time_limit: 3,
        ..Default::default()
    };
    assert_eq!(recovery.encode(false), [0x01, 0x0a, 0x80, 1, 0, 0, 0, 0x80, 2, 0, 0, 3]);
    let power = PowerCondition {
        background_precedence: 2,
        standby_y: true,
        idle_b: true,
        standby_z: true,
        idle_a_timer: 1,
        standby_z_timer: 2,
        idle_b_timer: 3,
        idle_c_timer: 4,
        standby_y_timer: 5,
        check_condition_from_idle: 1,
        check_condition_from_standby: 2,
        check_condition_from_stopped: 1,
        ..Default::default()
    };
    let bytes = power.encode(false);
    assert_eq!(bytes[..12], [0x1a, 0x26, 0x81, 0x05, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(bytes[12..24], [0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5]);
    assert_eq!(bytes[39], 0x64);
    let exceptions = InformationalExceptions {
        disable_exception_control: true,
        method_of_reporting: 6,
        interval_timer: 7,
        report_count: 8,
        ..Default::default()
    };
    assert_eq!(exceptions.encode(false), [0x1c, 0x0a, 0x08, 0x06, 0, 0, 0, 7, 0, 0, 0, 8]);
}

#[test]
fn headers_of_mode_data() {
    let header = ModeHeader { medium_type: 0, device_specific: DISK_WRITE_PROTECTED | DISK_DPO_FUA };
    let page = Caching::default().encode(false);
    let short = Some(BlockDescriptor::short(u64::MAX, 512));
    let six = encode_mode_data(ModeForm::Six, header, short, &page).unwrap();
    assert_eq!(six[..12], [31, 0, 0x90, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
    let long = Some(BlockDescriptor::Long { blocks: 0x0102, block_length: 4096 });
    let ten = encode_mode_data(ModeForm::Ten, header, long, &page).unwrap();
    assert_eq!(ten[..8], [0, 42, 0, 0x90, 1, 0, 0, 16]);
    assert_eq!(ten[8..24], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 16, 0]);
    assert_eq!(ten.len(), 44);
}

#[test]
fn what_does_not_fit_is_not_encoded() {
    let fits = |form, length| encode_mode_data(form, ModeHeader::default(), None, &vec![0; length]).is_some();
    assert!(fits(ModeForm::Six, 252) && !fits(ModeForm::Six, 253));
    assert!(fits(ModeForm::Ten, 65_529) && !fits(ModeForm::Ten, 65_530));
    let long = Some(BlockDescriptor::Long { blocks: 1, block_length: 512 });
    assert_eq!(encode_mode_data(ModeForm::Six, ModeHeader::default(), long, &[]), None);
}

#[test]
fn select_list() {
    let mut list = encode_mode_data(
        ModeForm::Ten,
        ModeHeader { medium_type: 0, device_specific: 0x80 },
        Some(BlockDescriptor::short(100, 512)),
        &Control::default().encode(false),
    )
    .unwrap();
    list.extend(ControlExtension::default().encode(false));
    let parsed = ModeParameterList::parse(ModeForm::Ten, &list).unwrap();
    assert_eq!(parsed.header.device_specific, 0x80);
    assert_eq!(parsed.descriptor, Some(BlockDescriptor::Short { blocks: 100, block_length: 512 }));
    assert_eq!(parsed.descriptor_offset, 8);
    let pages: Vec<_> = parsed.pages.iter().map(|page| (page.code, page.offset, page.bytes.len())).collect();
    assert_eq!(pages, [(Control::CODE, 16, 12), (ControlExtension::CODE, 28, 32)]);
}

#[test]
fn select_list_mistakes() {
    let six = |list: &[u8]| ModeParameterList::parse(ModeForm::Six, list).map(|_| ()).map_err(pointer);
    let length_error = Err((AdditionalSense::PARAMETER_LIST_LENGTH_ERROR, 0));
    let invalid = |byte| Err((AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST, byte));
    assert_eq!(six(&[0, 0, 0, 0]), Ok(()));
    assert_eq!(six(&[0, 0, 0]), length_error);
    assert_eq!(six(&[0, 0, 0, 8, 0]), length_error, "inside the block descriptor");
    assert_eq!(six(&[0, 0, 0, 0, 0x0a]), length_error, "inside a page header");
    assert_eq!(six(&[0, 0, 0, 0, 0x0a, 10, 0]), length_error, "inside a page");
    assert_eq!(six(&[0, 0, 0, 16, 0]), invalid(3));
    assert_eq!(six(&[0, 0, 0, 0, 0x3f, 0]), invalid(4));
    assert_eq!(six(&[0, 0, 0, 0, 0x4a, 0xff, 0, 0]), invalid(5));
    assert_eq!(six(&[0, 0, 0, 0, 0x4a, 0, 0, 0]), invalid(5));
    let ten = |list: &[u8]| ModeParameterList::parse(ModeForm::Ten, list).map(|_| ()).map_err(pointer);
    assert_eq!(ten(&[0, 0, 0, 0, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]), invalid(6), "LONGLBA takes 16 bytes");
    assert_eq!(ten(&vec![0; 70_000]), length_error);
}

proptest! {
    #[test]
    fn pages_round_trip(mut bytes in prop::collection::vec(any::<u8>(), 4..48)) {
        macro_rules! check {
            ($($page:ident),*) => {$(
                bytes[0] = $page::CODE.page | bit($page::CODE.subpage != 0, 6);
                if $page::CODE.subpage != 0 {
                    bytes[1] = $page::CODE.subpage;
                }
                let page = $page::decode(&bytes).unwrap();
                prop_assert_eq!($page::decode(&page.encode(true)), Ok(page));
            )*};
        }
        check!(ReadWriteErrorRecovery, DisconnectReconnect, VerifyErrorRecovery, Caching, Control, ControlExtension);
        check!(PowerCondition, InformationalExceptions);
    }

    #[test]
    fn mode_data_round_trips(
        header: (u8, u8),
        blocks: u64,
        block_length in 0u32..1 << 24,
        long: bool,
        pages in prop::collection::vec((1u8..0x3f, 0u8..0xff, prop::collection::vec(any::<u8>(), 0..40)), 0..4),
    ) {
        let header = ModeHeader { medium_type: header.0, device_specific: header.1 };
        let descriptor =
            if long { BlockDescriptor::Long { blocks, block_length } } else { BlockDescriptor::short(blocks, block_length) };
        let mut body = Vec::new();
        for (page, subpage, content) in &pages {
            let code = ModePageCode::subpage(*page, *subpage);
            let header = ModePageHeader { savable: false, code, length: content.len() as u16 };
            let mut bytes = [0; 4];
            header.write(&mut bytes);
            body.extend(&bytes[..header.size()]);
            body.extend(content);
        }
        let data = encode_mode_data(ModeForm::Ten, header, Some(descriptor), &body).unwrap();
        let parsed = ModeParameterList::parse(ModeForm::Ten, &data).unwrap();
        prop_assert_eq!(parsed.header, header);
        prop_assert_eq!(parsed.descriptor, Some(descriptor));
        prop_assert_eq!(parsed.pages.iter().flat_map(|page| page.bytes).copied().collect::<Vec<_>>(), body);
        prop_assert_eq!(parsed.pages.len(), pages.len());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        for form in [ModeForm::Six, ModeForm::Ten] {
            let _ = ModeParameterList::parse(form, &bytes);
        }
        let _ = (Control::decode(&bytes), ControlExtension::decode(&bytes), ModePageHeader::parse(&bytes));
    }
}
