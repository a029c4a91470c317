//! Pages of every device type.

use std::collections::BTreeSet;

use super::{HEADER, VpdPage, check, fixed_page, page};
use crate::bytes::{bit, u16_at};
use crate::designator::Designator;
use crate::error::ParseError;
use crate::layout::layout;
use crate::mode::ModePageCode;

/// Supported VPD Pages (00h), in ascending order (SPC-4 7.8).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SupportedPages(pub BTreeSet<VpdPage>);

impl SupportedPages {
    /// PAGE CODE.
    pub const CODE: VpdPage = VpdPage::SUPPORTED_PAGES;

    /// The whole page; `peripheral` is byte 0 of the standard INQUIRY data.
    pub fn encode(&self, peripheral: u8) -> Vec<u8> {
        let body: Vec<u8> = self.0.iter().map(|code| code.0).collect();
        page(Self::CODE, peripheral, &body)
    }

    /// Decodes a whole page.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let page = check(Self::CODE, bytes)?;
        Ok(page[HEADER..].iter().copied().map(VpdPage).collect())
    }
}

impl FromIterator<VpdPage> for SupportedPages {
    /// The pages named and this page itself.
    fn from_iter<T: IntoIterator<Item = VpdPage>>(pages: T) -> Self {
        Self(pages.into_iter().chain([Self::CODE]).collect())
    }
}

/// Unit Serial Number (80h), ASCII (SPC-4 7.8).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnitSerialNumber(pub String);

impl UnitSerialNumber {
    /// PAGE CODE.
    pub const CODE: VpdPage = VpdPage::UNIT_SERIAL_NUMBER;

    /// The whole page; `peripheral` is byte 0 of the standard INQUIRY data.
    pub fn encode(&self, peripheral: u8) -> Vec<u8> {
        page(Self::CODE, peripheral, self.0.as_bytes())
    }

    /// Decodes a whole page, keeping padding.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let page = check(Self::CODE, bytes)?;
        Ok(Self(String::from_utf8_lossy(&page[HEADER..]).into_owned()))
    }
}

/// Device Identification (83h) (SPC-4 7.8.6).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceIdentification(pub Vec<Designator>);

impl DeviceIdentification {
    /// PAGE CODE.
    pub const CODE: VpdPage = VpdPage::DEVICE_IDENTIFICATION;

    /// The whole page; `peripheral` is byte 0 of the standard INQUIRY data. Designators that do
    /// not fit 65 535 bytes are left out.
    pub fn encode(&self, peripheral: u8) -> Vec<u8> {
        let mut body = Vec::new();
        for designator in &self.0 {
            let bytes = designator.encode();
            if body.len() + bytes.len() <= usize::from(u16::MAX) {
                body.extend(bytes);
            }
        }
        page(Self::CODE, peripheral, &body)
    }

    /// Decodes a whole page.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut rest = &check(Self::CODE, bytes)?[HEADER..];
        let mut designators = Vec::new();
        while !rest.is_empty() {
            let (designator, length) = Designator::parse(rest)?;
            designators.push(designator);
            rest = &rest[length..];
        }
        Ok(Self(designators))
    }
}

layout! {
    /// Extended INQUIRY Data (86h) (SPC-5 7.7).
    pub struct ExtendedInquiry[64] {
        /// ACTIVATE_MICROCODE, 2 bits.
        activate_microcode: bits(4, 7, 2),
        /// SPT: the protection types that formatting supports, 3 bits.
        supported_protection_types: bits(4, 5, 3),
        /// GRD_CHK: the guard is checked.
        guard_check: flag(4, 2),
        /// APP_CHK: the application tag is checked.
        application_tag_check: flag(4, 1),
        /// REF_CHK: the reference tag is checked.
        reference_tag_check: flag(4, 0),
        /// UASK_SUP: unit attentions carry sense-key specific data.
        unit_attention_sense_key_specific: flag(5, 5),
        /// GROUP_SUP: the grouping function.
        grouping: flag(5, 4),
        /// PRIOR_SUP: command priority.
        priority: flag(5, 3),
        /// HEADSUP: HEAD OF QUEUE.
        head_of_queue: flag(5, 2),
        /// ORDSUP: ORDERED.
        ordered: flag(5, 1),
        /// SIMPSUP: SIMPLE.
        simple: flag(5, 0),
        /// WU_SUP: WR_UNCOR of WRITE LONG.
        write_uncorrectable: flag(6, 3),
        /// CRD_SUP: COR_DIS of WRITE LONG (obsolete in SPC-5).
        correction_disable: flag(6, 2),
        /// NV_SUP: a non-volatile cache.
        nonvolatile_cache: flag(6, 1),
        /// V_SUP: a volatile cache.
        volatile_cache: flag(6, 0),
        /// NO_PI_CHK: protection information is not checked.
        no_protection_check: flag(7, 5),
        /// P_I_I_SUP: protection information intervals.
        protection_interval: flag(7, 4),
        /// LUICLR: a change of the reported LUNs is told of once for all logical units of a nexus.
        nexus_clear: flag(7, 0),
        /// LU_COLL_TYPE, 3 bits.
        collection_type: bits(8, 7, 3),
        /// R_SUP: referrals.
        referrals: flag(8, 4),
        /// RTD_SUP: RTD of MODE SELECT.
        revert_to_defaults: flag(8, 3),
        /// HSSRELEF: how history snapshots are released.
        history_snapshot_release_effects: flag(8, 1),
        /// MULTI I_T NEXUS MICROCODE DOWNLOAD, 4 bits.
        multi_nexus_microcode_download: bits(9, 3, 4),
        /// EXTENDED SELF-TEST COMPLETION MINUTES.
        extended_self_test_minutes: be16(10),
        /// POA_SUP: microcode is activated by power on.
        power_on_activation: flag(12, 7),
        /// HRA_SUP: microcode is activated by a hard reset.
        hard_reset_activation: flag(12, 6),
        /// VSA_SUP: microcode is activated in a vendor-specific way.
        vendor_specific_activation: flag(12, 5),
        /// MAXIMUM SUPPORTED SENSE DATA LENGTH.
        maximum_sense_length: byte(13),
        /// MAXIMUM INQUIRY CHANGE LOGS.
        maximum_inquiry_change_logs: be16(15),
        /// MAXIMUM MODE PAGE CHANGE LOGS.
        maximum_mode_page_change_logs: be16(17),
    }
}

