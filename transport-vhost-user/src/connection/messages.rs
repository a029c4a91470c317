//! Messages: received, carried out and answered, one after the other.

use super::ledger::Ledger;
use super::memory::MemoryChange;
use super::offer::CONTROL_QUEUE;
use super::state::{Concerned, Phase, Then};
use super::{Connection, EndReason, State, Step, Token};
use crate::place::ExportEvent;
use crate::socket::{self, Received};
use lunette_store::{Cx, Interest};
use lunette_vhost_user::{Ack, Change, Event};
use std::cell::RefMut;
use std::os::fd::{AsFd, AsRawFd};

/// Most messages that are carried out before others have their turn.
const TURN: usize = 64;

impl Connection {
    /// Carries out messages for as long as there are any.
    pub(super) fn advance(&self, cx: &mut dyn Cx) {
        let mut state = self.state();
        for _ in 0..TURN {
            if state.phase != Phase::Open {
                return;
            }
            match self.step(&mut state, cx) {
                Ok(Step::Again) => {}
                Ok(Step::Wait) => return self.tell_of_changes(state),
                Ok(Step::Leave) => {
                    state.phase = Phase::HandingOver;
                    self.stop_queues(&mut state, cx);
                    return self.proceed(state, cx);
                }
                Err(reason) => return self.lose(state, reason, cx),
            }
        }
        cx.complete(self.id(Token::GoOn), Ok(0));
    }

    fn tell_of_changes(&self, mut state: RefMut<'_, State>) {
        let is_settled = state.ledger.as_ref().is_none_or(Ledger::is_settled);
        if !state.is_busy() && is_settled && std::mem::take(&mut state.has_changed) {
            drop(state);
            self.place.observer.tell(ExportEvent::Agreed);
        }
    }

    fn step(&self, state: &mut State, cx: &mut dyn Cx) -> Result<Step, EndReason> {
        if state.is_waiting() {
            // What is waited for may never come; that nobody waits for us any more must be noticed all the same.
            return if socket::has_ended(&self.socket) { Err(None) } else { Ok(Step::Wait) };
        }
        state.forget_if_reset();
        if self.give_units(state, cx) {
            return Ok(Step::Wait);
        }
        if let Then::Send(message) = std::mem::replace(&mut state.then, Then::Nothing) {
            let (bytes, fds) = message.into_parts();
            state.outbox.extend(bytes);
            // No reply carries more than one.
            state.outbox_fd = fds.into_iter().next();
        }
        if state.taker.is_some() {
            return Ok(Step::Leave);
        }
        if !state.outbox.is_empty() {
            return self.send(state, cx);
        }
        match state.decoder.next_message().map_err(reason)? {
            Some(message) => {
                self.arrive(cx);
                let event = state.backend.handle(message).map_err(reason)?;
                if matches!(event, Event::Change(..) | Event::StopVring { .. }) {
                    state.begin_change();
                }
                self.carry_out(state, event, cx)?;
                state.held.clear();
                Ok(Step::Again)
            }
            None => self.receive(state, cx),
        }
    }

    fn send(&self, state: &mut State, cx: &mut dyn Cx) -> Result<Step, EndReason> {
        let sent = socket::transmit(&self.socket, &state.outbox, state.outbox_fd.as_ref()).map_err(reason)?;
        state.outbox.drain(..sent);
        if sent > 0 {
            state.outbox_fd = None;
        }
        cx.cancel(self.id(Token::Writable));
        if state.outbox.is_empty() {
            return Ok(Step::Again);
        }
        cx.watch(self.socket.as_fd().as_raw_fd(), Interest::Writable, self.id(Token::Writable));
        Ok(Step::Wait)
    }

    fn receive(&self, state: &mut State, cx: &mut dyn Cx) -> Result<Step, EndReason> {
        let mut buffer = [0; 1024];
        let wanted = state.decoder.wanted().min(buffer.len());
        // Before anything is taken from the socket.
        state.ledger.iter_mut().for_each(Ledger::begin);
        match socket::receive(&self.socket, &mut buffer[..wanted]).map_err(reason)? {
            Received::Bytes(count, fds) => self.take_in(state, &buffer[..count], fds, cx),
            Received::Truncated(fds) => {
                self.dispose(fds);
                Err(Some("descriptors were lost: too many are open".to_owned()))
            }
            Received::Nothing => {
                if state.decoder.begun().is_empty() {
                    state.ledger.iter_mut().for_each(Ledger::settle);
                }
                Ok(Step::Wait)
            }
            Received::End => Err(None),
        }
    }

