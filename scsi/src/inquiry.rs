//! Standard INQUIRY data (SPC-4 6.6.2).

use crate::codes::codes;
use crate::error::ParseError;
use crate::layout::layout;

codes! {
    /// PERIPHERAL DEVICE TYPE (SPC-4 6.6.2).
    pub struct PeripheralDeviceType(u8);
    DISK = 0x00, "direct access block device";
    TAPE = 0x01, "sequential access device";
    PROCESSOR = 0x03, "processor device";
    OPTICAL = 0x05, "CD/DVD device";
    CHANGER = 0x08, "media changer device";
    STORAGE_ARRAY = 0x0c, "storage array controller device";
    ENCLOSURE = 0x0d, "enclosure services device";
    OBJECT_STORAGE = 0x11, "object-based storage device";
    AUTOMATION = 0x12, "automation/drive interface";
    HOST_MANAGED_ZONED = 0x14, "host managed zoned block device";
    WELL_KNOWN_LOGICAL_UNIT = 0x1e, "well known logical unit";
    UNKNOWN = 0x1f, "unknown or no device type";
}

codes! {
    /// VERSION: the standard that the device claims (SPC-4 6.6.2).
    pub struct SpcVersion(u8);
    NONE = 0x00, "no standard claimed";
    SPC_2 = 0x04, "SPC-2";
    SPC_3 = 0x05, "SPC-3";
    SPC_4 = 0x06, "SPC-4";
    SPC_5 = 0x07, "SPC-5";
    SPC_6 = 0x0d, "SPC-6";
}

/// The first byte of INQUIRY data and VPD pages when a LUN cannot have a device: qualifier 011b,
/// type 1Fh.
pub const NO_LOGICAL_UNIT: u8 = 0x7f;

/// VERSION DESCRIPTOR values, "no version claimed" (SPC-4 6.6.2).
pub mod version_descriptor {
    /// SAM-5.
    pub const SAM_5: u16 = 0x00a0;
    /// SAM-6.
    pub const SAM_6: u16 = 0x00c0;
    /// SPC-3.
    pub const SPC_3: u16 = 0x0300;
    /// SPC-4.
    pub const SPC_4: u16 = 0x0460;
    /// SPC-5.
    pub const SPC_5: u16 = 0x05c0;
    /// SBC-3.
    pub const SBC_3: u16 = 0x04c0;
    /// SBC-4.
    pub const SBC_4: u16 = 0x0600;
    /// SMC-3.
    pub const SMC_3: u16 = 0x0480;
    /// SSC-4.
    pub const SSC_4: u16 = 0x0520;
    /// SSC-5.
    pub const SSC_5: u16 = 0x05a0;
    /// MMC-6.
    pub const MMC_6: u16 = 0x04e0;
    /// SRP.
    pub const SRP: u16 = 0x0940;
    /// iSCSI.
    pub const ISCSI: u16 = 0x0960;
}

layout! {
    /// Standard INQUIRY data, 96 bytes with all eight version descriptors.
    pub struct StandardInquiry[96] {
        /// PERIPHERAL QUALIFIER, 3 bits: 000b a device is there, 001b it could be, 011b never.
        peripheral_qualifier: bits(0, 7, 3),
        /// PERIPHERAL DEVICE TYPE, 5 bits, a [`PeripheralDeviceType`].
        peripheral_device_type: bits(0, 4, 5),
        /// RMB: the medium is removable.
        removable: flag(1, 7),
        /// LU_CONG: part of a conglomerate.
        conglomerate: flag(1, 6),
        /// VERSION, an [`SpcVersion`].
        version: byte(2),
        /// NORMACA: NACA set to one in a CDB is supported.
        normal_aca: flag(3, 5),
        /// HISUP: LUNs follow the hierarchical model; set by every device since SPC-4.
        hierarchical: flag(3, 4),
        /// RESPONSE DATA FORMAT, 4 bits, always 2.
        response_data_format: bits(3, 3, 4),
        /// SCCS: a storage array controller component is embedded.
        storage_array_controller: flag(5, 7),
        /// TPGS, 2 bits: 01b implicit, 10b explicit, 11b both kinds of asymmetric access.
        target_port_group_support: bits(5, 5, 2),
        /// 3PC: third-party copy commands are supported.
        third_party_copy: flag(5, 3),
        /// PROTECT: protection information is supported.
        protect: flag(5, 0),
        /// ENCSERV: an enclosure services component is embedded.
        enclosure_services: flag(6, 6),
        /// MULTIP: the device has more than one target port.
        multi_port: flag(6, 4),
        /// CMDQUE: the SAM command management model; set by every device.
        command_queuing: flag(7, 1),
        /// T10 VENDOR IDENTIFICATION, padded with spaces.
        vendor: bytes8(8),
        /// PRODUCT IDENTIFICATION, padded with spaces.
        product: bytes16(16),
        /// PRODUCT REVISION LEVEL, padded with spaces.
        revision: bytes4(32),
        /// Vendor specific.
        vendor_specific: bytes20(36),
        /// VERSION DESCRIPTORs, unused ones zero.
        version_descriptors: words8(58),
    }
}

