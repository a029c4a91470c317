//! Pages of every device type.

use std::collections::BTreeSet;

use super::{HEADER, VpdPage, check, fixed_page, page};
use crate::designator::Designator;
use crate::error::ParseError;
use crate::layout::layout;

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
