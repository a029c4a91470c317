//! Sending.

use super::{Connection, Phase, State, Token};
use crate::error::End;
use crate::limits::OUTBOX;
use crate::memory;
use lunette_iscsi::Piece;
use lunette_store::{Cx, Interest};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use std::io::IoSlice;
use std::os::fd::AsRawFd;

/// Most runs of bytes in one call.
const RUNS: usize = 256;

impl Connection {
    /// Sends what there is, as much as the socket takes.
    pub(super) fn flush(&self, state: &mut State, cx: &mut dyn Cx) {
        if state.waiting {
            return;
        }
        state.taken = 0;
        if state.window_opened_unseen() && !state.blocked {
            self.tell_window(state);
        }
        while !state.out.is_empty() && !state.blocked && state.socket.is_some() {
            match send(state) {
                Ok(count) => sent(state, count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    state.blocked = true;
                    self.watch_for_room(state, cx);
                }
                Err(errno) => return self.end(state, &End::Socket(errno.into()), cx),
            }
        }
        self.feed_hungry(state, cx);
        self.local.feed_hungry(cx);
        if state.paused && state.out.len() < OUTBOX / 2 {
            self.resume(state, cx);
        }
    }

    /// Commands were aborted without a response that could say that there is room for others.
    fn tell_window(&self, state: &mut State) {
        if let State { phase: Phase::FullFeature(full), out, .. } = state {
            full.machine.tell_window(&full.session, out);
        }
    }

    fn watch_for_room(&self, state: &mut State, cx: &mut dyn Cx) {
        let Some(socket) = &state.socket else { return };
        if !std::mem::replace(&mut state.watching, true) {
            cx.watch(socket.as_raw_fd(), Interest::Writable, self.id(Token::WRITABLE));
        }
    }

    /// Gives buffers that have come back to commands that wait for them.
    pub(super) fn feed_hungry(&self, state: &mut State, cx: &mut dyn Cx) {
        if state.closing.is_none()
            && let State { phase: Phase::FullFeature(full), out, .. } = state
        {
            full.feed_hungry(&mut self.env(out, cx));
        }
    }
}

/// One call.
fn send(state: &State) -> Result<usize, Errno> {
    let Some(socket) = &state.socket else { return Ok(0) };
    let mut runs = [IoSlice::new(&[]); RUNS];
    let mut count = 0;
    for piece in state.out.pieces() {
        match (piece, &state.phase) {
            (Piece::Bytes(bytes), _) => {
                runs[count] = IoSlice::new(bytes);
                count += 1;
            }
            (Piece::Payload { token, range }, Phase::FullFeature(full)) => {
                let part = full.data_in(token).part(range.start.into(), range.len() as u64);
                // SAFETY: the command has ended and its slot keeps the bytes as they are until they are sent.
                count += unsafe { memory::gather(part, &mut runs[count..]) };
            }
            (Piece::Payload { .. }, Phase::Login(..)) => {}
        }
        if count == RUNS {
            break;
        }
    }
    if count == 0 {
        return Ok(0);
    }
    rustix::net::sendmsg(socket, &runs[..count], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
}

fn sent(state: &mut State, count: usize) {
    state.sent += count as u64;
    match &mut state.phase {
        Phase::FullFeature(full) => state.out.advance(count, |token| full.sent(token)),
        Phase::Login(..) => state.out.advance(count, |_| ()),
    }
}
