//! One virtqueue at work on its reactor.
//!
//! A queue is told what it should be by [`Queue::apply`], again and again, and makes the difference good: it starts, stops,
//! moves to other memory or other descriptors. It answers its connection when nothing of the former state is in use any
//! more. While the reactor is awake, an active queue is polled and the driver's notifications are suppressed; before the
//! reactor sleeps they are asked for again.

mod event;
mod run;
mod slots;
mod state;
mod turn_back;

pub(crate) use state::State;

use crate::local::{ConnectionId, Local, post};
use crate::memory::{DirtyLog, MemoryMap};
use crate::notify::Notifier;
use crate::place::Place;
use crate::ring::{Layout, NoteMemory, Ring, RingError};
use crate::targets::Sessions;
use crate::wire::Sizes;
use lunette_engine::{Completion, Responder};
use lunette_scsi::ServiceResponse;
use lunette_store::{Cx, Interest, IoId, IoResult, Sink, SinkId};
use std::cell::{Cell, RefCell, RefMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// After so many looks in vain an active queue goes back to notifications, however busy its reactor is.
const LOOKS: u32 = 512;
/// How often a queue is looked at whose driver has no way to notify us, while there is work and when there was none for
/// long.
const TICKS: [Duration; 2] = [Duration::from_micros(200), Duration::from_millis(10)];

/// What a queue is for (VIRTIO 1.2 5.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Control,
    /// Its buffers stay where they are until there is an event.
    Event,
    Requests,
}

impl Role {
    pub(crate) fn of(index: u16) -> Self {
        match index {
            0 => Self::Control,
            1 => Self::Event,
            _ => Self::Requests,
        }
    }
}

/// The descriptors of a queue.
#[derive(Clone, Default, Debug)]
pub(crate) struct Fds {
    /// Becomes readable when the driver notifies us.
    pub(crate) kick: Option<Arc<OwnedFd>>,
    /// Notifies the driver.
    pub(crate) call: Option<Arc<Notifier>>,
    /// Says that the ring is broken.
    pub(crate) error: Option<Arc<Notifier>>,
}

/// What becomes of requests that are in flight, and noted, when their ring stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// They are answered. What was not taken again stays noted: the driver still waits for it.
    Answer,
    /// The front end has gone: what is aborted by that is left for whoever goes on with the notes.
    Keep,
    /// They are answered. Another process goes on with the ring, or with its notes if this one is killed before that.
    HandOver,
    /// The device is reset: nobody waits for them.
    Forget,
    /// The ring has not run here: what a former process has in flight in it is answered as after a reset, and nothing is taken.
    TurnBack,
}

/// Where a queue marks the pages of guest memory that it writes to.
#[derive(Clone, Debug)]
pub(crate) struct Logging {
    pub(crate) log: Arc<DirtyLog>,
    /// The guest address by which the used ring is marked, or the device's event suppression; nothing of the ring without.
    pub(crate) used: Option<u64>,
}

/// What a queue should be.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The ring is looked at; a change of layout and base counts from the next start.
    pub(crate) started: bool,
    /// How it stops, if it is not started.
    pub(crate) stop: Stop,
    /// Another process has found the ring broken, so nothing is looked at before the next start.
    pub(crate) broken: bool,
    /// Requests are taken from it.
    pub(crate) enabled: bool,
    pub(crate) layout: Layout,
    pub(crate) base: u32,
    /// It has come to rest in another process, whose notes stay until it runs: it need not go on as after a kill, unless they say so.
    pub(crate) at_rest: bool,
    /// Where is noted what is in flight, and as which queue; counts from the next start too.
    pub(crate) notes: Option<(NoteMemory, u16)>,
    /// Where is marked what is written, if it is; also what had begun before.
    pub(crate) log: Option<Logging>,
    pub(crate) sizes: Sizes,
    /// A request may have data in both directions (VIRTIO_SCSI_F_INOUT).
    pub(crate) bidirectional: bool,
    pub(crate) fds: Fds,
}

/// Where a queue stands or stood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) base: u32,
    /// Its ring was found broken since its start.
    pub(crate) broken: bool,
}

pub(crate) struct Queue {
    pub(crate) connection: ConnectionId,
    pub(crate) index: u16,
    pub(crate) place: Arc<Place>,
    sink: Cell<SinkId>,
    pub(crate) role: Role,
    state: RefCell<State>,
}

