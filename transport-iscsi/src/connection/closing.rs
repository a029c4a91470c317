//! Ending in good order: what is still asked for, answered or sent before a connection is closed.

use super::departure::Departure;
use super::{Connection, Phase, State, Token};
use crate::error::End;
use crate::events;
use crate::linger::linger;
use crate::offer::Offer;
use crate::{EndHow, Target};
use lunette_iscsi::Outbox;
use lunette_iscsi::pdu::{AsyncEvent, LogoutResult};
use lunette_store::Cx;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The longest time that fits into a request to log out.
const MOST_TIME: Duration = Duration::from_secs(u16::MAX as u64);

/// What is left to do before the end. No input is taken any more.
pub(super) enum Closing {
    /// The engine ends the commands; then a logout response is due under this tag.
    Logout(u32),
    /// What is to be sent is sent, and then this is why.
    Flush(End),
}

impl Closing {
    /// Whether everything is sent that had to be.
    pub(super) fn is_over(&self, out: &Outbox) -> bool {
        matches!(self, Self::Flush(_)) && out.is_empty()
    }
}

impl Connection {
    /// Has the session end: asks its initiator to log out, and waits for that for so long.
    pub(crate) fn stop(&self, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        if state.socket.is_some() && state.closing.is_none() {
            self.ask_to_leave(&mut state, self.portal.entity.options().stop_time, End::Stopped, cx);
            self.settle(&mut state, cx);
        }
    }

    /// Has the session end, because somebody wants that.
    pub(crate) fn unwanted(&self, how: EndHow, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        if state.socket.is_none() || state.closing.is_some() {
            return;
        }
        match how {
            EndHow::LogoutRequest(time) => self.ask_to_leave(&mut state, time, End::Unwanted, cx),
            EndHow::Drop => self.drop_connection(&mut state, &End::Unwanted, cx),
        }
        self.settle(&mut state, cx);
    }

    /// `target` has changed, or has been removed: the session ends if it is one of that and not let in any more.
    pub(crate) fn reconsider(&self, target: &Arc<Target>, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        let is_of_it = state.target.as_ref().is_some_and(|own| Arc::ptr_eq(own, target));
        if is_of_it && state.socket.is_some() && state.closing.is_none() {
            self.look_whether_admitted(&mut state, cx);
            self.settle(&mut state, cx);
        }
    }

    /// Has a session end that its target does not let in any more.
    pub(super) fn look_whether_admitted(&self, state: &mut State, cx: &mut dyn Cx) {
        let State { phase: Phase::FullFeature(full), target: Some(target), tsih: Some(tsih), .. } = state
        else {
            return;
        };
        let Some(nexus) = full.nexus.as_ref().map(|session| session.nexus()) else { return };
        if target.is_removed() {
            return self.ask_to_leave(state, self.portal.entity.options().stop_time, End::Removed, cx);
        }
        let (info, group) = (full.session.info(), self.portal.group_tag);
        match target.offer().readmit(info, self.peer.ip(), group, nexus) {
            Ok(rule) => self.portal.entity.table().readmit(*tsih, rule),
            Err(why) => self.drop_connection(state, &End::Denied(why.reason()), cx),
        }
    }

    /// Looks at a session that has just begun if its target is not what it was when that let it in: who has changed it has not
    /// found this session.
    pub(super) fn look_whether_current(&self, state: &mut State, offer: &Arc<Offer>, cx: &mut dyn Cx) {
        let is_current = |target: &Arc<Target>| !target.is_removed() && Arc::ptr_eq(offer, &target.offer());
        if !state.target.as_ref().is_none_or(is_current) {
            self.look_whether_admitted(state, cx);
        }
    }

    fn ask_to_leave(&self, state: &mut State, time: Duration, why: End, cx: &mut dyn Cx) {
        let time = time.min(MOST_TIME);
        let until = cx.now().saturating_add(time);
        match state {
            State { leaving: Some((before, _)), .. } if *before <= until => {}
            State { phase: Phase::FullFeature(full), out, leaving, .. } if full.nexus.is_some() => {
                *leaving = Some((until, why));
                events::request_logout(&mut full.machine, &full.session, time, out);
                self.be_late_after(time, cx);
            }
            // What a discovery session was answered is sent.
            State { phase: Phase::FullFeature(_), .. } => {
                self.begin_closing(state, Closing::Flush(why), cx);
            }
            State { phase: Phase::Login(..), .. } => self.end(state, &why, cx),
        }
    }

