//! A target port at a Unix socket.

use crate::aside::Aside;
use crate::bind::{Access, SocketFile, give};
use crate::client::Client;
use crate::connection::Connection;
use crate::endpoint::{Endpoint, Entrance};
use crate::error::Error;
use crate::events::Events;
use crate::handover::{HandedConnection, HandedExport, Role, Snapshot};
use crate::lease::Lease;
use crate::local::{ExportId, Local};
use crate::notify::Kind;
use crate::place::{ExportEvent, Observer, Place};
use crate::raise::Raiser;
use crate::targets::{Removal, Targets};
use lunette_engine::{NexusState, TargetPort};
use lunette_store::log::LineBudget;
use lunette_store::{Cx, Interest, IoId, IoResult, Post, ReactorId, Sink, SinkId};
use rustix::event::{EventfdFlags, eventfd};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most request queues of a device: beside them there are a control and an event queue, and SET_VRING_KICK has eight bits
/// for the index.
pub const MAX_REQUEST_QUEUES: u16 = lunette_vhost_user::MAX_QUEUES - crate::connection::FIXED_QUEUES;

/// What an export looks like.
#[derive(Debug)]
pub struct Options {
    /// Where the front end comes from.
    pub endpoint: Endpoint,
    /// Number of request queues offered, 1 to [`MAX_REQUEST_QUEUES`]. One that is not used costs nothing.
    pub request_queues: u16,
    /// Name of the initiator port that the virtual machine is, a SCSI name string.
    pub initiator: String,
    /// Whether guest memory is brought in as a whole and locked, so that no command waits for a page. Takes a while when
    /// the guest starts, and `RLIMIT_MEMLOCK`; without that, the memory is used as it is.
    pub pin_memory: bool,
    /// Whether what is in flight is noted also where the front end keeps no memory for that: then another process can go on from
    /// a [snapshot](Handle::snapshot) if this one should die. It costs a few instructions with every command.
    pub keep_notes: bool,
}

impl Options {
    /// As many queues as there can be, at `socket`, which is also the initiator port's name.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::with(Endpoint::at(socket))
    }

    /// As many queues as there can be, at `endpoint`, whose name is also the initiator port's.
    pub fn with(endpoint: Endpoint) -> Self {
        let initiator = endpoint.name();
        Self { endpoint, request_queues: MAX_REQUEST_QUEUES, initiator, pin_memory: false, keep_notes: false }
    }
}

/// Target ports that a virtual machine reaches over vhost-user-scsi as the targets of one device.
///
/// The virtual machine is an initiator port, with an I_T nexus to each target port. The nexuses live as long as the export:
/// when the connection is lost the commands under way are aborted, but what is pending for the initiator stays. While one
/// lasts, a second is closed at once; while one is ending, the next waits for that.
pub struct VhostUserExport {
    options: Options,
    targets: BTreeMap<u8, Arc<TargetPort>>,
    ended: Option<Box<dyn FnOnce() + Send>>,
    observer: Observer,
    nexuses: BTreeMap<u8, NexusState>,
    resumed: Option<HandedConnection>,
    name: Option<String>,
    listener: Option<(UnixListener, (u64, u64))>,
    lease: Option<Arc<dyn Lease>>,
}

impl VhostUserExport {
    /// An export of `targets`, by target number.
    pub fn new(options: Options, targets: BTreeMap<u8, Arc<TargetPort>>) -> Self {
        Self {
            options,
            targets,
            ended: None,
            observer: Observer::default(),
            nexuses: BTreeMap::new(),
            resumed: None,
            name: None,
            listener: None,
            lease: None,
        }
    }

    /// Has `act` called, on whatever thread, when the export has ended: because it was stopped, or because the front end
    /// of [`Endpoint::Connected`] has gone.
    pub fn when_ended(self, act: impl FnOnce() + Send + 'static) -> Self {
        Self { ended: Some(Box::new(act)), ..self }
    }

