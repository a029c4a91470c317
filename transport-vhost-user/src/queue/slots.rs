//! The requests of a queue that are under way.

use crate::control::Waiting;
use crate::ring::Head;
use crate::wire::Expected;
use lunette_store::{Sg, SgList};

/// A request under way.
#[derive(Default)]
pub(crate) struct Slot {
    /// `None` while the slot is free.
    head: Option<Head>,
    /// Which memory map its bytes are of.
    pub(super) epoch: u64,
    /// Where the response goes.
    pub(super) response: SgList,
    pub(crate) expected: Expected,
    /// A task management function that waits for the request queues.
    pub(crate) waiting: Option<Box<Waiting>>,
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

    /// Keeps a request, whose response goes to `response`.
    #[inline]
    pub(super) fn hold(&mut self, head: Head, response: Sg<'_>) -> &mut Slot {
        let number = usize::from(self.next());
        if self.free.pop().is_none() {
            self.slots.push(Slot::default());
        }
        self.mark(head.id);
        let slot = &mut self.slots[number];
        slot.head = Some(head);
        match response.single() {
            Some(seg) => slot.response.push(seg),
            None => slot.response.assign(response),
        }
        slot
    }

    pub(crate) fn get_mut(&mut self, number: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(number)).filter(|slot| slot.head.is_some())
    }

    /// Gives a slot up. Its content stays until the next [`hold`](Self::hold), but the list is to be cleared.
    #[inline]
    pub(super) fn end(&mut self, number: u16) -> Option<(Head, &mut Slot)> {
        let slot = self.slots.get_mut(usize::from(number))?;
        let head = slot.head.take()?;
        self.free.push(number);
        if let Some(bits) = self.busy.get_mut(usize::from(head.id / 64)) {
            *bits &= !(1 << (head.id % 64));
        }
        Some((head, slot))
    }

    fn mark(&mut self, id: u16) {
        if let Some(bits) = self.busy.get_mut(usize::from(id / 64)) {
            *bits |= 1 << (id % 64);
        }
    }
}
