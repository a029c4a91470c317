//! One virtqueue at work on its reactor.
//!
//! A queue is told what it should be by [`Queue::apply`], again and again, and makes the difference good: it starts, stops,
//! moves to other memory or other descriptors. It answers its connection when nothing of the former state is in use any
//! more. While the reactor is awake, an active queue is polled and the driver's notifications are suppressed; before the
//! reactor sleeps they are asked for again.

use crate::local::{ConnectionId, Local, post};
use crate::memory::MemoryMap;
use crate::place::Place;
use crate::ring::{Chain, Layout, Ring, RingError};
use crate::wire::{Expected, ResponseField, Sizes};
use lunette_engine::{Completion, Management, Responder, Session};
use lunette_scsi::ServiceResponse;
use lunette_store::{Cx, Interest, IoId, IoResult, Seg, Sg, Sink, SinkId};
use std::cell::{Cell, RefCell, RefMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// Most chains that are returned before the driver sees them.
const PUBLISH_AT: u16 = 64;
/// Most chains that are taken before other queues have their turn.
const TURN: usize = 256;
/// After so many looks in vain an active queue goes back to notifications, however busy its reactor is.
const LOOKS: u32 = 512;
/// How often a queue is looked at whose driver has no way to notify us.
const TICK: Duration = Duration::from_micros(200);

/// What a queue is for (VIRTIO 1.2 5.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Control,
    /// Its buffers stay where they are: there are no events yet.
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
    /// Written to notify the driver; does not block.
    pub(crate) call: Option<Arc<OwnedFd>>,
    /// Written when the ring is broken; does not block.
    pub(crate) error: Option<Arc<OwnedFd>>,
}

/// What a queue should be.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The ring is looked at; a change of layout and base counts from the next start.
    pub(crate) started: bool,
    /// Requests are taken from it.
    pub(crate) enabled: bool,
    pub(crate) layout: Layout,
    pub(crate) base: u16,
    pub(crate) sizes: Sizes,
    pub(crate) fds: Fds,
}

pub(crate) struct Queue {
    pub(crate) connection: ConnectionId,
    pub(crate) index: u16,
    pub(crate) place: Arc<Place>,
    pub(crate) session: Session,
    sink: Cell<SinkId>,
    role: Role,
    state: RefCell<State>,
}

pub(crate) struct State {
    pub(crate) setup: Setup,
    /// While started and not broken, and until the last request has ended.
    pub(crate) ring: Option<Ring>,
    /// Where the ring stands or stood.
    base: u16,
    /// Chains are taken from the ring.
    taking: bool,
    /// By the index of the first descriptor.
    pub(crate) slots: Vec<Slot>,
    pub(crate) chain: Chain,
    /// Numbers the memory maps of this queue.
    epoch: u32,
    /// Requests under way in the ring's memory.
    in_flight: u16,
    /// Memory that is no more the ring's, with requests under way in it.
    past: Vec<Past>,
    /// What the connection waits for.
    round: Option<u64>,
    watched: Option<Arc<OwnedFd>>,
    /// The driver's notifications are suppressed.
    awake: bool,
    /// The reactor polls us.
    polled: bool,
    looks: u32,
    /// A call to publish is on its way.
    deferred: bool,
    /// A call to go on is on its way.
    going_on: bool,
}

struct Past {
    epoch: u32,
    in_flight: u16,
    _memory: Arc<MemoryMap>,
}

/// A request under way.
#[derive(Default)]
pub(crate) struct Slot {
    epoch: u32,
    /// Where the response goes; `None` while the slot is free.
    field: Option<Field>,
    pub(crate) expected: Expected,
    /// A task management function that waits until all queues have caught up, and how many reactors are left.
    pub(crate) waiting: Option<Box<(Management, usize)>>,
}

/// Where a response goes.
enum Field {
    One(Seg),
    Many(Box<[Seg]>),
}

impl Field {
    fn of(sg: &Sg<'_>) -> Self {
        sg.single().map_or_else(|| Self::Many(sg.iter().collect()), Self::One)
    }

    fn with<R>(&self, act: impl FnOnce(Sg<'_>) -> R) -> R {
        match self {
            Self::One(seg) => act(Sg::new(std::slice::from_ref(seg))),
            Self::Many(segs) => act(Sg::new(segs)),
        }
    }
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
            session: Session::open(place.nexus.clone(), weak.clone(), cx),
            sink: Cell::new(SinkId(0)),
            role: Role::of(index),
            state: RefCell::new(State::new(Setup { started: false, ..setup.clone() })),
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
        let changed = match &mut state.ring {
            None if starts => state.start(memory),
            Some(ring) if !Arc::ptr_eq(ring.memory(), &memory) => state.remap(memory),
            _ => Ok(()),
        };
        if let Err(error) = changed {
            self.fail(&mut state, &error, cx);
        }
        self.watch(&mut state, cx);
        // The front end may have looked for a notification at the old descriptor before we last wrote it.
        if !same(&old.fds.call, &state.setup.fds.call) {
            state.signal();
        }
        state.taking = state.active() && state.setup.enabled && self.role != Role::Event;
        self.wake(&mut state, cx);
        self.settle(&mut state, cx);
    }

