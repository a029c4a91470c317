//! Receiving.

use super::door::Visitor;
use super::{Closing, Connection, Phase, State, Token};
use crate::SessionChange;
use crate::error::End;
use crate::limits::{BATCH, LARGE_DATA, OUTBOX, RECEIVE_LITTLE, RECEIVES_PER_TURN};
use crate::memory;
use lunette_iscsi::Error;
use lunette_iscsi::pdu::LoginStatus;
use lunette_iscsi::target::{Login, SessionType};
use lunette_store::Cx;
use std::io::{self, IoSliceMut, Read};

/// Most runs of bytes of a command's buffer that one call fills, beside the buffer for what follows.
const RUNS: usize = 7;

/// What was received.
struct Arrived {
    /// Bytes that are in a command's buffer already.
    direct: usize,
    /// Bytes in the reactor's receive buffer.
    rest: usize,
    /// There may be more.
    full: bool,
}

impl Connection {
    /// Parses what was left, receives and parses what there is, within bounds.
    pub(super) fn receive(&self, state: &mut State, cx: &mut dyn Cx) {
        if state.receive_due {
            // Others have their turn.
            return;
        }
        if let Phase::FullFeature(full) = &mut state.phase {
            full.begin_turn();
        }
        let mut buffer = self.local.receive.take();
        let result = self.receive_some(state, &mut buffer, cx);
        self.local.receive.replace(buffer);
        match result {
            Err(why) => self.fail(state, why, cx),
            Ok(()) if state.is_answered() => self.flush(state, cx),
            Ok(()) => {}
        }
    }

    fn receive_some(&self, state: &mut State, buffer: &mut [u8], cx: &mut dyn Cx) -> Result<(), End> {
        let mut full = false;
        for _ in 0..RECEIVES_PER_TURN {
            if state.waiting {
                return still_there(state);
            }
            if state.paused || state.closing.is_some() || state.socket.is_none() || state.is_still() {
                return Ok(());
            }
            if state.turn_is_over() {
                break;
            }
            if let Some(stash) = state.stash.take() {
                self.parse(state, &stash, cx)?;
                self.local.put_spare(stash);
                continue;
            }
            let Some(arrived) = self.receive_once(state, buffer, full)? else { return Ok(()) };
            full = arrived.full;
            state.hear(cx.now());
            state.received += (arrived.direct + arrived.rest) as u64;
            let before = state.out.len();
            if arrived.direct > 0 {
                self.parse_in_place(state, arrived.direct)?;
            }
            self.parse(state, &buffer[..arrived.rest], cx)?;
            // A request that came alone saves the call that would say so. Should the end of the stream have come with
            // it, the answer's failure or the next tick will tell.
            if !full && state.out.len() != before && state.stash.is_none() {
                return Ok(());
            }
        }
        self.receive_later(state, cx);
        Ok(())
    }

    fn receive_later(&self, state: &mut State, cx: &mut dyn Cx) {
        if !std::mem::replace(&mut state.receive_due, true) {
            cx.defer(self.id(Token::RECEIVE));
        }
    }

