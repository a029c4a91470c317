//! Notes of what is in flight, in memory that outlives this process (vhost-user, "Inflight I/O tracking").
//!
//! The front end keeps the memory, and hands it to whoever serves the rings next. What stands in it is true at every moment: a
//! process that is killed leaves behind what its instructions had stored so far, in their order. So each note is written before
//! what it announces, and taken back after what it waits for; every store releases the ones before it.
//!
//! The front end can write to the memory at any time. Whatever is read from it is checked, and misleads nobody but its own guest.

mod packed;
mod split;

pub(super) use packed::{Noted, PackedNotes, Used};
pub(super) use split::SplitNotes;

use super::RingError;
use crate::memory::MemoryMap;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Where the note of a queue begins: at a multiple of this, as with QEMU's library.
const ALIGN: u64 = 64;
/// The one version of the notes. 0 says that there are none.
const VERSION: u16 = 1;
const VERSION_AT: usize = 8;
const COUNT_AT: usize = 10;

/// The memory for the notes of all queues of a connection.
#[derive(Clone, Debug)]
pub(crate) struct NoteMemory {
    map: Arc<MemoryMap>,
    queues: u16,
    queue_size: u16,
    /// Bytes for each queue.
    stride: u64,
}

impl NoteMemory {
    /// How many bytes are needed for so many queues of so many descriptors, in either layout.
    pub(crate) fn needed(queues: u16, queue_size: u16) -> u64 {
        u64::from(queues) * PackedNotes::length(queue_size).next_multiple_of(ALIGN)
    }

    /// The `length` bytes at address 0 of `map`.
    pub(crate) fn new(map: MemoryMap, length: u64, queues: u16, queue_size: u16) -> Self {
        let stride = length / u64::from(queues.max(1)) / ALIGN * ALIGN;
        Self { map: Arc::new(map), queues, queue_size, stride }
    }

    /// Whether the notes of a queue say that something is in flight.
    pub(crate) fn has_some(&self, queue: u16, packed: bool) -> bool {
        let of = |size| match packed {
            true => PackedNotes::new(self, queue, size).map(|notes| notes.has_some()),
            false => SplitNotes::new(self, queue, size).map(|notes| notes.has_some()),
        };
        // Their size stands where it does in either layout.
        let count = self.of(queue, 0, PackedNotes::length(0)).map(|notes| notes.half(COUNT_AT));
        count.and_then(of).unwrap_or(false)
    }

    /// Nothing is in flight any more in any queue, none of which is running.
    pub(crate) fn forget(&self) {
        (0..self.queues).for_each(|queue| self.end(queue));
    }

    /// The same of one queue.
    pub(crate) fn end(&self, queue: u16) {
        self.of(queue, 0, PackedNotes::length(0)).iter().for_each(Notes::end);
    }

    /// A queue that is not running begins where it is said, not where its notes are, unless something of it is in flight.
    pub(crate) fn end_idle(&self, queue: u16, packed: bool) {
        if !self.has_some(queue, packed) {
            self.end(queue);
        }
    }

    /// Whether anybody has begun to take notes of a queue, and has not ended.
    pub(crate) fn is_begun(&self, queue: u16) -> bool {
        let notes = self.of(queue, 0, PackedNotes::length(0));
        notes.is_ok_and(|notes| notes.half(VERSION_AT) != 0)
    }

    /// The notes of a queue of `size` descriptors, of `length` bytes.
    fn of(&self, queue: u16, size: u16, length: u64) -> Result<Notes, RingError> {
        let start = u64::from(queue) * self.stride;
        let fits = queue < self.queues && size <= self.queue_size && length <= self.stride;
        let start = if fits { self.map.user(start, length) } else { None };
        let start = start.filter(|start| (start.as_ptr() as usize).is_multiple_of(size_of::<u64>()));
        let start = start.ok_or(RingError::NoRoomForNotes { queue, size })?;
        Ok(Notes { memory: self.clone(), start, length: length as usize })
    }
}

/// The notes of one queue, as bytes.
pub(super) struct Notes {
    /// Keeps `start` mapped.
    memory: NoteMemory,
    start: NonNull<u8>,
    length: usize,
}

/// A number of some width in the notes.
macro_rules! field {
    ($get:ident, $set:ident, $number:ty, $atomic:ty) => {
        #[inline]
        fn $get(&self, at: usize) -> $number {
            self.at::<$atomic>(at).load(Ordering::Acquire)
        }

        #[inline]
        fn $set(&self, at: usize, value: $number) {
            moment();
            self.at::<$atomic>(at).store(value, Ordering::Release);
        }
    };
}

impl Notes {
    /// An atomic number at a multiple of its size.
    #[inline]
    fn at<A>(&self, at: usize) -> &A {
        assert!(at.is_multiple_of(size_of::<A>()) && at + size_of::<A>() <= self.length);
        // SAFETY: the bytes are mapped while `memory` lives and aligned, as the start is to eight bytes; no access of this
        // process to them is another than by atomic numbers, which take any bits.
        unsafe { self.start.add(at).cast::<A>().as_ref() }
    }

    field!(byte, set_byte, u8, AtomicU8);
    field!(half, set_half, u16, AtomicU16);
    field!(word, set_word, u32, AtomicU32);
    field!(wide, set_wide, u64, AtomicU64);

    /// Whether something is noted, of a queue of `size` descriptors.
    fn is_begun(&self, size: u16) -> Result<bool, RingError> {
        match (self.half(VERSION_AT), self.half(COUNT_AT)) {
            (0, _) => Ok(false),
            (VERSION, count) if count == size => Ok(true),
            (version, count) => Err(RingError::OtherNotes { version, count }),
        }
    }

    fn begin(&self, size: u16) {
        self.set_half(COUNT_AT, size);
        self.set_half(VERSION_AT, VERSION);
    }

    /// Nothing is noted any more: whoever starts the ring next says where.
    pub(super) fn end(&self) {
        self.set_half(VERSION_AT, 0);
    }

    /// Whether the front end has truncated the memory.
    pub(super) fn is_lost(&self) -> bool {
        self.memory.map.is_lost()
    }
}

/// A moment before a store at which the process may die.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn moment() {}

#[cfg(test)]
pub(super) use death::moment;

/// What stands for the end of a process.
#[cfg(test)]
mod death {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// What is thrown when a process dies.
    pub(super) struct Died;

    /// The process dies before the store after so many.
    pub(super) fn after(stores: u32) {
        LEFT.set(Some(stores));
    }

    pub(super) fn never() {
        LEFT.set(None);
    }

    pub(in crate::ring) fn moment() {
        let Some(left) = LEFT.get() else { return };
        LEFT.set(left.checked_sub(1));
        if left == 0 {
            std::panic::resume_unwind(Box::new(Died));
        }
    }
}

#[cfg(test)]
mod tests;
