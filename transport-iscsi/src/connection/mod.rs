//! A connection: its socket, its phases and its end.

mod closing;
mod departure;
mod door;
mod full_feature;
mod input;
mod manage;
mod occupancy;
mod output;
mod patience;
mod resumption;
mod status;

use crate::error::End;
use crate::events::Events;
use crate::limits::OUTBOX;
use crate::local::{self, Local, Place};
use crate::portal::Shared;
use crate::sessions::Turn;
use crate::{NetworkEntity, SessionChange, SessionEvent, Target};
use closing::Closing;
use departure::Departure;
use door::{Door, Opened, Visitor};
use full_feature::{Env, FullFeature, Wish};
use lunette_engine::{Completion, GivenUp, Responder, Session};
use lunette_iscsi::Outbox;
use lunette_iscsi::target::{Accepted, Login, SessionInfo, SessionType, Settings};
use lunette_scsi::ServiceResponse;
use lunette_store::{Cx, Interest, IoError, IoId, IoResult, Sink, SinkId};
use patience::{Patience, Ping};
use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use resumption::Returning;

/// What a connection is told of.
pub(crate) struct Token;

impl Token {
    /// Bytes have come, or the peer's end.
    const READABLE: u64 = 0;
    /// There is room to send.
    const WRITABLE: u64 = 1;
    /// The end of a turn: send what has gathered.
    const FLUSH: u64 = 2;
    /// The next turn: parse and receive on.
    const RECEIVE: u64 = 3;
    /// Look whether the initiator is alive.
    const TICK: u64 = 4;
    /// What was to be finished before the end has not been in time.
    const LATE: u64 = 5;
    /// Buffers have come back.
    pub(crate) const BUFFERS: u64 = 6;
    /// It occupies too much memory.
    const CONDEMNED: u64 = 7;
}

/// What the engine knows the end of the nexus by.
const CLOSE: u64 = u64::MAX;

pub(crate) struct Connection {
    pub(crate) place: Place,
    portal: Arc<Shared>,
    local: Rc<Local>,
    sink: Cell<SinkId>,
    me: Weak<Connection>,
    peer: SocketAddr,
    /// The address that the initiator reached.
    reached: SocketAddr,
    /// Bytes that its buffers occupy, as far as they are counted.
    occupied: Cell<usize>,
    condemned: Cell<bool>,
    /// It is to be told when buffers have come back.
    hungry: Cell<bool>,
    state: RefCell<State>,
}

struct State {
    /// `None` when the connection is over, but for what the engine still holds.
    socket: Option<TcpStream>,
    phase: Phase,
    out: Outbox,
    /// What is still to be parsed, be that empty, because too much is to be sent, the session waits, or others have their turn.
    stash: Option<Vec<u8>>,
    /// The initiator sends much data in each PDU.
    large_data: bool,
    /// Bytes parsed since it was last tried to send.
    taken: usize,
    /// Nothing is received until more is sent.
    paused: bool,
    /// The socket takes nothing more for now.
    blocked: bool,
    /// Whether it is watched for room to send.
    watching: bool,
    flush_due: bool,
    receive_due: bool,
    closing: Option<Closing>,
    /// The initiator has been asked to log out until then, or else this is why the connection is closed.
    leaving: Option<(Duration, End)>,
    departure: Departure,
    /// The engine holds nothing more of this nexus.
    nexus_closed: bool,
    /// Of a normal session.
    target: Option<Arc<Target>>,
    /// The session in the table of all.
    tsih: Option<u16>,
    /// It counts as load of its reactor.
    weighs: bool,
    events: Option<Arc<Events>>,
    /// The session that this one replaces has not ended, so nothing is received or sent.
    waiting: bool,
    /// Who waits for this session's end. One who came before him has been replaced.
    successor: Option<Place>,
    started: Duration,
    heard: Duration,
    pinged: Option<Ping>,
    /// Bytes that were sent.
    sent: u64,
    /// Bytes that were received.
    received: u64,
    patience: Patience,
}

enum Phase {
    Login(Box<Login>, Visitor),
    FullFeature(Box<FullFeature>),
}

