//! What a disk is made from.

use crate::commands::MAX_ATOMIC_WRITE;
use lunette_store::Caps;
use thiserror::Error;

/// How a disk shows its store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Logical block length in bytes: 512 or 4096.
    pub block_length: u32,
    /// Whether the medium can be removed (RMB of INQUIRY data).
    pub removable: bool,
    /// Whether the medium rotates; `None`: as the store says.
    pub rotational: Option<bool>,
    /// Offer to give blocks back (UNMAP, WRITE SAME with UNMAP), if the store can.
    pub thin: bool,
    /// The most bytes that formatting and sanitizing write in a second, so that they leave the store to others; zero: no
    /// limit.
    pub pace: u64,
    /// Bytes to whose multiples WRITE ATOMIC keeps, with where it begins and how long it is: a power of two from the logical
    /// block length to 1 MiB. `None`: any blocks.
    pub atomic_granularity: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            block_length: 512,
            removable: false,
            rotational: None,
            thin: true,
            pace: 64 << 20,
            atomic_granularity: None,
        }
    }
}

/// Why a store cannot be shown as this disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum OptionsError {
    /// Neither 512 nor 4096.
    #[error("a logical block of {0} bytes is not supported: choose 512 or 4096")]
    BlockLength(u32),
    /// The store only takes larger blocks.
    #[error(
        "the store works in blocks of {store} bytes, which logical blocks of {asked} bytes do not fit: choose {store}"
    )]
    BlockTooSmall {
        /// The logical block length asked for.
        asked: u32,
        /// The store's.
        store: u32,
    },
    /// No blocks are written atomically in these units.
    #[error(
        "atomic writes in units of {0} bytes are not supported: choose a power of two from the block length to 1 MiB that the store takes at once"
    )]
    AtomicGranularity(u32),
    /// There is not one whole block.
    #[error("the store has {size} bytes, less than one block of {block_length}")]
    Empty {
        /// Bytes of the store.
        size: u64,
        /// Logical block length.
        block_length: u32,
    },
    /// The last block is incomplete.
    #[error("the store has {size} bytes, which is not a multiple of the block length {block_length}")]
    NotWholeBlocks {
        /// Bytes of the store.
        size: u64,
        /// Logical block length.
        block_length: u32,
    },
}

impl Options {
    /// Checks that a store with `caps` can be shown this way.
    pub(crate) fn check(&self, caps: &Caps) -> Result<(), OptionsError> {
        let (block_length, size) = (self.block_length, caps.size.get());
        if !matches!(block_length, 512 | 4096) {
            return Err(OptionsError::BlockLength(block_length));
        }
        if !block_length.is_multiple_of(caps.logical_block.max(1)) {
            return Err(OptionsError::BlockTooSmall { asked: block_length, store: caps.logical_block });
        }
        if let Some(unit) = self.atomic_granularity
            && !(unit.is_power_of_two()
                && (block_length..=MAX_ATOMIC_WRITE).contains(&unit)
                && u64::from(unit) <= caps.max_transfer)
        {
            return Err(OptionsError::AtomicGranularity(unit));
        }
        if size < u64::from(block_length) {
            return Err(OptionsError::Empty { size, block_length });
        }
        if !size.is_multiple_of(u64::from(block_length)) {
            return Err(OptionsError::NotWholeBlocks { size, block_length });
        }
        Ok(())
    }
}
