//! A packed virtqueue (VIRTIO 1.2 2.8): one ring of descriptors, in which the driver makes chains available and the device
//! writes over them what it has used, each in ring order.

use super::chain::{Chain, DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT, Space, Table, WRITE, Word};
use super::notes::{NoteMemory, Noted, Notes, PackedNotes, Used, moment};
use super::{Head, Layout, RingError, locate};
use crate::memory::{DirtyLog, MemoryMap};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

/// Descriptor flags that tell available descriptors from used ones, by the wrap counters (VIRTIO 1.2 2.8.1).
pub(super) const AVAILABLE: u16 = 1 << 7;
pub(super) const USED: u16 = 1 << 15;

/// Event suppression: notifications of a position, flags (VIRTIO 1.2 2.8.14).
pub(super) const ENABLE: u16 = 0;
pub(super) const DISABLE: u16 = 1;
pub(super) const DESC: u16 = 2;

/// Bytes of an event suppression structure.
const EVENT_SIZE: u64 = 4;

/// A place in the ring, and the wrap counter there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    const WRAP: u16 = 1 << 15;

    fn decode(bits: u16) -> Self {
        Self { index: bits & !Self::WRAP, wrap: bits & Self::WRAP != 0 }
    }

    fn encode(self) -> u16 {
        self.index | if self.wrap { Self::WRAP } else { 0 }
    }

    /// `count` descriptors on, at most once around.
    #[inline]
    fn after(self, count: u16, size: u16) -> Self {
        let index = self.index + count;
        match index < size {
            true => Self { index, ..self },
            false => Self { index: index - size, wrap: !self.wrap },
        }
    }

    /// How many descriptors lie between `other` and this later position; `None` if it cannot be.
    fn since(self, other: Self, size: u16) -> Option<u16> {
        let lap = if self.wrap == other.wrap { 0 } else { size };
        (self.index + lap).checked_sub(other.index).filter(|&distance| distance <= size)
    }

    /// Whether a descriptor with these flags is available here.
    #[inline]
    fn is_available(self, flags: u16) -> bool {
        flags & (AVAILABLE | USED) == if self.wrap { AVAILABLE } else { USED }
    }

    /// The flags of a descriptor that is used here.
    #[inline]
    fn used_flags(self) -> u16 {
        if self.wrap { AVAILABLE | USED } else { 0 }
    }
}

/// The parts of a ring in this process.
#[derive(Clone, Copy)]
struct Parts {
    descriptors: NonNull<[Word; 2]>,
    driver_event: NonNull<u32>,
    device_event: NonNull<u32>,
}

impl Parts {
    fn find(memory: &MemoryMap, layout: &Layout) -> Result<Self, RingError> {
        let size = u64::from(layout.size);
        let Layout { descriptors, available, used, .. } = *layout;
        Ok(Self {
            descriptors: locate(memory, "descriptor ring", descriptors, DESCRIPTOR_SIZE * size, 16)?.cast(),
            driver_event: locate(memory, "driver event suppression", available, EVENT_SIZE, 4)?.cast(),
            device_event: locate(memory, "device event suppression", used, EVENT_SIZE, 4)?.cast(),
        })
    }
}

/// A running ring.
pub(crate) struct Packed {
    layout: Layout,
    /// Keeps `parts` mapped.
    space: Space,
    parts: Parts,
    /// Where the next chain is taken.
    available: Position,
    /// Where the next chain is returned.
    used: Position,
    /// Descriptors that were taken and not returned.
    taken: u16,
    /// Where the first of the chains that were returned but not published is, and the flags that will show it.
    hidden: (u16, u16),
    /// Number of these chains, and of their descriptors.
    unpublished: u16,
    burst: u16,
    /// Whether nothing has been published yet: the first time always notifies.
    first: bool,
    notes: Option<PackedNotes>,
    /// Chains that a former process has taken and not returned, the last one first.
    again: Vec<Noted>,
}

