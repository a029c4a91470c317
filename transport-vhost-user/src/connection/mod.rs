//! One connected front end: its messages, and what they make of the queues.
//!
//! Messages are carried out one after the other. One that concerns queues is told to each of them on its own reactor and
//! is answered when all have done what it says, so no reply comes before its effect.

mod descriptors;
mod handover;
mod ledger;
mod log;
mod memory;
mod messages;
mod notes;
mod offer;
mod resume;
mod state;
mod tenancy;
mod transfer;

#[cfg(test)]
pub(crate) use descriptors::is_vetted;
pub(crate) use offer::FIXED_QUEUES;

use crate::aside::Foreign;
use crate::local::{ConnectionId, Local, post};
use crate::place::{ExportEvent, Place};
use crate::queue::{Queue, Rest, Setup, Stop};
use crate::socket;
use crate::targets::Sessions;
use crate::wire::ConfigSpace;
use lunette_engine::{Completion, Management, Nexus, Responder, Session};
use lunette_scsi::{Lun, ServiceResponse, TaskManagementFunction};
use lunette_store::{Cx, Interest, IoId, IoResult, Sink, SinkId};
use offer::CONTROL_QUEUE;
use state::{Phase, State, Then};
use std::cell::{Cell, RefCell, RefMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// What is called when a connection has ended and nothing of it is left.
pub(crate) type Ended = Box<dyn Fn(&mut dyn Cx)>;

pub(crate) struct Connection {
    id: ConnectionId,
    place: Arc<Place>,
    sessions: RefCell<Sessions>,
    sink: Cell<SinkId>,
    socket: Foreign,
    /// Whether there is a front end: it has come by itself, or has spoken.
    is_there: Cell<bool>,
    ended: Ended,
    state: RefCell<State>,
}

enum Step {
    Again,
    Wait,
    /// The connection is left to another process.
    Leave,
}

/// Why a connection ends; `None` if the front end has closed it.
type EndReason = Option<String>;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Token {
    Readable,
    Writable,
    GoOn,
    /// Descriptors have been looked at.
    Vetted,
    /// Memory has been mapped.
    Mapped,
    /// Memory of a former epoch has been unmapped.
    Unmapped,
    /// Memory for notes has been made or mapped.
    Noted,
    /// What another process had is mapped.
    Resumed,
    /// The state of the device has been moved.
    Moved,
    /// It is time to ask for the units again.
    AskAgain,
}

/// What the connection waits for from the engine.
#[derive(Clone, Copy)]
enum Cookie {
    Reset,
    Close,
}

impl Connection {
    /// Serves a front end that has just connected, on the reactor of `cx`. Unless it `is_there`, nobody is told before it has
    /// spoken.
    pub(crate) fn open(
        place: Arc<Place>,
        request_queues: u16,
        socket: OwnedFd,
        is_there: bool,
        ended: Ended,
        cx: &mut dyn Cx,
    ) -> Rc<Self> {
        let id = ConnectionId::next();
        let memory = memory::no_memory(id, place.home, cx.poster());
        let config = ConfigSpace::new(request_queues, place.targets.max_transfer());
        let connection = Rc::new_cyclic(|weak: &Weak<Self>| Self {
            id,
            sessions: RefCell::new(Sessions::new(&place.targets, weak.clone())),
            socket: Foreign::new(socket, &place.aside),
            place,
            sink: Cell::new(SinkId(0)),
            is_there: Cell::new(false),
            ended,
            state: RefCell::new(State::new(request_queues, config, memory)),
        });
        connection.sink.set(cx.register(connection.clone()));
        Local::on(cx).connections.borrow_mut().insert(id, connection.clone());
        if is_there {
            connection.arrive(cx);
        }
        cx.watch(connection.socket.as_fd().as_raw_fd(), Interest::Readable, connection.id(Token::Readable));
        connection
    }

    /// There is a front end. Says so once.
    fn arrive(&self, cx: &mut dyn Cx) {
        if self.is_there.replace(true) {
            return;
        }
        if self.place.may_log(cx) {
            tracing::info!(export = %self.place.name, "a front end has connected");
        }
        self.place.observer.tell(ExportEvent::Connected);
    }

    /// Whether a front end is or was there.
    pub(crate) fn is_there(&self) -> bool {
        self.is_there.get()
    }

    /// It is there no more.
    fn tell_end(&self, why: Option<&str>) {
        if self.is_there() {
            self.place.observer.tell(ExportEvent::Disconnected(why));
        }
    }

    fn id(&self, token: Token) -> IoId {
        IoId { sink: self.sink.get(), token: token as u64 }
    }

    fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Whether the front end has gone, noticed or not.
    pub(crate) fn is_ending(&self) -> bool {
        self.has_noticed_its_end() || socket::has_ended(&self.socket)
    }

    /// Whether no message will be carried out any more.
    pub(crate) fn has_noticed_its_end(&self) -> bool {
        self.state().phase != Phase::Open
    }

    /// Whether something is waited for.
    #[cfg(test)]
    pub(crate) fn is_busy(&self) -> bool {
        self.state().is_busy()
    }

    /// Whether memory is being mapped.
    #[cfg(test)]
    pub(crate) fn is_mapping(&self) -> bool {
        self.state().mapping.is_some()
    }

    #[cfg(test)]
    pub(crate) fn aside(&self) -> crate::aside::Aside {
        self.place.aside.clone()
    }

    /// Former memory maps that are still in use.
    #[cfg(test)]
    pub(crate) fn epochs(&self) -> usize {
        self.state().epochs
    }

    /// No more is asked of a target that is being removed.
    pub(crate) fn forget(&self, place: &Arc<Place>, target: u8, nexus: &Nexus) {
        if Arc::ptr_eq(&self.place, place) {
            self.sessions.borrow_mut().forget(target, nexus);
        }
    }

    /// The event queue, if the driver has ever started it. The home reactor's only.
    pub(crate) fn event_queue(&self, cx: &mut dyn Cx) -> Option<Rc<Queue>> {
        Local::on(cx).queue(self.id, offer::EVENT_QUEUE)
    }

    /// Ends the connection from our side: what is in flight is finished, or answered with BUSY if it has not begun.
    pub(crate) fn stop(&self, cx: &mut dyn Cx) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Open | Phase::HandingOver) {
            if let Some(taker) = state.taker.take() {
                taker(None);
            }
            self.tell_end(Some("the export is stopped"));
            state.is_broken_off = state.phase == Phase::HandingOver;
            state.phase = Phase::Draining;
            self.stop_queues(&mut state, cx);
            self.proceed(state, cx);
        }
    }

    /// The front end has gone, or cannot be understood: what is in flight is aborted.
    fn lose(&self, mut state: RefMut<'_, State>, reason: EndReason, cx: &mut dyn Cx) {
        let export = &self.place.name;
        self.tell_end(reason.as_deref());
        match reason {
            None if !self.is_there() => {}
            _ if !self.place.may_log(cx) => {}
            None => tracing::info!(%export, "the front end has disconnected"),
            Some(reason) => tracing::warn!(%export, "closing the connection: {reason}"),
        }
        if let Some(taker) = state.taker.take() {
            taker(None);
        }
        state.phase = Phase::Silencing;
        self.stop_queues(&mut state, cx);
        self.abort_if_heard(&mut state, cx);
        self.proceed(state, cx);
    }

    /// Has the engine abort what is in flight, if that is due and no queue takes any more: what one took later would escape.
    fn abort_if_heard(&self, state: &mut State, cx: &mut dyn Cx) {
        match state.phase {
            _ if state.unheard > 0 => {}
            Phase::Silencing => self.close_nexuses(state, cx),
            Phase::Open if std::mem::take(&mut state.resetting) => self.reset_nexuses(state, cx),
            _ => {}
        }
    }

    fn stop_queues(&self, state: &mut State, cx: &mut dyn Cx) {
        cx.cancel(self.id(Token::Readable));
        cx.cancel(self.id(Token::Writable));
        state.checking = None;
        state.transfer.stop();
        state.then = Then::Nothing;
        state.begin_round();
        for index in 0..state.fds.len() as u16 {
            if state.told[usize::from(index)].is_some() {
                self.tell_as(state, index, false, true, cx);
            }
        }
    }

    fn close_nexuses(&self, state: &mut State, cx: &mut dyn Cx) {
        state.phase = Phase::Closing;
        state.waiting +=
            self.sessions.borrow_mut().for_all(cx, |session, cx| session.close(Cookie::Close as u64, cx));
    }

    /// Nothing is in flight any more, and no memory mapped: lets go of everything.
    fn finish(&self, state: &mut State, cx: &mut dyn Cx) {
        state.phase = Phase::Closed;
        let id = self.id;
        let queues = (0..state.told.len() as u16).filter(|index| state.told[usize::from(*index)].is_some());
        for index in queues {
            post(self.place.reactor(index), cx, move |local, cx| {
                if let Some(queue) = local.queue(id, index) {
                    queue.close(local, cx);
                }
            });
        }
        cx.unregister(self.sink.get());
        Local::on(cx).connections.borrow_mut().remove(&id);
    }

    /// A device reset is the loss of all I_T nexuses.
    fn reset_nexuses(&self, state: &mut State, cx: &mut dyn Cx) {
        let function = TaskManagementFunction::ITNexusReset;
        let management = Management { function, lun: Lun::default(), tag: 0 };
        self.place.events.reset();
        let reset = |session: &Session, cx: &mut dyn Cx| {
            session.manage(&management, Cookie::Reset as u64, cx);
        };
        state.waiting += self.sessions.borrow_mut().for_all(cx, reset);
    }

    /// Tells a queue what it should be, if it is or was started.
    fn tell(&self, state: &mut State, index: u16, wait: bool, cx: &mut dyn Cx) {
        let vring = &state.backend.state().vrings[usize::from(index)];
        let wanted = vring.started && state.forbidding.is_empty();
        let told = state.told[usize::from(index)].is_some();
        let started = wanted && self.has_units(state);
        let was_held_back = std::mem::replace(&mut state.held_back[usize::from(index)], wanted && !started);
        if was_held_back && !state.backend.state().vrings[usize::from(index)].started {
            state.begins_anew(index);
        }
        if wanted && !started {
            // The other rings may not have been used by a machine that has run before.
            if index >= FIXED_QUEUES {
                self.ask_for_units(state, cx);
            }
            return;
        }
        let is_forbidden = state.backend.state().vrings[usize::from(index)].started && !started;
        if is_forbidden && !told && self.place.may_log(cx) {
            tracing::error!(
                export = %self.place.name, queue = index,
                "not started: the front end uses {:?}, which was not offered", state.forbidding
            );
        }
        if started || told {
            self.tell_as(state, index, started, wait, cx);
        }
    }

    fn tell_as(&self, state: &mut State, index: u16, started: bool, wait: bool, cx: &mut dyn Cx) {
        if started {
            state.may_go = false;
            state.units_are_used();
            if index >= FIXED_QUEUES {
                self.go_on_as_left(state, cx);
            }
        }
        let at_rest = started && state.rested.remove(&index);
        let setup = Setup { at_rest, ..state.setup(index, started) };
        state.served[usize::from(index)] |= setup.started && setup.enabled;
        if index == CONTROL_QUEUE {
            let vring = &state.backend.state().vrings[usize::from(index)];
            state.control_waits = vring.enabled && !setup.enabled;
        }
        state.told[usize::from(index)] = Some(started);
        if !started {
            state.broken.remove(&index);
        }
        self.apply(state, index, setup, wait, cx);
    }

    /// Answers what a former process has in flight in a ring that has not run here, which stops.
    fn turn_back(&self, state: &mut State, index: u16, cx: &mut dyn Cx) {
        let setup = Setup { stop: Stop::TurnBack, ..state.setup(index, false) };
        state.told[usize::from(index)] = Some(false);
        state.rested.remove(&index);
        self.apply(state, index, setup, true, cx);
    }

    /// Has a queue become what `setup` says, on its reactor.
    fn apply(&self, state: &mut State, index: u16, setup: Setup, wait: bool, cx: &mut dyn Cx) {
        let round = wait.then_some(state.round);
        state.waiting += usize::from(wait);
        let (id, place, memory) = (self.id, self.place.clone(), state.memory.clone());
        let tell = move |local: &Local, cx: &mut dyn Cx| {
            Queue::on(local, id, index, &place, &setup, cx).apply(setup, memory, round, cx);
        };
        let (reactor, home) = (self.place.reactor(index), self.place.home);
        if reactor == cx.reactor() {
            return tell(&Local::on(cx), cx);
        }
        state.unheard += usize::from(wait);
        post(reactor, cx, move |local, cx| {
            tell(local, cx);
            if let Some(round) = round {
                post(home, cx, move |local, cx| {
                    if let Some(connection) = local.connection(id) {
                        connection.heard(round, cx);
                    }
                });
            }
        });
    }

    /// A queue of another reactor was told in `round`.
    fn heard(&self, round: u64, cx: &mut dyn Cx) {
        let mut state = self.state();
        if round == state.round {
            state.unheard -= 1;
            self.abort_if_heard(&mut state, cx);
            self.proceed(state, cx);
        }
    }

    /// A queue has become what it was told in `round`.
    pub(crate) fn settled(&self, index: u16, round: u64, rest: Rest, cx: &mut dyn Cx) {
        let mut state = self.state();
        if round != state.round {
            return;
        }
        state.then = match std::mem::replace(&mut state.then, Then::Nothing) {
            Then::SendBase { is_turned_back: true, .. } if rest.broken => {
                let why = format!("nobody knows where queue {index} stands: its notes are of no use");
                return self.lose(state, Some(why), cx);
            }
            Then::SendBase { reply, .. } => Then::Send(state.backend.vring_stopped(reply, rest.base)),
            other => other,
        };
        if state.phase == Phase::HandingOver && state.is_started(index) {
            state.backend.vring_left(index, rest.base);
            state.rested.insert(index);
            state.broken.extend(rest.broken.then_some(index));
        }
        self.arrived(state, cx);
    }

    fn arrived(&self, mut state: RefMut<'_, State>, cx: &mut dyn Cx) {
        state.waiting -= 1;
        self.proceed(state, cx);
    }

    /// Goes on if nothing is waited for any more.
    fn proceed(&self, mut state: RefMut<'_, State>, cx: &mut dyn Cx) {
        if state.is_busy() {
            return;
        }
        match state.phase {
            Phase::Open => {
                drop(state);
                self.advance(cx);
            }
            Phase::HandingOver => {
                if self.give_units(&mut state, cx) {
                    return;
                }
                self.leave(&mut state, cx);
                state.phase = Phase::Leaving;
                self.leave_memory(&mut state);
            }
            Phase::Draining => {
                self.close_nexuses(&mut state, cx);
                // There may be none.
                self.proceed(state, cx);
            }
            Phase::Closing => {
                state.phase = Phase::Leaving;
                state.forget_if_reset();
                state.end_rested();
                self.leave_memory(&mut state);
            }
            Phase::Leaving if state.epochs == 0 => {
                if self.give_units(&mut state, cx) {
                    return;
                }
                self.finish(&mut state, cx);
                drop(state);
                (self.ended)(cx);
            }
            Phase::Silencing | Phase::Leaving | Phase::Closed => {}
        }
    }

    /// A call that may have taken its time has ended.
    fn called(&self, token: Token, cx: &mut dyn Cx) {
        let mut state = self.state();
        let made = match token {
            Token::Vetted => self.vetted(&mut state),
            Token::Mapped => self.mapped(&mut state, cx),
            Token::Noted => self.noted(&mut state, cx),
            Token::Resumed => self.resumed(&mut state, cx),
            Token::Moved => {
                self.moved(&mut state, cx);
                Ok(())
            }
            _ => {
                state.epochs -= 1;
                Ok(())
            }
        };
        match made {
            Err(reason) if state.phase == Phase::Open => self.lose(state, reason, cx),
            _ => self.proceed(state, cx),
        }
    }
}

impl Sink for Connection {
    fn complete(&self, token: u64, _result: IoResult, cx: &mut dyn Cx) {
        let calls =
            [Token::Vetted, Token::Mapped, Token::Unmapped, Token::Noted, Token::Resumed, Token::Moved];
        if token == Token::AskAgain as u64 {
            return self.ask_again(cx);
        }
        match calls.into_iter().find(|call| *call as u64 == token) {
            Some(call) => self.called(call, cx),
            None => self.advance(cx),
        }
    }
}

impl Responder for Connection {
    fn command_ended(&self, _: u64, _: Completion, _: &mut dyn Cx) {}

    fn management_ended(&self, cookie: u64, _: ServiceResponse, cx: &mut dyn Cx) {
        let state = self.state();
        // A reset that was under way when the front end went is waited for no more.
        let expected = match state.phase {
            Phase::Open => Cookie::Reset,
            Phase::Closing => Cookie::Close,
            _ => return,
        };
        if cookie == expected as u64 && state.waiting > 0 {
            self.arrived(state, cx);
        }
    }
}
