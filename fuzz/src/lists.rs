//! Parameter lists as an initiator would make them, before they are spoilt.

use crate::input::Input;
use lunette_engine::{LogicalUnit, PageControl};
use lunette_scsi::log::{LogPageCode, LogParameter, encode_log_page};
use lunette_scsi::mode::ModePageCode;
use lunette_scsi::priority::NexusPriority;
use lunette_scsi::reservation::{RegisterAndMoveList, ReserveOutList};
use lunette_scsi::target_port_groups::{AccessState, encode_set_target_port_groups};
use lunette_scsi::unmap::encode_unmap_list;
use lunette_scsi::{Designator, Identifier, Naa, Opcode, TransportId, service_action};

/// The initiator ports that there are, and one that there is not.
pub(crate) const INITIATORS: [&str; 4] = [
    "iqn.2026-11.dev.lunette:a,i,0x400000000001",
    "iqn.2026-11.dev.lunette:a,i,0x400000000002",
    "naa.5000000000000001",
    "iqn.2026-11.dev.lunette:nobody,i,0x400000000003",
];

/// A list for a command that takes one. `None` if nothing is known of what it takes.
pub(crate) fn list(
    opcode: Opcode,
    action: Option<u16>,
    unit: &LogicalUnit,
    input: &mut Input<'_>,
) -> Option<Vec<u8>> {
    Some(match (opcode, action) {
        (Opcode::MODE_SELECT_6, _) => mode_pages(unit, input, false),
        (Opcode::MODE_SELECT_10, _) => mode_pages(unit, input, true),
        (Opcode::LOG_SELECT, _) => log_pages(unit, input),
        (Opcode::UNMAP, _) => ranges(input),
        (Opcode::PERSISTENT_RESERVE_OUT, Some(service_action::REGISTER_AND_MOVE)) => move_to(input),
        (Opcode::PERSISTENT_RESERVE_OUT, _) => reserve(input),
        (Opcode::THIRD_PARTY_COPY_OUT, _) => copy(input),
        (Opcode::MAINTENANCE_OUT, Some(service_action::SET_TARGET_PORT_GROUPS)) => groups(input),
        (Opcode::MAINTENANCE_OUT, Some(service_action::SET_TIMESTAMP)) => {
            [&[0; 4][..], &input.array::<6>(), &[0; 2]].concat()
        }
        (Opcode::MAINTENANCE_OUT, Some(service_action::SET_PRIORITY)) => priority(input),
        (Opcode::MAINTENANCE_OUT, _) => {
            let length = input.below(300);
            input.pattern(length)
        }
        (Opcode::FORMAT_UNIT, _) => format(input),
        (Opcode::REASSIGN_BLOCKS, _) => defects(input),
        (Opcode::SANITIZE, Some(service_action::SANITIZE_OVERWRITE)) => overwrite(input),
        (Opcode::SEND_DIAGNOSTIC, _) => vec![0; input.pick(&[0, 4, 4, 4, 5])],
        (Opcode::WRITE_BUFFER, _) => {
            let length = input.below(4200);
            input.pattern(length)
        }
        _ => return None,
    })
}

/// Spoils a list a little, or not.
pub(crate) fn spoil(list: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..input.below(8).saturating_sub(4) {
        if !list.is_empty() {
            let at = input.below(list.len().min(1 << 16));
            list[at] = if input.flag() { list[at] ^ 1 << input.below(8) } else { input.u8() };
        }
    }
    match input.below(16) {
        0 if !list.is_empty() => list.truncate(input.below(list.len().min(1 << 16))),
        1 => list.extend(input.bytes(9)),
        _ => {}
    }
}

/// Some pages as they are, with a few of the bits changed that may be changed.
pub(crate) fn mode_pages(unit: &LogicalUnit, input: &mut Input<'_>, ten: bool) -> Vec<u8> {
    let mut list = vec![0; if ten { 8 } else { 4 }];
    if input.one_in(4) {
        let length = input.pick(&[8, 16]);
        let descriptor = input.pattern(length);
        let last = list.len() - 1;
        list[last] = descriptor.len() as u8;
        list.extend(descriptor);
    }
    let page = |code: ModePageCode, control| unit.mode_page(code, control).expect("a page of its list");
    for _ in 0..1 + input.below(3) {
        let code = input.pick(&unit.mode_page_codes());
        let mut bytes = page(code, PageControl::Current);
        for (byte, mask) in bytes.iter_mut().zip(page(code, PageControl::Changeable)).skip(2) {
            if mask != 0 {
                *byte ^= input.u8() & mask;
            }
        }
        list.extend(bytes);
    }
    list
}

fn log_pages(unit: &LogicalUnit, input: &mut Input<'_>) -> Vec<u8> {
    let mut list = Vec::new();
    for _ in 0..1 + input.below(2) {
        let code = match input.one_in(8) {
            true => LogPageCode { page: input.u8() & 0x3f, subpage: input.u8() },
            false => input.pick(&unit.log_page_codes()),
        };
        let parameters: Vec<LogParameter> = (0..input.below(4))
            .map(|_| match input.one_in(8) {
                true => LogParameter::binary(input.u16() & 0x1f, input.bytes(8)),
                false => LogParameter::counter(input.below(8) as u16, input.u32().into()),
            })
            .collect();
        list.extend(encode_log_page(code, &parameters));
    }
    list
}

/// Block ranges; most of them are of blocks that are there.
pub(crate) fn ranges(input: &mut Input<'_>) -> Vec<u8> {
    let count = input.below(40);
    let range = |input: &mut Input<'_>| match input.one_in(64) {
        true => (u64::from(input.u32()) << 32 | u64::from(input.u32()), input.u32()),
        false => (input.u8().into(), input.u8().into()),
    };
    let ranges: Vec<(u64, u32)> = (0..count).map(|_| range(input)).collect();
    encode_unmap_list(&ranges).expect("few ranges")
}

