//! INQUIRY (SPC-4 6.6): standard data and vital product data.

use super::{PrimaryCommand, vpd};
use crate::{Attention, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation};
use lunette_scsi::inquiry::{PeripheralDeviceType, SpcVersion, StandardInquiry, version_descriptor};
use lunette_scsi::{Opcode, Sense};

pub(crate) static INQUIRY: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(Opcode::INQUIRY, &[0x12, 0x01, 0xff, 0xff, 0xff, 0x00], Direction::In)
        .attention(Attention::Kept)
        .reservation(Reservation::Exempt),
    decode,
};

fn decode(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let (vital_product_data, page) = (cdb.bit(1, 0), cdb.u8(2));
    let data = match (vital_product_data, page) {
        (false, 0) => standard(unit),
        (true, code) => vpd::page(code, request).ok_or(Sense::invalid_field_in_cdb(2, None))?,
        (false, _) => return Err(Sense::invalid_field_in_cdb(2, None)),
    };
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
    data.version = SpcVersion::SPC_4.0;
    data.removable = device.removable();
    let versions = [version_descriptor::SAM_5, version_descriptor::SPC_4];
    for (slot, version) in
        data.version_descriptors.iter_mut().zip(versions.iter().chain(device.version_descriptors()))
    {
        *slot = *version;
    }
    data.encode().to_vec()
}
