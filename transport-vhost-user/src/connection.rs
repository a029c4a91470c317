//! One connected front end: its messages, and what they make of the queues.
//!
//! Messages are carried out one after the other. One that concerns queues is told to each of them on its own reactor and
//! is answered when all have done what it says, so no reply comes before its effect.

use crate::local::{ConnectionId, Local, post};
use crate::memory::MemoryMap;
use crate::notify::{Kind, Notifier};
use crate::place::Place;
use crate::queue::{Fds, Queue, Setup};
use crate::ring::{Layout, MAX_SIZE};
use crate::socket::{self, Received};
use crate::targets::Sessions;
use crate::wire::{ConfigSpace, Sizes};
use lunette_engine::{Completion, Management, Responder};
use lunette_scsi::{Lun, ServiceResponse, TaskManagementFunction};
use lunette_store::{Cx, Interest, IoId, IoResult, Sink, SinkId};
use lunette_vhost_user::{
    Ack, Backend, Change, Decoder, Event, Features, Message, Offer, ProtocolFeatures, VringBaseReply,
};
use std::cell::{Cell, RefCell, RefMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// Control and event queue (VIRTIO 1.2 5.6.2).
pub(crate) const FIXED_QUEUES: u16 = 2;
/// Most regions of guest memory: as many as the kernel's vhost takes.
const MEMORY_SLOTS: u16 = 509;
/// Most messages that are carried out before others have their turn.
const TURN: usize = 64;

/// A request may have data in both directions.
const INOUT: Features = Features::from_bits_retain(1 << 0);
/// Logical units come and go, told by events.
const HOTPLUG: Features = Features::from_bits_retain(1 << 1);
/// Parameters of logical units change, told by events.
const CHANGE: Features = Features::from_bits_retain(1 << 2);
/// Requests carry protection information.
const T10_PI: Features = Features::from_bits_retain(1 << 3);

/// What the driver must not do unless it was offered, as we would misread its rings, addresses or requests.
const LAYOUTS: Features = INOUT.union(T10_PI).union(Features::ACCESS_PLATFORM).union(Features::IN_ORDER);

fn offer(request_queues: u16) -> Offer {
    Offer {
        features: Features::VERSION_1
            .union(Features::INDIRECT_DESC)
            .union(Features::EVENT_IDX)
            .union(Features::RING_PACKED)
            // A ring that is reset is stopped and started anew by the usual messages.
            .union(Features::RING_RESET)
            .union(HOTPLUG)
            .union(CHANGE),
        protocol_features: ProtocolFeatures::MQ
            | ProtocolFeatures::REPLY_ACK
            | ProtocolFeatures::CONFIG
            | ProtocolFeatures::BACKEND_REQ
            | ProtocolFeatures::CONFIGURE_MEM_SLOTS
            | ProtocolFeatures::RESET_DEVICE,
        queues: FIXED_QUEUES + request_queues,
        max_queue_size: MAX_SIZE,
        max_memory_slots: MEMORY_SLOTS,
    }
}

/// What is called when a connection has ended and nothing of it is left.
pub(crate) type Ended = Box<dyn Fn(&mut dyn Cx)>;

pub(crate) struct Connection {
    id: ConnectionId,
    place: Arc<Place>,
    sessions: Sessions,
    sink: Cell<SinkId>,
    socket: OwnedFd,
    ended: Ended,
    state: RefCell<State>,
}

struct State {
    backend: Backend,
    decoder: Decoder,
    /// Bytes of a reply that the socket had no room for.
    outbox: Vec<u8>,
    memory: Arc<MemoryMap>,
    config: ConfigSpace,
    /// Features that forbid to start any ring.
    forbidding: Features,
    fds: Vec<Fds>,
    /// What each queue was last told; `None` for those that were never started.
    told: Vec<Option<Started>>,
    /// Stays open: closing it means to the front end that the device was unplugged.
    channel: Option<OwnedFd>,
    /// Numbers the times that something was waited for.
    round: u64,
    /// Answers that are still to come in this round.
    waiting: usize,
    /// What is done when they all have.
    then: Then,
    phase: Phase,
}

/// Whether a queue was told to be started.
type Started = bool;

enum Then {
    Nothing,
    Send(Message),
    /// The reply to GET_VRING_BASE.
    SendBase(VringBaseReply),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The queues finish what is in flight.
    Draining,
    /// Whatever is still in flight is being aborted.
    Closing,
    Closed,
}

/// Which queues a message concerns.
enum Concerned {
    None,
    One(u16),
    All,
}

enum Step {
    Again,
    Wait,
}

/// Why a connection ends; `None` if the front end has closed it.
type EndReason = Option<String>;

#[derive(Clone, Copy)]
enum Token {
    Readable,
    Writable,
    GoOn,
}

/// What the connection waits for from the engine.
#[derive(Clone, Copy)]
enum Cookie {
    Reset,
    Close,
}

impl Connection {
    /// Serves a front end that has just connected, on the reactor of `cx`.
    pub(crate) fn open(
        place: Arc<Place>,
        request_queues: u16,
        socket: OwnedFd,
        ended: Ended,
        cx: &mut dyn Cx,
    ) -> Rc<Self> {
        let id = ConnectionId::next();
        let connection = Rc::new_cyclic(|weak: &Weak<Self>| Self {
            id,
            sessions: Sessions::new(&place.targets, weak.clone()),
            place,
            sink: Cell::new(SinkId(0)),
            socket,
            ended,
            state: RefCell::new(State::new(request_queues)),
        });
        connection.sink.set(cx.register(connection.clone()));
        Local::on(cx).connections.borrow_mut().insert(id, connection.clone());
        tracing::info!(export = %connection.place.name, "a front end has connected");
        cx.watch(connection.socket.as_raw_fd(), Interest::Readable, connection.id(Token::Readable));
        connection
    }

    fn id(&self, token: Token) -> IoId {
        IoId { sink: self.sink.get(), token: token as u64 }
    }

    fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Whether the front end has gone, noticed or not.
    pub(crate) fn is_ending(&self) -> bool {
        self.state().phase != Phase::Open || socket::has_ended(&self.socket)
    }

    /// Ends the connection from our side: what is in flight is finished.
    pub(crate) fn stop(&self, cx: &mut dyn Cx) {
        let mut state = self.state();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
            self.stop_queues(&mut state, cx);
            self.proceed(state, cx);
        }
    }

    /// The front end has gone, or cannot be understood: what is in flight is aborted.
    fn lose(&self, state: &mut State, reason: EndReason, cx: &mut dyn Cx) {
        match reason {
            None => tracing::info!(export = %self.place.name, "the front end has disconnected"),
            Some(reason) => tracing::warn!(export = %self.place.name, "closing the connection: {reason}"),
        }
        self.stop_queues(state, cx);
        self.close_nexuses(state, cx);
    }

    fn stop_queues(&self, state: &mut State, cx: &mut dyn Cx) {
        cx.cancel(self.id(Token::Readable));
        cx.cancel(self.id(Token::Writable));
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
        for session in self.sessions.all(cx) {
            state.waiting += 1;
            session.close(Cookie::Close as u64, cx);
        }
    }

    /// Nothing is in flight any more: lets go of everything.
    fn finish(&self, state: &mut State, cx: &mut dyn Cx) {
        state.phase = Phase::Closed;
        state.memory = Arc::default();
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

    /// Carries out messages for as long as there are any.
    fn advance(&self, cx: &mut dyn Cx) {
        let mut state = self.state();
        for _ in 0..TURN {
            if state.phase != Phase::Open {
                return;
            }
            match self.step(&mut state, cx) {
                Ok(Step::Again) => {}
                Ok(Step::Wait) => return,
                Err(reason) => {
                    self.lose(&mut state, reason, cx);
                    return self.proceed(state, cx);
                }
            }
        }
        cx.complete(self.id(Token::GoOn), Ok(0));
    }

    fn step(&self, state: &mut State, cx: &mut dyn Cx) -> Result<Step, EndReason> {
        if state.waiting > 0 {
            return Ok(Step::Wait);
        }
        if let Then::Send(message) = std::mem::replace(&mut state.then, Then::Nothing) {
            // No reply of ours carries descriptors.
            state.outbox.extend(message.into_parts().0);
        }
        if !state.outbox.is_empty() {
            return self.send(state, cx);
        }
        match state.decoder.next_message().map_err(reason)? {
            Some(message) => {
                let event = state.backend.handle(message).map_err(reason)?;
                self.carry_out(state, event, cx)?;
                Ok(Step::Again)
            }
            None => self.receive(state),
        }
    }

    fn send(&self, state: &mut State, cx: &mut dyn Cx) -> Result<Step, EndReason> {
        let sent = socket::transmit(&self.socket, &state.outbox).map_err(reason)?;
        state.outbox.drain(..sent);
        cx.cancel(self.id(Token::Writable));
        if state.outbox.is_empty() {
            return Ok(Step::Again);
        }
        cx.watch(self.socket.as_raw_fd(), Interest::Writable, self.id(Token::Writable));
        Ok(Step::Wait)
    }

    fn receive(&self, state: &mut State) -> Result<Step, EndReason> {
        let mut buffer = [0; 1024];
        let wanted = state.decoder.wanted().min(buffer.len());
        match socket::receive(&self.socket, &mut buffer[..wanted]).map_err(reason)? {
            Received::Bytes(count, fds) => {
                state.decoder.feed(&buffer[..count], fds);
                Ok(Step::Again)
            }
            Received::Nothing => Ok(Step::Wait),
            Received::End => Err(None),
        }
    }

    fn carry_out(&self, state: &mut State, event: Event, cx: &mut dyn Cx) -> Result<(), EndReason> {
        let export = &self.place.name;
        match event {
            Event::Reply(message) => state.then = Then::Send(message),
            Event::Change(change, ack) => self.change(state, change, ack, cx)?,
            Event::StopVring { index, reply } => {
                state.begin_round();
                if state.told[usize::from(index)].is_some() {
                    state.then = Then::SendBase(reply);
                    self.tell(state, index, true, cx);
                } else {
                    let base = state.backend.state().vrings[usize::from(index)].base;
                    state.then = Then::Send(state.backend.vring_stopped(reply, base));
                }
            }
            Event::ReadConfig { reply, .. } => {
                state.then = Then::Send(reply.from_space(&state.config.bytes()));
            }
            Event::GetInflight { reply, .. } => state.then = Then::Send(reply.none()),
            Event::Refused { request, fault, reply } => {
                tracing::warn!(%export, "{request} refused: {fault}");
                state.then = Then::Send(reply);
            }
            Event::Ignored { request, fault } => tracing::debug!(%export, "{request} ignored: {fault}"),
        }
        Ok(())
    }

    fn change(&self, state: &mut State, change: Change, ack: Ack, cx: &mut dyn Cx) -> Result<(), EndReason> {
        let memory_changes = matches!(
            change,
            Change::SetMemoryTable(_) | Change::AddMemoryRegion(_) | Change::RemoveMemoryRegion(_)
        );
        let resets = matches!(change, Change::ResetDevice);
        let made = state.make(change, &self.place.name);
        let failure = made.as_ref().err().cloned();
        if failure.is_some() && memory_changes {
            state.backend.undo_memory_change();
        }
        let reply = ack.done(failure.is_none());
        match (failure, &reply) {
            (Some(failure), None) => return Err(Some(failure)),
            (Some(failure), Some(_)) => tracing::warn!(export = %self.place.name, "refused: {failure}"),
            (None, _) => {}
        }
        state.begin_round();
        // Nobody asked when the old memory is out of use, so the front end need not wait for that.
        let wait = !memory_changes || reply.is_some();
        state.then = reply.map_or(Then::Nothing, Then::Send);
        match made.unwrap_or(Concerned::None) {
            Concerned::None => {}
            Concerned::One(index) => self.tell(state, index, wait, cx),
            Concerned::All => {
                (0..state.fds.len() as u16).for_each(|index| self.tell(state, index, wait, cx));
            }
        }
        if resets {
            self.reset_nexuses(state, cx);
        }
        Ok(())
    }

    /// A device reset is the loss of all I_T nexuses.
    fn reset_nexuses(&self, state: &mut State, cx: &mut dyn Cx) {
        let function = TaskManagementFunction::ITNexusReset;
        let management = Management { function, lun: Lun::default(), tag: 0 };
        for session in self.sessions.all(cx) {
            state.waiting += 1;
            session.manage(&management, Cookie::Reset as u64, cx);
        }
    }

    /// Tells a queue what it should be, if it is or was started.
    fn tell(&self, state: &mut State, index: u16, wait: bool, cx: &mut dyn Cx) {
        let vring = &state.backend.state().vrings[usize::from(index)];
        let started = vring.started && state.forbidding.is_empty();
        if vring.started && !started && state.told[usize::from(index)].is_none() {
            tracing::error!(
                export = %self.place.name, queue = index,
                "not started: the front end uses {:?}, which was not offered", state.forbidding
            );
        }
        if started || state.told[usize::from(index)].is_some() {
            self.tell_as(state, index, started, wait, cx);
        }
    }

    fn tell_as(&self, state: &mut State, index: u16, started: bool, wait: bool, cx: &mut dyn Cx) {
        let setup = state.setup(index, started);
        state.told[usize::from(index)] = Some(started);
        let round = wait.then_some(state.round);
        state.waiting += usize::from(wait);
        let (id, place, memory) = (self.id, self.place.clone(), state.memory.clone());
        let tell = move |local: &Local, cx: &mut dyn Cx| {
            Queue::on(local, id, index, &place, &setup, cx).apply(setup, memory, round, cx);
        };
        let reactor = self.place.reactor(index);
        // Directly if possible, so that a queue here has stopped before the engine aborts what it began.
        if reactor == cx.reactor() { tell(&Local::on(cx), cx) } else { post(reactor, cx, tell) }
    }

    /// A queue has become what it was told in `round`, and stands or stood at `base`.
    pub(crate) fn settled(&self, round: u64, base: u32, cx: &mut dyn Cx) {
        let mut state = self.state();
        if round != state.round {
            return;
        }
        state.then = match std::mem::replace(&mut state.then, Then::Nothing) {
            Then::SendBase(reply) => Then::Send(state.backend.vring_stopped(reply, base)),
            other => other,
        };
        self.arrived(state, cx);
    }

    fn arrived(&self, mut state: RefMut<'_, State>, cx: &mut dyn Cx) {
        state.waiting -= 1;
        self.proceed(state, cx);
    }

    /// Goes on if nothing is waited for any more.
    fn proceed(&self, mut state: RefMut<'_, State>, cx: &mut dyn Cx) {
        if state.waiting > 0 {
            return;
        }
        match state.phase {
            Phase::Open => {
                drop(state);
                self.advance(cx);
            }
            Phase::Draining => self.close_nexuses(&mut state, cx),
            Phase::Closing => {
                self.finish(&mut state, cx);
                drop(state);
                (self.ended)(cx);
            }
            Phase::Closed => {}
        }
    }
}

impl State {
    fn new(request_queues: u16) -> Self {
        let offer = offer(request_queues);
        let count = usize::from(offer.queues);
        Self {
            backend: Backend::new(offer),
            decoder: Decoder::new(),
            outbox: Vec::new(),
            memory: Arc::default(),
            config: ConfigSpace { queues: request_queues, sizes: Sizes::default() },
            forbidding: Features::empty(),
            fds: vec![Fds::default(); count],
            told: vec![None; count],
            channel: None,
            round: 0,
            waiting: 0,
            then: Then::Nothing,
            phase: Phase::Open,
        }
    }

    /// Answers of earlier rounds do not count any more.
    fn begin_round(&mut self) {
        self.round += 1;
        self.waiting = 0;
    }

    /// Carries a change out as far as this side is concerned.
    fn make(&mut self, change: Change, export: &str) -> Result<Concerned, String> {
        let memory = match change {
            Change::SetVringSize { .. } | Change::SetVringAddress { .. } => return Ok(Concerned::None),
            Change::SetVringBase { index, .. } => return Ok(Concerned::One(index)),
            Change::SetVringKick { index, fd } => {
                self.fds[usize::from(index)].kick = fd.map(kick).transpose()?;
                return Ok(Concerned::One(index));
            }
            Change::SetVringCall { index, fd } => {
                self.fds[usize::from(index)].call = fd.map(notifier).transpose()?;
                return Ok(Concerned::One(index));
            }
            Change::SetVringError { index, fd } => {
                self.fds[usize::from(index)].error = fd.map(notifier).transpose()?;
                return Ok(Concerned::One(index));
            }
            Change::SetVringEnable { index, .. } | Change::KickVring { index } => {
                return Ok(Concerned::One(index));
            }
            Change::SetFeatures { acked, unoffered } => {
                self.forbidding = unoffered & LAYOUTS;
                tracing::debug!(%export, ?acked, ?unoffered, "features");
                if !self.forbidding.is_empty() {
                    tracing::error!(
                        %export,
                        "the front end acknowledged {:?}, which was not offered: no ring will be started",
                        self.forbidding
                    );
                }
                return Ok(Concerned::All);
            }
            Change::SetConfig(config) => {
                if !self.config.write(config.offset, &config.bytes) {
                    return Err("SET_CONFIG writes more than valid sizes of sense data and CDBs".to_owned());
                }
                return Ok(Concerned::All);
            }
            Change::ResetDevice => {
                self.config.sizes = Sizes::default();
                return Ok(Concerned::All);
            }
            Change::ResetOwner => return Ok(Concerned::All),
            Change::SetBackendRequestFd(fd) => {
                self.channel = Some(fd);
                return Ok(Concerned::None);
            }
            Change::SetMemoryTable(table) => MemoryMap::new(&table),
            Change::AddMemoryRegion(region) => self.memory.with(&region),
            Change::RemoveMemoryRegion(region) => Ok(self.memory.without(&region)),
            // What is left was not offered, or concerns nothing here.
            _ => return Ok(Concerned::None),
        };
        self.memory = Arc::new(memory.map_err(|error| error.to_string())?);
        Ok(Concerned::All)
    }

    fn setup(&self, index: u16, started: bool) -> Setup {
        let session = self.backend.state();
        let vring = &session.vrings[usize::from(index)];
        let address = vring.address.as_ref();
        Setup {
            started,
            enabled: vring.enabled,
            layout: Layout {
                size: vring.size,
                packed: session.features.contains(Features::RING_PACKED),
                descriptors: address.map_or(0, |address| address.descriptor),
                available: address.map_or(0, |address| address.available),
                used: address.map_or(0, |address| address.used),
                event_index: session.features.contains(Features::EVENT_IDX),
                indirect: session.features.contains(Features::INDIRECT_DESC),
            },
            base: vring.base,
            sizes: self.config.sizes,
            fds: self.fds[usize::from(index)].clone(),
        }
    }
}

impl Sink for Connection {
    fn complete(&self, _token: u64, _result: IoResult, cx: &mut dyn Cx) {
        self.advance(cx);
    }
}

impl Responder for Connection {
    fn command_ended(&self, _: u64, _: Completion, _: &mut dyn Cx) {}

    fn management_ended(&self, cookie: u64, _: ServiceResponse, cx: &mut dyn Cx) {
        let state = self.state();
        // A reset that was under way when the front end went is waited for no more.
        let expected = if state.phase == Phase::Closing { Cookie::Close } else { Cookie::Reset };
        if cookie == expected as u64 && state.waiting > 0 && state.phase != Phase::Draining {
            self.arrived(state, cx);
        }
    }
}

fn notifier(fd: OwnedFd) -> Result<Arc<Notifier>, String> {
    Notifier::new(fd).map(Arc::new).map_err(|error| error.to_string())
}

/// A descriptor that is only polled. That of a file would ask its file system, which may be the front end's.
fn kick(fd: OwnedFd) -> Result<Arc<OwnedFd>, String> {
    match Kind::of(&fd) {
        Kind::Other => Err("a kick descriptor is neither an eventfd nor a pipe nor a socket".to_owned()),
        _ => Ok(Arc::new(fd)),
    }
}

fn reason(error: impl ToString) -> EndReason {
    Some(error.to_string())
}
