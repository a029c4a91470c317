//! The parsers of parameter lists and of what initiators are answered, with any bytes.

use crate::input::Input;
use lunette_scsi::designator::Designator;
use lunette_scsi::inquiry::{SpcVersion, StandardInquiry};
use lunette_scsi::lba_status::parse_lba_status;
use lunette_scsi::log::{LogParameter, encode_log_page, parse_log_list};
use lunette_scsi::mode::{ModeForm, ModePageHeader, ModeParameterList};
use lunette_scsi::report_luns::parse_report_luns;
use lunette_scsi::reservation::{RegisterAndMoveList, ReserveOutList, parse_keys, parse_reservation};
use lunette_scsi::target_port_groups::{
    SetTargetPortGroup, encode_set_target_port_groups, parse_target_port_groups,
};
use lunette_scsi::third_party_copy::{CopyLimits, ExtendedCopyList};
use lunette_scsi::unmap::{UnmapList, encode_unmap_list};
use lunette_scsi::vpd::{
    BlockDeviceCharacteristics, BlockLimits, DeviceIdentification, ExtendedInquiry, LogicalBlockProvisioning,
    ModePagePolicy, PowerCondition, ScsiPorts, SupportedPages, UnitSerialNumber,
};
use lunette_scsi::{Cdb, Sense, SenseFormat, SenseKeySpecific, Transfer, TransportId};

const LIMITS: CopyLimits = CopyLimits {
    cscds: 4,
    segments: 8,
    list_length: 4 * 32 + 8 * 32,
    segment_length: 1 << 20,
    concurrent: 1,
    granularity: 9,
};

/// Each parser takes any bytes. What it refuses it points at inside of them, and what it has understood it understands again
/// when that is encoded.
pub fn parsers(data: &[u8]) {
    let mut input = Input::new(data);
    let which = input.below(16);
    let bytes = input.bytes(usize::MAX);
    match which {
        0 => drop(pointed(bytes, ModeParameterList::parse(ModeForm::Six, bytes))),
        1 => drop(pointed(bytes, ModeParameterList::parse(ModeForm::Ten, bytes))),
        2 => log(bytes),
        3 => unmap(bytes),
        4 => reserve(bytes),
        5 => [SpcVersion::SPC_3, SpcVersion::SPC_5]
            .into_iter()
            .for_each(|version| drop(pointed(bytes, ExtendedCopyList::parse(bytes, &LIMITS, version)))),
        6 => groups(bytes),
        7 => transport_id(bytes),
        8 => designator(bytes),
        9 => sense(bytes),
        10 | 11 => pages(bytes),
        12 => cdb(bytes),
        _ => answers(bytes),
    }
}

/// The list, if it can be used; if not, the error must point into it.
fn pointed<T>(list: &[u8], parsed: Result<T, Sense>) -> Option<T> {
    let inside =
        |byte: u16| assert!(usize::from(byte) < list.len(), "points at byte {byte} of {}", list.len());
    match parsed {
        Ok(parsed) => Some(parsed),
        Err(sense) => {
            match sense.sense_key_specific {
                Some(SenseKeySpecific::FieldPointer { in_cdb, byte, .. }) => {
                    assert!(!in_cdb);
                    inside(byte);
                }
                Some(SenseKeySpecific::SegmentPointer { in_segment_descriptor: false, byte, .. }) => {
                    inside(byte)
                }
                _ => {}
            }
            check_sense(&sense);
            None
        }
    }
}

fn log(bytes: &[u8]) {
    let Some(entries) = pointed(bytes, parse_log_list(bytes)) else { return };
    // Each by itself.
    let again: Vec<u8> = entries
        .iter()
        .flat_map(|entry| encode_log_page(entry.page, &[LogParameter::binary(entry.code, entry.value)]))
        .collect();
    if again.len() <= usize::from(u16::MAX) {
        let same = parse_log_list(&again).expect("a list");
        let of = |entries: &[lunette_scsi::log::LogEntry<'_>]| -> Vec<_> {
            entries.iter().map(|entry| (entry.page, entry.code, entry.value.to_vec())).collect()
        };
        assert_eq!(of(&same), of(&entries));
    }
}

