//! The requests of a queue that are under way.

use crate::control::Waiting;
use crate::ring::Head;
use crate::wire::Expected;
use lunette_store::{Seg, Sg, SgList};

/// The longest list whose room is kept for the next request.
const KEPT: usize = 256;

/// A request under way.
#[derive(Default)]
pub(crate) struct Slot {
    /// `None` while the slot is free.
    head: Option<Head>,
    /// Which memory map its bytes are of.
    pub(super) epoch: u64,
    /// What the device may write, and how much that is.
    writable: SgList,
    writable_bytes: u64,
    /// How many of these bytes are the response.
    response: u64,
    pub(crate) expected: Expected,
    /// A task management function that waits for the request queues.
    pub(crate) waiting: Option<Box<Waiting>>,
}

impl Slot {
    /// What the device may write.
    #[inline]
    pub(super) fn writable(&self) -> Sg<'_> {
        Sg::of_length(self.writable.segs(), self.writable_bytes)
    }

    /// Where the response goes.
    #[inline]
    pub(super) fn response(&self) -> Sg<'_> {
        self.writable().part(0, self.response)
    }

    /// Forgets where anything goes.
    #[inline]
    fn clear(&mut self) {
        match self.writable.segs().len() {
            0..=KEPT => self.writable.clear(),
            _ => self.writable = SgList::new(),
        }
    }
}

/// Requests by numbers of our own, as the ids of a packed ring are the driver's to choose. Slots and their lists are
/// used again, the last one first.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// One bit for each id, set while it is under way.
    busy: Vec<u64>,
}

impl Slots {
    /// Has room for ids below `ids`.
    pub(super) fn make_room(&mut self, ids: usize) {
        self.busy.resize(ids.div_ceil(64).max(self.busy.len()), 0);
    }

    /// Whether a request with this id is under way.
    #[inline]
    pub(super) fn is_busy(&self, id: u16) -> bool {
        self.busy.get(usize::from(id / 64)).is_some_and(|bits| bits >> (id % 64) & 1 != 0)
    }

    /// The number that the next request will have.
    #[inline]
    pub(crate) fn next(&self) -> u16 {
        self.free.last().copied().unwrap_or(self.slots.len() as u16)
    }

    /// Keeps a request. The device writes to `writable`, `writable_bytes` bytes, of which the first `response` are for the
    /// response.
    #[inline]
    pub(super) fn hold(
        &mut self,
        head: Head,
        (writable, writable_bytes): (&[Seg], u64),
        response: u64,
    ) -> &mut Slot {
        let number = usize::from(self.next());
        if self.free.pop().is_none() {
            self.slots.push(Slot::default());
        }
        self.mark(head.id);
        let slot = &mut self.slots[number];
        slot.head = Some(head);
        slot.writable.copy_from(writable);
        (slot.writable_bytes, slot.response) = (writable_bytes, response);
        slot
    }

    pub(crate) fn get_mut(&mut self, number: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(number)).filter(|slot| slot.head.is_some())
    }

    /// A request under way.
    #[inline]
    pub(super) fn get(&self, number: u16) -> Option<(Head, &Slot)> {
        let slot = self.slots.get(usize::from(number))?;
        Some((slot.head?, slot))
    }

    /// A request has ended.
    #[inline]
    pub(super) fn end(&mut self, number: u16) {
        let Some(slot) = self.slots.get_mut(usize::from(number)) else { return };
        slot.clear();
        let Some(head) = slot.head.take() else { return };
        self.free.push(number);
        if let Some(bits) = self.busy.get_mut(usize::from(head.id / 64)) {
            *bits &= !(1 << (head.id % 64));
        }
    }

    fn mark(&mut self, id: u16) {
        if let Some(bits) = self.busy.get_mut(usize::from(id / 64)) {
            *bits |= 1 << (id % 64);
        }
    }
}