impl Connection {
    /// Takes over a socket that was accepted.
    pub(crate) fn start(
        socket: TcpStream,
        peer: SocketAddr,
        place: Place,
        portal: Arc<Shared>,
        cx: &mut dyn Cx,
    ) {
        let prepared = socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true));
        let Ok(reached) = prepared.and_then(|()| socket.local_addr()) else {
            portal.entity.loads.remove(place.reactor);
            return portal.connection_ended(peer.ip(), place);
        };
        let login_time = portal.entity.options().login_time;
        let connection = Self::open(socket, (peer, reached), place, portal, cx);
        cx.timer(login_time, connection.id(Token::TICK));
    }

    /// A connection at its beginning, which is told of what comes.
    fn open(
        socket: TcpStream,
        (peer, reached): (SocketAddr, SocketAddr),
        place: Place,
        portal: Arc<Shared>,
        cx: &mut dyn Cx,
    ) -> Rc<Self> {
        let fd = socket.as_raw_fd();
        let local = Local::of(cx);
        let login = Login::new(Settings::default());
        let connection = Rc::new_cyclic(|me| Self {
            place,
            portal,
            local,
            sink: Cell::new(SinkId(0)),
            me: me.clone(),
            peer: canonical(peer),
            reached: canonical(reached),
            occupied: Cell::new(0),
            condemned: Cell::new(false),
            hungry: Cell::new(false),
            state: RefCell::new(State::new(socket, login, cx.now())),
        });
        connection.sink.set(cx.register(connection.clone()));
        connection.local.add(&connection);
        cx.watch(fd, Interest::Readable, connection.id(Token::READABLE));
        connection
    }

    pub(crate) fn entity(&self) -> &Arc<NetworkEntity> {
        &self.portal.entity
    }

    pub(crate) fn is_of(&self, portal: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.portal, portal)
    }

    /// Others are to log in instead.
    pub(crate) fn evict(&self, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        if matches!(state.phase, Phase::Login(..)) {
            self.end(&mut state, &End::Evicted, cx);
        }
    }

    /// Sends what others have caused, as soon as there is room.
    pub(crate) fn send_events(&self, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        self.take_events(&mut state);
        self.settle(&mut state, cx);
    }

    /// Puts what others have caused into the outbox, unless more is there than the initiator takes.
    fn take_events(&self, state: &mut State) {
        state.paused |= state.out.len() >= OUTBOX;
        if state.closing.is_some() || state.paused {
            return;
        }
        if let State { phase: Phase::FullFeature(full), out, events: Some(events), .. } = state {
            events.send(&mut full.machine, &full.session, out);
        }
    }

    /// Whether a line may be logged about this connection to `target`.
    fn may_log(&self, target: Option<&Arc<Target>>, cx: &dyn Cx) -> bool {
        target.map_or_else(|| self.portal.entity.may_log(cx), |target| target.may_log(cx))
    }

    fn id(&self, token: u64) -> IoId {
        IoId { sink: self.sink.get(), token }
    }

    fn env<'a>(&'a self, out: &'a mut Outbox, cx: &'a mut dyn Cx) -> Env<'a> {
        Env { out, local: &self.local, sink: self.sink.get(), hungry: &self.hungry, cx }
    }

    fn door<'a>(&'a self, visitor: Option<&'a mut Visitor>) -> Door<'a> {
        Door { connection: self, visitor }
    }

    /// The login is finished: the session begins, when the one that it replaces has ended.
    fn logged_in(
        &self,
        state: &mut State,
        accepted: Accepted,
        Visitor { target, offer, rule, opened }: Visitor,
        cx: &mut dyn Cx,
    ) {
        self.portal.entity.gatekeeper().login_ended(self.place);
        let info = accepted.session.info();
        if self.may_log(target.as_ref(), cx) {
            tracing::info!(
                target_name = info.target_name,
                initiator = info.initiator_name,
                address = %self.peer,
                session = info.tsih,
                discovery = info.session_type == SessionType::Discovery,
                rule = rule.map(|rule| rule + 1),
                account = info.authenticated,
                reactor = self.place.reactor.0,
                "iSCSI login"
            );
        }
        self.tell(SessionChange::Begun, info);
        let mut nexus = None;
        if info.session_type == SessionType::Discovery {
            self.weigh_no_more(state);
        }
        state.target = target;
        if let Some(Opened { tsih, initiator, replaces }) = opened {
            state.tsih = Some(tsih);
            let ends = offer.as_ref().zip(initiator);
            let group = self.portal.group_tag;
            let events = Events::new(self.place, cx.poster());
            let observer = events.clone();
            let shared = ends.and_then(|(offer, initiator)| offer.nexus(group, rule, &initiator, observer));
            state.events = Some(events);
            nexus = shared.map(|nexus| {
                let responder: Weak<dyn Responder> = self.me.clone();
                Session::open(nexus, responder, cx)
            });
            if let Some(before) = replaces {
                state.waiting = true;
                self.wait_for(before, cx);
            }
        }
        state.phase = Phase::FullFeature(Box::new(FullFeature::new(accepted, nexus, &self.local.budget)));
        let options = self.portal.entity.options();
        self.tick_after(if state.waiting { options.login_time } else { options.idle_time }, cx);
        if let Some(offer) = offer {
            self.look_whether_current(state, &offer, cx);
        }
    }

    fn tick_after(&self, time: Duration, cx: &mut dyn Cx) {
        cx.cancel(self.id(Token::TICK));
        cx.timer(time, self.id(Token::TICK));
    }

    /// Has the connection at `before` end, if it is still there, and waits for that.
    fn wait_for(&self, before: Place, cx: &mut dyn Cx) {
        let me = self.place;
        local::post_or(
            before,
            cx,
            move |connection, cx| connection.give_way(me, cx),
            move |cx| local::post(me, cx, Self::go_on),
        );
    }

    /// Another session replaces this one.
    fn give_way(&self, successor: Place, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        state.successor = Some(successor);
        self.end(&mut state, &End::Replaced, cx);
    }

    /// A connection has ended for which this one waits, or one that did.
    fn go_on(&self, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        let Some(tsih) = state.tsih.filter(|_| state.waiting && state.socket.is_some()) else { return };
        let turn = self.portal.entity.table().turn(tsih, self.place);
        match turn {
            Turn::Now => {}
            Turn::After(before) => return self.wait_for(before, cx),
            // Its own end is under way.
            Turn::Gone => return,
        }
        state.waiting = false;
        state.hear(cx.now());
        self.tick_after(self.portal.entity.options().idle_time, cx);
        self.resume(&mut state, cx);
        self.settle(&mut state, cx);
    }

    fn wish(&self, state: &mut State, wish: Wish, cx: &mut dyn Cx) {
        match wish {
            Wish::Logout(tag) => {
                self.begin_closing(state, Closing::Logout(tag), cx);
                self.close_nexus(state, cx);
            }
            Wish::ColdReset => {
                if let Some(tsih) = state.tsih {
                    self.cold_reset(tsih, cx);
                }
            }
        }
    }

    /// Ends all sessions of the target, through whichever portal group (RFC 7143 11.5.1, TARGET COLD RESET), as far as the
    /// access rule of session `tsih` has let them in: others do not exist for it.
    fn cold_reset(&self, tsih: u16, cx: &mut dyn Cx) {
        let places = self.portal.entity.table().places_of_rule(tsih);
        for place in places {
            local::post(place, cx, |connection, cx| connection.reset(cx));
        }
    }

    /// Tells the engine that the nexus is lost.
    fn close_nexus(&self, state: &mut State, cx: &mut dyn Cx) {
        match &state.phase {
            Phase::FullFeature(full) => match &full.nexus {
                Some(nexus) => nexus.close(CLOSE, cx),
                None => state.nexus_closed = true,
            },
            Phase::Login(..) => state.nexus_closed = true,
        }
    }

    /// Looks what is next, after anything has happened.
    fn settle(&self, state: &mut State, cx: &mut dyn Cx) {
        if state.socket.is_none() {
            return;
        }
        self.finish_logout(state);
        if state.has_news() && !state.blocked && !state.waiting && !state.flush_due {
            state.flush_due = true;
            cx.defer(self.id(Token::FLUSH));
        }
        if let Some(Closing::Flush(why)) = state.closing.take_if(|closing| closing.is_over(&state.out)) {
            return self.end(state, &why, cx);
        }
        state.come_to_rest();
        self.count_memory(state, cx);
    }

    fn say_why(&self, state: &State, why: &End, cx: &dyn Cx) {
        let address = self.peer;
        if let Phase::FullFeature(full) = &state.phase {
            self.tell(SessionChange::Ended(why), full.session.info());
        }
        match &state.phase {
            Phase::FullFeature(_) if !self.may_log(state.target.as_ref(), cx) => {}
            Phase::FullFeature(full) => {
                let info = full.session.info();
                let initiator = &info.initiator_name;
                tracing::info!(initiator, %address, session = info.tsih, "iSCSI session ended: {why}");
            }
            Phase::Login(..) => tracing::debug!(%address, "iSCSI connection ended without a login: {why}"),
        }
    }

    /// Tells who wants to know of it what has happened to the session.
    fn tell(&self, what: SessionChange<'_>, info: &SessionInfo) {
        self.portal.entity.tell(SessionEvent {
            what,
            initiator: &info.initiator_name,
            address: self.peer,
            target: Some(info.target_name.as_str()).filter(|name| !name.is_empty()),
            tsih: info.tsih,
            account: info.authenticated.as_deref(),
        });
    }

    fn finish_if_over(&self, state: &mut State, cx: &mut dyn Cx) {
        if state.socket.is_some() || !state.nexus_closed {
            return;
        }
        if let Phase::FullFeature(full) = &mut state.phase {
            full.abandon_waiting(cx);
        }
        if let Some(tsih) = state.tsih.take() {
            self.portal.entity.table().close(tsih, self.place);
        }
        if let Some(successor) = state.successor.take() {
            local::post(successor, cx, Self::go_on);
        }
        self.local.remove(self);
        self.local.feed_hungry(cx);
        cx.unregister(self.sink.get());
        self.weigh_no_more(state);
        self.portal.connection_ended(self.peer.ip(), self.place);
    }

    /// Its reactor may get another connection instead.
    fn weigh_no_more(&self, state: &mut State) {
        if std::mem::take(&mut state.weighs) {
            self.portal.entity.loads.remove(self.place.reactor);
        }
    }
}

