//! A split virtqueue (VIRTIO 1.2 2.7).

use super::chain::{Chain, DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT, Space, Table, Word};
use super::notes::{NoteMemory, Notes, SplitNotes, moment};
use super::{Head, Layout, RingError, locate};
use crate::memory::{DirtyLog, MemoryMap};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

/// `avail.flags`: the driver wants no notification.
pub(super) const NO_INTERRUPT: u16 = 1;
/// `used.flags`: the device wants no notification.
pub(super) const NO_NOTIFY: u16 = 1;

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
        let Layout { descriptors, available, used, .. } = *layout;
        Ok(Self {
            descriptors: locate(memory, "descriptor table", descriptors, DESCRIPTOR_SIZE * size, 16)?.cast(),
            available: locate(memory, "available ring", available, 6 + 2 * size, 2)?.cast(),
            used: locate(memory, "used ring", used, used_length(layout.size), 4)?.cast(),
        })
    }
}

/// Bytes of the used ring: flags, index, entries, avail_event.
fn used_length(size: u16) -> u64 {
    6 + 8 * u64::from(size)
}

/// A running ring.
pub(crate) struct Split {
    layout: Layout,
    /// Keeps `parts` mapped.
    space: Space,
    parts: Parts,
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
    notes: Option<SplitNotes>,
    /// Chains that a former process has taken and not returned, the last one first.
    again: Vec<u16>,
    /// Chains that were taken and not returned, where that is noted.
    in_flight: u16,
}

impl Split {
    pub(super) fn new(memory: Arc<MemoryMap>, layout: Layout, base: u32) -> Result<Self, RingError> {
        if !layout.size.is_power_of_two() {
            return Err(RingError::Size(layout.size));
        }
        let base = u16::try_from(base).map_err(|_| RingError::Base(base))?;
        let parts = Parts::find(&memory, &layout)?;
        let mut ring = Self {
            layout,
            space: Space::new(memory),
            parts,
            next_available: base,
            seen_available: base,
            next_used: 0,
            published: 0,
            first: true,
            notes: None,
            again: Vec::new(),
            in_flight: 0,
        };
        ring.next_used = u16::from_le(ring.used(1).load(Ordering::Acquire));
        ring.published = ring.next_used;
        Ok(ring)
    }

    pub(super) fn note(&mut self, memory: &NoteMemory, queue: u16) -> Result<Option<usize>, RingError> {
        let mut notes = SplitNotes::new(memory, queue, self.layout.size)?;
        let found = notes.recover(self.next_used)?;
        let count = found.as_ref().map(Vec::len);
        if let Some(mut again) = found {
            // Whoever starts the ring may know no more than what was returned.
            self.next_available = self.next_used.wrapping_add(again.len() as u16);
            self.seen_available = self.next_available;
            self.in_flight = again.len() as u16;
            again.reverse();
            self.again = again;
        }
        self.notes = Some(notes);
        Ok(count)
    }

    pub(super) fn notes(&self) -> Option<&Notes> {
        self.notes.as_ref().map(SplitNotes::notes)
    }

    pub(super) fn end(&self) {
        if let Some(notes) = self.notes().filter(|_| self.in_flight == 0) {
            notes.end();
        }
    }

    pub(super) fn remap(&mut self, memory: Arc<MemoryMap>) -> Result<Arc<MemoryMap>, RingError> {
        self.parts = Parts::find(&memory, &self.layout)?;
        Ok(std::mem::replace(&mut self.space, Space::new(memory)).memory)
    }

    pub(super) fn memory(&self) -> &Arc<MemoryMap> {
        &self.space.memory
    }

    pub(super) fn mark(&self, log: &DirtyLog, used: u64) {
        log.mark(used, used_length(self.layout.size));
    }

    pub(super) fn base(&self) -> u32 {
        self.next_available.into()
    }

    pub(super) fn is_new(&self) -> bool {
        self.next_available == 0 && self.next_used == 0
    }

    /// Word `index` of the available ring.
    #[inline]
    fn available(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + usize::from(self.layout.size));
        // SAFETY: the available ring has this many words (`Parts::find`), is aligned and stays mapped while `self.space`
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

    #[inline(never)]
    pub(super) fn take(&mut self, chain: &mut Chain) -> Result<Option<Head>, RingError> {
        match self.notes {
            None => self.take_next(chain),
            Some(_) => self.take_noted(chain),
        }
    }

    /// Takes a chain of a former process or the next one, and notes it.
    #[inline(never)]
    fn take_noted(&mut self, chain: &mut Chain) -> Result<Option<Head>, RingError> {
        if let Some(id) = self.again.pop() {
            self.walk(id, chain)?;
            chain.set_again();
            return Ok(Some(Head { id, extent: 0 }));
        }
        let head = self.take_next(chain)?;
        if let (Some(notes), Some(head)) = (&mut self.notes, head) {
            notes.taken(head.id);
            self.in_flight += 1;
        }
        Ok(head)
    }

