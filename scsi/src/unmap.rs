//! The parameter list of UNMAP (SBC-4 5).

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::sense::{AdditionalSense, Sense};

const HEADER: usize = 8;
const DESCRIPTOR: usize = 16;

/// An UNMAP parameter list whose lengths have been checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnmapList<'a> {
    descriptors: &'a [u8],
}

/// One range to unmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnmapDescriptor {
    /// UNMAP LOGICAL BLOCK ADDRESS.
    pub lba: u64,
    /// NUMBER OF LOGICAL BLOCKS; zero unmaps nothing and is no error.
    pub blocks: u32,
    /// Where the descriptor begins in the parameter list, for field pointers.
    pub offset: u16,
}

impl<'a> UnmapList<'a> {
    /// Parses a list; an empty one holds nothing to unmap. What follows the last whole descriptor
    /// is ignored, as the standard asks.
    ///
    /// # Errors
    ///
    /// PARAMETER LIST LENGTH ERROR if the list ends inside its header or descriptors.
    pub fn parse(list: &'a [u8]) -> Result<Self, Sense> {
        if list.is_empty() {
            return Ok(Self { descriptors: &[] });
        }
        let length = usize::from(u16_at(list, 2));
        match list.get(HEADER..HEADER + length) {
            Some(descriptors) => Ok(Self { descriptors }),
            None => Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR)),
        }
    }

    /// How many descriptors there are.
    pub const fn len(&self) -> usize {
        self.descriptors.len() / DESCRIPTOR
    }

    /// Whether there is nothing to unmap.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The descriptors in order.
    pub fn iter(&self) -> impl Iterator<Item = UnmapDescriptor> + use<'a> {
        // The list's own 16-bit length bounds the offsets.
        let offsets = (HEADER..).step_by(DESCRIPTOR).map(|offset| offset as u16);
        self.descriptors.chunks_exact(DESCRIPTOR).zip(offsets).map(|(bytes, offset)| UnmapDescriptor {
            lba: u64_at(bytes, 0),
            blocks: u32_at(bytes, 8),
            offset,
        })
    }
}

/// The parameter list that asks to unmap `ranges` of LBA and number of blocks, for initiators. `None` if there are
/// more than one list can hold.
pub fn encode_unmap_list(ranges: &[(u64, u32)]) -> Option<Vec<u8>> {
    let length = u16::try_from(ranges.len().checked_mul(DESCRIPTOR)?).ok()?;
    let data_length = length.checked_add(6)?;
    let mut out = Vec::with_capacity(HEADER + usize::from(length));
    out.extend(data_length.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend([0; 4]);
    for (lba, blocks) in ranges {
        out.extend(lba.to_be_bytes());
        out.extend(blocks.to_be_bytes());
        out.extend([0; 4]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layout() {
        let list = encode_unmap_list(&[(0x0102, 3), (9, 0)]).unwrap();
        assert_eq!(list[..24], [0, 38, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 0, 0, 0, 0]);
        let parsed = UnmapList::parse(&list).unwrap();
        let second = UnmapDescriptor { lba: 9, blocks: 0, offset: 24 };
        assert_eq!(parsed.iter().nth(1), Some(second));
    }

    #[test]
    fn lengths() {
        assert!(UnmapList::parse(&[]).unwrap().is_empty());
        assert!(UnmapList::parse(&[0; 8]).unwrap().is_empty());
        let mut list = encode_unmap_list(&[(1, 1), (2, 2)]).unwrap();
        for cut in [1, 7, 8, 39] {
            let sense = UnmapList::parse(&list[..cut]).unwrap_err();
            assert_eq!(sense.additional, AdditionalSense::PARAMETER_LIST_LENGTH_ERROR, "{cut}");
        }
        list[3] = 31;
        assert_eq!(UnmapList::parse(&list).unwrap().len(), 1, "an incomplete descriptor is ignored");
        assert_eq!(encode_unmap_list(&[(0, 0); 4096]), None);
    }

    proptest! {
        #[test]
        fn round_trip(ranges in prop::collection::vec(any::<(u64, u32)>(), 0..30)) {
            let list = encode_unmap_list(&ranges).unwrap();
            let parsed: Vec<_> = UnmapList::parse(&list).unwrap().iter().map(|range| (range.lba, range.blocks)).collect();
            prop_assert_eq!(parsed, ranges);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = UnmapList::parse(&bytes).map(|list| list.iter().count());
        }
    }
}
