//! READ CAPACITY parameter data (SBC-4 5).

use crate::bytes::{put, u32_at};
use crate::error::ParseError;
use crate::layout::layout;

layout! {
    /// Parameter data of READ CAPACITY(16); those of READ CAPACITY(10) are a part of it.
    pub struct Capacity[32] {
        /// RETURNED LOGICAL BLOCK ADDRESS: of the last block.
        last_lba: be64(0),
        /// LOGICAL BLOCK LENGTH IN BYTES.
        block_length: be32(8),
        /// P_TYPE, 3 bits: the protection type less one, if `protection` is set.
        protection_type: bits(12, 3, 3),
        /// PROT_EN: the medium is formatted with protection information.
        protection: flag(12, 0),
        /// P_I_EXPONENT, 4 bits: protection intervals per block, as a power of two.
        protection_interval_exponent: bits(13, 7, 4),
        /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT, 4 bits.
        physical_block_exponent: bits(13, 3, 4),
        /// LBPME: thin or resource provisioned.
        provisioned: flag(14, 7),
        /// LBPRZ: unmapped blocks read as zeros.
        read_zeros: flag(14, 6),
        /// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits.
        lowest_aligned_lba: low16(14, 14),
    }
}

impl Capacity {
    /// The 32 bytes of READ CAPACITY(16).
    pub fn encode_16(&self) -> [u8; 32] {
        let mut out = [0; Self::SIZE];
        self.put(&mut out);
        out
    }

    /// The 8 bytes of READ CAPACITY(10); the last LBA is all ones if it needs more than 32 bits.
    pub fn encode_10(&self) -> [u8; 8] {
        let mut out = [0; 8];
        put(&mut out, 0, &u32::try_from(self.last_lba).unwrap_or(u32::MAX).to_be_bytes());
        put(&mut out, 4, &self.block_length.to_be_bytes());
        out
    }

    /// Decodes READ CAPACITY(16) data; the alignment fields may be missing.
    pub fn parse_16(bytes: &[u8]) -> Result<Self, ParseError> {
        ParseError::check_length("READ CAPACITY(16) data", bytes, 12)?;
        Ok(Self::get(bytes))
    }

    /// Decodes READ CAPACITY(10) data. `None` stands for a capacity that only READ CAPACITY(16) can tell.
    pub fn parse_10(bytes: &[u8]) -> Result<Option<Self>, ParseError> {
        ParseError::check_length("READ CAPACITY(10) data", bytes, 8)?;
        let last_lba = u32_at(bytes, 0);
        let capacity = Self { last_lba: last_lba.into(), block_length: u32_at(bytes, 4), ..Self::default() };
        Ok((last_lba != u32::MAX).then_some(capacity))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layouts() {
        let capacity = Capacity {
            last_lba: 0x01_0000_0002,
            block_length: 512,
            protection_type: 2,
            protection: true,
            physical_block_exponent: 3,
            provisioned: true,
            read_zeros: true,
            lowest_aligned_lba: 0x3f01,
            ..Default::default()
        };
        assert_eq!(capacity.encode_16()[..16], [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 2, 0, 0x05, 0x03, 0xff, 0x01]);
        assert_eq!(capacity.encode_10(), [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
        assert_eq!(Capacity::parse_10(&capacity.encode_10()), Ok(None));
    }

    proptest! {
        #[test]
        fn round_trip(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(capacity) = Capacity::parse_16(&bytes) {
                prop_assert_eq!(Capacity::parse_16(&capacity.encode_16()), Ok(capacity));
            }
            if let Ok(Some(capacity)) = Capacity::parse_10(&bytes) {
                prop_assert_eq!(Capacity::parse_10(&capacity.encode_10()), Ok(Some(capacity)));
            }
        }
    }
}