    /// Closes the connection, and says so if that can be sent at once.
    fn drop_connection(&self, state: &mut State, why: &End, cx: &mut dyn Cx) {
        self.announce_drop(state, AsyncEvent::DROP_CONNECTION);
        self.flush(state, cx);
        self.end(state, why, cx);
    }

    /// Ends the session after a reset of the whole target, once the answer to that is sent.
    pub(crate) fn reset(&self, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        if state.socket.is_some() && state.closing.is_none() {
            self.announce_drop(&mut state, AsyncEvent::DROP_SESSION);
            self.begin_closing(&mut state, Closing::Flush(End::ColdReset), cx);
            self.settle(&mut state, cx);
        }
    }

    pub(super) fn begin_closing(&self, state: &mut State, closing: Closing, cx: &mut dyn Cx) {
        state.closing = Some(closing);
        state.stash = None;
        self.be_late_after(self.portal.entity.options().stop_time, cx);
    }

    fn be_late_after(&self, time: Duration, cx: &mut dyn Cx) {
        cx.cancel(self.id(Token::LATE));
        cx.timer(time, self.id(Token::LATE));
    }

    fn announce_drop(&self, state: &mut State, event: AsyncEvent) {
        if let State { phase: Phase::FullFeature(full), out, .. } = state {
            events::announce_drop(&mut full.machine, &full.session, event, out);
        }
    }

    /// Answers a logout when the engine has ended the commands.
    pub(super) fn finish_logout(&self, state: &mut State) {
        let State { closing, phase: Phase::FullFeature(full), out, nexus_closed: true, .. } = state else {
            return;
        };
        if let Some(Closing::Logout(tag)) = *closing {
            full.machine.finish_logout(&full.session, tag, LogoutResult::CLOSED, out);
            *closing = Some(Closing::Flush(End::LoggedOut));
        }
    }

    /// What was to be finished has not been in time.
    pub(super) fn late(&self, state: &mut State, cx: &mut dyn Cx) {
        let why = match state.closing.take() {
            Some(Closing::Flush(why)) => why,
            Some(Closing::Logout(tag)) => {
                state.closing = Some(Closing::Logout(tag));
                End::LoggedOut
            }
            None => {
                let why = state.leaving.take().map_or(End::Stopped, |(_, why)| why);
                return self.drop_connection(state, &why, cx);
            }
        };
        self.end(state, &why, cx);
    }

    /// Closes the socket. The rest is freed when the engine lets go of it.
    pub(super) fn end(&self, state: &mut State, why: &End, cx: &mut dyn Cx) {
        let Some(socket) = self.take_socket(state, why, cx) else { return };
        let logging_out = matches!(state.closing, Some(Closing::Logout(_)));
        if let State { phase: Phase::FullFeature(full), out, .. } = state {
            out.clear(|token| full.sent(token));
        }
        state.drop_buffers();
        if !state.nexus_closed && !logging_out {
            self.close_nexus(state, cx);
        }
        self.release_memory();
        self.finish_if_over(state, cx);
        // Now, so that an initiator that sees the end of its connection finds that of its session.
        let _ = socket.shutdown(Shutdown::Write);
        if why.has_last_word() {
            linger(socket, self.portal.entity.options().stop_time, &self.local, cx);
        }
    }

    /// Has nothing more to do with the socket, which nobody else has from now on.
    pub(super) fn take_socket(&self, state: &mut State, why: &End, cx: &mut dyn Cx) -> Option<TcpStream> {
        let socket = state.socket.take()?;
        self.say_why(state, why, cx);
        for token in [Token::READABLE, Token::WRITABLE, Token::TICK, Token::LATE] {
            cx.cancel(self.id(token));
        }
        state.departure = Departure::None;
        Some(socket)
    }
}