fixed_page!(ExtendedInquiry, EXTENDED_INQUIRY_DATA);

/// Whose values a mode page has (SPC-4 7.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagePolicy {
    /// The page; page 3Fh and subpage FFh stand for all that are not named.
    pub code: ModePageCode,
    /// MLUS: other logical units share the values.
    pub multiple_units: bool,
    /// MODE PAGE POLICY: 0 shared by all I_T nexuses, 1 per target port, 3 per I_T nexus.
    pub policy: u8,
}

/// Mode Page Policy (87h) (SPC-4 7.8).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ModePagePolicy(pub Vec<PagePolicy>);

impl ModePagePolicy {
    /// PAGE CODE.
    pub const CODE: VpdPage = VpdPage::MODE_PAGE_POLICY;

    /// The whole page; `peripheral` is byte 0 of the standard INQUIRY data.
    pub fn encode(&self, peripheral: u8) -> Vec<u8> {
        let entry = |entry: &PagePolicy| {
            let flags = bit(entry.multiple_units, 7) | (entry.policy & 0x03);
            [entry.code.page & 0x3f, entry.code.subpage, flags, 0]
        };
        let body: Vec<u8> = self.0.iter().flat_map(entry).collect();
        page(Self::CODE, peripheral, &body)
    }

    /// Decodes a whole page.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let entries = check(Self::CODE, bytes)?[HEADER..].chunks_exact(4);
        let entry = |bytes: &[u8]| PagePolicy {
            code: ModePageCode::subpage(bytes[0] & 0x3f, bytes[1]),
            multiple_units: bytes[2] & 0x80 != 0,
            policy: bytes[2] & 0x03,
        };
        Ok(Self(entries.map(entry).collect()))
    }
}

layout! {
    /// Power Condition (8Ah): conditions below the active one, and in milliseconds how long it takes to leave them; zero: not
    /// said (SPC-4 7.8).
    pub struct PowerCondition[18] {
        /// STANDBY_Y.
        standby_y: flag(4, 1),
        /// STANDBY_Z.
        standby_z: flag(4, 0),
        /// IDLE_C.
        idle_c: flag(5, 2),
        /// IDLE_B.
        idle_b: flag(5, 1),
        /// IDLE_A.
        idle_a: flag(5, 0),
        /// STOPPED CONDITION RECOVERY TIME.
        stopped_recovery: be16(6),
        /// STANDBY_Z CONDITION RECOVERY TIME.
        standby_z_recovery: be16(8),
        /// STANDBY_Y CONDITION RECOVERY TIME.
        standby_y_recovery: be16(10),
        /// IDLE_A CONDITION RECOVERY TIME.
        idle_a_recovery: be16(12),
        /// IDLE_B CONDITION RECOVERY TIME.
        idle_b_recovery: be16(14),
        /// IDLE_C CONDITION RECOVERY TIME.
        idle_c_recovery: be16(16),
    }
}

fixed_page!(PowerCondition, POWER_CONDITION);

/// One target port of a SCSI device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortDescription {
    /// RELATIVE PORT IDENTIFIER.
    pub relative_id: u16,
    /// Its names.
    pub names: Vec<Designator>,
}

/// SCSI Ports (88h): the target ports of a device, without initiator ports (SPC-4 7.8).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScsiPorts(pub Vec<PortDescription>);

impl ScsiPorts {
    /// PAGE CODE.
    pub const CODE: VpdPage = VpdPage::SCSI_PORTS;

    /// The whole page; `peripheral` is byte 0 of the standard INQUIRY data. Ports that do not fit 65 535 bytes are left
    /// out.
    pub fn encode(&self, peripheral: u8) -> Vec<u8> {
        let mut body = Vec::new();
        for port in &self.0 {
            let names: Vec<u8> = port.names.iter().flat_map(Designator::encode).collect();
            let length = names.len().min(u16::MAX.into());
            if body.len() + 12 + length <= usize::from(u16::MAX) {
                body.extend([0, 0]);
                body.extend(port.relative_id.to_be_bytes());
                body.extend([0; 6]);
                body.extend((length as u16).to_be_bytes());
                body.extend(&names[..length]);
            }
        }
        page(Self::CODE, peripheral, &body)
    }

    /// Decodes a whole page; initiator ports are left out.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let what = "SCSI port";
        let mut rest = &check(Self::CODE, bytes)?[HEADER..];
        let mut ports = Vec::new();
        while !rest.is_empty() {
            ParseError::check_length(what, rest, 8)?;
            let names = 12 + usize::from(u16_at(rest, 6));
            ParseError::check_length(what, rest, names)?;
            let end = names + usize::from(u16_at(rest, names - 2));
            ParseError::check_length(what, rest, end)?;
            let mut port = PortDescription { relative_id: u16_at(rest, 2), names: Vec::new() };
            let mut at = names;
            while at < end {
                let (name, length) = Designator::parse(&rest[at..end])?;
                port.names.push(name);
                at += length;
            }
            ports.push(port);
            rest = &rest[end..];
        }
        Ok(Self(ports))
    }
}
