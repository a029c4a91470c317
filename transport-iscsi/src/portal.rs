//! A portal: a listening socket, and the connections that came in by it.

use crate::advertise::told;
use crate::connection::{Connection, canonical};
use crate::gatekeeper::Refused;
use crate::limits::ACCEPTS_PER_TURN;
use crate::local::{self, Local, Place};
use crate::{Error, NetworkEntity};
use lunette_engine::TargetPort;
use lunette_reactor::Reactors;
use lunette_store::{Cx, Interest, IoId, IoResult, Message, Post, ReactorId, Sink, SinkId};
use rustix::net::{Shutdown, shutdown, sockopt};
use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// An address on which initiators reach the targets of a network entity (RFC 7143 4.4).
///
/// A portal that is dropped goes on until the reactors end.
pub struct Portal {
    shared: Arc<Shared>,
    socket: Weak<Socket>,
}

/// What a portal is to initiators.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortalOptions {
    /// The portal group of each target that has it. The first one is 1.
    pub group_tag: u16,
    /// Addresses that SendTargets tells instead of the one that is listened on, for portals behind an address translation;
    /// empty: none.
    pub advertised: Vec<SocketAddr>,
}

impl Default for PortalOptions {
    fn default() -> Self {
        Self { group_tag: TargetPort::DEFAULT_GROUP, advertised: Vec::new() }
    }
}

/// What a portal and its connections share.
pub(crate) struct Shared {
    pub(crate) entity: Arc<NetworkEntity>,
    /// The address that it listens on.
    address: SocketAddr,
    /// Whether an IPv6 socket takes IPv4 connections too.
    takes_ipv4: bool,
    /// Target portal group tag.
    pub(crate) group_tag: u16,
    /// What is told instead of the address; empty: that.
    advertised: Mutex<Vec<SocketAddr>>,
    /// Who accepts connections.
    listener: OnceLock<SinkId>,
    connections: AtomicUsize,
    /// Not told to stop.
    listening: AtomicBool,
    ended: Mutex<()>,
    changed: Condvar,
}

/// The reactor that accepts connections.
const HOME: ReactorId = ReactorId(0);
/// How long to wait when connections cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How much longer than its connections a portal takes to stop.
const GRACE: Duration = Duration::from_secs(1);

/// How often an address in use is tried again, and the pause before.
const TRIES: u32 = 20;
const BIND_PAUSE: Duration = Duration::from_millis(50);

/// Listens. After a process has been killed the kernel ends its io_uring, and with it the socket, a moment later: an address
/// in use is tried again after a pause.
fn listen(address: SocketAddr, mut pause: impl FnMut()) -> io::Result<TcpListener> {
    for _ in 0..TRIES {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => pause(),
            bound => return bound,
        }
    }
    TcpListener::bind(address)
}