impl StandardInquiry {
    const ADDITIONAL_LENGTH_AT: usize = 4;

    /// A device with the bits that every SPC-5 device sets and texts cut or padded to fit.
    pub fn new(device_type: PeripheralDeviceType, vendor: &str, product: &str, revision: &str) -> Self {
        Self {
            peripheral_device_type: device_type.0,
            version: SpcVersion::SPC_5.0,
            hierarchical: true,
            response_data_format: 2,
            command_queuing: true,
            vendor: padded_text(vendor),
            product: padded_text(product),
            revision: padded_text(revision),
            ..Self::default()
        }
    }

    /// The first byte, which VPD pages repeat.
    pub const fn peripheral(&self) -> u8 {
        self.peripheral_qualifier << 5 | (self.peripheral_device_type & 0x1f)
    }

    /// All 96 bytes; the device server cuts them to the allocation length.
    pub fn encode(&self) -> [u8; 96] {
        let mut out = [0; Self::SIZE];
        self.put(&mut out);
        out[Self::ADDITIONAL_LENGTH_AT] = (Self::SIZE - 5) as u8;
        out
    }

    /// Decodes what a device returned, at least 36 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        ParseError::check_length("standard INQUIRY data", bytes, 36)?;
        let announced = 5 + usize::from(bytes[Self::ADDITIONAL_LENGTH_AT]);
        Ok(Self::get(&bytes[..bytes.len().min(announced)]))
    }
}

/// `text` in a field of `N` ASCII bytes, left-aligned and padded with spaces (SPC-5 4.3.1). What is
/// too long is cut off, what is not printable ASCII becomes a question mark.
pub fn padded_text<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [b' '; N];
    for (byte, c) in out.iter_mut().zip(text.chars()) {
        *byte = if matches!(c, ' '..='~') { c as u8 } else { b'?' };
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layout_of_a_disk() {
        let mut disk =
            StandardInquiry::new(PeripheralDeviceType::DISK, "LUNETTE", "virtual disk", "0.1é and more");
        disk.removable = true;
        disk.target_port_group_support = 1;
        disk.third_party_copy = true;
        disk.version_descriptors[..2]
            .copy_from_slice(&[version_descriptor::SAM_5, version_descriptor::SBC_4]);
        let bytes = disk.encode();
        assert_eq!(bytes[..8], [0x00, 0x80, 0x07, 0x12, 91, 0x18, 0, 0x02]);
        assert_eq!(&bytes[8..36], b"LUNETTE virtual disk    0.1?");
        assert_eq!(bytes[58..64], [0x00, 0xa0, 0x06, 0x00, 0, 0]);
    }

    #[test]
    fn peripheral_byte() {
        let nothing =
            StandardInquiry { peripheral_qualifier: 3, peripheral_device_type: 0x1f, ..Default::default() };
        assert_eq!(nothing.peripheral(), NO_LOGICAL_UNIT);
        assert_eq!(nothing.encode()[0], NO_LOGICAL_UNIT);
    }

    #[test]
    fn short_data() {
        assert!(StandardInquiry::parse(&[0; 35]).is_err());
        let mut bytes = [0xff; 96];
        bytes[4] = 31;
        assert_eq!(
            StandardInquiry::parse(&bytes).unwrap().version_descriptors,
            [0; 8],
            "past the announced length"
        );
    }

    proptest! {
        #[test]
        fn round_trip(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(inquiry) = StandardInquiry::parse(&bytes) {
                prop_assert_eq!(StandardInquiry::parse(&inquiry.encode()), Ok(inquiry));
            }
        }
    }
}