    /// Has `act` called when a front end connects or disconnects, on the reactor where that is noticed: it must not wait.
    pub fn observed(self, act: impl Fn(ExportEvent<'_>) + Send + Sync + 'static) -> Self {
        Self { observer: Observer(Some(Box::new(act))), ..self }
    }

    /// Goes on with the nexuses of another process, by target number, as [`Handle::nexuses`] gave them there.
    pub fn with_nexuses(self, nexuses: BTreeMap<u8, NexusState>) -> Self {
        Self { nexuses, ..self }
    }

    /// Goes on with the connection of another process. One that cannot be gone on with is closed, with a line in the log.
    pub fn with_connection(self, connection: HandedConnection) -> Self {
        Self { resumed: Some(connection), ..self }
    }

    /// Is called `name`, as in another process, which may have known its endpoint by another number.
    pub fn named(self, name: String) -> Self {
        Self { name: Some(name), ..self }
    }

    /// Goes on listening at a socket that another process has made at the path of the endpoint: its file is the one of this device
    /// and inode. If that is there no more, the socket is made anew.
    pub fn with_listener(self, socket: UnixListener, file: (u64, u64)) -> Self {
        Self { listener: Some((socket, file)), ..self }
    }

    /// Serves its units only while `lease` says so, since another process may serve them too. Without one, they are served
    /// whenever rings run.
    pub fn with_lease(self, lease: Arc<dyn Lease>) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// Listens, or connects, from now on. The connection, its control and its event queue live on the first of `reactors`; the request
    /// queues are spread over all of them, round robin.
    pub fn start(self, poster: Arc<dyn Post>, reactors: &[ReactorId]) -> Result<Handle, Error> {
        let (handle, opening) = self.prepare(poster, reactors)?;
        opening.open();
        Ok(handle)
    }

    /// Does what [`start`](Self::start) does, but serves nobody before it is [opened](Opening::open): the nexuses are there, and
    /// have taken over what was handed over of them.
    pub fn prepare(self, poster: Arc<dyn Post>, reactors: &[ReactorId]) -> Result<(Handle, Opening), Error> {
        let Self { options, targets, ended, observer, nexuses, resumed, name, listener, lease } = self;
        if !(1..=MAX_REQUEST_QUEUES).contains(&options.request_queues) {
            return Err(Error::RequestQueues(options.request_queues));
        }
        let home = *reactors.first().ok_or(Error::NoReactors)?;
        if targets.is_empty() {
            return Err(Error::NoTargets);
        }
        check_kernel(reactors)?;
        let name = name.unwrap_or_else(|| options.endpoint.name());
        let path = options.endpoint.path();
        let (entrance, file) = options.endpoint.open(listener)?;
        let (done, is_done) = mpsc::channel();
        let id = ExportId::next();
        let events = Arc::new(Events::new(id, home, poster.clone()));
        let place = Place {
            name: name.clone(),
            targets: Arc::new(Targets::new(&options.initiator, targets, &events)),
            events,
            home,
            reactors: reactors.into(),
            pin_memory: options.pin_memory,
            keep_notes: options.keep_notes,
            aside: Aside::new(home, poster.clone()),
            log: LineBudget::default(),
            observer,
            lease,
        };
        if let Err(error) = place.targets.take_over(&nexuses) {
            tracing::warn!(export = %place.name, %error, "not all that was handed over of the nexuses is of use");
        }
        let (place, request_queues) = (Arc::new(place), options.request_queues);
        let end = End { ended, _done: done };
        let listener = Blueprint { place: place.clone(), request_queues, entrance, resumed, end };
        let opening = Opening { id, blueprint: listener, poster: poster.clone() };
        let (file, is_done) = (Mutex::new(file), Mutex::new(is_done));
        Ok((Handle { id, name, path, place, poster, file, is_done }, opening))
    }
}

/// An export that serves nobody yet. One that is dropped has ended.
#[must_use]
pub struct Opening {
    id: ExportId,
    blueprint: Blueprint,
    poster: Arc<dyn Post>,
}

impl Opening {
    /// Goes on with the connection of another process, if there is one, and lets front ends come.
    pub fn open(self) {
        let Self { id, blueprint, poster } = self;
        poster.post(blueprint.place.home, Box::new(move |cx| Listener::open(id, blueprint, cx)));
    }
}

/// What descriptors of front ends are told apart and raised by.
fn check_kernel(reactors: &[ReactorId]) -> Result<(), Error> {
    let event = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| Error::NoAsyncIo(error.into()))?;
    if Kind::of(&event) != Kind::Event {
        return Err(Error::NoProc);
    }
    reactors.iter().try_for_each(|reactor| Raiser::of(*reactor).map(drop)).map_err(Error::NoAsyncIo)
}