impl Portal {
    /// Listens on `address`, whose port may be 0 for any free one.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn start(
        address: SocketAddr,
        options: PortalOptions,
        entity: &Arc<NetworkEntity>,
        reactors: &Reactors,
    ) -> Result<Self, Error> {
        let socket = listen(address, || std::thread::sleep(BIND_PAUSE))
            .map_err(|source| Error::Listen { address, source })?;
        Self::open(Socket::new(socket, true), options, entity, reactors)
    }

    /// Takes over a socket that listens already, as service managers pass them.
    ///
    /// # Errors
    /// When it has no address, or there are no reactors.
    pub fn adopt(
        socket: TcpListener,
        options: PortalOptions,
        entity: &Arc<NetworkEntity>,
        reactors: &Reactors,
    ) -> Result<Self, Error> {
        Self::open(Socket::new(socket, false), options, entity, reactors)
    }

    /// Goes on listening at a socket that a portal of another process has [shared](Self::share).
    ///
    /// # Errors
    /// When it has no address, or there are no reactors.
    pub fn resume(
        socket: TcpListener,
        options: PortalOptions,
        entity: &Arc<NetworkEntity>,
        reactors: &Reactors,
    ) -> Result<Self, Error> {
        Self::open(Socket::new(socket, true), options, entity, reactors)
    }

    fn open(
        socket: Socket,
        options: PortalOptions,
        entity: &Arc<NetworkEntity>,
        reactors: &Reactors,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(&socket.listener, options, entity)?);
        let (address, group_tag) = (shared.address, shared.group_tag);
        socket.listener.set_nonblocking(true).map_err(|source| Error::Listen { address, source })?;
        entity.loads.spread_over(reactors.count());
        let (portal, socket) = (shared.clone(), Arc::new(socket));
        let known = Arc::downgrade(&socket);
        let listener = reactors.call(HOME, move |cx| Listener::start(socket, portal, cx));
        let listener = listener.ok_or(Error::NoReactor(address))?;
        shared.listener.get_or_init(|| listener);
        entity.add_portal(&shared);
        tracing::info!(%address, group_tag, "listening for iSCSI initiators");
        Ok(Self { shared, socket: known })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Its target portal group tag.
    pub fn group_tag(&self) -> u16 {
        self.shared.group_tag
    }

    /// Has SendTargets tell these addresses from now on instead of the one that is listened on; none: that.
    pub fn advertise(&self, addresses: Vec<SocketAddr>) {
        *self.shared.advertised.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// The socket that it listens on, for another process: that goes on listening when this portal stops.
    ///
    /// # Errors
    /// When there is no descriptor for it, or the portal has stopped.
    pub fn share(&self) -> io::Result<TcpListener> {
        let socket = self.socket.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let shared = socket.listener.try_clone()?;
        socket.own.store(false, Ordering::Relaxed);
        Ok(shared)
    }

    /// How many connections are open.
    pub fn connection_count(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Stops listening, and asks the initiators to log out. The connections of those that have not done so after
    /// [`EntityOptions::stop_time`](crate::EntityOptions) are closed. Returns at once.
    pub fn begin_stop(&self, reactors: &Reactors) {
        let (shared, count) = (self.shared.clone(), reactors.count());
        let stop = move |cx: &mut dyn Cx| {
            if !shared.listening.swap(false, Ordering::AcqRel) {
                return;
            }
            shared.listener.get().into_iter().for_each(|listener| cx.unregister(*listener));
            // From here, so that connections that were accepted before are there already.
            (0..count)
                .for_each(|reactor| cx.poster().post(ReactorId(reactor), shared.clone().stop_connections()));
            shared.tell();
        };
        reactors.poster().post(HOME, Box::new(stop));
    }

    /// Waits, for `most` at most, until a portal that has [begun to stop](Self::begin_stop) has ended. Returns whether it has:
    /// a store that never completes keeps its connection. Not to be called on a reactor.
    pub fn wait(&self, most: Duration) -> bool {
        let guard = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |(): &mut ()| self.shared.is_open();
        let (_guard, timeout) =
            self.shared.changed.wait_timeout_while(guard, most, open).unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// [Begins to stop](Self::begin_stop) and waits for as long as that should take. Returns whether all connections have
    /// ended. Not to be called on a reactor.
    pub fn stop(self, reactors: &Reactors) -> bool {
        self.begin_stop(reactors);
        let ended = self.wait(self.shared.entity.options().stop_time + GRACE);
        if !ended {
            let connections = self.connection_count();
            tracing::warn!(address = %self.address(), connections, "iSCSI connections did not end in time");
        }
        ended
    }
}

impl Shared {
    pub(crate) fn new(
        socket: &TcpListener,
        PortalOptions { group_tag, advertised }: PortalOptions,
        entity: &Arc<NetworkEntity>,
    ) -> Result<Self, Error> {
        let address = socket.local_addr().map_err(Error::Socket)?;
        Ok(Self {
            entity: entity.clone(),
            address,
            takes_ipv4: address.is_ipv6() && !sockopt::ipv6_v6only(socket).unwrap_or(true),
            group_tag,
            advertised: Mutex::new(advertised),
            listener: OnceLock::new(),
            connections: AtomicUsize::new(0),
            listening: AtomicBool::new(true),
            ended: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Whether it has not been told to stop.
    pub(crate) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// Whether connections to this address come here.
    pub(crate) fn listens_on(&self, address: SocketAddr) -> bool {
        let (own, address) = (canonical(self.address), canonical(address));
        own == address || own.port() == address.port() && own.ip().is_unspecified()
    }

    /// Counts a connection that another process has let in.
    pub(crate) fn readmit(&self, address: IpAddr) {
        self.entity.gatekeeper().readmit(address);
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes the connections that have come while none were accepted.
    pub(crate) fn accept_again(self: Arc<Self>, post: &dyn Post) {
        let look = move |cx: &mut dyn Cx| {
            if let Some(sink) = self.listener.get().copied().filter(|_| self.is_listening()) {
                cx.complete(IoId { sink, token: Listener::READY }, Ok(0));
            }
        };
        post.post(HOME, Box::new(look));
    }

    /// The addresses to tell one who has come to `reached`, here or at another portal.
    pub(crate) fn told(&self, reached: SocketAddr) -> Vec<SocketAddr> {
        let advertised = self.advertised.lock().unwrap_or_else(PoisonError::into_inner);
        if advertised.is_empty() {
            told(self.address, self.takes_ipv4, reached).into_iter().collect()
        } else {
            advertised.clone()
        }
    }

    /// Counts a new connection and gives it a place on the least loaded reactor.
    fn admit(&self, address: IpAddr, cx: &mut dyn Cx) -> Result<Place, Refused> {
        let place = Place::new(self.entity.loads.add().ok_or(Refused::Connections)?);
        let entered = self.entity.gatekeeper().enter(address, place, cx.now());
        match entered {
            Ok(None) => {}
            Ok(Some(other)) => local::post(other, cx, Connection::evict),
            Err(refused) => {
                self.entity.loads.remove(place.reactor);
                return Err(refused);
            }
        }
        self.connections.fetch_add(1, Ordering::AcqRel);
        Ok(place)
    }

    /// A connection is gone.
    pub(crate) fn connection_ended(&self, address: IpAddr, place: Place) {
        self.entity.gatekeeper().leave(address, place);
        self.connections.fetch_sub(1, Ordering::AcqRel);
        self.tell();
    }

    /// Whether there is a connection, or may be one yet.
    fn is_open(&self) -> bool {
        self.is_listening() || self.connections.load(Ordering::Acquire) > 0
    }

    /// Wakes who waits for the end.
    fn tell(&self) {
        // Whoever has looked and does not wait yet holds the lock.
        drop(self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Has the connections of one reactor end.
    fn stop_connections(self: Arc<Self>) -> Message {
        Box::new(move |cx: &mut dyn Cx| {
            for connection in Local::of(cx).connections() {
                if connection.is_of(&self) {
                    connection.stop(cx);
                }
            }
        })
    }
}

/// A socket that listens.
struct Socket {
    listener: TcpListener,
    /// It was made here, and nobody else has it.
    own: AtomicBool,
}

impl Socket {
    fn new(listener: TcpListener, own: bool) -> Self {
        Self { listener, own: AtomicBool::new(own) }
    }
}

impl Drop for Socket {
    /// io_uring keeps the file of what it watches until it has heard of the end of that: to close the file is not enough.
    fn drop(&mut self) {
        if *self.own.get_mut()
            && let Err(error) = shutdown(&self.listener, Shutdown::Read)
        {
            tracing::warn!(%error, "cannot stop listening for iSCSI initiators");
        }
    }
}

struct Listener {
    socket: Arc<Socket>,
    portal: Arc<Shared>,
    sink: Cell<SinkId>,
    /// Why the last connection was refused, which has been said.
    refused: Cell<Option<Refused>>,
    /// The last connection could not be accepted, which has been said.
    in_trouble: Cell<bool>,
    /// Until a timer runs out, nothing is accepted.
    pausing: Cell<bool>,
}

impl Listener {
    const READY: u64 = 0;
    const RETRY: u64 = 1;

    fn start(socket: Arc<Socket>, portal: Arc<Shared>, cx: &mut dyn Cx) -> SinkId {
        let fd = socket.listener.as_raw_fd();
        let listener = Rc::new(Self {
            socket,
            portal,
            sink: Cell::new(SinkId(0)),
            refused: Cell::new(None),
            in_trouble: Cell::new(false),
            pausing: Cell::new(false),
        });
        let sink = cx.register(listener.clone());
        listener.sink.set(sink);
        cx.watch(fd, Interest::Readable, listener.id(Self::READY));
        sink
    }

    fn id(&self, token: u64) -> IoId {
        IoId { sink: self.sink.get(), token }
    }

    /// Goes on in a while. Says why, once.
    fn pause(&self, error: &io::Error, cx: &mut dyn Cx) {
        if !self.in_trouble.replace(true) && self.portal.entity.may_log(cx) {
            tracing::warn!(%error, "cannot accept iSCSI connections for the moment");
        }
        self.pausing.set(true);
        cx.timer(ACCEPT_PAUSE, self.id(Self::RETRY));
    }

    fn accepted(&self, socket: TcpStream, peer: SocketAddr, cx: &mut dyn Cx) {
        if !self.portal.entity.takes(peer.ip()) {
            if self.portal.entity.may_log(cx) {
                let address = canonical(peer);
                tracing::warn!(%address, "iSCSI connection refused: none are taken from this address");
            }
            return;
        }
        let admitted = self.portal.admit(peer.ip(), cx);
        let refused = admitted.err();
        let said = self.refused.replace(refused) == refused;
        let Ok(place) = admitted else {
            if let Some(why) = refused.filter(|_| !said && self.portal.entity.may_log(cx)) {
                tracing::warn!(address = %canonical(peer), "iSCSI connections refused: {why}");
            }
            return;
        };
        let portal = self.portal.clone();
        let start = move |cx: &mut dyn Cx| Connection::start(socket, peer, place, portal, cx);
        cx.poster().post(place.reactor, Box::new(start));
    }
}

impl Sink for Listener {
    fn complete(&self, token: u64, _: IoResult, cx: &mut dyn Cx) {
        if token == Self::RETRY {
            self.pausing.set(false);
        }
        if self.pausing.get() || self.portal.entity.is_holding() {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            match self.socket.listener.accept() {
                Ok((socket, peer)) => {
                    self.in_trouble.set(false);
                    self.accepted(socket, peer, cx);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    // The connection is gone.
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    // There are no descriptors, most likely.
                    _ => return self.pause(&error, cx),
                },
            }
        }
        cx.defer(self.id(Self::READY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_waited_for_a_while() {
        let mut other = Some(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = other.as_ref().unwrap().local_addr().unwrap();
        let mut pauses = 0;
        let refused = listen(address, || pauses += 1);
        assert_eq!((refused.unwrap_err().kind(), pauses), (io::ErrorKind::AddrInUse, TRIES));
        let socket = listen(address, || other = None).unwrap();
        assert_eq!(socket.local_addr().unwrap(), address);
    }
}
