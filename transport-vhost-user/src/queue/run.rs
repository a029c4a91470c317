//! Taking requests from the ring, and returning them.

use super::{Queue, Role, State, TICKS, Token};
use crate::control::Round;
use crate::ring::RingError;
use crate::wire::ResponseField;
use lunette_store::Cx;
use std::rc::Rc;

/// Most chains that are returned before the driver sees them.
pub(super) const PUBLISH_AT: u16 = 64;
/// So much work ([`Chain::work`](crate::ring::Chain::work)) is done before it is worth a thought whether to show the driver
/// what has ended.
const PORTION: u64 = 64;
/// Work after which other queues have their turn, and most requests before that: some are more work than they look.
pub(super) const TURN: u64 = 2048;
const MOST: usize = 256;
/// What a control request counts: it goes to all reactors.
const CONTROL: u64 = 64;

impl Queue {
    /// There may be work.
    pub(super) fn wake(&self, state: &mut State, cx: &mut dyn Cx) {
        if !state.taking {
            return;
        }
        if self.role == Role::Event {
            return self.deliver(state, cx);
        }
        if state.ring.is_some() && !state.awake {
            state.awake = true;
            state.looks = 0;
            state.suppress_kicks();
        }
        if self.role == Role::Requests {
            if !state.polled {
                state.polled = true;
                cx.poll_while_awake(self.sink.get(), true);
            }
            self.run(state, cx);
        } else {
            self.run(state, cx);
            self.doze(state, cx);
        }
    }

    /// Asks for notifications again and looks once more. Returns whether there was work.
    pub(super) fn doze(&self, state: &mut State, cx: &mut dyn Cx) -> bool {
        if state.ring.is_none() {
            return false;
        }
        match state.want_kicks() {
            Ok(false) => {
                state.awake = false;
                false
            }
            Ok(true) => {
                state.suppress_kicks();
                self.go_on(state, cx);
                true
            }
            Err(error) => {
                self.fail(state, &error, cx);
                false
            }
        }
    }

    /// Has [`wake`](Self::wake) called when others had their turn; once, however often it is asked for.
    pub(super) fn go_on(&self, state: &mut State, cx: &mut dyn Cx) {
        if !std::mem::replace(&mut state.going_on, true) {
            cx.defer(self.id(Token::GoOn));
        }
    }

    /// Takes what is available, within bounds. Returns whether there was anything.
    pub(super) fn run(&self, state: &mut State, cx: &mut dyn Cx) -> bool {
        if self.role == Role::Event {
            self.deliver(state, cx);
            return false;
        }
        let (mut taken, mut work, mut portion) = (0, 0, PORTION);
        while work < TURN && taken < MOST {
            match self.take(state, cx) {
                Ok(true) => {
                    taken += 1;
                    work += state.chain.work() + if self.role == Role::Control { CONTROL } else { 0 };
                }
                Ok(false) => break,
                Err(error) => {
                    self.fail(state, &error, cx);
                    break;
                }
            }
            if work >= portion {
                portion = work + PORTION;
                state.publish_half();
            }
        }
        state.publish();
        if state.memory_is_gone() {
            self.fail(state, &RingError::MemoryGone, cx);
        }
        if taken > 0 {
            state.tick = TICKS[0];
        }
        let more = work >= TURN || taken == MOST;
        if more {
            self.go_on(state, cx);
        }
        if !state.behind.is_empty() {
            self.catch_up_by(if more { taken } else { usize::MAX }, state, cx);
        }
        taken > 0
    }

    /// Takes one chain and begins what it asks for.
    #[inline]
    fn take(&self, state: &mut State, cx: &mut dyn Cx) -> Result<bool, RingError> {
        let Some(ring) = &mut state.ring else { return Ok(false) };
        let Some(head) = ring.take(&mut state.chain)? else { return Ok(false) };
        if state.slots.is_busy(head.id) {
            return Err(RingError::Busy(head.id));
        }
        if state.chain.is_taken_again() && self.refuse_again(state, head, cx) {
            return Ok(true);
        }
        match self.role {
            Role::Control => self.take_control(state, head, cx)?,
            _ => self.take_command(state, head, cx)?,
        }
        Ok(true)
    }

    /// Tells `round` when everything has been taken that was made available before now, for a task management function
    /// must find it (VIRTIO does not order the queues).
    pub(crate) fn catch_up(&self, round: Rc<Round>, cx: &mut dyn Cx) {
        let mut state = self.state();
        let waits = self.role == Role::Requests && state.taking && state.has_waiting();
        if !waits {
            return round.queue_done(cx);
        }
        let most = state.setup.layout.size.into();
        state.behind.push((most, round));
        self.go_on(&mut state, cx);
    }

    /// So many requests have been taken, of those that task management functions wait for.
    fn catch_up_by(&self, taken: usize, state: &mut State, cx: &mut dyn Cx) {
        state.behind.retain_mut(|(left, round)| {
            *left = left.saturating_sub(taken);
            if *left == 0 {
                round.queue_done(cx);
            }
            *left > 0
        });
    }

    /// Nothing more is taken, so no function need wait for it.
    pub(super) fn leave_behind(&self, state: &mut State, cx: &mut dyn Cx) {
        self.catch_up_by(usize::MAX, state, cx);
    }

    /// Shows the driver what has ended so far.
    pub(crate) fn show(&self) {
        self.state().publish();
    }

    /// A request that was under way has ended: `respond` writes its response and says how many bytes were written; nothing if
    /// it is left for who goes on with the ring.
    pub(crate) fn ended(
        &self,
        cookie: u64,
        respond: impl FnOnce(&ResponseField<'_>) -> Option<u32>,
        cx: &mut dyn Cx,
    ) {
        let mut state = self.state();
        let state = &mut *state;
        let Some((head, slot)) = state.slots.get(cookie as u16) else { return };
        let (epoch, expected) = (slot.epoch, slot.expected);
        let is_ours = state.ring.is_some() && epoch >= state.first_epoch;
        let field = ResponseField { bytes: slot.response(), expected };
        let written = if is_ours { respond(&field) } else { None };
        if state.setup.log.is_some() {
            state.mark_ended(slot);
        }
        if let Some(written) = written
            && let Some(ring) = &mut state.ring
        {
            ring.push(head, written);
        }
        state.slots.end(cookie as u16, &mut state.chain);
        state.let_go(epoch);
        if state.unpublished() >= (state.in_flight / 8).clamp(4, PUBLISH_AT) {
            state.publish();
        } else if state.unpublished() > 0 && !state.deferred {
            state.deferred = true;
            cx.defer(self.id(Token::Publish));
        }
        self.settle(state, cx);
    }
}
