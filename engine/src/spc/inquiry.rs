//! INQUIRY (SPC-4 6.6): standard data and vital product data.

use super::{PrimaryCommand, vpd};
use crate::{Access, Attention, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation};
use lunette_scsi::inquiry::{PeripheralDeviceType, SpcVersion, StandardInquiry, version_descriptor};
use lunette_scsi::{AccessState, Opcode, Sense, service_action};

pub(crate) static INQUIRY: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(Opcode::INQUIRY, &[0x12, 0x01, 0xff, 0xff, 0xff, 0x00], Direction::In)
        .repeatable()
        .attention(Attention::Kept)
        .reservation(Reservation::Exempt)
        .access(Access::Any),
    decode,
};

/// Peripheral qualifier 001b: there could be a device, but not through this port now (SPC-4 5.15.2.4.5).
const UNAVAILABLE: u8 = 0b001 << 5;

fn decode(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let (vital_product_data, page) = (cdb.bit(1, 0), cdb.u8(2));
    let mut data = match (vital_product_data, page) {
        (false, 0) => standard(unit),
        (true, code) => vpd::page(code, request).ok_or(Sense::invalid_field_in_cdb(2, None))?,
        (false, _) => return Err(Sense::invalid_field_in_cdb(2, None)),
    };
    if unit.access_through(&request.nexus.port) == AccessState::UNAVAILABLE
        && let Some(peripheral) = data.first_mut()
    {
        *peripheral |= UNAVAILABLE;
    }
    Ok(Plan::data(data, u64::from(cdb.u16(3))))
}

fn standard(unit: &LogicalUnit) -> Vec<u8> {
    let (device, identity) = (unit.device(), &unit.identity);
    let peripheral = device.peripheral();
    let mut data = StandardInquiry::new(
        PeripheralDeviceType(peripheral & 0x1f),
        &identity.vendor,
        &identity.product,
        &identity.revision,
    );
    data.peripheral_qualifier = peripheral >> 5;
    data.version = identity.version.0;
    data.normal_aca = !device.is_placeholder();
    data.removable = device.removable();
    data.target_port_group_support = target_port_group_support(unit);
    data.third_party_copy = unit.copies_blocks();
    data.multi_port = unit.ports().len() > 1;
    let primary_commands = match identity.version {
        SpcVersion::SPC_3 => version_descriptor::SPC_3,
        _ => version_descriptor::SPC_4,
    };
    let versions = [version_descriptor::SAM_5, primary_commands];
    for (slot, version) in
        data.version_descriptors.iter_mut().zip(versions.iter().chain(device.version_descriptors()))
    {
        *slot = *version;
    }
    data.encode().to_vec()
}

/// TPGS: the access to ports changes by itself, and by command if there is the command.
fn target_port_group_support(unit: &LogicalUnit) -> u8 {
    const IMPLICIT: u8 = 0b01;
    const EXPLICIT: u8 = 0b10;
    let has = |opcode: Opcode, action| {
        unit.commands().rows_of(opcode.0).iter().any(|row| row.spec.service_action == Some(action))
    };
    if !has(Opcode::MAINTENANCE_IN, service_action::REPORT_TARGET_PORT_GROUPS) {
        0
    } else if has(Opcode::MAINTENANCE_OUT, service_action::SET_TARGET_PORT_GROUPS) {
        IMPLICIT | EXPLICIT
    } else {
        IMPLICIT
    }
}