    #[inline(always)]
    fn take_next(&mut self, chain: &mut Chain) -> Result<Option<Head>, RingError> {
        if !self.look()? {
            return Ok(None);
        }
        let entry = usize::from(self.next_available & self.mask());
        let id = u16::from_le(self.available(2 + entry).load(Ordering::Relaxed));
        self.next_available = self.next_available.wrapping_add(1);
        self.walk(id, chain)?;
        Ok(Some(Head { id, extent: 0 }))
    }

    /// Collects the bytes of the chain that starts at `head`.
    #[inline(always)]
    fn walk(&mut self, head: u16, chain: &mut Chain) -> Result<(), RingError> {
        chain.clear();
        let table = Table { first: self.parts.descriptors, count: self.layout.size };
        let mut index = head;
        for _ in 0..table.count {
            // SAFETY: the table was found in the memory of `self.space`.
            let descriptor = unsafe { table.get(index) }?;
            let [flags, next] = descriptor.fields;
            if flags & INDIRECT != 0 {
                return self.walk_table(head, &descriptor, chain);
            }
            self.space.append(head, (descriptor.address, descriptor.length), flags, chain)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
        Err(RingError::Loop(head))
    }

    /// Collects the bytes of the chain in the table that `descriptor`, the last of its chain, names.
    #[inline(always)]
    fn walk_table(&mut self, head: u16, descriptor: &Descriptor, chain: &mut Chain) -> Result<(), RingError> {
        if !self.layout.indirect || descriptor.fields[0] & NEXT != 0 {
            return Err(RingError::Indirect);
        }
        let table = self.space.indirect(descriptor)?;
        let mut index = 0;
        for _ in 0..table.count {
            // SAFETY: the table was found in the memory of `self.space`.
            let descriptor = unsafe { table.get(index) }?;
            let [flags, next] = descriptor.fields;
            if flags & INDIRECT != 0 {
                return Err(RingError::Indirect);
            }
            self.space.append(head, (descriptor.address, descriptor.length), flags, chain)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
        Err(RingError::Loop(head))
    }

    #[inline(always)]
    pub(super) fn push(&mut self, head: Head, length: u32) {
        let entry = usize::from(self.next_used & self.mask());
        moment();
        let word = Word((u64::from(length) << 32 | u64::from(head.id)).to_le());
        // SAFETY: the entry is inside the used ring (`Parts::find`), which is mapped while `self.space` lives.
        unsafe { self.parts.used.add(2 + 4 * entry).cast::<Word>().write_volatile(word) };
        self.next_used = self.next_used.wrapping_add(1);
        if self.notes.is_some() {
            self.note_returned(head.id);
        }
    }

    #[inline(never)]
    fn note_returned(&mut self, head: u16) {
        if let Some(notes) = &self.notes {
            notes.returned(head);
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    #[inline]
    pub(super) fn unpublished(&self) -> u16 {
        self.next_used.wrapping_sub(self.published)
    }

    #[inline]
    pub(super) fn has_waiting(&self, count: u16) -> bool {
        let now = u16::from_le(self.available(1).load(Ordering::Relaxed));
        !self.again.is_empty() || now.wrapping_sub(self.next_available) > count
    }

    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.notes.is_some() {
            return self.publish_noted();
        }
        let old = self.show();
        old != self.published && self.is_notified_since(old)
    }

    #[inline(never)]
    fn publish_noted(&mut self) -> bool {
        let (old, new) = (self.show(), self.published);
        if let Some(notes) = self.notes.as_ref().filter(|_| old != new) {
            notes.shown(new.wrapping_sub(old), new);
        }
        old != new && self.is_notified_since(old)
    }

    /// Shows the driver what was returned. Returns the index that it saw before.
    #[inline(always)]
    fn show(&mut self) -> u16 {
        let (old, new) = (self.published, self.next_used);
        if old != new {
            moment();
            self.used(1).store(new.to_le(), Ordering::Release);
            self.published = new;
        }
        old
    }

    /// Whether the driver wants to be notified of what it was shown since the index `old`.
    #[inline(always)]
    fn is_notified_since(&mut self, old: u16) -> bool {
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
        let new = self.published;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    pub(super) fn suppress_kicks(&mut self) {
        // With event indexes it is enough not to move ours on.
        if !self.layout.event_index {
            self.used(0).store(NO_NOTIFY.to_le(), Ordering::Relaxed);
        }
    }

    pub(super) fn want_kicks(&mut self) -> Result<bool, RingError> {
        if self.layout.event_index {
            let wish = 2 + 4 * usize::from(self.layout.size);
            self.used(wish).store(self.next_available.to_le(), Ordering::Relaxed);
        } else {
            self.used(0).store(0, Ordering::Relaxed);
        }
        // As in `publish`, with the roles exchanged.
        fence(Ordering::SeqCst);
        Ok(self.look()? || !self.again.is_empty())
    }
}

#[cfg(test)]
mod tests;