fn transport_id(input: &mut Input<'_>) -> TransportId {
    match input.below(16) {
        0 => TransportId::Iscsi { name: "iqn.2026-11.dev.lunette:a".into(), isid: None },
        1 => TransportId::FibreChannel(input.array()),
        2 => TransportId::Srp(input.array()),
        3 => TransportId::Other(vec![0x0e; 24]),
        n => TransportId::from_name(INITIATORS[n % INITIATORS.len()]),
    }
}

/// Few keys, so that they meet again.
fn key(input: &mut Input<'_>) -> u64 {
    input.below(4) as u64
}

fn reserve(input: &mut Input<'_>) -> Vec<u8> {
    let (key, action_key, flags) = (key(input), key(input), input.u8());
    let specify_initiator_ports = flags & 0x38 == 0x38;
    let initiators = if specify_initiator_ports { input.below(3) } else { 0 };
    let list = ReserveOutList {
        key,
        action_key,
        specify_initiator_ports,
        all_target_ports: flags & 0x40 != 0,
        persist: flags & 0x80 != 0,
        initiators: (0..initiators).map(|_| transport_id(input)).collect(),
    };
    list.encode()
}

fn move_to(input: &mut Input<'_>) -> Vec<u8> {
    let (key, action_key, flags) = (key(input), key(input), input.u8());
    let list = RegisterAndMoveList {
        key,
        action_key,
        unregister: flags & 1 != 0,
        persist: flags & 2 != 0,
        relative_port: input.pick(&[1, 1, 2, 3]),
        initiator: transport_id(input),
    };
    list.encode()
}

/// Descriptors of units and segments between them.
fn copy(input: &mut Input<'_>) -> Vec<u8> {
    let cscds = input.below(4);
    let mut body = Vec::new();
    for _ in 0..cscds {
        let mut cscd = vec![0xe4, 0, 0, 0];
        let name = Identifier::Naa(Naa::locally_assigned(input.below(3) as u64));
        cscd.extend(Designator::logical_unit(name).encode());
        cscd.resize(32, 0);
        cscd[29..].copy_from_slice(if input.one_in(4) { &[0, 0x10, 0] } else { &[0, 2, 0] });
        body.extend(cscd);
    }
    let segments_at = body.len();
    for _ in 0..input.below(4) {
        let end = |input: &mut Input<'_>| if input.one_in(16) { 0xffff } else { input.below(4) as u16 };
        let (with_offset, flags, source, destination) =
            (input.flag(), input.u8() & 2, end(input), end(input));
        let length = if with_offset { 0x1c } else { 0x18 };
        let mut segment = vec![if with_offset { 0x0a } else { 0x02 }, flags, 0, length];
        segment.extend([source, destination].map(u16::to_be_bytes).concat());
        let amount = if with_offset { u32::from(input.u8()) << 9 } else { input.u8().into() };
        segment.extend(amount.to_be_bytes());
        segment.extend([input.u8(), input.u8()].map(|lba| u64::from(lba).to_be_bytes()).concat());
        if with_offset {
            segment.extend(
                [input.u8(), input.u8()].map(|offset| (u16::from(offset & 7) << 9).to_be_bytes()).concat(),
            );
        }
        body.extend(segment);
    }
    let mut list = vec![input.u8(), input.u8() & 0x18];
    list.extend((segments_at as u16).to_be_bytes());
    list.extend([0; 4]);
    list.extend(((body.len() - segments_at) as u32).to_be_bytes());
    list.extend([0; 4]);
    list.extend(body);
    list
}

fn groups(input: &mut Input<'_>) -> Vec<u8> {
    let wanted: Vec<_> = (0..input.below(4))
        .map(|_| {
            let state = input.pick(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 0x0e, 0x0f]);
            (AccessState(state), input.pick(&[1, 2, 2, 3]))
        })
        .collect();
    encode_set_target_port_groups(&wanted)
}

fn priority(input: &mut Input<'_>) -> Vec<u8> {
    let (priority, relative_port) = (input.u8() & 0x0f, input.pick(&[1, 1, 2, 3]));
    NexusPriority { priority, relative_port, initiator: transport_id(input) }.encode()
}

/// LBAs, most of them of blocks that are there; one of eight bytes is also two of four.
fn defects(input: &mut Input<'_>) -> Vec<u8> {
    let lba = |input: &mut Input<'_>| match input.one_in(16) {
        true => u64::from(input.u32()),
        false => input.u8().into(),
    };
    let lbas: Vec<u8> = (0..input.below(6)).flat_map(|_| lba(input).to_be_bytes()).collect();
    [&(lbas.len() as u32).to_be_bytes()[..], &lbas].concat()
}

fn format(input: &mut Input<'_>) -> Vec<u8> {
    let flags = input.u8();
    let mut list = vec![0, if flags & 1 != 0 { 0x88 } else { 0 } | (flags & 0x02)];
    list.resize(if flags & 4 != 0 { 8 } else { 4 }, 0);
    if flags & 1 != 0 {
        let pattern = input.bytes(8);
        list.extend([0, u8::from(!pattern.is_empty()), 0, pattern.len() as u8]);
        list.extend(pattern);
    }
    list
}

fn overwrite(input: &mut Input<'_>) -> Vec<u8> {
    let pattern = input.bytes(4);
    let mut list = vec![(input.u8() & 0x80) | input.below(4) as u8, 0, 0, pattern.len() as u8];
    list.extend(pattern);
    list
}
