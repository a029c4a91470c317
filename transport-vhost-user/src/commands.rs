//! Commands: what is done with the requests of a request queue.

use crate::queue::{Queue, Role, State, Stop};
use crate::ring::{Head, Ring, RingError};
use crate::targets::Sessions;
use crate::wire::{Command, Expected, Response, ResponseField};
use lunette_engine::{Aborted, CommandFrame, Completion, Started};
use lunette_store::{Cx, Sg};

impl Queue {
    /// Begins the command in `state.chain`, and answers it if it ends at once.
    #[inline]
    pub(crate) fn take_command(
        &self,
        state: &mut State,
        head: Head,
        cx: &mut dyn Cx,
    ) -> Result<(), RingError> {
        let sizes = state.setup.sizes;
        let (readable, writable) = (state.chain.readable(), state.chain.writable());
        let data_out = readable.part(sizes.command(), u64::MAX);
        let data_in = writable.part(sizes.response(), u64::MAX);
        if readable.len() < sizes.command() || writable.len() < sizes.response() {
            return Err(RingError::TooShort { readable: readable.len(), writable: writable.len() });
        }
        let expected = Expected { data_in: data_in.len(), data_out: data_out.len() };
        let field = ResponseField { bytes: writable.part(0, sizes.response()), expected };
        // Data both ways is in a request only by agreement (VIRTIO 1.2 5.6.6.1).
        if !data_in.is_empty() && !data_out.is_empty() && !state.setup.bidirectional {
            let written = field.fail(Response::FAILURE);
            state.answer(head, written);
            return Ok(());
        }
        let cookie = state.slots.next().into();
        let command = Command::read(&readable, sizes);
        match execute(&mut state.sessions, &command, cookie, &field, data_out, data_in, cx) {
            Some(written) => state.answer(head, written),
            None => {
                state.hold(head, expected, sizes.response());
            }
        }
        Ok(())
    }

    /// Answers the request in `state.chain`, which a former process has taken and may have carried out, if it is a command that
    /// must not be carried out twice. Whether it has. All that can be said of it is that a reset has come between
    /// (VIRTIO_SCSI_S_RESET), which is true: drivers do not take that for an answer of the device, retry by themselves only
    /// what they know to be repeatable, and tell others.
    #[cold]
    pub(crate) fn refuse_again(&self, state: &mut State, head: Head, cx: &mut dyn Cx) -> bool {
        let sizes = state.setup.sizes;
        let (readable, writable) = (state.chain.readable(), state.chain.writable());
        let lengths =
            (readable.len().checked_sub(sizes.command()), writable.len().checked_sub(sizes.response()));
        let (Role::Requests, (Some(data_out), Some(data_in))) = (self.role, lengths) else { return false };
        let command = Command::read(&readable, sizes);
        let Some(address) = command.address else { return false };
        let session = state.sessions.reach(address, cx);
        if session.is_none_or(|session| session.may_repeat(address.lun, &command.cdb)) {
            return false;
        }
        let expected = Expected { data_in, data_out };
        let field = ResponseField { bytes: writable.part(0, sizes.response()), expected };
        let written = field.fail(Response::RESET);
        state.answer(head, written);
        true
    }

    /// Whether somebody will go on with what is in flight: it is noted, and the front end has gone before it has ended.
    pub(crate) fn is_kept(&self) -> bool {
        let state = self.state();
        !state.setup.started
            && state.setup.stop == Stop::Keep
            && state.ring.as_ref().is_some_and(Ring::has_notes)
    }

    pub(crate) fn command_answered(&self, cookie: u64, completion: Completion, cx: &mut dyn Cx) {
        let is_kept = self.is_kept();
        let respond = |field: &ResponseField<'_>| match &completion {
            Completion::Ended(outcome) => Some(field.end(outcome)),
            Completion::Aborted(Aborted::NexusLost) if is_kept => None,
            Completion::Aborted(why) => Some(field.fail((*why).into())),
        };
        self.ended(cookie, respond, cx);
    }
}

/// Carries a command out. How many bytes were written, if it has ended and been answered.
#[inline]
fn execute(
    sessions: &mut Sessions,
    command: &Command,
    cookie: u64,
    field: &ResponseField<'_>,
    data_out: Sg<'_>,
    data_in: Sg<'_>,
    cx: &mut dyn Cx,
) -> Option<u32> {
    let reached = command.address.and_then(|address| Some((address, sessions.reach(address, cx)?)));
    let Some((address, session)) = reached else { return Some(field.fail(Response::BAD_TARGET)) };
    let frame = CommandFrame {
        lun: address.lun,
        tag: command.tag,
        attribute: command.attribute,
        priority: command.priority,
        reference_number: command.reference_number,
        cdb: &command.cdb,
        data_out: data_out.len(),
        cookie,
    };
    match session.execute(&frame, data_out, data_in, cx) {
        Started::Ended(outcome) => Some(field.end(&outcome)),
        Started::Pending => None,
    }
}
