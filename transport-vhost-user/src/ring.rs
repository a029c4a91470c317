//! A split virtqueue as the device sees it (VIRTIO 1.2 2.7).
//!
//! The addresses of its three parts are turned into pointers once, so a request costs a few loads and stores. Everything
//! in the ring is the driver's to write at any time: each field is read once, by a volatile or atomic access, and checked
//! before it is used. What cannot be right is a [`RingError`], after which the ring is to be stopped.

use crate::memory::MemoryMap;
use lunette_store::SgList;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use thiserror::Error;

/// Largest queue size.
pub(crate) const MAX_SIZE: u16 = 1024;

/// Most segments that one chain may come to.
const MAX_SEGMENTS: usize = 2 * MAX_SIZE as usize;

const DESCRIPTOR_SIZE: u64 = 16;

/// What is wrong with a ring.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum RingError {
    #[error("the queue size {0} is not a power of two from 1 to {MAX_SIZE}")]
    Size(u16),
    #[error("the {part} at {address:#x} is not in guest memory")]
    Outside { part: &'static str, address: u64 },
    #[error("the {part} at {address:#x} is not aligned")]
    Misaligned { part: &'static str, address: u64 },
    #[error("the available index jumped from {from} to {to}, more than the queue holds")]
    AvailableIndex { from: u16, to: u16 },
    #[error("descriptor {index} does not exist, there are {count}")]
    NoSuchDescriptor { index: u16, count: u16 },
    #[error("the chain from descriptor {0} is longer than its table: a loop")]
    Loop(u16),
    #[error("the chain from descriptor {0} has too many segments")]
    TooManySegments(u16),
    #[error("the chain from descriptor {0} has device-readable bytes after device-writable ones")]
    Order(u16),
    #[error("an indirect table was not negotiated, is inside another one or is followed by a descriptor")]
    Indirect,
    #[error("an indirect table of {0} bytes is not possible")]
    IndirectSize(u32),
    #[error("{length:#x} bytes at guest address {address:#x} are not in guest memory")]
    Address { address: u64, length: u32 },
    #[error("descriptor {0} was made available again before it was used")]
    Busy(u16),
    #[error("a request has {readable} readable and {writable} writable bytes, less than its headers need")]
    TooShort { readable: u64, writable: u64 },
    #[error("a control request has the unknown type {0}")]
    ControlType(u32),
}

/// Where a ring is, in the front end's own addresses, and how it behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// Notifications are suppressed by index (VIRTIO_F_EVENT_IDX).
    pub(crate) event_index: bool,
    /// Descriptors may name tables (VIRTIO_F_INDIRECT_DESC).
    pub(crate) indirect: bool,
}

/// A descriptor (VIRTIO 1.2 2.7.5).
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

/// Eight bytes of a ring in little endian, at any address: entries of the used ring are aligned to four bytes only, and
/// indirect tables not at all.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Word(u64);

impl Descriptor {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
}

/// `avail.flags`: the driver wants no notification.
const NO_INTERRUPT: u16 = 1;
/// `used.flags`: the device wants no notification.
const NO_NOTIFY: u16 = 1;

/// The bytes of a descriptor chain.
#[derive(Default, Debug)]
pub(crate) struct Chain {
    pub(crate) readable: SgList,
    pub(crate) writable: SgList,
}

impl Chain {
    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }
}

/// The parts of a ring in this process.
#[derive(Clone, Copy)]
struct Parts {
    descriptors: NonNull<[Word; 2]>,
    /// Flags, index, entries, used_event.
    available: NonNull<u16>,
    /// Flags, index, entries of two 32-bit words, avail_event.
    used: NonNull<u16>,
}

impl Parts {
    fn find(memory: &MemoryMap, layout: &Layout) -> Result<Self, RingError> {
        let size = u64::from(layout.size);
        let locate = |part, address, length, align| {
            let found = memory.user(address, length).ok_or(RingError::Outside { part, address })?;
            match found.as_ptr() as usize % align {
                0 => Ok(found),
                _ => Err(RingError::Misaligned { part, address }),
            }
        };
        let table = locate("descriptor table", layout.descriptors, DESCRIPTOR_SIZE * size, 16)?;
        Ok(Self {
            descriptors: table.cast(),
            available: locate("available ring", layout.available, 6 + 2 * size, 2)?.cast(),
            used: locate("used ring", layout.used, 6 + 8 * size, 4)?.cast(),
        })
    }
}