/// A running export.
pub struct Handle {
    id: ExportId,
    name: String,
    /// That of a socket of ours.
    path: Option<PathBuf>,
    place: Arc<Place>,
    poster: Arc<dyn Post>,
    /// Kept here, since reactors have nothing to do with names of files.
    file: Mutex<Option<SocketFile>>,
    /// Closed when everything has ended.
    is_done: Mutex<mpsc::Receiver<()>>,
}

impl Handle {
    /// The [name of its endpoint](Endpoint::name).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes who may connect to the socket that was made for it; who is connected stays. A socket that was taken over belongs
    /// to others, and is left alone.
    ///
    /// # Errors
    /// When the system refuses, or something else is at the path by now.
    pub fn set_access(&self, access: &Access) -> Result<(), Error> {
        self.path.as_ref().map_or(Ok(()), |path| give(path, access))
    }

    /// Changes who has to listen where an export connects to; a connection that there is stays.
    pub fn set_user(&self, user: Option<u32>) {
        self.on_listener(move |listener, _| {
            if let Some(Entrance::Client(client)) = &mut *listener.entrance.borrow_mut() {
                client.set_user(user);
            }
        });
    }

    /// Adds a target, which the driver is told to look at. Its units may come later, and may take shorter transfers than the
    /// device has told its driver; they say so themselves. Returns whether there was none of this number.
    pub fn add_target(&self, number: u8, port: Arc<TargetPort>) -> bool {
        self.place.targets.add(number, port)
    }

    /// Removes a target, whose number is free at once. The driver is told that the units have gone; what they still have to
    /// do for it is aborted. Then, on one of the reactors, `done` is called, which must not wait: the export has nothing of the
    /// target's port any more. Returns whether there is one; `done` is called only then.
    pub fn remove_target(&self, number: u8, done: impl FnOnce() + Send + 'static) -> bool {
        let Some(nexus) = self.place.targets.remove(number) else { return false };
        let place = self.place.clone();
        let mut left = vec![place.home];
        left.extend(place.reactors.iter().copied());
        left.sort_unstable();
        left.dedup();
        let removal = Removal { place, target: number, nexus, left, done: Box::new(done) };
        self.poster.post(self.place.home, Box::new(move |cx| removal.go_on(cx)));
        true
    }

    /// What another process needs to go on with the nexuses, by target number. To be asked when nothing is in flight any more.
    pub fn nexuses(&self) -> BTreeMap<u8, NexusState> {
        self.place.targets.hand_over()
    }

    /// Leaves the socket and the connection to another process. No more messages are read, what is in flight ends, and
    /// the rest stays in the rings; the front end is told nothing. Then, on one of the reactors, `done` is called, which must
    /// not wait, and the export ends. Whoever does not want to wait for that [stops](Self::begin_stop) it.
    pub fn begin_hand_over(&self, done: impl FnOnce(HandedExport) + Send + 'static) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        let file = file.and_then(SocketFile::leave);
        let done = move |handed: HandedExport| done(HandedExport { file, ..handed });
        self.on_listener(move |listener, cx| listener.hand_over(done, cx));
    }

    /// Has `done` called, on one of the reactors, with what another process needs to go on with the connection if this one
    /// should die now. It goes on only if what is in flight is noted, in memory of the front end or [our own](Options::keep_notes).
    pub fn snapshot(&self, done: impl FnOnce(Snapshot) + Send + 'static) {
        self.on_listener(move |listener, _| {
            let current = listener.current.borrow();
            done(current.as_ref().map_or(Snapshot::Nothing, |connection| connection.snapshot()));
        });
    }

    /// Closes a copy of the connection, which may wait for its front end: where nobody but this export waits for that.
    pub fn close(&self, connection: HandedConnection) {
        self.place.aside.post(move || drop(connection));
    }

