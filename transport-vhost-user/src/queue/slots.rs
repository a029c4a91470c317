//! The requests of a queue that are under way.

use crate::control::Waiting;
use crate::ring::{Chain, Head, Held};
use crate::wire::Expected;
use lunette_store::Sg;

/// The longest list whose room each slot keeps for its next request.
const KEPT: usize = 256;

/// A request under way.
#[derive(Default)]
pub(crate) struct Slot {
    /// `None` while the slot is free.
    head: Option<Head>,
    /// Which memory map its bytes are of.
    pub(super) epoch: u64,
    /// Its bytes: also those that only a dirty log is told of, as one may come while it is under way.
    bytes: Held,
    /// How many of the writable ones are the response.
    response: u64,
    pub(crate) expected: Expected,
    /// A task management function that waits for the request queues.
    pub(crate) waiting: Option<Box<Waiting>>,
}

impl Slot {
    /// What the device may write.
    #[inline]
    pub(super) fn writable(&self) -> Sg<'_> {
        self.bytes.writable()
    }

    /// Where the response goes.
    #[inline]
    pub(super) fn response(&self) -> Sg<'_> {
        self.writable().part(0, self.response)
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

    /// Keeps a request. `chain` leaves it its list, which costs the same however long that is. The first `response` bytes that the
    /// device writes are for the response.
    #[inline]
    pub(super) fn hold(&mut self, head: Head, chain: &mut Chain, response: u64) -> &mut Slot {
        let number = usize::from(self.next());
        if self.free.pop().is_none() {
            self.slots.push(Slot::default());
        }
        self.mark(head.id);
        let slot = &mut self.slots[number];
        slot.head = Some(head);
        chain.leave_to(&mut slot.bytes);
        slot.response = response;
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

    /// A request has ended. The room of a long list goes back to `chain`.
    #[inline]
    pub(super) fn end(&mut self, number: u16, chain: &mut Chain) {
        let Some(slot) = self.slots.get_mut(usize::from(number)) else { return };
        match slot.bytes.room() {
            0..=KEPT => slot.bytes.clear(),
            _ => chain.take_room(&mut std::mem::take(&mut slot.bytes)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::Memory;

    #[test]
    fn a_request_has_its_bytes_until_it_ends_and_its_list_is_used_again() {
        let memory = Memory::from_bytes(&(0..200).map(|byte| byte as u8).collect::<Vec<_>>());
        let longest = Memory::zeroed(2 * KEPT);
        let head = |id| Head { id, extent: 0 };
        let mut slots = Slots::default();
        slots.make_room(8);
        let mut chain = Chain::of(&memory, 3, 150);
        let (begins, work) = (chain.writable().iter().next().unwrap().address(), chain.work());
        slots.hold(head(1), &mut chain, 4);
        assert_eq!((chain.work(), work), (work, 20), "a turn counts it");
        assert!(chain.writable().is_empty() && chain.readable().is_empty());
        let mut other = Chain::of(&longest, 1, KEPT);
        slots.hold(head(2), &mut other, 4);
        let (_, slot) = slots.get(0).unwrap();
        assert_eq!(slot.writable().iter().next().unwrap().address(), begins);
        assert_eq!(slot.writable().to_vec(u64::MAX), (3..153).collect::<Vec<u8>>());
        assert_eq!(slot.response().to_vec(u64::MAX), [3, 4, 5, 6]);
        // A slot keeps the room of short lists, and the next chain that of long ones.
        slots.end(0, &mut chain);
        assert!(chain.room() == 0 && slots.slots[0].bytes.room() >= 150);
        assert!(slots.slots[0].bytes.writable().is_empty());
        slots.end(1, &mut chain);
        assert!(chain.room() > KEPT && slots.slots[1].bytes.room() == 0);
        assert!(chain.writable().is_empty());
    }
}