fn unmap(bytes: &[u8]) {
    let Some(list) = pointed(bytes, UnmapList::parse(bytes)) else { return };
    let ranges: Vec<_> = list.iter().map(|range| (range.lba, range.blocks)).collect();
    assert_eq!((ranges.len(), list.is_empty()), (list.len(), ranges.is_empty()));
    if let Some(again) = encode_unmap_list(&ranges) {
        let again = UnmapList::parse(&again).expect("a list");
        assert!(again.iter().map(|range| (range.lba, range.blocks)).eq(ranges));
    }
}

fn reserve(bytes: &[u8]) {
    if let Some(list) = pointed(bytes, ReserveOutList::parse(bytes)) {
        assert_eq!(ReserveOutList::parse(&list.encode()), Ok(list));
    }
    if let Some(list) = pointed(bytes, RegisterAndMoveList::parse(bytes)) {
        assert_eq!(RegisterAndMoveList::parse(&list.encode()), Ok(list));
    }
}

fn groups(bytes: &[u8]) {
    let Some(wanted) = pointed(bytes, SetTargetPortGroup::parse_list(bytes)) else { return };
    let pairs: Vec<_> = wanted.iter().map(|wanted| (wanted.state, wanted.id)).collect();
    if !pairs.is_empty() {
        assert_eq!(SetTargetPortGroup::parse_list(&encode_set_target_port_groups(&pairs)), Ok(wanted));
    }
}

fn transport_id(bytes: &[u8]) {
    if let Ok((id, length)) = TransportId::parse(bytes) {
        assert!(length <= bytes.len());
        let again = id.encode();
        assert_eq!(TransportId::parse(&again), Ok((id, again.len())));
    }
    // No initiator is without a name.
    let name = format!("i{}", String::from_utf8_lossy(bytes));
    let id = TransportId::from_name(&name).encode();
    assert!(TransportId::parse(&id).is_ok_and(|(_, length)| length == id.len()), "{name:?}");
}

fn designator(bytes: &[u8]) {
    if let Ok((designator, length)) = Designator::parse(bytes) {
        assert!(length <= bytes.len());
        let again = designator.encode();
        assert_eq!(Designator::parse(&again), Ok((designator, again.len())));
    }
}

fn check_sense(sense: &Sense) {
    assert_eq!(Sense::parse(&sense.encode(SenseFormat::Descriptor)), Some(*sense));
}

fn sense(bytes: &[u8]) {
    if let Some(sense) = Sense::parse(bytes) {
        let again = Sense::parse(&sense.encode(SenseFormat::Descriptor)).expect("sense data");
        assert_eq!((again.key, again.additional), (sense.key, sense.additional));
        assert!(Sense::parse(&sense.encode(SenseFormat::Fixed)).is_some());
    }
}

fn pages(bytes: &[u8]) {
    macro_rules! round_trip {
        ($($page:ident),*) => {$(
            if let Ok(page) = $page::parse(bytes) {
                assert_eq!($page::parse(&page.encode(0)), Ok(page));
            }
        )*};
    }
    round_trip!(
        SupportedPages,
        DeviceIdentification,
        ExtendedInquiry,
        ModePagePolicy,
        PowerCondition,
        ScsiPorts,
        BlockLimits,
        BlockDeviceCharacteristics,
        LogicalBlockProvisioning
    );
    let _ = (UnitSerialNumber::parse(bytes), ModePageHeader::parse(bytes), StandardInquiry::parse(bytes));
}

fn cdb(bytes: &[u8]) {
    let padded = Cdb::from_padded(bytes);
    for cdb in Cdb::new(bytes).into_iter().chain([padded]) {
        let _ = (cdb.opcode(), cdb.service_action(), cdb.service_action_at(), cdb.control(), cdb.name());
        let _ = Transfer::parse(&cdb).map(|transfer| transfer.end());
    }
}

fn answers(bytes: &[u8]) {
    let _ = (parse_report_luns(bytes), parse_lba_status(bytes), parse_keys(bytes), parse_reservation(bytes));
    for extended in [false, true] {
        if let Ok(groups) = parse_target_port_groups(bytes, extended) {
            assert!(groups.len() * 8 <= bytes.len());
        }
    }
}
