//! Virtqueues as the device sees them (VIRTIO 1.2 2.6), split or packed.
//!
//! The addresses of a ring's parts are turned into pointers once, so a request costs a few loads and stores. Everything
//! in the ring is the driver's to write at any time: each field is read once, by a volatile or atomic access, and checked
//! before it is used. What cannot be right is a [`RingError`], after which the ring is to be stopped.

mod chain;
mod notes;
mod packed;
mod split;

pub(crate) use chain::{Chain, Held};
pub(crate) use notes::NoteMemory;

use crate::memory::{DirtyLog, MemoryMap};
use notes::Notes;
use packed::Packed;
use split::Split;
use std::ptr::NonNull;
use std::sync::Arc;
use thiserror::Error;

/// Largest queue size.
pub(crate) const MAX_SIZE: u16 = 1024;

/// What is wrong with a ring.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum RingError {
    #[error("the queue size {0} is not from 1 to {MAX_SIZE}, or not a power of two in a split ring")]
    Size(u16),
    #[error("the ring cannot begin at {0:#x}")]
    Base(u32),
    #[error("the {part} at {address:#x} is not in guest memory")]
    Outside { part: &'static str, address: u64 },
    #[error("the {part} at {address:#x} is not aligned")]
    Misaligned { part: &'static str, address: u64 },
    #[error("the available index jumped from {from} to {to}, more than the queue holds")]
    AvailableIndex { from: u16, to: u16 },
    #[error("descriptor {index} does not exist, there are {count}")]
    NoSuchDescriptor { index: u16, count: u16 },
    #[error("the chain from descriptor {0} is longer than the descriptors there are for it: a loop")]
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
    #[error("buffer {0} was made available again before it was used")]
    Busy(u16),
    #[error("a request has {readable} readable and {writable} writable bytes, less than its headers need")]
    TooShort { readable: u64, writable: u64 },
    #[error("a control request has the unknown type {0}")]
    ControlType(u32),
    #[error("there is no room for the notes of queue {queue}, of {size} descriptors")]
    NoRoomForNotes { queue: u16, size: u16 },
    #[error("the notes of what is in flight have version {version} and are of {count} descriptors")]
    OtherNotes { version: u16, count: u16 },
    #[error("the notes of what is in flight contradict themselves or the ring")]
    WrongNotes,
    #[error("guest memory is gone: the front end has truncated its file, or there are no huge pages left")]
    MemoryGone,
}

/// Where a ring is, in the front end's own addresses, and how it behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub(crate) size: u16,
    /// Packed (VIRTIO 1.2 2.8) instead of split (2.7).
    pub(crate) packed: bool,
    /// Descriptor table or ring.
    pub(crate) descriptors: u64,
    /// Available ring or driver event suppression.
    pub(crate) available: u64,
    /// Used ring or device event suppression.
    pub(crate) used: u64,
    /// Notifications are suppressed by index (VIRTIO_F_EVENT_IDX).
    pub(crate) event_index: bool,
    /// Descriptors may name tables (VIRTIO_F_INDIRECT_DESC).
    pub(crate) indirect: bool,
}

/// What a chain is returned by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    /// The index of the first descriptor or, in a packed ring, the number that the driver gave to the chain: any.
    pub(crate) id: u16,
    /// Of a packed ring: how many descriptors it takes or, if it is noted, its first note, which says that too.
    pub(crate) extent: u16,
}

/// A running ring.
pub(crate) enum Ring {
    Split(Split),
    Packed(Packed),
}

/// Calls the same function of either layout.
macro_rules! either {
    ($ring:expr, $it:ident => $call:expr) => {
        match $ring {
            Ring::Split($it) => $call,
            Ring::Packed($it) => $call,
        }
    };
}

impl Ring {
    /// The ring at `layout`, to go on at `base`: the next entry of the available ring or, in a packed ring, both
    /// positions (vhost-user, "Vring descriptor indices for packed virtqueues").
    pub(crate) fn new(memory: Arc<MemoryMap>, layout: Layout, base: u32) -> Result<Self, RingError> {
        if !(1..=MAX_SIZE).contains(&layout.size) {
            return Err(RingError::Size(layout.size));
        }
        Ok(match layout.packed {
            true => Self::Packed(Packed::new(memory, layout, base)?),
            false => Self::Split(Split::new(memory, layout, base)?),
        })
    }

