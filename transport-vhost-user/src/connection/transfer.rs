//! The state of the device on its way through a descriptor of the front end (vhost-user, "Migrating back-end state").
//!
//! It is written and read [aside](crate::aside), in a lane of its own, until the connection ends, whatever takes its time. What comes of it is told when the front
//! end asks. A state that is loaded counts when the units are here.

use super::notes::{Made, take};
use super::state::Then;
use super::{Connection, State, Token};
use crate::aside::Aside;
use crate::device_state::{DeviceState, Document};
use crate::notify::Kind;
use crate::wire::Sizes;
use lunette_store::Cx;
use lunette_vhost_user::{CheckStateReply, MoveStateReply, StateDirection};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Where the transfer stands.
#[derive(Default)]
pub(super) enum Transfer {
    #[default]
    None,
    Saving(Made<()>, Arc<OwnedFd>),
    Loading(Made<DeviceState>, Arc<OwnedFd>),
    /// It has come, and waits for the units.
    Loaded(Box<DeviceState>),
    Ended(Result<(), String>),
}

impl Transfer {
    pub(super) fn is_under_way(&self) -> bool {
        self.is_aside() || matches!(self, Self::Loaded(_))
    }

    /// Whether the descriptor is in use.
    pub(super) fn is_aside(&self) -> bool {
        matches!(self, Self::Saving(..) | Self::Loading(..))
    }

    /// Nobody waits for it any more. Whoever has the other end of the descriptor may keep it as long as he likes.
    pub(super) fn stop(&self) {
        if let Self::Saving(_, stop) | Self::Loading(_, stop) = self {
            let _ = rustix::io::write(stop, &1u64.to_ne_bytes());
        }
    }
}

impl Connection {
    /// Begins to move the state.
    pub(super) fn move_state(
        &self,
        state: &mut State,
        direction: StateDirection,
        fd: OwnedFd,
        reply: MoveStateReply,
        cx: &mut dyn Cx,
    ) {
        let begun = self.begin_to_move(state, direction, fd, cx);
        if let Err(why) = &begun
            && self.place.may_log(cx)
        {
            tracing::warn!(export = %self.place.name, "the state of the device is not moved: {why}");
        }
        state.then = Then::Send(reply.done(begun.is_ok()));
    }

    fn begin_to_move(
        &self,
        state: &mut State,
        direction: StateDirection,
        fd: OwnedFd,
        cx: &mut dyn Cx,
    ) -> Result<(), String> {
        if state.transfer.is_under_way() {
            return Err("another transfer has not ended".to_owned());
        }
        if !matches!(Kind::of(&fd), Kind::Pipe | Kind::Socket) {
            return Err("its descriptor is neither a pipe nor a Unix socket".to_owned());
        }
        // What is moved may depend on messages with descriptors, which pass the export's own lane.
        let lane = Aside::new(self.place.home, cx.poster());
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = Arc::new(stop.map_err(|error| error.to_string())?);
        match direction {
            StateDirection::Save => {
                self.may_leave()?;
                state.try_to_leave_again();
                let made = Made::default();
                state.transfer = Transfer::Saving(made.clone(), stop.clone());
                let document = Document::new(self.device_state(state));
                self.do_in(&lane, Token::Moved, made, move || document.write(fd, &stop), cx);
            }
            StateDirection::Load => {
                let made = Made::default();
                state.transfer = Transfer::Loading(made.clone(), stop.clone());
                self.do_in(&lane, Token::Moved, made, move || Document::read(fd, &stop), cx);
            }
        }
        Ok(())
    }

    /// The state has been moved, or will not be.
    pub(super) fn moved(&self, state: &mut State, cx: &mut dyn Cx) {
        state.transfer = match std::mem::take(&mut state.transfer) {
            Transfer::Saving(made, _) => {
                let saved = take(&made);
                state.may_go |= saved.is_ok();
                Transfer::Ended(saved)
            }
            Transfer::Loading(made, _) => match take(&made) {
                Ok(_) if state.backend.state().vrings.iter().any(|vring| vring.started) => {
                    Transfer::Ended(Err("rings were started before it had come".to_owned()))
                }
                Ok(loaded) => Transfer::Loaded(Box::new(loaded)),
                Err(why) => Transfer::Ended(Err(why)),
            },
            other => other,
        };
        if matches!(state.transfer, Transfer::Loaded(_)) {
            match self.has_units(state) {
                true => self.put_loaded_in_force(state),
                false => self.ask_for_units(state, cx),
            }
        }
        self.answer_check(state, cx);
    }

    /// Answers when the transfer has ended.
    pub(super) fn check_state(&self, state: &mut State, reply: CheckStateReply, cx: &mut dyn Cx) {
        state.checking = Some(reply);
        self.answer_check(state, cx);
    }