    fn on_listener(&self, act: impl FnOnce(&Listener, &mut dyn Cx) + Send + 'static) {
        let id = self.id;
        let act = move |cx: &mut dyn Cx| {
            let listener = Local::on(cx).listeners.borrow().get(&id).cloned();
            if let Some(listener) = listener {
                act(&listener, cx);
            }
        };
        self.poster.post(self.place.home, Box::new(act));
    }

    #[cfg(test)]
    pub(crate) fn aside(&self) -> Aside {
        self.place.aside.clone()
    }

    /// Whether an attempt to connect is under way.
    #[cfg(test)]
    pub(crate) fn is_calling(&self) -> bool {
        let (tell, told) = mpsc::channel();
        self.on_listener(move |listener, _| {
            let entrance = listener.entrance.borrow();
            let is_calling = matches!(&*entrance, Some(Entrance::Client(client)) if client.is_under_way());
            tell.send(is_calling).unwrap();
        });
        told.recv().unwrap()
    }

    /// Removes the socket and ends the connection, if there is one, as soon as all that is in flight has finished.
    /// Returns at once.
    pub fn begin_stop(&self) {
        drop(self.file.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.on_listener(Listener::stop);
    }

    /// Waits, for `most` at most, until an export that has [begun to stop](Self::begin_stop) has ended. Returns whether it has: a
    /// store that never completes keeps it, and so does a front end whose descriptors never answer. Not to be called on a
    /// reactor.
    pub fn wait(&self, most: Duration) -> bool {
        let is_done = self.is_done.lock().unwrap_or_else(PoisonError::into_inner);
        is_done.recv_timeout(most) != Err(RecvTimeoutError::Timeout)
    }

    /// [Begins to stop](Self::begin_stop) and waits until all has ended. Not to be called on a reactor.
    pub fn stop(self) {
        self.begin_stop();
        let _ = self.is_done.into_inner().unwrap_or_else(PoisonError::into_inner).recv();
    }
}

/// Dropped with the listener.
struct End {
    ended: Option<Box<dyn FnOnce() + Send>>,
    /// [`Handle::stop`] waits for this.
    _done: mpsc::Sender<()>,
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended();
        }
    }
}

/// What a listener is made from on its reactor.
struct Blueprint {
    place: Arc<Place>,
    request_queues: u16,
    entrance: Entrance,
    resumed: Option<HandedConnection>,
    end: End,
}

/// Has one front end after the other.
pub(crate) struct Listener {
    id: ExportId,
    this: Weak<Self>,
    place: Arc<Place>,
    request_queues: u16,
    sink: Cell<SinkId>,
    /// Where they come from; `None` when there are to be no more.
    entrance: RefCell<Option<Entrance>>,
    current: RefCell<Option<Rc<Connection>>>,
    /// What former front ends have left is being closed.
    settling: Cell<bool>,
    /// A timer runs out when to accept, or to connect, again.
    retrying: Cell<bool>,
    /// The last connection could not be accepted.
    in_trouble: Cell<bool>,
    _end: End,
}

#[derive(Clone, Copy)]
#[repr(u64)]
enum Token {
    Accept,
    Retry,
    Settled,
    /// An attempt to connect has come to something.
    Called,
}

/// How long to wait when no more descriptors can be opened.
const RETRY: Duration = Duration::from_secs(1);

impl Listener {
    fn open(id: ExportId, from: Blueprint, cx: &mut dyn Cx) {
        let (entrance, connected) = match from.entrance {
            Entrance::Connected(stream) => (None, Some(stream)),
            entrance => (Some(entrance), None),
        };
        let descriptor = match &entrance {
            Some(Entrance::Listening(socket)) => Some(socket.as_raw_fd()),
            _ => None,
        };
        let listener = Rc::new_cyclic(|this| Self {
            id,
            this: this.clone(),
            place: from.place,
            request_queues: from.request_queues,
            sink: Cell::new(SinkId(0)),
            entrance: RefCell::new(entrance),
            current: RefCell::default(),
            settling: Cell::new(false),
            retrying: Cell::new(false),
            in_trouble: Cell::new(false),
            _end: from.end,
        });
        listener.sink.set(cx.register(listener.clone()));
        Local::on(cx).listeners.borrow_mut().insert(id, listener.clone());
        if let Some(descriptor) = descriptor {
            cx.watch(descriptor, Interest::Readable, listener.id(Token::Accept));
        }
        if let Some(handed) = from.resumed {
            listener.resume(handed, cx);
        } else if let Some(stream) = connected {
            *listener.current.borrow_mut() = Some(listener.welcome(stream, true, cx));
        }
        listener.call(cx);
    }