    /// Notes from now on what is in flight, in the part of the memory that is for this queue. What stands there as being in
    /// flight was taken by a former process: it is taken again first, in the order of that time. How many chains these are, if
    /// there was a former process.
    pub(crate) fn note(&mut self, memory: &NoteMemory, queue: u16) -> Result<Option<usize>, RingError> {
        either!(self, ring => ring.note(memory, queue))
    }

    /// The ring is let go of. If nothing is in flight, that is noted.
    pub(crate) fn end(&self) {
        either!(self, ring => ring.end())
    }

    /// The ring is broken or has been reset: nobody will go on with it.
    pub(crate) fn forget(&self) {
        if let Some(notes) = either!(self, ring => ring.notes()) {
            notes.end();
        }
    }

    /// Whether what is in flight is noted.
    pub(crate) fn has_notes(&self) -> bool {
        either!(self, ring => ring.notes()).is_some()
    }

    /// Whether the front end has truncated the memory of the ring or of its notes.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.memory().is_lost() || self.has_lost_notes()
    }

    #[inline(never)]
    fn has_lost_notes(&self) -> bool {
        either!(self, ring => ring.notes()).is_some_and(Notes::is_lost)
    }

    /// Goes on in other memory. Returns the old one, to be kept until nothing of it is in use.
    pub(crate) fn remap(&mut self, memory: Arc<MemoryMap>) -> Result<Arc<MemoryMap>, RingError> {
        either!(self, ring => ring.remap(memory))
    }

    /// The memory that addresses are translated by.
    pub(crate) fn memory(&self) -> &Arc<MemoryMap> {
        either!(self, ring => ring.memory())
    }

    /// Marks what is written to in the ring by the device, of which the device's part begins at guest address `used`.
    pub(crate) fn mark(&self, log: &DirtyLog, used: u64) {
        either!(self, ring => ring.mark(log, used))
    }

    /// Where the ring goes on after a stop, in the form that [`new`](Self::new) takes.
    pub(crate) fn base(&self) -> u32 {
        either!(self, ring => ring.base())
    }

    /// Whether nothing has ever been returned in it: the driver has just set it up.
    pub(crate) fn is_new(&self) -> bool {
        either!(self, ring => ring.is_new())
    }

    /// Takes the next chain that the driver has made available, and collects its bytes. They stay mapped while
    /// [`memory`](Self::memory) lives.
    #[inline]
    pub(crate) fn take(&mut self, chain: &mut Chain) -> Result<Option<Head>, RingError> {
        either!(self, ring => ring.take(chain))
    }

    /// Returns a chain to the driver, of whose writable bytes the first `length` were written. The driver sees it after
    /// [`publish`](Self::publish).
    #[inline(always)]
    pub(crate) fn push(&mut self, head: Head, length: u32) {
        either!(self, ring => ring.push(head, length))
    }

    /// How many chains were returned but not published.
    #[inline]
    pub(crate) fn unpublished(&self) -> u16 {
        either!(self, ring => ring.unpublished())
    }

    /// Whether more than `count` descriptors or chains are waiting to be taken: a guess, for the driver may add some.
    #[inline]
    pub(crate) fn has_waiting(&self, count: u16) -> bool {
        either!(self, ring => ring.has_waiting(count))
    }

    /// Shows the driver what was returned. Whether it wants to be notified of it.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        either!(self, ring => ring.publish())
    }

    /// Tells the driver that it need not notify us.
    pub(crate) fn suppress_kicks(&mut self) {
        either!(self, ring => ring.suppress_kicks())
    }

    /// Asks the driver to notify us of the next chain. Whether there is one already.
    pub(crate) fn want_kicks(&mut self) -> Result<bool, RingError> {
        either!(self, ring => ring.want_kicks())
    }
}

/// Finds a part of a ring by the front end's own address.
fn locate(
    memory: &MemoryMap,
    part: &'static str,
    address: u64,
    length: u64,
    align: usize,
) -> Result<NonNull<u8>, RingError> {
    let found = memory.user(address, length).ok_or(RingError::Outside { part, address })?;
    match found.as_ptr() as usize % align {
        0 => Ok(found),
        _ => Err(RingError::Misaligned { part, address }),
    }
}