    /// Listens to the kick descriptor, if there should be one.
    fn watch(&self, state: &mut State, cx: &mut dyn Cx) {
        let kick = &state.setup.fds.kick;
        let wanted = kick.clone().filter(|_| state.active() && self.role != Role::Event);
        if !same(&wanted, &state.watched) {
            cx.cancel(self.id(Token::Kick));
            if let Some(fd) = &wanted {
                cx.watch(fd.as_raw_fd(), Interest::Readable, self.id(Token::Kick));
            }
            state.watched = wanted;
        }
        cx.cancel(self.id(Token::Tick));
        if state.active() && state.watched.is_none() && self.role != Role::Event {
            cx.timer(TICK, self.id(Token::Tick));
        }
    }

    /// There may be work.
    fn wake(&self, state: &mut State, cx: &mut dyn Cx) {
        if !state.taking {
            return;
        }
        if let Some(ring) = &mut state.ring
            && !state.awake
        {
            state.awake = true;
            state.looks = 0;
            ring.suppress_kicks();
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
    fn doze(&self, state: &mut State, cx: &mut dyn Cx) -> bool {
        let Some(ring) = &mut state.ring else { return false };
        match ring.want_kicks() {
            Ok(false) => {
                state.awake = false;
                false
            }
            Ok(true) => {
                ring.suppress_kicks();
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
    fn go_on(&self, state: &mut State, cx: &mut dyn Cx) {
        if !std::mem::replace(&mut state.going_on, true) {
            cx.defer(self.id(Token::GoOn));
        }
    }

    /// Takes what is available, within bounds. Returns whether there was anything.
    fn run(&self, state: &mut State, cx: &mut dyn Cx) -> bool {
        let taken = self.take_up_to(TURN, state, cx);
        if taken == TURN {
            self.go_on(state, cx);
        }
        taken > 0
    }

    fn take_up_to(&self, most: usize, state: &mut State, cx: &mut dyn Cx) -> usize {
        let mut taken = 0;
        while taken < most {
            match self.take(state, cx) {
                Ok(true) => taken += 1,
                Ok(false) => break,
                Err(error) => {
                    self.fail(state, &error, cx);
                    break;
                }
            }
            if state.unpublished() >= PUBLISH_AT {
                state.publish();
            }
        }
        state.publish();
        taken
    }

    /// Takes one chain and begins what it asks for.
    #[inline]
    fn take(&self, state: &mut State, cx: &mut dyn Cx) -> Result<bool, RingError> {
        let Some(ring) = &mut state.ring else { return Ok(false) };
        let Some(head) = ring.next()? else { return Ok(false) };
        if state.slots[usize::from(head)].field.is_some() {
            return Err(RingError::Busy(head));
        }
        ring.walk(head, &mut state.chain)?;
        match self.role {
            Role::Requests => self.take_command(state, head, cx)?,
            Role::Control => self.take_control(state, head, cx)?,
            Role::Event => {}
        }
        Ok(true)
    }

    /// Takes everything that was made available before now, for a task management function must find it (VIRTIO does not
    /// order the queues).
    pub(crate) fn catch_up(&self, cx: &mut dyn Cx) {
        let mut state = self.state();
        if self.role == Role::Requests && state.taking {
            let size = usize::from(state.setup.layout.size);
            self.take_up_to(size, &mut state, cx);
        }
    }

    /// A request that was under way has ended: `respond` writes its response and says how many bytes were written.
    pub(crate) fn ended(
        &self,
        cookie: u64,
        respond: impl FnOnce(&ResponseField<'_>) -> u32,
        cx: &mut dyn Cx,
    ) {
        let mut state = self.state();
        let state = &mut *state;
        let head = cookie as u16;
        let Some(slot) = state.slots.get_mut(usize::from(head)) else { return };
        let Some(field) = slot.field.take() else { return };
        let (epoch, expected) = (slot.epoch, slot.expected);
        if let Some(ring) = &mut state.ring {
            let written = field.with(|bytes| respond(&ResponseField { bytes, expected }));
            ring.push(head, written);
        }
        state.let_go(epoch);
        if state.unpublished() >= PUBLISH_AT {
            state.publish();
        } else if state.unpublished() > 0 && !state.deferred {
            state.deferred = true;
            cx.defer(self.id(Token::Publish));
        }
        self.settle(state, cx);
    }

    /// Tells the connection if what it asked for has come true.
    fn settle(&self, state: &mut State, cx: &mut dyn Cx) {
        let stops = !state.setup.started;
        if !state.past.is_empty() || (stops && state.in_flight > 0) {
            return;
        }
        if stops && let Some(ring) = &state.ring {
            state.base = ring.base();
            state.publish();
            state.ring = None;
        }
        let Some(round) = state.round.take() else { return };
        let (connection, base) = (self.connection, state.base);
        post(self.place.home, cx, move |local, cx| {
            if let Some(connection) = local.connection(connection) {
                connection.settled(round, base, cx);
            }
        });
    }

    /// Stops a broken ring, and only that.
    fn fail(&self, state: &mut State, error: &RingError, cx: &mut dyn Cx) {
        tracing::warn!(export = %self.place.name, queue = self.index, "the ring is broken and stopped: {error}");
        state.publish();
        if let Some(ring) = state.ring.take() {
            state.base = ring.base();
            state.retire(ring.memory().clone());
        }
        state.taking = false;
        self.watch(state, cx);
        if let Some(fd) = &state.setup.fds.error {
            signal(fd);
        }
    }
}

impl State {
    fn new(setup: Setup) -> Self {
        Self {
            setup,
            ring: None,
            base: 0,
            taking: false,
            slots: Vec::new(),
            chain: Chain::default(),
            epoch: 0,
            in_flight: 0,
            past: Vec::new(),
            round: None,
            watched: None,
            awake: false,
            polled: false,
            looks: 0,
            deferred: false,
            going_on: false,
        }
    }

    fn active(&self) -> bool {
        self.ring.is_some() && self.setup.started
    }

    fn start(&mut self, memory: Arc<MemoryMap>) -> Result<(), RingError> {
        self.base = self.setup.base;
        let ring = Ring::new(memory, self.setup.layout, self.setup.base)?;
        self.slots.resize_with(usize::from(self.setup.layout.size), Slot::default);
        self.ring = Some(ring);
        self.awake = false;
        Ok(())
    }

    fn remap(&mut self, memory: Arc<MemoryMap>) -> Result<(), RingError> {
        if let Some(ring) = &mut self.ring {
            let old = ring.remap(memory)?;
            self.retire(old);
        }
        Ok(())
    }

    /// Keeps memory that is no more the ring's for the requests that are under way in it.
    fn retire(&mut self, memory: Arc<MemoryMap>) {
        if self.in_flight > 0 {
            self.past.push(Past { epoch: self.epoch, in_flight: self.in_flight, _memory: memory });
        }
        self.epoch = self.epoch.wrapping_add(1);
        self.in_flight = 0;
    }

    /// The request at `head` is under way; its response goes to the first `response` writable bytes of the chain.
    pub(crate) fn hold(&mut self, head: u16, expected: Expected, response: u64) -> &mut Slot {
        self.in_flight += 1;
        let slot = &mut self.slots[usize::from(head)];
        slot.epoch = self.epoch;
        slot.expected = expected;
        slot.field = Some(Field::of(&self.chain.writable.as_sg().part(0, response)));
        slot
    }

    /// A request of the memory `epoch` has ended.
    fn let_go(&mut self, epoch: u32) {
        if epoch == self.epoch {
            self.in_flight -= 1;
        } else if let Some(index) = self.past.iter().position(|past| past.epoch == epoch) {
            self.past[index].in_flight -= 1;
            if self.past[index].in_flight == 0 {
                self.past.swap_remove(index);
            }
        }
    }

    /// Returns a chain to the driver.
    #[inline]
    pub(crate) fn answer(&mut self, head: u16, written: u32) {
        if let Some(ring) = &mut self.ring {
            ring.push(head, written);
        }
    }

    fn unpublished(&self) -> u16 {
        self.ring.as_ref().map_or(0, Ring::unpublished)
    }

    /// Shows the driver what was returned, and notifies it if it wants that.
    fn publish(&mut self) {
        if let Some(ring) = &mut self.ring
            && ring.publish()
        {
            self.signal();
        }
    }

    /// Notifies the driver.
    fn signal(&self) {
        if let Some(fd) = &self.setup.fds.call
            && self.ring.is_some()
        {
            signal(fd);
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
            tracing::warn!(export = %self.place.name, queue = self.index, %error, "cannot wait for notifications");
            return;
        }
        if token == Token::Tick as u64 && state.watched.is_none() {
            cx.timer(TICK, self.id(Token::Tick));
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

fn same(one: &Option<Arc<OwnedFd>>, other: &Option<Arc<OwnedFd>>) -> bool {
    one.as_ref().map(Arc::as_ptr) == other.as_ref().map(Arc::as_ptr)
}

/// Notifies the other side. That its counter or pipe is full means that it has not looked since the last time.
fn signal(fd: &OwnedFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

#[cfg(test)]
mod tests;