#[derive(Clone, Copy)]
enum Token {
    Kick,
    Tick,
    Publish,
    GoOn,
}

impl Queue {
    /// The queue of a connection on this reactor, made when it is first asked for.
    pub(crate) fn on(
        local: &Local,
        connection: ConnectionId,
        index: u16,
        place: &Arc<Place>,
        setup: &Setup,
        cx: &mut dyn Cx,
    ) -> Rc<Self> {
        if let Some(queue) = local.queue(connection, index) {
            return queue;
        }
        let queue = Rc::new_cyclic(|weak: &Weak<Self>| Self {
            connection,
            index,
            place: place.clone(),
            sink: Cell::new(SinkId(0)),
            role: Role::of(index),
            state: RefCell::new(State::new(
                Setup { started: false, ..setup.clone() },
                Sessions::new(&place.targets, weak.clone()),
            )),
        });
        queue.sink.set(cx.register(queue.clone()));
        local.queues.borrow_mut().insert((connection, index), queue.clone());
        queue
    }

    /// Ends a queue that has been stopped.
    pub(crate) fn close(&self, local: &Local, cx: &mut dyn Cx) {
        cx.unregister(self.sink.get());
        local.queues.borrow_mut().remove(&(self.connection, self.index));
    }

    fn id(&self, token: Token) -> IoId {
        IoId { sink: self.sink.get(), token: token as u64 }
    }

    pub(crate) fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Becomes what `setup` says. The connection is told of `round` once nothing of the former state is in use: no other
    /// memory, and nothing at all if the queue is to stop.
    pub(crate) fn apply(&self, setup: Setup, memory: Arc<MemoryMap>, round: Option<u64>, cx: &mut dyn Cx) {
        let mut state = self.state();
        let starts = setup.started && !state.setup.started;
        let old = std::mem::replace(&mut state.setup, setup);
        state.round = round.or(state.round);
        state.suspended &= state.setup.started;
        if !state.setup.started
            && let Some(log) = &mut state.setup.log
        {
            // After a reset the front end does not say any more where the ring that stops is.
            log.used = log.used.or(old.log.as_ref().and_then(|log| log.used));
        }
        if starts {
            state.broken = state.setup.broken;
            state.base = state.setup.base;
        }
        let turns_back = !state.setup.started && state.setup.stop == Stop::TurnBack;
        let changed = match state.ring.as_ref().map(Ring::memory) {
            None if turns_back => self.turn_back(&mut state, memory, cx),
            None if state.broken => Ok(()),
            None if starts => state.start(memory).map(|noted| self.tell_of(noted, cx)),
            None if state.suspended => state.resume(memory),
            Some(old) if !Arc::ptr_eq(old, &memory) => state.remap(memory),
            _ => Ok(()),
        };
        if starts && self.role == Role::Control && state.ring.as_ref().is_some_and(Ring::is_new) {
            self.place.events.unsubscribe();
        }
        if let Err(error) = changed {
            self.fail(&mut state, &error, cx);
        }
        self.watch(&mut state, cx);
        // The front end may have looked for a notification at the old descriptor before we last wrote it.
        if !same(&old.fds.call, &state.setup.fds.call) {
            state.signal();
        }
        state.taking = state.active() && state.setup.enabled;
        if !state.taking {
            self.leave_behind(&mut state, cx);
        }
        if !state.has_settled() {
            // Others may hold back what is under way for as long as they like.
            state.sessions.turn_back(cx);
        }
        self.wake(&mut state, cx);
        self.settle(&mut state, cx);
    }

    /// Says that the ring goes on where a former process was.
    fn tell_of(&self, noted: Option<usize>, cx: &mut dyn Cx) {
        let Some(in_flight) = noted else { return };
        if self.role == Role::Event {
            // Nobody was there to tell of what has happened since.
            self.place.events.miss();
        }
        if in_flight > 0 && self.place.may_log(cx) {
            let export = &self.place.name;
            tracing::info!(%export, queue = self.index, in_flight, "going on with what was in flight");
        }
    }

    /// Listens to the kick descriptor, if there should be one.
    fn watch(&self, state: &mut State, cx: &mut dyn Cx) {
        let kick = &state.setup.fds.kick;
        let wanted = kick.clone().filter(|_| state.active());
        if !same(&wanted, &state.watched) {
            cx.cancel(self.id(Token::Kick));
            if let Some(fd) = &wanted {
                cx.watch(fd.as_raw_fd(), Interest::Readable, self.id(Token::Kick));
            }
            state.watched = wanted;
        }
        cx.cancel(self.id(Token::Tick));
        if state.active() && state.watched.is_none() {
            cx.timer(state.tick, self.id(Token::Tick));
        }
    }