impl Packed {
    pub(super) fn new(memory: Arc<MemoryMap>, layout: Layout, base: u32) -> Result<Self, RingError> {
        let available = Position::decode(base as u16);
        // Some front ends (DPDK's virtio-user) know the available half only: all that was taken has been returned.
        let used = match (base >> 16) as u16 {
            0 => available,
            bits => Position::decode(bits),
        };
        let inside = available.index < layout.size && used.index < layout.size;
        let taken = available.since(used, layout.size).filter(|_| inside).ok_or(RingError::Base(base))?;
        let parts = Parts::find(&memory, &layout)?;
        let space = Space::new(memory);
        let (hidden, unpublished, burst, first) = ((0, 0), 0, 0, true);
        let (notes, again) = (None, Vec::new());
        let mut ring = Self {
            layout,
            space,
            parts,
            available,
            used,
            taken,
            hidden,
            unpublished,
            burst,
            first,
            notes,
            again,
        };
        if base == 0 {
            let wrap = ring.is_in_first_lap();
            ring.available.wrap = wrap;
            ring.used.wrap = wrap;
        }
        Ok(ring)
    }

    /// Whether a ring that is said to stand at its start with both counters 0 stands there for the first time. User-Mode
    /// Linux says so of new rings; but it means that a lap has ended, and then something in the ring was used.
    fn is_in_first_lap(&self) -> bool {
        (0..self.layout.size).all(|index| u16::from_le(self.flags(index).load(Ordering::Acquire)) & USED == 0)
    }

    /// After every other lap the flags look as if nothing had been used, but the rest of the descriptors does not.
    pub(super) fn is_new(&self) -> bool {
        let ring = Table { first: self.parts.descriptors, count: self.layout.size };
        self.available.index == 0
            && (0..ring.count).all(|index| {
                // SAFETY: the ring was found in the memory of `self.space`.
                let descriptor = unsafe { ring.get(index) };
                descriptor.is_ok_and(|Descriptor { address, length, fields: [id, flags] }| {
                    flags & (AVAILABLE | USED) == AVAILABLE || (address, length, id, flags) == (0, 0, 0, 0)
                })
            })
    }

    pub(super) fn note(&mut self, memory: &NoteMemory, queue: u16) -> Result<Option<usize>, RingError> {
        let mut notes = PackedNotes::new(memory, queue, self.layout.size)?;
        let is_shown = |(index, wrap)| {
            let flags = u16::from_le(self.flags(index).load(Ordering::Acquire));
            !Position { index, wrap }.is_available(flags)
        };
        let found = notes.recover((self.used.index, self.used.wrap), is_shown)?;
        let count = found.as_ref().map(|(_, again)| again.len());
        if let Some((used, again)) = found {
            self.go_on_from(used, again)?;
        }
        self.notes = Some(notes);
        Ok(count)
    }

    pub(super) fn notes(&self) -> Option<&Notes> {
        self.notes.as_ref().map(PackedNotes::notes)
    }

    /// Goes on where a former process was, whatever the front end knows of it.
    fn go_on_from(&mut self, (index, wrap): Used, mut again: Vec<Noted>) -> Result<(), RingError> {
        let count: usize = again.iter().map(|chain| chain.descriptors.len()).sum();
        self.taken =
            u16::try_from(count).ok().filter(|n| *n <= self.layout.size).ok_or(RingError::WrongNotes)?;
        self.used = Position { index, wrap };
        self.available = self.used.after(self.taken, self.layout.size);
        let mut position = self.used;
        for _ in 0..self.taken {
            // Some of a burst that was never shown may say that they are used. They would be believed with the next burst.
            let flags =
                u16::from_le(self.flags(position.index).load(Ordering::Relaxed)) & !(AVAILABLE | USED);
            let flags = flags | if position.wrap { AVAILABLE } else { USED };
            moment();
            self.flags(position.index).store(flags.to_le(), Ordering::Relaxed);
            position = position.after(1, self.layout.size);
        }
        again.reverse();
        self.again = again;
        Ok(())
    }