    pub(super) fn answer_check(&self, state: &mut State, cx: &mut dyn Cx) {
        // What was saved is of use to nobody else while the units stay here.
        if state.transfer.is_under_way() || state.checking.is_none() || self.give_units(state, cx) {
            return;
        }
        let Some(reply) = state.checking.take() else { return };
        let result = match &state.transfer {
            Transfer::Ended(result) => result.as_ref().map_err(String::as_str).copied(),
            _ => Err("nobody has begun to"),
        };
        if let Err(why) = result
            && self.place.may_log(cx)
        {
            tracing::warn!(export = %self.place.name, "the state of the device was not moved: {why}");
        }
        state.then = Then::Send(reply.done(result.is_ok()));
    }

    /// The units stay here, after the state was saved.
    pub(super) fn units_kept(&self, state: &mut State, why: String, cx: &mut dyn Cx) {
        if matches!(state.transfer, Transfer::Ended(Ok(()))) {
            state.transfer = Transfer::Ended(Err(why));
        }
        self.answer_check(state, cx);
    }

    /// The units are here. What was loaded is newer than what came with them.
    pub(super) fn units_came(&self, state: &mut State, from: Option<DeviceState>, cx: &mut dyn Cx) {
        state.left = from.map(Box::new);
        state.has_used_units = false;
        state.loaded_of.clear();
        if matches!(state.transfer, Transfer::Loaded(_)) {
            self.put_loaded_in_force(state);
            self.answer_check(state, cx);
        }
    }

    /// Rings are about to use the units.
    pub(super) fn go_on_as_left(&self, state: &mut State, cx: &mut dyn Cx) {
        // A driver that begins relies on nothing of the one before.
        let goes_on = state.goes_on();
        state.resumed.clear();
        if let Some(left) = state.left.take().filter(|_| goes_on)
            && let Err(why) = self.put_in_force(state, *left)
            && self.place.may_log(cx)
        {
            tracing::warn!(export = %self.place.name, "not all that came with the units is of use: {why}");
        }
    }

    /// The units cannot be had, and a state that was loaded does not wait for them. They may have been on their way here, so they
    /// are asked for once more.
    pub(super) fn units_refused(&self, state: &mut State, why: &str, cx: &mut dyn Cx) {
        if state.refused.is_some() && matches!(state.transfer, Transfer::Loaded(_)) {
            state.transfer = Transfer::Ended(Err(why.to_owned()));
            self.answer_check(state, cx);
        }
    }

    fn put_loaded_in_force(&self, state: &mut State) {
        if let Transfer::Loaded(loaded) = std::mem::take(&mut state.transfer) {
            let of = loaded.terms.clone();
            let done = self.is_of_use(state, &loaded).and_then(|()| self.put_in_force(state, *loaded));
            if done.is_ok() {
                state.left = None;
                state.loaded_of = of;
            }
            state.transfer = Transfer::Ended(done);
        }
    }

    fn is_of_use(&self, state: &State, loaded: &DeviceState) -> Result<(), String> {
        if !self.place.targets.recognise(&loaded.nexuses) {
            return Err("its logical units are others than those here: both sides need one state directory"
                .to_owned());
        }
        let terms = self.terms();
        // Rings that have run here since count as well as those elsewhere, which bring their units to another term.
        if state.has_used_units && loaded.terms.keys().any(|unit| terms.contains_key(unit)) {
            return Err("rings have run with its units since".to_owned());
        }
        match state.left.as_deref() {
            // Whoever loaded it before has left them as they were.
            Some(left) if !loaded.terms.is_empty() && left.unused_since == loaded.terms => Ok(()),
            _ => loaded.is_last_of(&terms),
        }
    }

    fn put_in_force(&self, state: &mut State, from: DeviceState) -> Result<(), String> {
        let sizes = from.sizes.map(|(sense, cdb)| Sizes { sense, cdb });
        if sizes.is_some_and(|sizes| !state.config.set_sizes(sizes)) {
            return Err("CDBs have no bytes".to_owned());
        }
        self.place.events.take_over(&from.events);
        self.place.events.set_features(state.backend.state().features);
        self.place.targets.take_over(&from.nexuses).map_err(|error| error.to_string())
    }

    /// What the virtual machine relies on beside its memory and rings.
    pub(super) fn device_state(&self, state: &State) -> DeviceState {
        // Whoever has not used the units here relies on nothing that is known here.
        if let Some(left) = state.left.as_deref() {
            let terms = if self.has_units(state) { self.terms() } else { left.terms.clone() };
            return DeviceState { terms, ..left.clone() };
        }
        let Sizes { sense, cdb } = state.config.sizes;
        DeviceState {
            nexuses: self.place.targets.hand_over(),
            events: self.place.events.hand_over(),
            sizes: Some((sense, cdb)),
            terms: self.terms(),
            unused_since: state.loaded_of.clone(),
        }
    }

    fn terms(&self) -> BTreeMap<String, u64> {
        self.place.lease.as_ref().map(|lease| lease.terms()).unwrap_or_default()
    }
}