    /// One call. `None`: nothing is there. `again`: the last one got all that it had room for.
    fn receive_once(
        &self,
        state: &mut State,
        buffer: &mut [u8],
        again: bool,
    ) -> Result<Option<Arrived>, End> {
        let Some(socket) = &mut state.socket else { return Ok(None) };
        let direct = match &state.phase {
            Phase::FullFeature(full) => full.direct(),
            Phase::Login(..) => None,
        };
        let mut runs: [IoSliceMut<'_>; RUNS + 1] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        // SAFETY: the bytes belong to a command that waits for them, so nobody else uses them; `runs` goes before anything
        // else happens to the command.
        let count = direct.and_then(|to| unsafe { memory::scatter(to, &mut runs[..RUNS]) });
        let wanted = direct.filter(|_| count.is_some()).map_or(0, |to| to.len() as usize);
        if wanted >= LARGE_DATA {
            state.large_data = true;
        } else if again {
            state.large_data = false;
        }
        let room = if state.large_data { RECEIVE_LITTLE } else { buffer.len() };
        let buffer = &mut buffer[..room];
        let received = match count {
            Some(count) => {
                runs[count] = IoSliceMut::new(buffer);
                socket.read_vectored(&mut runs[..=count])
            }
            None => socket.read(buffer),
        };
        match received {
            Ok(0) => Err(End::Closed),
            Ok(count) => {
                let direct = count.min(wanted);
                Ok(Some(Arrived { direct, rest: count - direct, full: count == wanted + room }))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Ok(Some(Arrived { direct: 0, rest: 0, full: true }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the machine of data that was received into a command's buffer.
    fn parse_in_place(&self, state: &mut State, length: usize) -> Result<(), End> {
        let mut left = length;
        while left > 0 {
            let State { phase: Phase::FullFeature(full), out, .. } = &mut *state else { break };
            let Some(run) = full.expected().and_then(|to| to.iter().next()) else { break };
            let run = run.part(0, left);
            // SAFETY: the command waits for more data, so nobody writes to the bytes until the machine has seen them.
            let bytes = unsafe { memory::bytes(run) };
            full.take_in_place(&self.door(None), bytes, out)?;
            left -= run.len();
            state.taken += run.len();
        }
        Ok(())
    }

    /// Parses input until there is none, or the connection takes no more.
    fn parse(&self, state: &mut State, mut input: &[u8], cx: &mut dyn Cx) -> Result<(), End> {
        loop {
            if state.closing.is_some() || state.socket.is_none() {
                return Ok(());
            }
            if state.waiting || state.paused || !input.is_empty() && state.turn_is_over() {
                state.stash.get_or_insert_with(|| self.local.take_spare()).extend_from_slice(input);
                return Ok(());
            }
            let (used, more) = self.parse_one(state, input, cx)?;
            input = &input[used..];
            state.taken += used;
            if !state.out.is_empty() && state.taken + state.out.len() >= BATCH && !state.blocked {
                self.flush(state, cx);
            }
            state.paused = state.out.len() >= OUTBOX;
            if !more {
                return Ok(());
            }
        }
    }

    /// Parses up to the next event. Returns how much that was, and whether to go on.
    fn parse_one(&self, state: &mut State, input: &[u8], cx: &mut dyn Cx) -> Result<(usize, bool), End> {
        match &mut state.phase {
            Phase::FullFeature(full) => {
                let (used, more, wish) =
                    full.take(&self.door(None), input, &mut self.env(&mut state.out, cx))?;
                if let Some(wish) = wish {
                    self.wish(state, wish, cx);
                }
                Ok((used, more))
            }
            Phase::Login(login, visitor) => {
                if self.portal.entity.gatekeeper().is_indebted(self.peer.ip(), cx.now()) {
                    return Err(End::Indebted);
                }
                let progress = login.receive(&mut self.door(Some(visitor)), input, &mut state.out);
                let progress = progress.inspect_err(|error| {
                    if matches!(error, Error::LoginRefused(LoginStatus::AUTHENTICATION_FAILURE)) {
                        let address = self.peer.ip();
                        self.portal.entity.gatekeeper().authentication_failed(address, cx.now());
                    }
                    self.say_refused(login, visitor, error, cx);
                })?;
                let Some(accepted) = progress.accepted else { return Ok((progress.used, false)) };
                let visitor = std::mem::take(visitor);
                self.logged_in(state, *accepted, visitor, cx);
                Ok((progress.used, true))
            }
        }
    }

    fn say_refused(&self, login: &Login, visitor: &Visitor, error: &Error, cx: &dyn Cx) {
        if matches!(error, Error::LoginRefused(_)) && self.may_log(visitor.target.as_ref(), cx) {
            let (info, reason) = (login.info(), login.reason().unwrap_or_default());
            tracing::warn!(
                initiator = info.initiator_name,
                address = %self.peer,
                target_name = info.target_name,
                discovery = info.session_type == SessionType::Discovery,
                rule = visitor.rule.map(|rule| rule + 1),
                "iSCSI {error}: {reason}"
            );
            self.tell(SessionChange::Refused(&format_args!("{error}: {reason}")), info);
        }
    }

    /// What the initiator sends makes no sense any more, or the socket is broken.
    fn fail(&self, state: &mut State, why: End, cx: &mut dyn Cx) {
        match why {
            // The machine may have something to say to that.
            End::Protocol(_) if !state.out.is_empty() => {
                self.begin_closing(state, Closing::Flush(why), cx);
            }
            why => self.end(state, &why, cx),
        }
    }

    /// Goes on with what was left, and with what has come meanwhile, when others had their turn.
    pub(super) fn resume(&self, state: &mut State, cx: &mut dyn Cx) {
        state.paused = false;
        self.take_events(state);
        self.receive_later(state, cx);
    }
}

/// Whether the initiator of a connection that receives nothing for now has not closed it.
fn still_there(state: &State) -> Result<(), End> {
    match state.socket.as_ref().map(|socket| socket.peek(&mut [0])) {
        Some(Ok(0)) => Err(End::Closed),
        Some(Err(error))
            if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            Err(error.into())
        }
        _ => Ok(()),
    }
}