impl State {
    fn new(socket: TcpStream, login: Login, now: Duration) -> Self {
        Self {
            socket: Some(socket),
            phase: Phase::Login(Box::new(login), Visitor::default()),
            out: Outbox::default(),
            stash: None,
            large_data: false,
            taken: 0,
            paused: false,
            blocked: false,
            watching: false,
            flush_due: false,
            receive_due: false,
            closing: None,
            leaving: None,
            departure: Departure::None,
            nexus_closed: false,
            target: None,
            tsih: None,
            weighs: true,
            events: None,
            waiting: false,
            successor: None,
            started: now,
            heard: now,
            pinged: None,
            sent: 0,
            received: 0,
            patience: Patience::default(),
        }
    }

    fn turn_is_over(&self) -> bool {
        matches!(&self.phase, Phase::FullFeature(full) if full.turn_is_over())
    }

    /// Whether there is something to send.
    fn has_news(&self) -> bool {
        !self.out.is_empty() || self.window_opened_unseen()
    }

    /// Whether there is something to send, and nothing under way that could soon add to it.
    fn is_answered(&self) -> bool {
        let Phase::FullFeature(full) = &self.phase else { return false };
        full.is_at_rest() && !self.out.is_empty() && !self.blocked && !self.paused
    }

    /// Whether the initiator waits for a command window that is open.
    fn window_opened_unseen(&self) -> bool {
        let Phase::FullFeature(full) = &self.phase else { return false };
        self.closing.is_none() && full.session.window_opened_unseen()
    }