    pub(super) fn end(&self) {
        if let Some(notes) = self.notes().filter(|_| self.taken == 0) {
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

    /// The device's part is its event suppression; used descriptors are in the ring itself.
    pub(super) fn mark(&self, log: &DirtyLog, used: u64) {
        log.mark(used, EVENT_SIZE);
        let ring = self.parts.descriptors.as_ptr().cast_const().cast();
        if let Some(address) = self.memory().guest_address(ring, &mut 0) {
            log.mark(address, DESCRIPTOR_SIZE * u64::from(self.layout.size));
        }
    }

    pub(super) fn base(&self) -> u32 {
        u32::from(self.available.encode()) | u32::from(self.used.encode()) << 16
    }

    /// The flags of descriptor `index`.
    #[inline]
    fn flags(&self, index: u16) -> &AtomicU16 {
        debug_assert!(index < self.layout.size);
        // SAFETY: the ring has this many descriptors (`Parts::find`), is aligned and stays mapped while `self.space`
        // lives. The flags are the last two bytes of sixteen.
        unsafe { AtomicU16::from_ptr(self.parts.descriptors.add(index.into()).cast::<u16>().add(7).as_ptr()) }
    }

    #[inline(never)]
    pub(super) fn take(&mut self, chain: &mut Chain) -> Result<Option<Head>, RingError> {
        match self.notes {
            None => self.take_next::<false>(chain),
            Some(_) => self.take_noted(chain),
        }
    }

    /// Takes a chain of a former process or the next one, and notes it.
    #[inline(never)]
    fn take_noted(&mut self, chain: &mut Chain) -> Result<Option<Head>, RingError> {
        match self.again.is_empty() {
            true => self.take_next::<true>(chain),
            false => self.take_again(chain),
        }
    }

    #[inline]
    fn take_next<const NOTED: bool>(&mut self, chain: &mut Chain) -> Result<Option<Head>, RingError> {
        let start = self.available;
        let mut flags = u16::from_le(self.flags(start.index).load(Ordering::Acquire));
        if !start.is_available(flags) {
            return Ok(None);
        }
        chain.clear();
        let ring = Table { first: self.parts.descriptors, count: self.layout.size };
        let free = self.layout.size - self.taken;
        let (mut position, mut count) = (start, 0);
        loop {
            if count == free {
                return Err(RingError::Loop(start.index));
            }
            count += 1;
            // SAFETY: the ring was found in the memory of `self.space`.
            let descriptor = unsafe { ring.get(position.index) }?;
            if NOTED && let Some(notes) = &mut self.notes {
                let fields = [descriptor.fields[0], flags];
                notes.take(count == 1, &Descriptor { fields, ..descriptor })?;
            }
            if flags & INDIRECT == 0 {
                self.space.append(start.index, (descriptor.address, descriptor.length), flags, chain)?;
            } else {
                self.append_table::<NOTED>(start.index, &descriptor, flags, chain)?;
            }
            position = position.after(1, self.layout.size);
            if flags & NEXT == 0 {
                self.available = position;
                self.taken += count;
                // The last descriptor of a chain has its id.
                let extent = match &mut self.notes {
                    Some(notes) if NOTED => notes.taken(),
                    _ => count,
                };
                return Ok(Some(Head { id: descriptor.fields[0], extent }));
            }
            flags = u16::from_le(self.flags(position.index).load(Ordering::Relaxed));
        }
    }

    /// Takes a chain as it was noted; in the ring, others may have been written over it.
    #[cold]
    fn take_again(&mut self, chain: &mut Chain) -> Result<Option<Head>, RingError> {
        let Some(noted) = self.again.pop() else { return Ok(None) };
        chain.clear();
        let mut head = Head { id: 0, extent: noted.note };
        for descriptor in &noted.descriptors {
            let &Descriptor { address, length, fields: [id, flags] } = descriptor;
            head.id = id;
            if flags & INDIRECT == 0 {
                self.space.append(noted.note, (address, length), flags, chain)?;
            } else {
                self.append_table::<true>(noted.note, descriptor, flags, chain)?;
            }
        }
        chain.set_again();
        Ok(Some(head))
    }

    /// Appends all buffers of an indirect table, which stand in order (VIRTIO 1.2 2.8.7).
    #[inline]
    fn append_table<const NOTED: bool>(
        &mut self,
        head: u16,
        descriptor: &Descriptor,
        flags: u16,
        chain: &mut Chain,
    ) -> Result<(), RingError> {
        if !self.layout.indirect || flags & NEXT != 0 {
            return Err(RingError::Indirect);
        }
        let table = self.space.indirect(descriptor)?;
        for index in 0..table.count {
            // SAFETY: the table was found in the memory of `self.space`.
            let descriptor = unsafe { table.get(index) }?;
            let flags = descriptor.fields[1];
            if flags & INDIRECT != 0 {
                return Err(RingError::Indirect);
            }
            self.space.append(head, (descriptor.address, descriptor.length), flags, chain)?;
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn push(&mut self, head: Head, length: u32) {
        match self.notes {
            None => self.put(head.id, length, head.extent),
            Some(_) => self.push_noted(head, length),
        }
    }

    #[inline(never)]
    fn push_noted(&mut self, head: Head, length: u32) {
        let descriptors = self.notes.as_mut().map_or(0, |notes| notes.returned(head.extent));
        self.put(head.id, length, descriptors);
    }

    /// Writes that a chain of so many descriptors is used, where the driver does not see it yet.
    #[inline(always)]
    fn put(&mut self, id: u16, length: u32, descriptors: u16) {
        let Position { index, .. } = self.used;
        let written = if length > 0 { WRITE } else { 0 };
        let flags = self.used.used_flags() | written;
        // SAFETY: the descriptor is inside the ring (`Parts::find`), which is aligned and mapped while `self.space` lives.
        // Length and id are the third 32-bit and the seventh 16-bit word.
        unsafe {
            let descriptor = self.parts.descriptors.add(index.into());
            descriptor.cast::<u32>().add(2).write_volatile(length.to_le());
            descriptor.cast::<u16>().add(6).write_volatile(id.to_le());
        }
        // The driver looks at used descriptors in order, so it sees none while the first one's flags are missing.
        match self.unpublished {
            0 => self.hidden = (index, flags),
            _ => {
                moment();
                self.flags(index).store(flags.to_le(), Ordering::Relaxed);
            }
        }
        self.unpublished += 1;
        // A driver that takes descriptors back before they are shown gets more out of a burst than the ring holds.
        self.burst = self.burst.saturating_add(descriptors);
        self.taken -= descriptors;
        self.used = self.used.after(descriptors, self.layout.size);
    }

    #[inline]
    pub(super) fn unpublished(&self) -> u16 {
        self.unpublished
    }

    #[inline]
    pub(super) fn has_waiting(&self, count: u16) -> bool {
        if count >= self.layout.size - self.taken || !self.again.is_empty() {
            return !self.again.is_empty();
        }
        let there = self.available.after(count, self.layout.size);
        there.is_available(u16::from_le(self.flags(there.index).load(Ordering::Relaxed)))
    }

    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.unpublished == 0 {
            return false;
        }
        if self.notes.is_some() {
            return self.publish_noted();
        }
        self.show();
        self.is_notified()
    }

    #[inline(never)]
    fn publish_noted(&mut self) -> bool {
        let used = (self.used.index, self.used.wrap);
        if let Some(notes) = &mut self.notes {
            notes.show(used);
        }
        self.show();
        if let Some(notes) = &mut self.notes {
            notes.shown(used);
        }
        self.is_notified()
    }

    #[inline(always)]
    fn show(&mut self) {
        let (index, flags) = self.hidden;
        moment();
        self.flags(index).store(flags.to_le(), Ordering::Release);
        self.unpublished = 0;
    }

    /// Whether the driver wants to be notified of the burst that it was shown.
    #[inline(always)]
    fn is_notified(&mut self) -> bool {
        let burst = std::mem::take(&mut self.burst);
        // The driver writes its wish and then looks at the descriptor; we write the descriptor and then read its wish.
        fence(Ordering::SeqCst);
        if std::mem::take(&mut self.first) {
            return true;
        }
        // SAFETY: aligned and mapped, as for `flags`. Atomic accesses are all that this process makes to it.
        let event = unsafe { AtomicU32::from_ptr(self.parts.driver_event.as_ptr()) };
        let wish = u32::from_le(event.load(Ordering::Relaxed));
        match (wish >> 16) as u16 & 3 {
            DISABLE => false,
            DESC if self.layout.event_index => self.passed(Position::decode(wish as u16), burst),
            _ => true,
        }
    }

    /// Whether `event` is one of the last `burst` descriptors that were returned.
    fn passed(&self, event: Position, burst: u16) -> bool {
        let lap = if event.wrap == self.used.wrap { 0 } else { self.layout.size };
        self.used.index.wrapping_add(lap).wrapping_sub(event.index).wrapping_sub(1) < burst
    }

    pub(super) fn suppress_kicks(&mut self) {
        self.wish(DISABLE);
    }

    pub(super) fn want_kicks(&mut self) -> Result<bool, RingError> {
        self.wish(if self.layout.event_index { DESC } else { ENABLE });
        // As in `publish`, with the roles exchanged.
        fence(Ordering::SeqCst);
        let flags = self.flags(self.available.index).load(Ordering::Relaxed);
        Ok(self.available.is_available(u16::from_le(flags)) || !self.again.is_empty())
    }

    /// Tells the driver when to notify us.
    fn wish(&self, flags: u16) {
        let wish = u32::from(self.available.encode()) | u32::from(flags) << 16;
        // SAFETY: as in `publish`.
        let event = unsafe { AtomicU32::from_ptr(self.parts.device_event.as_ptr()) };
        event.store(wish.to_le(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
