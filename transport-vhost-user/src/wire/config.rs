//! The configuration space (VIRTIO 1.2 5.6.4). Some front ends make one of their own; QEMU does.

use super::{Sizes, array, put};
use crate::ring::MAX_SIZE;

/// The configuration space as the driver sees it.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSpace {
    /// Number of request queues.
    queues: u16,
    /// Longest transfer in sectors that every logical unit takes: a hint.
    max_sectors: u32,
    pub(crate) sizes: Sizes,
}

const SIZE: usize = 36;
const SENSE_SIZE: usize = 20;
const CDB_SIZE: usize = 24;

impl ConfigSpace {
    /// That of a device with so many request queues, whose logical units take transfers of `max_transfer` bytes; `None` if
    /// nothing is known of them.
    pub(crate) fn new(queues: u16, max_transfer: Option<u64>) -> Self {
        const SECTOR: u64 = 512;
        const USUAL: u64 = 0xffff;
        let max_sectors = max_transfer.map_or(USUAL, |bytes| (bytes / SECTOR).max(1));
        Self { queues, max_sectors: max_sectors.try_into().unwrap_or(u32::MAX), sizes: Sizes::DEFAULT }
    }

    pub(crate) fn bytes(&self) -> [u8; SIZE] {
        // A chain may be as long as its queue, whose size the driver finds elsewhere: 256 where this is read (User-Mode
        // Linux, crosvm), less the request and the response. A chain of a longer queue may be longer.
        const SEG_MAX: u32 = 256 - 2;
        const EVENT_SIZE: u32 = 16;
        const MAX_CHANNEL: u16 = 0;
        // Any of them may come while the driver runs.
        const MAX_TARGET: u16 = 255;
        const MAX_LUN: u32 = 16383;
        // A unit takes as many commands as a queue holds.
        let commands = MAX_SIZE.into();
        let mut bytes = [0; _];
        let words = [self.queues.into(), SEG_MAX, self.max_sectors, commands, EVENT_SIZE];
        for (n, word) in words.into_iter().enumerate() {
            put(&mut bytes, 4 * n, word.to_le_bytes());
        }
        put(&mut bytes, SENSE_SIZE, u32::from(self.sizes.sense).to_le_bytes());
        put(&mut bytes, CDB_SIZE, u32::from(self.sizes.cdb).to_le_bytes());
        put(&mut bytes, 28, MAX_CHANNEL.to_le_bytes());
        put(&mut bytes, 30, MAX_TARGET.to_le_bytes());
        put(&mut bytes, 32, MAX_LUN.to_le_bytes());
        bytes
    }

    /// Writes what the driver may write: the sizes. Returns whether that was all it wrote, and could be done; nothing has
    /// changed otherwise.
    pub(crate) fn write(&mut self, offset: u32, new: &[u8]) -> bool {
        let old = self.bytes();
        let mut bytes = old;
        let Some(field) = bytes.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..new.len())) else {
            return false;
        };
        field.copy_from_slice(new);
        let number = |at| u16::try_from(u32::from_le_bytes(array(&bytes, at))).ok();
        let sense = number(SENSE_SIZE);
        let cdb = number(CDB_SIZE).filter(|size| *size > 0);
        let rest = bytes[..SENSE_SIZE] == old[..SENSE_SIZE] && bytes[28..] == old[28..];
        match (sense, cdb, rest) {
            (Some(sense), Some(cdb), true) => {
                self.sizes = Sizes { sense, cdb };
                true
            }
            _ => false,
        }
    }

    /// Goes on with the sizes that the driver has set elsewhere. Whether they are possible.
    pub(crate) fn set_sizes(&mut self, sizes: Sizes) -> bool {
        if sizes.cdb > 0 {
            self.sizes = sizes;
        }
        sizes.cdb > 0
    }

    /// As the driver finds it after a reset.
    pub(crate) fn reset(&mut self) {
        self.sizes = Sizes::DEFAULT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says() {
        let words = |max_transfer| -> Vec<u32> {
            let bytes = ConfigSpace::new(4, max_transfer).bytes();
            bytes.chunks(4).map(|word| u32::from_le_bytes(array(word, 0))).collect()
        };
        assert_eq!(words(Some(32 << 20)), [4, 254, 65536, 1024, 16, 96, 32, 255 << 16, 16383]);
        let sectors = |max_transfer| words(max_transfer)[2];
        assert_eq!((sectors(None), sectors(Some(4096)), sectors(Some(1))), (0xffff, 8, 1));
        assert_eq!(sectors(Some(u64::MAX)), u32::MAX);
    }

    #[test]
    fn it_takes_sizes_only() {
        let mut config = ConfigSpace::new(4, None);
        assert!(config.write(20, &252u32.to_le_bytes()));
        assert!(config.write(24, &16u32.to_le_bytes()));
        assert_eq!(config.sizes, Sizes { sense: 252, cdb: 16 });
        let mut whole = config.bytes();
        assert!(config.write(0, &whole));
        whole[0] = 9;
        assert!(!config.write(0, &whole));
        assert!(!config.write(20, &0x1_0000u32.to_le_bytes()));
        assert!(!config.write(24, &0u32.to_le_bytes()));
        assert!(!config.write(35, &[0, 0]));
        assert!(!config.write(u32::MAX, &[0]));
        assert_eq!(config.sizes, Sizes { sense: 252, cdb: 16 });
        assert!(config.write(20, &[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]));
        assert_eq!(config.sizes, Sizes { sense: 0xffff, cdb: 0xffff });
        config.reset();
        assert_eq!(config.sizes, Sizes::DEFAULT);
    }
}