    fn carry_out(&self, state: &mut State, event: Event, cx: &mut dyn Cx) -> Result<(), EndReason> {
        let export = &self.place.name;
        match event {
            Event::Reply(message) => state.then = Then::Send(message),
            Event::Change(Change::SetInflight { area, fd }, ack) => self.map_notes(state, area, fd, ack, cx),
            Event::Change(Change::SetLogBase { area, fd }, ack) => self.map_log(state, area, fd, ack, cx),
            Event::Change(change, ack) => match MemoryChange::of(change) {
                Ok(change) => self.map(state, change, ack, cx),
                Err(change) => self.change(state, change, ack, cx)?,
            },
            Event::StopVring { index, reply } => {
                state.begin_round();
                state.may_go |= state.is_logging();
                state.resumed.remove(&index);
                let is_held_back = std::mem::take(&mut state.held_back[usize::from(index)]);
                if is_held_back && state.is_noted(index) {
                    state.then = Then::SendBase { reply, is_turned_back: true };
                    self.turn_back(state, index, cx);
                } else if state.told[usize::from(index)].is_some() && !is_held_back {
                    state.then = Then::SendBase { reply, is_turned_back: false };
                    self.tell(state, index, true, cx);
                } else {
                    state.broken.remove(&index);
                    let base = state.backend.state().vrings[usize::from(index)].base;
                    state.then = Then::Send(state.backend.vring_stopped(reply, base));
                }
            }
            Event::ReadConfig { reply, .. } => {
                state.then = Then::Send(reply.from_space(&state.config.bytes()));
            }
            Event::GetInflight { area, reply } => self.make_notes(state, area, reply, cx),
            Event::MoveState { direction, fd, reply } => self.move_state(state, direction, fd, reply, cx),
            Event::CheckState(reply) => self.check_state(state, reply, cx),
            Event::Refused { request, fault, reply } => {
                if self.place.may_log(cx) {
                    tracing::warn!(%export, "{request} refused: {fault}");
                }
                state.then = Then::Send(reply);
            }
            Event::Ignored { request, fault } => tracing::debug!(%export, "{request} ignored: {fault}"),
        }
        Ok(())
    }

    fn change(&self, state: &mut State, change: Change, ack: Ack, cx: &mut dyn Cx) -> Result<(), EndReason> {
        let (sets_features, resets) =
            (matches!(change, Change::SetFeatures { .. }), matches!(change, Change::ResetDevice));
        if sets_features && let Err(why) = self.may_log_writes(state, &ack, cx) {
            state.backend.undo_features();
            return self.conclude(state, Err(why), ack, cx);
        }
        if let Change::SetFeatures { acked, .. } = &change {
            self.place.events.set_features(*acked);
        }
        state.forgetting = resets;
        if resets {
            state.left = None;
            state.resumed.clear();
        }
        let sets_config = matches!(change, Change::SetConfig(_));
        let made = match state.make(change, &self.place) {
            // It was the guest that wrote there, which must not cost its VMM the device.
            Err(failure) if sets_config && !ack.is_wanted() => {
                if self.place.may_log(cx) {
                    tracing::warn!(export = %self.place.name, "ignored: {failure}");
                }
                Ok(Concerned::None)
            }
            made => made,
        };
        if sets_features && !state.forbidding.is_empty() && self.place.may_log(cx) {
            tracing::error!(
                export = %self.place.name,
                "the front end acknowledged {:?}, which was not offered: no ring will be started",
                state.forbidding
            );
        }
        self.conclude(state, made, ack, cx)?;
        state.resetting = resets;
        self.abort_if_heard(state, cx);
        Ok(())
    }

    /// Tells the queues of a change and the front end what has become of it.
    pub(super) fn conclude(
        &self,
        state: &mut State,
        made: Result<Concerned, String>,
        ack: Ack,
        cx: &mut dyn Cx,
    ) -> Result<(), EndReason> {
        state.begin_round();
        let reply = ack.done(made.is_ok());
        let concerned = match made {
            Ok(concerned) => concerned,
            Err(failure) if reply.is_none() => return Err(Some(failure)),
            Err(failure) => {
                if self.place.may_log(cx) {
                    tracing::warn!(export = %self.place.name, "refused: {failure}");
                }
                Concerned::None
            }
        };
        state.then = reply.map_or(Then::Nothing, Then::Send);
        concerned.queues(state.fds.len()).for_each(|index| self.tell(state, index, true, cx));
        if state.control_waits && !state.commands_are_missing() {
            state.control_waits = false;
            self.tell(state, CONTROL_QUEUE, false, cx);
        }
        Ok(())
    }
}

fn reason(error: impl ToString) -> EndReason {
    Some(error.to_string())
}
