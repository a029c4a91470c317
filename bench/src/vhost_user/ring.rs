//! The driver's side of a split virtqueue (VIRTIO 1.2, 2.7).

use std::rc::Rc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::memory::GuestMemory;

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR: usize = 16;

/// A descriptor (VIRTIO 1.2, 2.7.5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: usize,
    pub(crate) length: usize,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    pub(crate) const NEXT: u16 = 1;
    pub(crate) const WRITE: u16 = 2;
    pub(crate) const INDIRECT: u16 = 4;

    /// Puts the descriptor at an offset of guest memory.
    pub(crate) fn store(&self, memory: &GuestMemory, offset: usize) {
        memory.u64(offset).store((self.address as u64).to_le(), Relaxed);
        memory.u32(offset + 8).store((self.length as u32).to_le(), Relaxed);
        memory.u16(offset + 12).store(self.flags.to_le(), Relaxed);
        memory.u16(offset + 14).store(self.next.to_le(), Relaxed);
    }
}

/// A virtqueue in guest memory.
pub(crate) struct Ring {
    memory: Rc<GuestMemory>,
    size: u16,
    event_idx: bool,
    /// Offset of the descriptor table.
    pub(crate) descriptors: usize,
    /// Offset of the available ring.
    pub(crate) available: usize,
    /// Offset of the used ring.
    pub(crate) used: usize,
    /// Available index: of the next entry, and as the device knows it.
    next: u16,
    published: u16,
    /// Used index of the next entry to take.
    taken: u16,
}

impl Ring {
    /// Bytes of a ring of 2^15 entries at most.
    pub(crate) fn bytes(size: u16) -> usize {
        Self::used_offset(size) + 6 + 8 * usize::from(size)
    }

    fn used_offset(size: u16) -> usize {
        let size = usize::from(size);
        (DESCRIPTOR * size + 6 + 2 * size).next_multiple_of(64)
    }

    /// A ring of `size` entries (a power of two) at an offset of guest memory that is a multiple of 64.
    pub(crate) fn new(memory: Rc<GuestMemory>, offset: usize, size: u16, event_idx: bool) -> Self {
        Self {
            memory,
            size,
            event_idx,
            descriptors: offset,
            available: offset + DESCRIPTOR * usize::from(size),
            used: offset + Self::used_offset(size),
            next: 0,
            published: 0,
            taken: 0,
        }
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        assert!(index < self.size);
        descriptor.store(&self.memory, self.descriptors + DESCRIPTOR * usize::from(index));
    }

    /// Makes a chain available at the next [`publish`](Self::publish).
    pub(crate) fn push(&mut self, head: u16) {
        let entry = usize::from(self.next % self.size);
        self.memory.u16(self.available + 4 + 2 * entry).store(head.to_le(), Relaxed);
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the device what was pushed; whether it wants to be kicked (VIRTIO 1.2, 2.7.13.4).
    pub(crate) fn publish(&mut self) -> bool {
        if self.next == self.published {
            return false;
        }
        let old = std::mem::replace(&mut self.published, self.next);
        self.memory.u16(self.available + 2).store(self.next.to_le(), Release);
        fence(SeqCst);
        if self.event_idx {
            let event = self.memory.u16(self.used + 4 + 8 * usize::from(self.size)).load(Relaxed).to_le();
            crosses(event, self.next, old)
        } else {
            self.memory.u16(self.used).load(Relaxed).to_le() & 1 == 0
        }
    }

    /// Whether the device has used chains that were not taken yet.
    pub(crate) fn has_used(&self) -> bool {
        self.memory.u16(self.used + 2).load(Acquire).to_le() != self.taken
    }

    /// The head of the next used chain.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        if !self.has_used() {
            return None;
        }
        let entry = usize::from(self.taken % self.size);
        self.taken = self.taken.wrapping_add(1);
        Some(self.memory.u32(self.used + 4 + 8 * entry).load(Relaxed).to_le())
    }

    /// Asks for a call at the next used chain. Look once more with [`has_used`](Self::has_used) before waiting for it.
    pub(crate) fn want_call(&self) {
        if self.event_idx {
            let used_event = self.available + 4 + 2 * usize::from(self.size);
            self.memory.u16(used_event).store(self.taken.to_le(), Relaxed);
        } else {
            self.memory.u16(self.available).store(0, Relaxed);
        }
        fence(SeqCst);
    }

    /// Asks for no calls: a hint, the device may still call now and then.
    pub(crate) fn want_no_calls(&self) {
        if self.event_idx {
            let used_event = self.available + 4 + 2 * usize::from(self.size);
            self.memory.u16(used_event).store(self.taken.wrapping_sub(1).to_le(), Relaxed);
        } else {
            self.memory.u16(self.available).store(1u16.to_le(), Relaxed);
        }
    }
}

/// Whether an index that went from `old` to `new` passed `event` (VIRTIO 1.2, 2.7.7.1).
fn crosses(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(size: u16, event_idx: bool) -> Ring {
        let memory = GuestMemory::new(Ring::bytes(size).next_multiple_of(4096)).unwrap();
        Ring::new(Rc::new(memory), 0, size, event_idx)
    }

    /// Plays the device: uses the next available chain.
    fn use_one(ring: &Ring, index: u16) {
        let entry = usize::from(index % ring.size);
        let head = ring.memory.u16(ring.available + 4 + 2 * entry).load(Relaxed);
        ring.memory.u32(ring.used + 4 + 8 * entry).store(head.into(), Relaxed);
        ring.memory.u16(ring.used + 2).store(index.wrapping_add(1), Release);
    }

    #[test]
    fn chains_come_back_over_several_rounds_of_the_indices() {
        let mut ring = ring(4, true);
        for index in 0..140_000u32 {
            ring.push((index % 3) as u16);
            ring.publish();
            assert!(!ring.has_used());
            use_one(&ring, index as u16);
            assert_eq!(ring.pop(), Some(index % 3));
            assert_eq!(ring.pop(), None);
        }
    }

    #[test]
    fn a_kick_is_wanted_when_the_event_index_is_passed() {
        let mut ring = ring(4, true);
        assert!(!ring.publish(), "nothing was pushed");
        ring.push(0);
        assert!(ring.publish(), "the event index is still 0");
        ring.push(0);
        assert!(!ring.publish(), "passed long ago");
        ring.memory.u16(ring.used + 4 + 8 * 4).store(3, Relaxed);
        ring.push(0);
        ring.push(0);
        assert!(ring.publish());
    }

    #[test]
    fn without_event_index_the_flag_counts() {
        let mut ring = ring(4, false);
        ring.push(0);
        assert!(ring.publish());
        ring.memory.u16(ring.used).store(1, Relaxed);
        ring.push(0);
        assert!(!ring.publish());
    }

    #[test]
    fn crossing_wraps_around() {
        assert!(crosses(0xffff, 1, 0xfffe));
        assert!(crosses(0, 1, 0xfffe));
        assert!(!crosses(1, 1, 0xfffe));
        assert!(!crosses(5, 5, 5));
    }
}