    /// The initiator is alive.
    fn hear(&mut self, now: Duration) {
        self.heard = now;
        self.pinged = None;
    }
}

impl Sink for Connection {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        if state.socket.is_none() {
            return;
        }
        match (token, result) {
            (Token::READABLE | Token::WRITABLE, Err(error)) => {
                let why = match error {
                    IoError::Os(errno) => std::io::Error::from_raw_os_error(errno),
                    other => std::io::Error::other(other),
                };
                self.end(&mut state, &End::Socket(why), cx);
            }
            (Token::READABLE, _) => self.receive(&mut state, cx),
            (Token::RECEIVE, _) => {
                state.receive_due = false;
                self.receive(&mut state, cx);
            }
            (Token::WRITABLE, _) => {
                // Only one who takes in what is sent makes room for more.
                if std::mem::take(&mut state.blocked) {
                    state.hear(cx.now());
                }
                self.flush(&mut state, cx);
            }
            (Token::FLUSH, _) => {
                state.flush_due = false;
                self.flush(&mut state, cx);
            }
            (Token::TICK, _) => self.tick(&mut state, cx),
            (Token::LATE, _) => self.late(&mut state, cx),
            (Token::CONDEMNED, _) => self.end(&mut state, &End::Condemned, cx),
            (Token::BUFFERS, _) => {
                self.hungry.set(false);
                self.feed_hungry(&mut state, cx);
            }
            _ => {}
        }
        self.settle(&mut state, cx);
    }
}

impl Responder for Connection {
    fn command_ended(&self, cookie: u64, completion: Completion, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        let over = state.socket.is_none();
        if let State { phase: Phase::FullFeature(full), out, .. } = &mut *state {
            match completion {
                Completion::Ended(_) if over => full.ended(
                    cookie,
                    Completion::Aborted(lunette_engine::Aborted::NexusLost),
                    &mut self.env(out, cx),
                ),
                completion => full.ended(cookie, completion, &mut self.env(out, cx)),
            }
        }
        if !over {
            self.feed_hungry(&mut state, cx);
            self.settle(&mut state, cx);
        }
        self.local.feed_hungry(cx);
    }

    fn give_up(&self, cookie: u64) -> Option<GivenUp> {
        match &mut *self.state.borrow_mut() {
            State { phase: Phase::FullFeature(full), .. } => full.give_up(cookie, &self.local),
            _ => None,
        }
    }

    fn management_ended(&self, cookie: u64, response: ServiceResponse, cx: &mut dyn Cx) {
        let mut state = self.state.borrow_mut();
        if cookie == CLOSE {
            state.nexus_closed = true;
            self.finish_if_over(&mut state, cx);
        } else if state.socket.is_some()
            && let State { phase: Phase::FullFeature(full), out, .. } = &mut *state
            && let Some(wish) = full.managed(cookie, response, &mut self.env(out, cx))
        {
            self.wish(&mut state, wish, cx);
        }
        self.settle(&mut state, cx);
    }
}

/// The address as it is written: IPv4 for IPv4, also on a socket that takes both.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
