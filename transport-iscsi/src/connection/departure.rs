//! Leaving for another process: a connection comes to rest and is given up, without a word to its initiator.

use super::{Connection, Phase, State};
use crate::error::End;
use crate::handover::{Awaited, Drain, RestingSession};
use lunette_store::Cx;
use std::sync::Arc;

/// How far a connection is on its way to another process.
#[derive(Default)]
pub(super) enum Departure {
    /// It is not to go there.
    #[default]
    None,
    /// Its session is frozen, and something is under way.
    Draining { _awaited: Awaited },
    /// Nothing is under way, and nothing is received any more.
    Still,
}

impl State {
    /// Whether nothing is received, because another process is to do that.
    pub(super) fn is_still(&self) -> bool {
        matches!(self.departure, Departure::Still)
    }

    /// Nothing more is received if it is to leave and nothing is under way.
    pub(super) fn come_to_rest(&mut self) {
        if !matches!(self.departure, Departure::Draining { .. }) {
            return;
        }
        if self.is_ending() {
            self.departure = Departure::None;
        } else if self.is_drained() {
            self.departure = Departure::Still;
        }
    }

    /// Whether the session is on its way to its end, which nobody is to wait for.
    fn is_ending(&self) -> bool {
        self.closing.is_some() || self.leaving.is_some()
    }

    /// Whether all that has come is answered, and all answers are sent.
    fn is_drained(&self) -> bool {
        let Phase::FullFeature(full) = &self.phase else { return false };
        !self.is_ending() && self.stash.is_none() && self.out.is_empty() && full.is_drained()
    }
}

impl Connection {
    /// Has the session come to rest, to go on in another process; `drain` is told when it has. What cannot go on there ends.
    pub(crate) fn freeze(&self, drain: &Arc<Drain>, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        if let State { phase: Phase::FullFeature(full), departure, socket: Some(_), waiting: false, .. } =
            &mut *state
            && full.nexus.is_some()
        {
            full.session.freeze();
            *departure = Departure::Draining { _awaited: drain.add() };
            return self.settle(&mut state, cx);
        }
        drop(state);
        self.stop(cx);
    }

    /// Gives the session up if it has come to rest; otherwise it ends as when its portal stops.
    pub(crate) fn hand_over(&self, cx: &mut dyn Cx) -> Option<RestingSession> {
        let mut state = self.state.borrow_mut();
        let was_still = state.is_still();
        if was_still {
            // What others have caused meanwhile.
            self.flush(&mut state, cx);
            if let Some(handed) = self.give_up(&mut state, cx) {
                return Some(handed);
            }
        }
        state.departure = Departure::None;
        if was_still && state.socket.is_some() {
            self.resume(&mut state, cx);
        }
        drop(state);
        self.stop(cx);
        None
    }

    fn give_up(&self, state: &mut State, cx: &mut dyn Cx) -> Option<RestingSession> {
        let Phase::FullFeature(full) = &state.phase else { return None };
        let nexus = full.nexus.as_ref().filter(|_| state.is_drained())?.nexus().clone();
        let session = full.machine.hand_over(&full.session)?;
        let socket = self.take_socket(state, &End::HandedOver, cx)?;
        state.drop_buffers();
        self.release_memory();
        // It is not lost: the engine holds nothing of it, and it goes on elsewhere.
        state.nexus_closed = true;
        self.finish_if_over(state, cx);
        Some(RestingSession { socket: socket.into(), group_tag: self.portal.group_tag, session, nexus })
    }
}