/// A descriptor table: the ring's own or an indirect one.
#[derive(Clone, Copy)]
struct Table {
    first: NonNull<[Word; 2]>,
    count: u16,
}

impl Table {
    /// # Safety
    /// The memory map that the table was found by is alive.
    #[inline]
    unsafe fn get(&self, index: u16) -> Result<Descriptor, RingError> {
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
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        })
    }
}

/// A running ring.
pub(crate) struct Ring {
    layout: Layout,
    /// Keeps `parts` mapped.
    memory: Arc<MemoryMap>,
    parts: Parts,
    /// The region in which addresses are looked up first.
    hint: usize,
    /// The next entry of the available ring to look at.
    next_available: u16,
    /// The driver's index as last seen.
    seen_available: u16,
    /// The next entry of the used ring to fill.
    next_used: u16,
    /// The used index as the driver sees it.
    published: u16,
    /// Whether nothing has been published yet: the first time always notifies.
    first: bool,
}

impl Ring {
    /// The ring at `layout`, to go on with entry `base` of the available ring.
    pub(crate) fn new(memory: Arc<MemoryMap>, layout: Layout, base: u16) -> Result<Self, RingError> {
        if !layout.size.is_power_of_two() || layout.size > MAX_SIZE {
            return Err(RingError::Size(layout.size));
        }
        let parts = Parts::find(&memory, &layout)?;
        let mut ring = Self {
            layout,
            memory,
            parts,
            hint: 0,
            next_available: base,
            seen_available: base,
            next_used: 0,
            published: 0,
            first: true,
        };
        ring.next_used = u16::from_le(ring.used(1).load(Ordering::Acquire));
        ring.published = ring.next_used;
        Ok(ring)
    }

    /// Goes on in other memory. Returns the old one, to be kept until nothing of it is in use.
    pub(crate) fn remap(&mut self, memory: Arc<MemoryMap>) -> Result<Arc<MemoryMap>, RingError> {
        self.parts = Parts::find(&memory, &self.layout)?;
        self.hint = 0;
        Ok(std::mem::replace(&mut self.memory, memory))
    }

    /// The memory that addresses are translated by.
    pub(crate) fn memory(&self) -> &Arc<MemoryMap> {
        &self.memory
    }

    /// The next entry of the available ring: where the ring goes on after a stop.
    pub(crate) fn base(&self) -> u16 {
        self.next_available
    }

