//! The bytes of a descriptor chain, and the descriptors and tables that name them.

use super::{MAX_SIZE, RingError};
use crate::memory::{MemoryMap, Window};
use lunette_store::{Seg, Sg, SgList};
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
    /// The readable ones, then the writable ones.
    segs: SgList,
    /// How many of them are readable.
    readable: usize,
    readable_bytes: u64,
    writable_bytes: u64,
    /// How much work were the bytes that it has left to others.
    left: u64,
    /// It was taken before, by a process that has not returned it.
    again: bool,
}

impl Chain {
    /// What the device reads.
    #[inline]
    pub(crate) fn readable(&self) -> Sg<'_> {
        Sg::of_length(&self.segs.segs()[..self.readable], self.readable_bytes)
    }

    /// What the device writes.
    #[inline]
    pub(crate) fn writable(&self) -> Sg<'_> {
        Sg::of_length(&self.segs.segs()[self.readable..], self.writable_bytes)
    }

    /// Leaves the list of its bytes to `held`, for the room of its own, and is empty then.
    #[inline]
    pub(crate) fn leave_to(&mut self, held: &mut Held) {
        let work = self.work();
        std::mem::swap(&mut self.segs, &mut held.segs);
        (held.readable, held.writable_bytes) = (self.readable, self.writable_bytes);
        self.clear();
        self.left = work - 1;
    }

    /// Takes the room of a list that has ended, if that is more than there is here.
    pub(crate) fn take_room(&mut self, held: &mut Held) {
        if held.segs.room() > self.segs.room() {
            std::mem::swap(&mut self.segs, &mut held.segs);
            self.clear();
        }
    }

    /// Whether it was taken before, by a process that has not returned it.
    #[inline]
    pub(crate) fn is_taken_again(&self) -> bool {
        self.again
    }

    #[inline]
    pub(super) fn set_again(&mut self) {
        self.again = true;
    }

    /// How much work it is, about: one for a small request (some 100 ns), eight more for each page, and one for every
    /// eight segments.
    #[inline]
    pub(crate) fn work(&self) -> u64 {
        let pages = self.readable_bytes.saturating_add(self.writable_bytes) / 4096;
        1 + 8 * pages + self.segs.segs().len() as u64 / 8 + self.left
    }

    /// One of so many bytes, each for itself.
    #[cfg(test)]
    pub(crate) fn of(memory: &lunette_store::Memory, readable: usize, writable: usize) -> Self {
        let mut segs = SgList::new();
        (0..readable + writable).for_each(|at| segs.push(memory.seg().part(at, 1)));
        let [readable_bytes, writable_bytes] = [readable, writable].map(|bytes| bytes as u64);
        Self { segs, readable, readable_bytes, writable_bytes, ..Self::default() }
    }

    /// For how many runs of bytes there is room.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.segs.room()
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.segs.clear();
        (self.readable, self.readable_bytes, self.writable_bytes, self.left, self.again) =
            (0, 0, 0, 0, false);
    }
}

/// The bytes of a chain that is under way.
#[derive(Default, Debug)]
pub(crate) struct Held {
    segs: SgList,
    readable: usize,
    writable_bytes: u64,
}

impl Held {
    /// What the device writes.
    #[inline]
    pub(crate) fn writable(&self) -> Sg<'_> {
        Sg::of_length(&self.segs.segs()[self.readable..], self.writable_bytes)
    }

    /// For how many runs of bytes there is room.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.segs.room()
    }

    /// Forgets where anything is, and keeps the room for that.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.segs.clear();
        (self.readable, self.writable_bytes) = (0, 0);
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
    #[inline(always)]
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

/// Guest memory, and the part of it in which addresses are looked up first.
pub(super) struct Space {
    pub(super) memory: Arc<MemoryMap>,
    window: Window,
    hint: usize,
}

impl Space {
    pub(super) fn new(memory: Arc<MemoryMap>) -> Self {
        Self { window: memory.window(0), memory, hint: 0 }
    }

    /// Appends the bytes of a descriptor to the chain from descriptor `head`.
    #[inline(always)]
    pub(super) fn append(
        &mut self,
        head: u16,
        (address, length): (u64, u32),
        flags: u16,
        chain: &mut Chain,
    ) -> Result<(), RingError> {
        match self.window.find(address, length) {
            // SAFETY: the bytes are mapped as long as the memory map, which the ring's owner keeps until all that is made
            // of the chain has ended, and no reference to guest memory is ever made.
            Some(host) => chain.segs.push(unsafe { Seg::new(host.as_ptr(), length as usize) }),
            None => self.append_elsewhere(head, address, length, chain)?,
        }
        if flags & WRITE != 0 {
            chain.writable_bytes += u64::from(length);
            return Ok(());
        }
        if chain.writable_bytes > 0 {
            return Err(RingError::Order(head));
        }
        chain.readable_bytes += u64::from(length);
        chain.readable = chain.segs.segs().len();
        Ok(())
    }

    #[cold]
    fn append_elsewhere(
        &mut self,
        head: u16,
        address: u64,
        length: u32,
        chain: &mut Chain,
    ) -> Result<(), RingError> {
        if !self.memory.append(address, length, &mut self.hint, &mut chain.segs) {
            return Err(RingError::Address { address, length });
        }
        self.window = self.memory.window(self.hint);
        // Only here a descriptor may come to several segments.
        match chain.segs.segs().len() {
            0..=MAX_SEGMENTS => Ok(()),
            _ => Err(RingError::TooManySegments(head)),
        }
    }

    /// The table that a descriptor names (VIRTIO 1.2 2.7.5.3, 2.8.7). It must lie in one memory region.
    #[inline(always)]
    pub(super) fn indirect(&mut self, descriptor: &Descriptor) -> Result<Table, RingError> {
        const LARGEST: u32 = MAX_SIZE as u32 * DESCRIPTOR_SIZE as u32;
        let &Descriptor { address, length, .. } = descriptor;
        if length == 0 || length > LARGEST || !length.is_multiple_of(DESCRIPTOR_SIZE as u32) {
            return Err(RingError::IndirectSize(length));
        }
        let found = match self.window.find(address, length) {
            Some(found) => found,
            None => self.find_elsewhere(address, length)?,
        };
        Ok(Table { first: found.cast(), count: (length / DESCRIPTOR_SIZE as u32) as u16 })
    }

    #[cold]
    fn find_elsewhere(&mut self, address: u64, length: u32) -> Result<NonNull<u8>, RingError> {
        let found = self.memory.guest(address, u64::from(length), &mut self.hint);
        self.window = self.memory.window(self.hint);
        found.ok_or(RingError::Address { address, length })
    }
}
