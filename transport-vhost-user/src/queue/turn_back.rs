//! Turning back what a former process has taken from a ring that stops before it has run here.

use super::{Queue, Role, State};
use crate::events::Event;
use crate::memory::MemoryMap;
use crate::ring::RingError;
use crate::wire::{ControlRequest, Expected, Response, ResponseField};
use lunette_scsi::NotificationClasses;
use lunette_store::Cx;
use std::sync::Arc;

impl Queue {
    /// Answers what a former process has taken from the ring in `memory` and not returned, and takes nothing else. What was
    /// carried out of it nobody knows: to the driver it is as if a reset had come between, so that it sends again what it may.
    #[cold]
    pub(super) fn turn_back(
        &self,
        state: &mut State,
        memory: Arc<MemoryMap>,
        cx: &mut dyn Cx,
    ) -> Result<(), RingError> {
        (state.base, state.broken) = (state.setup.base, false);
        let noted = state.start(memory)?;
        if noted.is_some() && self.role == Role::Event {
            self.place.events.miss();
        }
        let count = noted.unwrap_or(0);
        for _ in 0..count {
            let Some(ring) = &mut state.ring else { break };
            let Some(head) = ring.take(&mut state.chain)? else { break };
            let written = self.refuse(state)?;
            state.answer(head, written);
        }
        if count > 0 && self.place.may_log(cx) {
            tracing::warn!(
                export = %self.place.name, queue = self.index, count,
                "the ring stops before its units have come: what was in flight is answered as after a reset"
            );
        }
        Ok(())
    }

    /// Says to the driver that the request in `state.chain` was not carried out, or not to its end. How many bytes were written.
    fn refuse(&self, state: &State) -> Result<u32, RingError> {
        let (readable, writable) = (state.chain.readable(), state.chain.writable());
        let written = match self.role {
            Role::Event => writable.copy_in(0, &[0; Event::SIZE]),
            Role::Control => match ControlRequest::read(&readable, &writable)? {
                ControlRequest::Manage { .. } => writable.copy_in(0, &[Response::TARGET_FAILURE.0]),
                ControlRequest::Notifications { .. } => {
                    let none = ControlRequest::notifications(NotificationClasses::NONE, Response::FAILURE);
                    writable.copy_in(0, &none)
                }
            },
            Role::Requests => {
                let sizes = state.setup.sizes;
                let lengths = (
                    readable.len().checked_sub(sizes.command()),
                    writable.len().checked_sub(sizes.response()),
                );
                let (Some(data_out), Some(data_in)) = lengths else {
                    return Err(RingError::TooShort { readable: readable.len(), writable: writable.len() });
                };
                let expected = Expected { data_in, data_out };
                let field = ResponseField { bytes: writable.part(0, sizes.response()), expected };
                return Ok(field.fail(Response::RESET));
            }
        };
        Ok(written as u32)
    }
}
