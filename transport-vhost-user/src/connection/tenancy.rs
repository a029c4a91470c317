//! Whether the units of the export may be served here: asked when rings start, and left to others when they have stopped for
//! good.

use super::offer::CONTROL_QUEUE;
use super::state::Phase;
use super::transfer::Transfer;
use super::{Connection, State, Token};
use crate::device_state::DeviceState;
use crate::local::Local;
use lunette_store::Cx;
use std::time::Duration;

/// After which time units are asked for again that could not be had.
const RETRY: Duration = Duration::from_secs(1);

/// Where the units are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Tenancy {
    /// Not here, and nobody has asked for them.
    #[default]
    Away,
    /// Asked for.
    Asked,
    /// They cannot be had, and will be asked for again.
    Refused,
    /// Here.
    Here,
    /// Being given up.
    Leaving,
    /// Here, as they could not be given up when the rings had stopped.
    Kept,
}

impl Connection {
    /// Whether rings may run.
    pub(super) fn has_units(&self, state: &State) -> bool {
        self.place.lease.is_none() || matches!(state.tenancy, Tenancy::Here | Tenancy::Kept)
    }

    /// Whether the virtual machine may go on elsewhere; why not.
    pub(super) fn may_leave(&self) -> Result<(), String> {
        let Some(lease) = &self.place.lease else { return Ok(()) };
        lease.check().map_err(|why| format!("the virtual machine cannot be migrated: {why}"))
    }

    /// Asks for the units, unless that has been done.
    pub(super) fn ask_for_units(&self, state: &mut State, cx: &mut dyn Cx) {
        let Some(lease) = self.place.lease.as_ref().filter(|_| state.tenancy == Tenancy::Away) else {
            return;
        };
        state.tenancy = Tenancy::Asked;
        let (id, home, poster) = (self.id, self.place.home, cx.poster());
        lease.take(
            state.goes_on(),
            Box::new(move |taken| {
                let tell = move |cx: &mut dyn Cx| {
                    if let Some(connection) = Local::on(cx).connection(id) {
                        connection.units_taken(taken, cx);
                    }
                };
                poster.post(home, Box::new(tell));
            }),
        );
    }

    fn units_taken(&self, taken: Result<Option<DeviceState>, String>, cx: &mut dyn Cx) {
        let mut state = self.state();
        if state.tenancy != Tenancy::Asked {
            return;
        }
        match taken {
            Ok(from) => {
                state.tenancy = Tenancy::Here;
                state.refused = None;
                self.units_came(&mut state, from, cx);
                self.start_held_back(&mut state, cx);
            }
            Err(why) => {
                state.tenancy = Tenancy::Refused;
                cx.timer(RETRY, self.id(Token::AskAgain));
                self.units_refused(&mut state, &why, cx);
                if state.refused.as_ref() != Some(&why) && self.place.may_log(cx) {
                    tracing::warn!(export = %self.place.name, "rings do not start yet: {why}");
                }
                state.refused = Some(why);
            }
        }
        self.proceed(state, cx);
    }

    /// Asks for the units again, if somebody waits for them.
    pub(super) fn ask_again(&self, cx: &mut dyn Cx) {
        let mut state = self.state();
        if state.tenancy == Tenancy::Refused {
            state.tenancy = Tenancy::Away;
            let vrings = &state.backend.state().vrings;
            let held = vrings.iter().zip(&state.held_back).any(|(vring, held)| vring.started && *held);
            if (held || state.transfer.is_under_way()) && state.phase == Phase::Open {
                self.ask_for_units(&mut state, cx);
            }
        }
    }

    /// The control queue is the last, as after a hand-over.
    fn start_held_back(&self, state: &mut State, cx: &mut dyn Cx) {
        if state.phase != Phase::Open {
            return;
        }
        // What is recorded of rings that begin is out of date then, until there are notes of them.
        let begins = state.waiting_anew().next().is_some();
        let waits = begins && !state.is_busy();
        if begins {
            state.begin_change();
        }
        for index in (CONTROL_QUEUE..state.fds.len() as u16).rev() {
            if state.held_back[usize::from(index)] {
                self.tell(state, index, waits, cx);
            }
        }
    }

    /// Gives the units up, if the virtual machine may go on elsewhere by now. Whether that has to end first.
    pub(super) fn give_units(&self, state: &mut State, cx: &mut dyn Cx) -> bool {
        let Some(lease) = self.place.lease.as_ref().filter(|_| state.leaves()) else { return false };
        let left = self.device_state(state);
        state.tenancy = Tenancy::Leaving;
        let (id, home, poster) = (self.id, self.place.home, cx.poster());
        let with = Box::new(left.clone());
        let given = move |given: Result<(), String>| {
            let tell = move |cx: &mut dyn Cx| {
                if let Some(connection) = Local::on(cx).connection(id) {
                    connection.units_given(given.map(|()| with), cx);
                }
            };
            poster.post(home, Box::new(tell));
        };
        lease.give(left, Box::new(given));
        true
    }

    fn units_given(&self, given: Result<Box<DeviceState>, String>, cx: &mut dyn Cx) {
        let mut state = self.state();
        if state.tenancy != Tenancy::Leaving {
            return;
        }
        match given {
            Ok(left) => {
                state.tenancy = Tenancy::Away;
                state.left = Some(left);
                self.answer_check(&mut state, cx);
            }
            Err(why) => {
                if self.place.may_log(cx) {
                    tracing::warn!(export = %self.place.name, "the units stay here: {why}");
                }
                // The next connection asks for what it has.
                state.tenancy = if state.phase == Phase::Open { Tenancy::Kept } else { Tenancy::Away };
                self.units_kept(&mut state, why, cx);
            }
        }
        self.proceed(state, cx);
    }
}

impl State {
    /// Whether the rings of the virtual machine have run before.
    pub(super) fn goes_on(&self) -> bool {
        // Of those that another process had, the bases may be out of date. Where rings begin, the packed ones with their wrap counters or without.
        let begins = |base: u32| matches!(base, 0 | 0x8000 | 0x8000_8000);
        let mut vrings = (0..).zip(&self.backend.state().vrings);
        matches!(self.transfer, Transfer::Loaded(_))
            || vrings
                .any(|(index, vring)| vring.started && (self.resumed.contains(&index) || !begins(vring.base)))
    }

    /// A ring is started, so what was is over.
    pub(super) fn units_are_used(&mut self) {
        self.has_used_units = true;
        self.loaded_of.clear();
        self.try_to_leave_again();
    }

    /// Units that could not be given up may be by now.
    pub(super) fn try_to_leave_again(&mut self) {
        if self.tenancy == Tenancy::Kept {
            self.tenancy = Tenancy::Here;
        }
    }

    /// Whether the units are here and the virtual machine may go on elsewhere: its rings have stopped while its memory was logged
    /// or its state was saved, or it is gone, or its connection goes to another process, which asks for them.
    fn leaves(&self) -> bool {
        let stopped = || self.backend.state().vrings.iter().all(|vring| !vring.started);
        match self.phase {
            Phase::Open => {
                let may_go = self.may_go && !self.transfer.is_under_way();
                self.tenancy == Tenancy::Here && may_go && stopped()
            }
            Phase::HandingOver => self.tenancy == Tenancy::Here,
            Phase::Leaving => matches!(self.tenancy, Tenancy::Here | Tenancy::Kept),
            _ => false,
        }
    }
}
