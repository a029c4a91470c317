//! Notes of a split ring.

use super::{NoteMemory, Notes};
use crate::ring::RingError;

/// What stands before the notes of the descriptors.
const HEADER: usize = 16;
const LAST_BATCH_AT: usize = 12;
const USED_AT: usize = 14;

/// The note of the chain that begins with a descriptor.
const NOTE: usize = 16;
const IN_FLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

/// The notes of one queue.
pub(in crate::ring) struct SplitNotes {
    notes: Notes,
    size: u16,
    /// Counts the chains that were taken.
    counter: u64,
}

impl SplitNotes {
    pub(in crate::ring) fn new(memory: &NoteMemory, queue: u16, size: u16) -> Result<Self, RingError> {
        let length = HEADER + NOTE * usize::from(size);
        Ok(Self { notes: memory.of(queue, size, length as u64)?, size, counter: 0 })
    }

    #[inline]
    fn note(&self, head: u16) -> usize {
        HEADER + NOTE * usize::from(head)
    }

    /// The heads of the chains that were taken and not returned, in the order in which they were taken, by the device's
    /// index in the used ring; nothing if there are no notes yet.
    pub(in crate::ring) fn recover(&mut self, used: u16) -> Result<Option<Vec<u16>>, RingError> {
        if !self.notes.is_begun(self.size)? {
            (0..self.size).for_each(|head| self.notes.set_byte(self.note(head) + IN_FLIGHT, 0));
            self.notes.set_half(LAST_BATCH_AT, 0);
            self.notes.set_half(USED_AT, used);
            self.notes.begin(self.size);
            return Ok(None);
        }
        let shown = used.wrapping_sub(self.notes.half(USED_AT));
        if shown > self.size {
            return Err(RingError::WrongNotes);
        }
        self.forget_shown(shown, used)?;
        let mut found: Vec<(u64, u16)> = (0..self.size)
            .filter(|head| self.notes.byte(self.note(*head) + IN_FLIGHT) != 0)
            .map(|head| (self.notes.wide(self.note(head) + COUNTER), head))
            .collect();
        found.sort_unstable();
        self.counter = found.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(Some(found.into_iter().map(|(_, head)| head).collect()))
    }

    /// Whether something is in flight.
    pub(super) fn has_some(&self) -> bool {
        self.notes.is_begun(self.size) == Ok(true)
            && (0..self.size).any(|head| self.notes.byte(self.note(head) + IN_FLIGHT) != 0)
    }

    /// A chain has been taken.
    #[inline]
    pub(in crate::ring) fn taken(&mut self, head: u16) {
        let note = self.note(head);
        self.notes.set_wide(note + COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.notes.set_byte(note + IN_FLIGHT, 1);
    }

    /// A chain stands in the used ring, where the driver does not see it yet.
    #[inline]
    pub(in crate::ring) fn returned(&self, head: u16) {
        self.notes.set_half(self.note(head) + NEXT, self.notes.half(LAST_BATCH_AT));
        self.notes.set_half(LAST_BATCH_AT, head);
    }

    /// The driver sees the last `count` chains that were returned, and `used` as the device's index.
    #[inline]
    pub(in crate::ring) fn shown(&self, count: u16, used: u16) {
        // Who has written into the notes meanwhile has harmed his own.
        let _ = self.forget_shown(count, used);
    }

    #[inline]
    fn forget_shown(&self, count: u16, used: u16) -> Result<(), RingError> {
        let mut head = self.notes.half(LAST_BATCH_AT);
        for _ in 0..count {
            if head >= self.size {
                return Err(RingError::WrongNotes);
            }
            self.notes.set_byte(self.note(head) + IN_FLIGHT, 0);
            head = self.notes.half(self.note(head) + NEXT);
        }
        self.notes.set_half(USED_AT, used);
        Ok(())
    }

    pub(in crate::ring) fn notes(&self) -> &Notes {
        &self.notes
    }
}
