//! The event queue: buffers wait in the ring until there is something to tell.

use super::{Queue, State};
use crate::events::Event;
use crate::ring::RingError;
use lunette_store::Cx;

impl Queue {
    /// There may be events to deliver.
    pub(crate) fn deliver_events(&self, cx: &mut dyn Cx) {
        let mut state = self.state();
        match state.taking {
            true => self.deliver(&mut state, cx),
            false => self.place.events.miss_all(),
        }
    }

    /// Gives the driver the events that there are. Those for which it has no buffer are dropped, and the driver is asked to
    /// say when it has one again.
    pub(super) fn deliver(&self, state: &mut State, cx: &mut dyn Cx) {
        if let Err(error) = self.try_deliver(state, cx) {
            self.place.events.miss();
            self.fail(state, &error, cx);
        }
        state.publish();
    }

    fn try_deliver(&self, state: &mut State, cx: &mut dyn Cx) -> Result<(), RingError> {
        let events = &self.place.events;
        while let Some(event) = events.next() {
            if put(state, &event)? {
                continue;
            }
            events.miss();
            if state.ring.is_none() {
                return Ok(());
            }
            match state.want_kicks()? {
                true => self.go_on(state, cx),
                false => events.miss_all(),
            }
            return Ok(());
        }
        state.suppress_kicks();
        Ok(())
    }
}

/// Returns the driver's next buffer with `event`, and all before it that are too short with what fits of one that tells
/// nothing. Whether there was a buffer.
fn put(state: &mut State, event: &[u8; Event::SIZE]) -> Result<bool, RingError> {
    for _ in 0..state.setup.layout.size {
        let Some(ring) = &mut state.ring else { return Ok(false) };
        let Some(head) = ring.take(&mut state.chain)? else { return Ok(false) };
        let buffer = state.chain.writable();
        let fits = buffer.len() >= Event::SIZE as u64;
        let written = buffer.copy_in(0, if fits { event } else { &[0; Event::SIZE] });
        state.answer(head, written as u32);
        if fits {
            return Ok(true);
        }
    }
    Ok(false)
}
