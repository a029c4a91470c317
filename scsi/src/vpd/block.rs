//! Pages of block devices.

use super::{HEADER, VpdPage, check, fixed_page, page};
use crate::error::ParseError;
use crate::layout::layout;

layout! {
    /// Block Limits (B0h), in logical blocks; zero usually means "not reported" (SBC-4 6.6).
    pub struct BlockLimits[64] {
        /// WSNZ: WRITE SAME with a length of zero is refused.
        write_same_non_zero: flag(4, 0),
        /// MAXIMUM COMPARE AND WRITE LENGTH; zero: the command is not supported.
        maximum_compare_and_write: byte(5),
        /// OPTIMAL TRANSFER LENGTH GRANULARITY.
        optimal_transfer_granularity: be16(6),
        /// MAXIMUM TRANSFER LENGTH.
        maximum_transfer: be32(8),
        /// OPTIMAL TRANSFER LENGTH.
        optimal_transfer: be32(12),
        /// MAXIMUM PREFETCH LENGTH.
        maximum_prefetch: be32(16),
        /// MAXIMUM UNMAP LBA COUNT; all ones: no limit.
        maximum_unmap_blocks: be32(20),
        /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT; all ones: no limit.
        maximum_unmap_descriptors: be32(24),
        /// OPTIMAL UNMAP GRANULARITY.
        optimal_unmap_granularity: be32(28),
        /// UNMAP GRANULARITY ALIGNMENT, 31 bits, with UGAVALID.
        unmap_granularity_alignment: valid31(32),
        /// MAXIMUM WRITE SAME LENGTH.
        maximum_write_same: be64(36),
        /// MAXIMUM ATOMIC TRANSFER LENGTH.
        maximum_atomic_transfer: be32(44),
        /// ATOMIC ALIGNMENT.
        atomic_alignment: be32(48),
        /// ATOMIC TRANSFER LENGTH GRANULARITY.
        atomic_transfer_granularity: be32(52),
        /// MAXIMUM ATOMIC TRANSFER LENGTH WITH ATOMIC BOUNDARY.
        maximum_atomic_transfer_with_boundary: be32(56),
        /// MAXIMUM ATOMIC BOUNDARY SIZE.
        maximum_atomic_boundary: be32(60),
    }
}

fixed_page!(BlockLimits, BLOCK_LIMITS);

layout! {
    /// Block Device Characteristics (B1h) (SBC-4 6.6).
    pub struct BlockDeviceCharacteristics[64] {
        /// MEDIUM ROTATION RATE in rpm; 1: the medium does not rotate.
        medium_rotation_rate: be16(4),
        /// PRODUCT TYPE.
        product_type: byte(6),
        /// WABEREQ, 2 bits: what reads do after a sanitize block erase.
        write_after_block_erase: bits(7, 7, 2),
        /// WACEREQ, 2 bits: what reads do after a sanitize cryptographic erase.
        write_after_cryptographic_erase: bits(7, 5, 2),
        /// NOMINAL FORM FACTOR, 4 bits.
        nominal_form_factor: bits(7, 3, 4),
        /// ZONED, 2 bits: 01b host aware, 10b device managed.
        zoned: bits(8, 5, 2),
        /// BOCS: background operation control is supported.
        background_operation_control: flag(8, 2),
        /// FUAB: FUA and SYNCHRONIZE CACHE work as in SBC-3 and later, not as in SBC-2.
        fua_behavior: flag(8, 1),
        /// VBULS: VERIFY with BYTCHK 01b of unmapped blocks is supported.
        verify_unmapped: flag(8, 0),
        /// DEPOPULATION TIME in seconds.
        depopulation_time: be32(12),
    }
}

fixed_page!(BlockDeviceCharacteristics, BLOCK_DEVICE_CHARACTERISTICS);

layout! {
    /// Logical Block Provisioning (B2h), without a provisioning group descriptor (SBC-4 6.6).
    pub struct LogicalBlockProvisioning[8] {
        /// THRESHOLD EXPONENT: threshold sets are 2^n blocks; zero: none.
        threshold_exponent: byte(4),
        /// LBPU: UNMAP is supported.
        unmap: flag(5, 7),
        /// LBPWS: WRITE SAME(16) can unmap.
        write_same_16: flag(5, 6),
        /// LBPWS10: WRITE SAME(10) can unmap.
        write_same_10: flag(5, 5),
        /// LBPRZ, 3 bits: 001b unmapped blocks read as zeros.
        read_zeros: bits(5, 4, 3),
        /// ANC_SUP: blocks can be anchored.
        anchor: flag(5, 1),
        /// MINIMUM PERCENTAGE, 5 bits.
        minimum_percentage: bits(6, 7, 5),
        /// PROVISIONING TYPE, 3 bits: 001b resource, 010b thin.
        provisioning_type: bits(6, 2, 3),
        /// THRESHOLD PERCENTAGE.
        threshold_percentage: byte(7),
    }
}

fixed_page!(LogicalBlockProvisioning, LOGICAL_BLOCK_PROVISIONING);
