//! What the bytes of a block are: derived from its address and a generation, so that a misplaced, stale or lost block
//! is seen.

/// Bytes of a logical block.
pub(crate) const BLOCK: usize = 512;
/// 64-bit words of a logical block.
pub(crate) const WORDS: usize = BLOCK / size_of::<u64>();

const MAGIC: u64 = 0x6c75_6e65_7474_6521;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A word of block `lba`. Word 0 is the block's stamp.
pub(crate) fn word(lba: u64, generation: u8, index: usize) -> u64 {
    stamp(lba, generation).wrapping_add(STEP.wrapping_mul(index as u64))
}

/// The first word of block `lba`.
pub(crate) fn stamp(lba: u64, generation: u8) -> u64 {
    MAGIC ^ (lba << 8 | u64::from(generation))
}

/// The address and the generation in a stamp.
pub(crate) fn read_stamp(stamp: u64) -> (u64, u8) {
    let plain = stamp ^ MAGIC;
    (plain >> 8, plain as u8)
}

/// The bytes of whole blocks from `lba` on.
pub(crate) fn fill(bytes: &mut [u8], lba: u64, generation: u8) {
    for (block, lba) in bytes.chunks_exact_mut(BLOCK).zip(lba..) {
        for (index, bytes) in block.chunks_exact_mut(size_of::<u64>()).enumerate() {
            bytes.copy_from_slice(&word(lba, generation, index).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_address_and_generation() {
        assert_eq!(read_stamp(stamp(0x1234_5678, 9)), (0x1234_5678, 9));
        assert_eq!(stamp(7, 1), word(7, 1, 0));
    }

    #[test]
    fn no_two_words_of_neighbouring_blocks_are_alike() {
        let mut bytes = vec![0; 4 * BLOCK];
        fill(&mut bytes, 100, 3);
        let mut words: Vec<_> = bytes.chunks_exact(8).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 4 * WORDS);
        assert_eq!(bytes[BLOCK..BLOCK + 8], stamp(101, 3).to_le_bytes());
    }
}
