//! GET LBA STATUS parameter data (SBC-4 5).

use crate::bytes::{u8_at, u32_at, u64_at};
use crate::codes::codes;

const HEADER: usize = 8;
const DESCRIPTOR: usize = 16;

codes! {
    /// PROVISIONING STATUS: what there is of a logical block (SBC-4 4.7).
    pub struct ProvisioningStatus(u8);
    MAPPED = 0, "mapped or unknown";
    DEALLOCATED = 1, "deallocated";
    ANCHORED = 2, "anchored";
}

codes! {
    /// REPORT TYPE: which logical blocks GET LBA STATUS is to tell of.
    pub struct ReportType(u8);
    ALL = 0x00, "all";
    NOT_MAPPED = 0x01, "with a provisioning status that is not zero";
    MAPPED = 0x02, "mapped";
    DEALLOCATED = 0x03, "deallocated";
    ANCHORED = 0x04, "anchored";
    UNRECOVERED = 0x10, "that may return an unrecovered error";
}

codes! {
    /// COMPLETION CONDITION: why there are no more descriptors.
    pub struct CompletionCondition(u8);
    NONE = 0, "no indication";
    ALLOCATION_LENGTH = 1, "allocation length";
    SCAN_LENGTH = 2, "scan length";
    CAPACITY = 3, "capacity of the medium";
}

/// A LBA status descriptor: neighbouring blocks with one status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LbaStatus {
    /// The first block.
    pub lba: u64,
    /// How many blocks; never zero from a device.
    pub blocks: u32,
    /// Their provisioning status.
    pub status: ProvisioningStatus,
}

/// How many descriptors fit into `allocation_length` bytes of parameter data.
pub const fn descriptors_in(allocation_length: u32) -> usize {
    (allocation_length as usize).saturating_sub(HEADER) / DESCRIPTOR
}

/// Bytes of parameter data with `descriptors` descriptors.
pub const fn data_length(descriptors: usize) -> usize {
    HEADER + descriptors * DESCRIPTOR
}

/// Parameter data that keeps to the report type (RTP).
pub fn encode_lba_status(list: &[LbaStatus], condition: CompletionCondition) -> Vec<u8> {
    const REPORT_TYPE_PROCESSED: u8 = 0x01;
    let mut out = Vec::with_capacity(data_length(list.len()));
    out.extend((data_length(list.len()) as u32 - 4).to_be_bytes());
    out.extend([0, 0, 0, (condition.0 & 0x07) << 1 | REPORT_TYPE_PROCESSED]);
    for LbaStatus { lba, blocks, status } in list {
        out.extend(lba.to_be_bytes());
        out.extend(blocks.to_be_bytes());
        out.extend([status.0 & 0x0f, 0, 0, 0]);
    }
    out
}

/// The descriptors of parameter data, as many as are whole, and why there are no more.
pub fn parse_lba_status(data: &[u8]) -> (Vec<LbaStatus>, CompletionCondition) {
    let end = data.len().min((u32_at(data, 0) as usize).saturating_add(4));
    let descriptors = data.get(HEADER..end).unwrap_or_default().chunks_exact(DESCRIPTOR);
    let list = descriptors.map(|bytes| LbaStatus {
        lba: u64_at(bytes, 0),
        blocks: u32_at(bytes, 8),
        status: ProvisioningStatus(u8_at(bytes, 12) & 0x0f),
    });
    (list.collect(), CompletionCondition(u8_at(data, 7) >> 1 & 0x07))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout() {
        let status = LbaStatus { lba: 0x0102, blocks: 3, status: ProvisioningStatus::DEALLOCATED };
        let data = encode_lba_status(&[status], CompletionCondition::CAPACITY);
        assert_eq!(data, [0, 0, 0, 20, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 1, 0, 0, 0]);
        assert_eq!(parse_lba_status(&data), (vec![status], CompletionCondition::CAPACITY));
        assert_eq!(encode_lba_status(&[], CompletionCondition::NONE), [0, 0, 0, 4, 0, 0, 0, 1]);
        assert_eq!((descriptors_in(23), descriptors_in(24), descriptors_in(0)), (0, 1, 0));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let (list, _) = parse_lba_status(&bytes);
            prop_assert!(list.len() <= descriptors_in(bytes.len() as u32));
        }
    }
}
