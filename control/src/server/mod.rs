//! The daemon's end of the socket.

mod client;

use crate::events::History;
use crate::plane::{Feed, Plane};
use crate::rpc::{self, Asked};
use crate::waker::Waker;
use crate::{AccessRules, Caller, Credentials, Failure, Role, Ticket};
use client::Client;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many connections are accepted in one turn.
const ACCEPTED: usize = 64;
/// How much is taken from all clients in one turn, in bytes.
const TURN: usize = 4 << 20;
/// Most bytes that are kept for all readers.
const READERS_KEPT: usize = 64 << 20;
/// How long no client is accepted when none can be.
const PAUSE: Duration = Duration::from_secs(1);

/// Is told who was refused or cut off, and why, as often as that happens.
pub type Refused = Box<dyn FnMut(&Credentials, &Failure) + Send>;

/// Who is let in, and how many.
pub struct Door {
    /// Who may do what.
    pub rules: AccessRules,
    /// Most clients at a time; readers get half of it, and one user of them an eighth.
    pub clients: usize,
    /// Is told of everybody else.
    pub refused: Refused,
}

impl Default for Door {
    fn default() -> Self {
        Self { rules: AccessRules::default(), clients: 256, refused: Box::new(|_, _| ()) }
    }
}

/// The socket and those who have connected to it. It has no thread: whoever waits for other things too [waits](Self::wait)
/// through it and then gives it a [turn](Self::turn).
pub struct Server<D> {
    plane: Arc<Plane<D>>,
    listener: Option<UnixListener>,
    door: Door,
    history: History,
    waker: Arc<Waker>,
    outbox: Arc<Outbox>,
    clients: BTreeMap<u64, Client>,
    /// The number of the last client.
    last: u64,
    /// The client that comes first in the next turn.
    first: u64,
    /// There is more to do than one turn's share.
    has_more: bool,
    /// No client can be accepted for the moment.
    is_pausing: bool,
}

/// Answers on their way to their clients.
struct Outbox {
    answers: Mutex<Vec<Answer>>,
    waker: Arc<Waker>,
}

/// The answer to one request of a line; `None`: none is wanted.
struct Answer {
    client: u64,
    line: u64,
    text: Option<String>,
}