    /// Looks at a ring by the clock, less and less often while there is nothing in it.
    fn look(&self, state: &mut State, cx: &mut dyn Cx) {
        state.tick = (2 * state.tick).min(TICKS[1]);
        if state.taking && self.run(state, cx) {
            self.wake(state, cx);
        }
        if state.active() && state.watched.is_none() {
            cx.timer(state.tick, self.id(Token::Tick));
        }
    }

    /// Tells the connection if what it asked for has come true.
    fn settle(&self, state: &mut State, cx: &mut dyn Cx) {
        if !state.has_settled() {
            return;
        }
        if state.stops()
            && let Some(base) = state.ring.as_ref().map(Ring::base)
        {
            state.base = base;
            state.publish();
            let ring = state.ring.take();
            match state.setup.stop {
                Stop::Answer | Stop::Keep | Stop::TurnBack => ring.iter().for_each(Ring::end),
                Stop::Forget => ring.iter().for_each(Ring::forget),
                Stop::HandOver => {}
            }
        }
        let Some(round) = state.round.take() else { return };
        let (connection, index, rest) =
            (self.connection, self.index, Rest { base: state.base, broken: state.broken });
        post(self.place.home, cx, move |local, cx| {
            if let Some(connection) = local.connection(connection) {
                connection.settled(index, round, rest, cx);
            }
        });
    }

    /// Stops a broken ring, and only that.
    fn fail(&self, state: &mut State, error: &RingError, cx: &mut dyn Cx) {
        // Memory that is gone reads as zeroes, which may look like anything.
        let error = if state.memory_is_gone() { &RingError::MemoryGone } else { error };
        if self.place.may_log(cx) {
            tracing::warn!(export = %self.place.name, queue = self.index, "the ring is broken and stopped: {error}");
        }
        state.publish();
        if let Some(ring) = state.ring.take() {
            ring.forget();
            state.base = ring.base();
            state.retire(ring.memory().clone());
        }
        state.broken = true;
        state.taking = false;
        state.suspended = false;
        self.leave_behind(state, cx);
        if !state.has_settled() {
            state.sessions.turn_back(cx);
        }
        self.watch(state, cx);
        if let Some(error) = &state.setup.fds.error {
            error.notify();
        }
    }
}

impl Sink for Queue {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        let mut state = self.state();
        if token == Token::Publish as u64 {
            state.deferred = false;
            return state.publish();
        }
        if token == Token::GoOn as u64 {
            state.going_on = false;
        }
        if let Err(error) = result {
            if self.place.may_log(cx) {
                tracing::warn!(export = %self.place.name, queue = self.index, %error, "cannot wait for notifications");
            }
            return;
        }
        if token == Token::Tick as u64 {
            return self.look(&mut state, cx);
        }
        self.wake(&mut state, cx);
    }

    fn poll(&self, cx: &mut dyn Cx) -> bool {
        let mut state = self.state();
        if !state.taking || !state.awake {
            state.polled = false;
            cx.poll_while_awake(self.sink.get(), false);
            return false;
        }
        if self.run(&mut state, cx) {
            state.looks = 0;
            return true;
        }
        state.looks += 1;
        if state.looks == LOOKS {
            state.looks = 0;
            return self.doze(&mut state, cx);
        }
        false
    }

    fn before_sleep(&self, cx: &mut dyn Cx) -> bool {
        let mut state = self.state();
        state.taking && state.awake && self.doze(&mut state, cx)
    }
}

impl Responder for Queue {
    fn command_ended(&self, cookie: u64, completion: Completion, cx: &mut dyn Cx) {
        self.command_answered(cookie, completion, cx);
    }

    fn management_ended(&self, cookie: u64, response: ServiceResponse, cx: &mut dyn Cx) {
        self.management_answered(cookie, response, cx);
    }
}

fn same<T>(one: &Option<Arc<T>>, other: &Option<Arc<T>>) -> bool {
    one.as_ref().map(Arc::as_ptr) == other.as_ref().map(Arc::as_ptr)
}

#[cfg(test)]
mod tests;