    /// Goes on with the front end of another process.
    fn resume(&self, mut handed: HandedConnection, cx: &mut dyn Cx) {
        match handed.fds.remove(&Role::Socket).map(Endpoint::adopt) {
            Some(Ok(Endpoint::Connected(stream))) => {
                let connection = self.serve(stream, true, cx);
                connection.resume(handed, self.request_queues, cx);
                *self.current.borrow_mut() = Some(connection);
            }
            _ => {
                tracing::warn!(export = %self.place.name, "a connection that was handed over is none");
                self.place.aside.post(move || drop(handed));
                if self.entrance.borrow().is_none() {
                    self.close(cx);
                }
            }
        }
    }

    /// Leaves the socket and the connection to another process.
    fn hand_over(&self, done: impl FnOnce(HandedExport) + 'static, cx: &mut dyn Cx) {
        cx.cancel(self.id(Token::Accept));
        let listener = match self.close_entrance() {
            Some(Entrance::Listening(socket)) => Some(socket.into()),
            _ => None,
        };
        let current = self.current.borrow().clone();
        match current {
            Some(connection) => {
                let taker = move |connection| done(HandedExport { listener, file: None, connection });
                connection.hand_over(Box::new(taker), cx);
            }
            None => {
                done(HandedExport { listener, file: None, connection: None });
                self.close(cx);
            }
        }
    }

    /// Serves a front end that has nothing yet.
    fn welcome(&self, stream: UnixStream, is_there: bool, cx: &mut dyn Cx) -> Rc<Connection> {
        let connection = self.serve(stream, is_there, cx);
        connection.keep_notes(self.request_queues, cx);
        connection
    }

    /// Serves a front end; `is_there`: it is known to be one before it has said anything.
    fn serve(&self, stream: UnixStream, is_there: bool, cx: &mut dyn Cx) -> Rc<Connection> {
        let this = self.this.clone();
        let ended = Box::new(move |cx: &mut dyn Cx| {
            if let Some(listener) = this.upgrade() {
                listener.connection_ended(cx);
            }
        });
        Connection::open(self.place.clone(), self.request_queues, stream.into(), is_there, ended, cx)
    }

    fn id(&self, token: Token) -> IoId {
        IoId { sink: self.sink.get(), token: token as u64 }
    }