impl Outbox {
    fn put(&self, answer: Answer) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        self.waker.wake();
    }

    fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<D: Send + Sync + 'static> Server<D> {
    /// Serves those who connect to `listener`; nobody, if there is none.
    ///
    /// # Errors
    /// When the socket cannot be used without blocking.
    pub fn new(
        listener: Option<UnixListener>,
        door: Door,
        plane: Arc<Plane<D>>,
        feed: Feed,
    ) -> io::Result<Self> {
        listener.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
        let Feed { inbox, waker, .. } = feed;
        let outbox = Arc::new(Outbox { answers: Mutex::default(), waker: waker.clone() });
        let history = History::new(inbox, plane.about.all_kinds());
        Ok(Self {
            plane,
            listener,
            door,
            history,
            waker,
            outbox,
            clients: BTreeMap::new(),
            last: 0,
            first: 0,
            has_more: false,
            is_pausing: false,
        })
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Waits until there is something to do, or until one of `others` can be read.
    ///
    /// # Errors
    /// When it cannot; most likely there is no memory.
    pub fn wait(&mut self, others: &[BorrowedFd<'_>]) -> io::Result<()> {
        let others = others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN));
        let waker = PollFd::new(self.waker.descriptor(), PollFlags::IN);
        let listener = self.listener.as_ref().filter(|_| !self.is_pausing);
        let listener = listener.map(|listener| PollFd::new(listener, PollFlags::IN));
        let fixed: Vec<_> = others.chain([waker]).chain(listener).collect();
        let count = fixed.len();
        let clients = self.clients.values().map(Client::source);
        let mut sources: Vec<_> = fixed.into_iter().chain(clients).collect();
        let most = match (self.has_more, self.is_pausing) {
            (true, _) => Some(Duration::ZERO),
            (false, true) => Some(PAUSE),
            (false, false) => None,
        };
        let most = most.and_then(|most| Timespec::try_from(most).ok());
        match poll(&mut sources, most.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<_> = sources[count..].iter().map(PollFd::revents).collect();
        self.clients.values_mut().zip(ready).for_each(|(client, ready)| client.set_ready(ready));
        Ok(())
    }

    /// Does what can be done without waiting, and no more for anybody than his share.
    pub fn turn(&mut self) {
        self.has_more = false;
        self.accept();
        self.receive();
        // Before it is looked at what there is.
        self.waker.hear();
        self.deliver();
        self.history.take_in();
        self.send();
    }

    fn accept(&mut self) {
        let was_pausing = std::mem::take(&mut self.is_pausing);
        for _ in 0..ACCEPTED {
            let accepted = self.listener.as_ref().map(UnixListener::accept);
            match accepted {
                Some(Ok((stream, _))) => self.admit(stream),
                None => return,
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => return,
                Some(Err(error)) => {
                    // There are no descriptors, most likely.
                    if !was_pausing {
                        tracing::warn!(%error, "cannot accept a connection to the control socket");
                    }
                    self.is_pausing = true;
                    return;
                }
            }
        }
        self.has_more = true;
    }

    /// Serves a connection, or refuses it.
    fn admit(&mut self, mut stream: UnixStream) {
        let ready = stream.set_nonblocking(true).and_then(|()| Credentials::of_peer(&stream));
        // It has gone, most likely.
        let Ok(credentials) = ready else { return };
        let role = self.door.rules.role_of(&credentials);
        match role.and_then(|role| self.has_room(role, credentials.uid).map(|()| role)) {
            Ok(role) => {
                self.last += 1;
                let caller = Caller { credentials, role, connection: Some(self.last) };
                self.clients.insert(self.last, Client::new(stream, caller));
            }
            Err(failure) => {
                // It fits, or nobody listens.
                let _ = writeln!(stream, "{}", rpc::answer(&Value::Null, &Err(failure.clone())));
                (self.door.refused)(&credentials, &failure);
            }
        }
    }

    /// Whether there is room for another client.
    fn has_room(&self, role: Role, uid: u32) -> Result<(), Failure> {
        let most = self.door.clients;
        let refuse =
            |count, whose| Err(Failure::busy(format!("there are {count} connections{whose} already")));
        if self.clients.len() >= most {
            return refuse(self.clients.len(), "");
        }
        if role == Role::Reader {
            let readers = || self.clients.values().filter(|client| client.is_reader());
            let of_user = readers().filter(|client| client.caller.credentials.uid == uid).count();
            if readers().count() >= most.div_ceil(2) {
                return refuse(readers().count(), " of readers");
            }
            if of_user >= most.div_ceil(8) {
                return refuse(of_user, " of this user");
            }
        }
        Ok(())
    }

    /// Takes requests, from another client first each time.
    fn receive(&mut self) {
        let mut left = TURN;
        let later: Vec<u64> = self.clients.range(self.first..).map(|(number, _)| *number).collect();
        let earlier: Vec<u64> = self.clients.range(..self.first).map(|(number, _)| *number).collect();
        for number in later.into_iter().chain(earlier) {
            if left == 0 {
                // The others come first in the next turn.
                self.has_more = true;
                self.first = number;
                return;
            }
            let Some(mut client) = self.clients.remove(&number) else { continue };
            let taken = client.take(&mut left, |client, line, asked| self.begin(client, number, line, asked));
            match taken {
                Ok(()) => drop(self.clients.insert(number, client)),
                Err(_) => self.plane.jobs.cancel_of(Some(number)),
            }
        }
        self.first = self.clients.range(self.first + 1..).next().map_or(0, |(number, _)| *number);
    }

    /// Begins to carry out a request.
    fn begin(&self, client: &mut Client, number: u64, line: u64, asked: Asked) {
        let Asked { id, what } = asked;
        let outbox = self.outbox.clone();
        let ticket = Ticket::new(move |result| {
            let text = id.map(|id| rpc::answer(&id, &result));
            outbox.put(Answer { client: number, line, text });
        });
        let method = what.and_then(|request| {
            let method = self.plane.find(&request.method, &client.caller)?;
            Ok((method, request.params))
        });
        match method {
            Err(failure) => ticket.answer(Err(failure)),
            Ok((method, params)) => match method.of_connection() {
                Some(built_in) => {
                    let subscriptions = &mut client.subscriptions;
                    let instance = &self.plane.instance;
                    ticket.answer(built_in.answer_here(instance, params, subscriptions, &self.history));
                }
                None => self.plane.carry_out(method, client.caller.clone(), params, ticket),
            },
        }
    }

    fn deliver(&mut self) {
        for Answer { client, line, text } in self.outbox.take() {
            // Who has gone wants no answer.
            if let Some(client) = self.clients.get_mut(&client) {
                client.answered(line, text);
            }
        }
    }

    fn send(&mut self) {
        let (history, jobs) = (&self.history, &self.plane.jobs);
        self.clients.retain(|number, client| {
            let stays = client.send(history).is_ok();
            if !stays {
                jobs.cancel_of(Some(*number));
            }
            self.has_more |= stays && client.has_more();
            stays
        });
        self.bound_readers();
    }

    /// Cuts off who leaves most unread, while too much is kept for readers.
    fn bound_readers(&mut self) {
        let readers = self.clients.iter().filter(|(_, client)| client.is_reader());
        let mut all: Vec<_> = readers.map(|(number, client)| (client.kept(), *number)).collect();
        all.sort_unstable();
        let mut total: usize = all.iter().map(|(kept, _)| kept).sum();
        while total > READERS_KEPT
            && let Some((kept, number)) = all.pop()
        {
            total -= kept;
            if let Some(client) = self.clients.remove(&number) {
                self.plane.jobs.cancel_of(Some(number));
                let why = format!("it left {kept} bytes unread, the most of all readers");
                (self.door.refused)(&client.caller.credentials, &Failure::busy(why));
            }
        }
    }
}

#[cfg(test)]
mod tests;
