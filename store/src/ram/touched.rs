//! Which parts of a sparse memory file may hold something else than zeroes.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Bytes per bit.
pub(super) const CHUNK: usize = 64 << 10;

/// One bit per chunk, set once something was written there. A clear bit means that the chunk reads as zero.
///
/// Writers set bits after they have copied, and whoever discards clears them *before* the memory is given back. A write
/// that races with a discard may be lost, as SCSI allows; but it never leaves bytes behind under a clear bit, which a
/// later write to the same chunk would bring to light.
#[derive(Debug)]
pub(super) struct Touched {
    words: Box<[AtomicU64]>,
}

impl Touched {
    pub(super) fn new(size: u64) -> Self {
        let words = size.div_ceil(CHUNK as u64 * 64);
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(super) fn contains(&self, offset: usize) -> bool {
        let (word, bit) = self.bit(offset / CHUNK);
        word.load(Ordering::Acquire) & bit != 0
    }

    /// Sets the bits of all chunks that `from..to` touches.
    pub(super) fn insert(&self, from: usize, to: usize) {
        // The copy must be visible before the bit is looked at: see above.
        fence(Ordering::SeqCst);
        for chunk in from / CHUNK..to.div_ceil(CHUNK) {
            let (word, bit) = self.bit(chunk);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::SeqCst);
            }
        }
    }

    /// Clears the bits of the chunks that lie wholly in `from..to`.
    pub(super) fn remove(&self, from: usize, to: usize) {
        let whole: Range<usize> = from.div_ceil(CHUNK)..to / CHUNK;
        for chunk in whole {
            let (word, bit) = self.bit(chunk);
            if word.load(Ordering::Relaxed) & bit != 0 {
                word.fetch_and(!bit, Ordering::SeqCst);
            }
        }
        fence(Ordering::SeqCst);
    }

    fn bit(&self, chunk: usize) -> (&AtomicU64, u64) {
        (&self.words[chunk / 64], 1 << (chunk % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_touch_whole_chunks_and_discards_only_whole_ones() {
        let touched = Touched::new(200 * CHUNK as u64);
        touched.insert(CHUNK - 1, CHUNK + 1);
        touched.insert(199 * CHUNK, 200 * CHUNK);
        touched.insert(5 * CHUNK, 5 * CHUNK);
        let set = |t: &Touched| -> Vec<usize> { (0..200).filter(|n| t.contains(n * CHUNK)).collect() };
        assert_eq!(set(&touched), [0, 1, 199]);
        touched.remove(1, 200 * CHUNK - 1);
        assert_eq!(set(&touched), [0, 199]);
        touched.remove(0, 200 * CHUNK);
        assert!(set(&touched).is_empty());
    }
}
