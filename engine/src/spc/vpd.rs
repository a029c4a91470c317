//! Vital product data pages that every device has (SPC-4 7.8).

use crate::{LogicalUnit, Request, TargetPort, copy};
use lunette_scsi::designator::{Association, Designator, Identifier};
use lunette_scsi::mode::ModePageCode;
use lunette_scsi::vpd::{
    DeviceIdentification, ExtendedInquiry, ModePagePolicy, PagePolicy, PortDescription, ScsiPorts,
    SupportedPages, ThirdPartyCopy, UnitSerialNumber, VpdPage,
};
use lunette_scsi::{Opcode, SenseBytes};
use std::sync::Arc;

/// The page `code` of the request's logical unit, whole; `None` if it has no such page.
pub(crate) fn page(code: u8, request: &Request<'_>) -> Option<Vec<u8>> {
    let unit = request.unit;
    let peripheral = unit.device().peripheral();
    if unit.device().is_placeholder() {
        return (VpdPage(code) == VpdPage::SUPPORTED_PAGES)
            .then(|| SupportedPages([VpdPage::SUPPORTED_PAGES].into()).encode(peripheral));
    }
    match VpdPage(code) {
        VpdPage::SUPPORTED_PAGES => Some(supported(unit).encode(peripheral)),
        VpdPage::UNIT_SERIAL_NUMBER => {
            Some(UnitSerialNumber(unit.identity.serial.clone()).encode(peripheral))
        }
        VpdPage::DEVICE_IDENTIFICATION => Some(identification(request).encode(peripheral)),
        VpdPage::EXTENDED_INQUIRY_DATA => Some(extended(unit).encode(peripheral)),
        VpdPage::MODE_PAGE_POLICY => Some(mode_page_policy().encode(peripheral)),
        VpdPage::SCSI_PORTS => Some(ports(unit).encode(peripheral)),
        VpdPage::THIRD_PARTY_COPY if unit.copies_blocks() => Some(third_party_copy(unit).encode(peripheral)),
        _ => unit.device().vpd_page(code, unit),
    }
}

fn supported(unit: &LogicalUnit) -> SupportedPages {
    let primary = [
        VpdPage::SUPPORTED_PAGES,
        VpdPage::UNIT_SERIAL_NUMBER,
        VpdPage::DEVICE_IDENTIFICATION,
        VpdPage::EXTENDED_INQUIRY_DATA,
        VpdPage::MODE_PAGE_POLICY,
        VpdPage::SCSI_PORTS,
    ];
    let copy = unit.copies_blocks().then_some(VpdPage::THIRD_PARTY_COPY);
    SupportedPages(
        primary
            .into_iter()
            .chain(copy)
            .chain(unit.device().vpd_pages().iter().copied().map(VpdPage))
            .collect(),
    )
}

/// The unit by its world-wide name and by its vendor's, and the target port by number, group and name.
fn identification(request: &Request<'_>) -> DeviceIdentification {
    let port = &request.nexus.port;
    let of_ports = [
        of_port(port, Identifier::RelativeTargetPort(port.relative_id)),
        of_port(port, Identifier::TargetPortGroup(port.group)),
        of_port(port, Identifier::ScsiName(port.name.clone())),
    ];
    DeviceIdentification(request.unit.identity.designators().into_iter().chain(of_ports).collect())
}

fn of_port(port: &TargetPort, identifier: Identifier) -> Designator {
    Designator::new(Association::TARGET_PORT, identifier).with_protocol(port.protocol)
}

/// All initiators share all pages, and no unit those of another.
fn mode_page_policy() -> ModePagePolicy {
    const SHARED: u8 = 0;
    let all = ModePageCode::subpage(ModePageCode::ALL_PAGES, ModePageCode::ALL_SUBPAGES);
    ModePagePolicy(vec![PagePolicy { code: all, multiple_units: false, policy: SHARED }])
}

/// The target ports that show the unit.
fn ports(unit: &LogicalUnit) -> ScsiPorts {
    let ports = unit.ports();
    let describe = |port: &Arc<TargetPort>| PortDescription {
        relative_id: port.relative_id,
        names: vec![of_port(port, Identifier::ScsiName(port.name.clone()))],
    };
    ScsiPorts(ports.iter().map(describe).collect())
}

/// The commands of copies that there are, and what they take.
fn third_party_copy(unit: &LogicalUnit) -> ThirdPartyCopy {
    let actions = |opcode: Opcode| {
        let rows = unit.commands().rows_of(opcode.0).iter();
        (opcode, rows.filter_map(|row| Some(row.spec.service_action? as u8)).collect())
    };
    let opcodes = [Opcode::THIRD_PARTY_COPY_OUT, Opcode::THIRD_PARTY_COPY_IN];
    let mut commands = opcodes.map(actions).to_vec();
    commands.retain(|(_, actions): &(_, Vec<u8>)| !actions.is_empty());
    ThirdPartyCopy { commands, limits: copy::LIMITS }
}

fn extended(unit: &LogicalUnit) -> ExtendedInquiry {
    ExtendedInquiry {
        head_of_queue: true,
        ordered: true,
        simple: true,
        priority: true,
        nexus_clear: true,
        maximum_sense_length: SenseBytes::CAPACITY as u8,
        volatile_cache: unit.backing().is_some_and(|backing| backing.caps().volatile_cache),
        ..ExtendedInquiry::default()
    }
}
