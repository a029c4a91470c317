//! The bytes of a descriptor chain, and the descriptors and tables that name them.

use super::{MAX_SIZE, RingError};
use crate::memory::MemoryMap;
use lunette_store::SgList;
use std::ptr::NonNull;
use std::sync::Arc;

/// Most segments that one chain may come to.
const MAX_SEGMENTS: usize = 2 * MAX_SIZE as usize;

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR_SIZE: u64 = 16;

/// Flags of a descriptor (VIRTIO 1.2 2.7.5, 2.8.13).
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// The bytes of a descriptor chain.
#[derive(Default, Debug)]
pub(crate) struct Chain {
    pub(crate) readable: SgList,
    pub(crate) writable: SgList,
}

impl Chain {
    pub(super) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }
}

/// Eight bytes of a ring in little endian, at any address: entries of the used ring are aligned to four bytes only, and
/// indirect tables not at all.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub(super) struct Word(pub(super) u64);

/// A descriptor as it was read. What the upper half of the second word means depends on the layout.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) length: u32,
    /// 16-bit fields: flags and next in a split ring, id and flags in a packed one.
    pub(super) fields: [u16; 2],
}

/// A descriptor table or ring: the queue's own or an indirect one.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) first: NonNull<[Word; 2]>,
    pub(super) count: u16,
}

impl Table {
    /// # Safety
    /// The memory map that the table was found by is alive.
    #[inline]
    pub(super) unsafe fn get(&self, index: u16) -> Result<Descriptor, RingError> {
        if index >= self.count {
            return Err(RingError::NoSuchDescriptor { index, count: self.count });
        }
        // SAFETY: a table has `count` descriptors of mapped memory. The driver may write them meanwhile, which volatile
        // reads of plain numbers allow for.
        let (address, rest) = unsafe {
            let words = self.first.add(usize::from(index)).cast::<Word>();
            (words.read_volatile(), words.add(1).read_volatile())
        };
        let rest = u64::from_le(rest.0);
        Ok(Descriptor {
            address: u64::from_le(address.0),
            length: rest as u32,
            fields: [(rest >> 32) as u16, (rest >> 48) as u16],
        })
    }
}

/// Guest memory, and the region in which addresses are looked up first.
pub(super) struct Space {
    pub(super) memory: Arc<MemoryMap>,
    hint: usize,
}

impl Space {
    pub(super) fn new(memory: Arc<MemoryMap>) -> Self {
        Self { memory, hint: 0 }
    }

    /// Appends the bytes of a descriptor to the chain from descriptor `head`.
    #[inline]
    pub(super) fn append(
        &mut self,
        head: u16,
        (address, length): (u64, u32),
        flags: u16,
        chain: &mut Chain,
    ) -> Result<(), RingError> {
        let list = if flags & WRITE != 0 {
            &mut chain.writable
        } else if chain.writable.segs().is_empty() {
            &mut chain.readable
        } else {
            return Err(RingError::Order(head));
        };
        if !self.memory.append(address, length, &mut self.hint, list) {
            return Err(RingError::Address { address, length });
        }
        if list.segs().len() > MAX_SEGMENTS {
            return Err(RingError::TooManySegments(head));
        }
        Ok(())
    }

    /// The table that a descriptor names (VIRTIO 1.2 2.7.5.3, 2.8.7). It must lie in one memory region.
    pub(super) fn indirect(&mut self, descriptor: &Descriptor) -> Result<Table, RingError> {
        let &Descriptor { address, length, .. } = descriptor;
        let count = u64::from(length) / DESCRIPTOR_SIZE;
        if !u64::from(length).is_multiple_of(DESCRIPTOR_SIZE) || !(1..=u64::from(MAX_SIZE)).contains(&count) {
            return Err(RingError::IndirectSize(length));
        }
        let found = self.memory.guest(address, u64::from(length), &mut self.hint);
        let first = found.ok_or(RingError::Address { address, length })?.cast();
        Ok(Table { first, count: count as u16 })
    }
}
