//! Vital product data pages (SPC-4 7.8, SBC-4 6.6).

mod block;
mod spc;
mod third_party_copy;

#[cfg(test)]
mod tests;

pub use block::{BlockDeviceCharacteristics, BlockLimits, LogicalBlockProvisioning};
pub use spc::{
    DeviceIdentification, ExtendedInquiry, ModePagePolicy, PagePolicy, PortDescription, PowerCondition,
    ScsiPorts, SupportedPages, UnitSerialNumber,
};
pub use third_party_copy::ThirdPartyCopy;

use crate::bytes::u16_at;
use crate::codes::codes;
use crate::error::ParseError;

codes! {
    /// PAGE CODE of a VPD page.
    pub struct VpdPage(u8);
    SUPPORTED_PAGES = 0x00, "Supported VPD Pages";
    UNIT_SERIAL_NUMBER = 0x80, "Unit Serial Number";
    DEVICE_IDENTIFICATION = 0x83, "Device Identification";
    SOFTWARE_INTERFACE_IDENTIFICATION = 0x84, "Software Interface Identification";
    MANAGEMENT_NETWORK_ADDRESSES = 0x85, "Management Network Addresses";
    EXTENDED_INQUIRY_DATA = 0x86, "Extended INQUIRY Data";
    MODE_PAGE_POLICY = 0x87, "Mode Page Policy";
    SCSI_PORTS = 0x88, "SCSI Ports";
    ATA_INFORMATION = 0x89, "ATA Information";
    POWER_CONDITION = 0x8a, "Power Condition";
    POWER_CONSUMPTION = 0x8d, "Power Consumption";
    THIRD_PARTY_COPY = 0x8f, "Third-Party Copy";
    BLOCK_LIMITS = 0xb0, "Block Limits";
    BLOCK_DEVICE_CHARACTERISTICS = 0xb1, "Block Device Characteristics";
    LOGICAL_BLOCK_PROVISIONING = 0xb2, "Logical Block Provisioning";
    REFERRALS = 0xb3, "Referrals";
    SUPPORTED_BLOCK_LENGTHS_AND_PROTECTION_TYPES = 0xb4, "Supported Block Lengths And Protection Types";
    BLOCK_DEVICE_CHARACTERISTICS_EXTENSION = 0xb5, "Block Device Characteristics Extension";
    ZONED_BLOCK_DEVICE_CHARACTERISTICS = 0xb6, "Zoned Block Device Characteristics";
    BLOCK_LIMITS_EXTENSION = 0xb7, "Block Limits Extension";
}

/// Bytes before the body: peripheral qualifier and type, page code, page length.
const HEADER: usize = 4;

/// A whole page around `body`.
fn page(code: VpdPage, peripheral: u8, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(usize::from(u16::MAX))];
    let [high, low] = (body.len() as u16).to_be_bytes();
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend([peripheral, code.0, high, low]);
    out.extend(body);
    out
}

/// The page in `bytes`, header included, cut to its announced length.
fn check(code: VpdPage, bytes: &[u8]) -> Result<&[u8], ParseError> {
    let what = code.name().unwrap_or("VPD page");
    ParseError::check_length(what, bytes, HEADER)?;
    if bytes[1] != code.0 {
        return Err(ParseError::Invalid { what, byte: 1, reason: "another page code" });
    }
    Ok(&bytes[..bytes.len().min(HEADER + usize::from(u16_at(bytes, 2)))])
}

/// Gives a fixed layout, which includes the header, the methods of a page.
macro_rules! fixed_page {
    ($type:ident, $code:ident) => {
        impl $type {
            /// PAGE CODE.
            pub const CODE: VpdPage = VpdPage::$code;

            /// The whole page; `peripheral` is byte 0 of the standard INQUIRY data.
            pub fn encode(&self, peripheral: u8) -> Vec<u8> {
                let mut out = [0; Self::SIZE];
                self.put(&mut out);
                page(Self::CODE, peripheral, &out[HEADER..])
            }

            /// Decodes a whole page; fields past its end are zero, as in older revisions.
            pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
                check(Self::CODE, bytes).map(Self::get)
            }
        }
    };
}

use fixed_page;