    fn accept(&self, cx: &mut dyn Cx) {
        let entrance = self.entrance.borrow();
        let Some(Entrance::Listening(listener)) = &*entrance else { return };
        while !self.settling.get() {
            let mut current = self.current.borrow_mut();
            if current.as_ref().is_some_and(|connection| connection.is_ending()) {
                return;
            }
            match listener.accept() {
                Ok((stream, _)) if current.is_some() => self.turn_away(stream, cx),
                Ok((stream, _)) => *current = Some(self.welcome(stream, true, cx)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return self.retry(&error, cx),
            }
            self.in_trouble.set(false);
        }
    }

    /// Closing what was not read may take long: there may be descriptors in it.
    fn turn_away(&self, stream: UnixStream, cx: &mut dyn Cx) {
        if self.place.may_log(cx) {
            tracing::warn!(export = %self.place.name, "a second front end is turned away: there is one already");
        }
        self.settle(move || drop(stream), cx);
    }

    /// Accepts no more before all that front ends have left behind is closed.
    fn settle(&self, last: impl FnOnce() + Send + 'static, cx: &mut dyn Cx) {
        self.settling.set(true);
        let settle = move || {
            last();
            Ok(0)
        };
        self.place.aside.run(settle, self.id(Token::Settled), cx);
    }

    /// Tries again in a while. Says so once.
    fn retry(&self, error: &std::io::Error, cx: &mut dyn Cx) {
        if !self.in_trouble.replace(true) && self.place.may_log(cx) {
            tracing::warn!(export = %self.place.name, %error, "cannot accept a connection");
        }
        self.retry_after(RETRY, cx);
    }

    /// Has the event queue deliver the events that there are, if there is one.
    pub(crate) fn deliver_events(&self, cx: &mut dyn Cx) {
        let current = self.current.borrow();
        match current.as_ref().and_then(|connection| connection.event_queue(cx)) {
            Some(queue) => queue.deliver_events(cx),
            None => self.place.events.miss_all(),
        }
    }

    fn connection_ended(&self, cx: &mut dyn Cx) {
        let ended = self.current.take();
        if self.entrance.borrow().is_none() {
            return self.close(cx);
        }
        self.settle(|| (), cx);
        if let Some(Entrance::Client(client)) = &mut *self.entrance.borrow_mut() {
            match ended {
                Some(connection) if connection.is_there() => {
                    client.succeeded();
                    self.retry_after(client.pause(), cx);
                }
                _ => self.call_failed(
                    client,
                    "whoever listens there has ended the connection and said nothing",
                    cx,
                ),
            }
        }
    }

    /// Connects to the front end, if that is what is to be done and nothing is in the way.
    fn call(&self, cx: &mut dyn Cx) {
        let is_free = !self.settling.get() && !self.retrying.get() && self.current.borrow().is_none();
        if let Some(Entrance::Client(client)) = &mut *self.entrance.borrow_mut()
            && is_free
            && let Some(attempt) = client.attempt()
        {
            let attempt = move || {
                attempt();
                Ok(0)
            };
            self.place.aside.run(attempt, self.id(Token::Called), cx);
        }
    }

    /// An attempt to connect has come to something.
    fn called(&self, cx: &mut dyn Cx) {
        let Some(Entrance::Client(client)) = &mut *self.entrance.borrow_mut() else { return };
        match client.outcome() {
            Some(Ok(stream)) => {
                self.place.observer.tell(ExportEvent::Reached);
                *self.current.borrow_mut() = Some(self.welcome(stream, false, cx));
            }
            Some(Err(why)) => self.call_failed(client, &why, cx),
            None => {}
        }
    }

    /// Tries again in a while. Says why, if that is something else than before.
    fn call_failed(&self, client: &mut Client, why: &str, cx: &mut dyn Cx) {
        if client.failed(why) && self.place.may_log(cx) {
            tracing::warn!(export = %self.place.name, "{why}; trying again");
        }
        self.place.observer.tell(ExportEvent::Unreachable(why));
        self.retry_after(client.pause(), cx);
    }

    fn retry_after(&self, pause: Duration, cx: &mut dyn Cx) {
        if !self.retrying.replace(true) {
            cx.timer(pause, self.id(Token::Retry));
        }
    }

    /// Has no more front ends.
    fn close_entrance(&self) -> Option<Entrance> {
        let mut entrance = self.entrance.take();
        if let Some(Entrance::Client(client)) = &mut entrance {
            // Behind the attempt that is under way.
            let outcome = client.leave();
            self.place.aside.post(move || drop(outcome));
        }
        entrance
    }

    fn stop(&self, cx: &mut dyn Cx) {
        cx.cancel(self.id(Token::Accept));
        if let Some(Entrance::Listening(listener)) = self.close_entrance() {
            self.place.aside.post(move || drop(listener));
        }
        let current = self.current.borrow().clone();
        match current {
            Some(connection) => connection.stop(cx),
            None => self.close(cx),
        }
    }

    fn close(&self, cx: &mut dyn Cx) {
        cx.unregister(self.sink.get());
        Local::on(cx).listeners.borrow_mut().remove(&self.id);
    }
}

impl Sink for Listener {
    fn complete(&self, token: u64, _result: IoResult, cx: &mut dyn Cx) {
        match token {
            token if token == Token::Retry as u64 => self.retrying.set(false),
            token if token == Token::Settled as u64 => self.settling.set(false),
            token if token == Token::Called as u64 => self.called(cx),
            _ => {}
        }
        self.accept(cx);
        self.call(cx);
    }
}