    /// Word `index` of the available ring.
    #[inline]
    fn available(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + usize::from(self.layout.size));
        // SAFETY: the available ring has this many words (`Parts::find`), is aligned and stays mapped while `self.memory`
        // lives. Atomic accesses are all that this process makes to them.
        unsafe { AtomicU16::from_ptr(self.parts.available.add(index).as_ptr()) }
    }

    /// 16-bit word `index` of the used ring.
    #[inline]
    fn used(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + 4 * usize::from(self.layout.size));
        // SAFETY: as in `available`; the entries in the middle are never accessed by this function.
        unsafe { AtomicU16::from_ptr(self.parts.used.add(index).as_ptr()) }
    }

    fn mask(&self) -> u16 {
        self.layout.size - 1
    }

    /// Whether there is an entry to take.
    #[inline]
    fn look(&mut self) -> Result<bool, RingError> {
        if self.seen_available == self.next_available {
            let now = u16::from_le(self.available(1).load(Ordering::Acquire));
            if now.wrapping_sub(self.next_available) > self.layout.size {
                return Err(RingError::AvailableIndex { from: self.next_available, to: now });
            }
            self.seen_available = now;
        }
        Ok(self.seen_available != self.next_available)
    }

    /// Takes the next chain from the available ring: the index of its first descriptor.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<u16>, RingError> {
        if !self.look()? {
            return Ok(None);
        }
        let entry = usize::from(self.next_available & self.mask());
        let head = u16::from_le(self.available(2 + entry).load(Ordering::Relaxed));
        if head >= self.layout.size {
            return Err(RingError::NoSuchDescriptor { index: head, count: self.layout.size });
        }
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(head))
    }

    /// Collects the bytes of the chain that starts at `head`. They stay mapped while [`memory`](Self::memory) lives.
    #[inline]
    pub(crate) fn walk(&mut self, head: u16, chain: &mut Chain) -> Result<(), RingError> {
        chain.clear();
        let mut table = Table { first: self.parts.descriptors, count: self.layout.size };
        let (mut index, mut left, mut inside) = (head, table.count, false);
        loop {
            if left == 0 {
                return Err(RingError::Loop(head));
            }
            left -= 1;
            // SAFETY: both kinds of table were found in `self.memory`.
            let descriptor = unsafe { table.get(index) }?;
            if descriptor.flags & Descriptor::INDIRECT != 0 {
                if inside || !self.layout.indirect || descriptor.flags & Descriptor::NEXT != 0 {
                    return Err(RingError::Indirect);
                }
                table = self.indirect(&descriptor)?;
                (index, left, inside) = (0, table.count, true);
                continue;
            }
            self.append(head, &descriptor, chain)?;
            if descriptor.flags & Descriptor::NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    #[inline]
    fn append(&mut self, head: u16, descriptor: &Descriptor, chain: &mut Chain) -> Result<(), RingError> {
        let &Descriptor { address, length, flags, .. } = descriptor;
        let list = if flags & Descriptor::WRITE != 0 {
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

    /// The table that a descriptor names (VIRTIO 1.2 2.7.5.3). It must lie in one memory region.
    fn indirect(&mut self, descriptor: &Descriptor) -> Result<Table, RingError> {
        let &Descriptor { address, length, .. } = descriptor;
        let count = u64::from(length) / DESCRIPTOR_SIZE;
        if !u64::from(length).is_multiple_of(DESCRIPTOR_SIZE) || !(1..=u64::from(MAX_SIZE)).contains(&count) {
            return Err(RingError::IndirectSize(length));
        }
        let found = self.memory.guest(address, u64::from(length), &mut self.hint);
        let first = found.ok_or(RingError::Address { address, length })?.cast();
        Ok(Table { first, count: count as u16 })
    }

    /// Returns a chain to the driver, of whose writable bytes the first `length` were written. The driver sees it after
    /// [`publish`](Self::publish).
    #[inline]
    pub(crate) fn push(&mut self, head: u16, length: u32) {
        let entry = usize::from(self.next_used & self.mask());
        let word = Word((u64::from(length) << 32 | u64::from(head)).to_le());
        // SAFETY: the entry is inside the used ring (`Parts::find`), which is mapped while `self.memory` lives.
        unsafe { self.parts.used.add(2 + 4 * entry).cast::<Word>().write_volatile(word) };
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// How many chains were returned but not published.
    #[inline]
    pub(crate) fn unpublished(&self) -> u16 {
        self.next_used.wrapping_sub(self.published)
    }

    /// Shows the driver what was returned. Whether it wants to be notified of it.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        self.used(1).store(new.to_le(), Ordering::Release);
        self.published = new;
        // The driver writes its wish and then reads the index; we write the index and then read its wish.
        fence(Ordering::SeqCst);
        if std::mem::take(&mut self.first) {
            return true;
        }
        if !self.layout.event_index {
            return u16::from_le(self.available(0).load(Ordering::Relaxed)) & NO_INTERRUPT == 0;
        }
        let wished = 2 + usize::from(self.layout.size);
        let event = u16::from_le(self.available(wished).load(Ordering::Relaxed));
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Tells the driver that it need not notify us.
    pub(crate) fn suppress_kicks(&mut self) {
        // With event indexes it is enough not to move ours on.
        if !self.layout.event_index {
            self.used(0).store(NO_NOTIFY.to_le(), Ordering::Relaxed);
        }
    }

    /// Asks the driver to notify us of the next entry. Whether there is one already.
    pub(crate) fn want_kicks(&mut self) -> Result<bool, RingError> {
        if self.layout.event_index {
            let wish = 2 + 4 * usize::from(self.layout.size);
            self.used(wish).store(self.next_available.to_le(), Ordering::Relaxed);
        } else {
            self.used(0).store(0, Ordering::Relaxed);
        }
        // As in `publish`, with the roles exchanged.
        fence(Ordering::SeqCst);
        self.look()
    }
}

#[cfg(test)]
mod tests;
