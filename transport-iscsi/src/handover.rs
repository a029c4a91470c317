//! Sessions that go on in another process: a planned restart that their initiators see as a pause.
//!
//! One process [hands them over](NetworkEntity::hand_over), with their sockets; the other [goes on](NetworkEntity::resume) with
//! them. In between nothing is received: the kernel keeps what initiators send. The nexuses are not lost, so nobody hears of a
//! reset, and what an initiator has reserved stays its own.

use crate::connection::{Connection, Returning};
use crate::entity::ANSWER_TIME;
use crate::events::{self, Events};
use crate::local::{Local, Place};
use crate::portal::Shared;
use crate::sessions::{Entry, InitiatorPort, NexusKey};
use crate::{NetworkEntity, Target};
use lunette_engine::{Nexus, NexusState};
use lunette_iscsi::pdu::AsyncEvent;
use lunette_iscsi::target::{Accepted, NoSession, SessionInfo, SessionState, SessionType};
use lunette_iscsi::{Outbox, Piece};
use lunette_reactor::Reactors;
use lunette_store::{Cx, ReactorId};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// A session on its way from one process to another.
#[derive(Debug)]
pub struct HandedSession {
    /// Its connection.
    pub socket: OwnedFd,
    /// Everything else.
    pub state: HandedState,
}

/// A session that has come to rest. Its nexus is still there: what others cause meanwhile becomes known to it.
pub struct RestingSession {
    pub(crate) socket: OwnedFd,
    pub(crate) group_tag: u16,
    pub(crate) session: SessionState,
    pub(crate) nexus: Arc<Nexus>,
}

impl RestingSession {
    /// Gives it to another process. To be said when nothing is under way any more, of any initiator.
    pub fn hand_over(self) -> HandedSession {
        let Self { socket, group_tag, session, nexus } = self;
        HandedSession { socket, state: HandedState { group_tag, session, nexus: nexus.hand_over() } }
    }
}

/// What is handed over of a session beside its socket: plain data.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HandedState {
    /// The tag of the portal group that it came through.
    pub(crate) group_tag: u16,
    pub(crate) session: SessionState,
    pub(crate) nexus: NexusState,
}

impl HandedState {
    /// Who talks to whom.
    pub fn info(&self) -> &SessionInfo {
        &self.session.info
    }

    /// The world-wide names of the logical units that the initiator saw.
    pub fn units(&self) -> impl Iterator<Item = &str> {
        self.nexus.units()
    }
}

/// Why a session does not go on.
#[derive(Debug, Error)]
enum Lost {
    #[error("its socket cannot be used: {0}")]
    Socket(#[from] io::Error),
    #[error(transparent)]
    State(#[from] NoSession),
    #[error("there is no such target any more")]
    Target,
    #[error("there is no portal of its group any more")]
    Portal,
    #[error("its target does not let it in any more: {0}")]
    Denied(&'static str),
    #[error("another session has its handle, or is of the same nexus")]
    Taken,
}

impl NetworkEntity {
    /// From now on portals accept no connection, until sessions have been [resumed](Self::resume). The kernel keeps those that come,
    /// as many as fit into its queue. To be said before the first portal opens if sessions of another process are to go on.
    pub fn hold(&self) {
        self.set_holding(true);
    }

    /// Gives up the sessions that can go on in another process, and [holds](Self::hold) the portals.
    ///
    /// Each session is frozen: what its initiator may send yet is carried out and answered, and then nothing more is received. Those
    /// that have come to rest `within` that time are given up, without a word and without a loss of their nexus: no state of a
    /// logical unit is to be taken before this returns. Logins and discovery sessions end at once, and the initiators of all others are
    /// asked to log out, as if their [portal stopped](crate::Portal::begin_stop). Not to be called on a reactor.
    pub fn hand_over(self: &Arc<Self>, within: Duration, reactors: &Reactors) -> Vec<RestingSession> {
        let until = Instant::now() + within;
        self.hold();
        let drain = Arc::<Drain>::default();
        let freeze = || {
            let (entity, drain) = (self.clone(), drain.clone());
            move |cx: &mut dyn Cx| entity.connections(cx).iter().for_each(|one| one.freeze(&drain, cx))
        };
        reactors.call_all_within(within, freeze);
        drain.wait(until);
        let collect = || {
            let entity = self.clone();
            move |cx: &mut dyn Cx| {
                let connections = entity.connections(cx);
                connections.iter().filter_map(|one| one.hand_over(cx)).collect::<Vec<_>>()
            }
        };
        let answers = reactors.call_all_within(ANSWER_TIME, collect);
        for (reactor, _) in answers.iter().enumerate().filter(|(_, answer)| answer.is_none()) {
            tracing::warn!(reactor, "the reactor does not answer: its iSCSI sessions are not handed over");
        }
        answers.into_iter().flatten().flatten().collect()
    }

    /// Goes on with sessions of another process, each at a portal of its portal group, and has the portals accept connections.
    /// To be said when the targets are there, their logical units have taken over their states, and the portals listen, but were
    /// [held](Self::hold). Why one does not go on is said in the log; its connection is closed. Returns how many go on.
    pub fn resume(self: &Arc<Self>, sessions: Vec<HandedSession>, reactors: &Reactors) -> usize {
        // None is served before the nexuses of all are there, with what each has reserved and is to be told.
        let mut starts = Vec::new();
        for HandedSession { socket, state: HandedState { group_tag, session, nexus } } in sessions {
            let resumed = session.resume().map_err(Lost::from);
            let result = resumed.and_then(|(connection, session, begun)| {
                let coming = Coming { socket: socket.into(), group_tag, nexus, begun };
                self.readmit(coming, Accepted { connection, session }, reactors)
            });
            match result {
                Ok(start) => starts.push(start),
                Err(why) => tracing::warn!("an iSCSI session does not go on: {why}"),
            }
        }
        let count = starts.len();
        for Start { reactor, returning, portal } in starts {
            reactors.poster().post(reactor, Box::new(move |cx| Connection::take_over(returning, portal, cx)));
        }
        self.set_holding(false);
        self.portals().into_iter().for_each(|portal| portal.accept_again(&*reactors.poster()));
        count
    }

    /// Lets a session in as a login would, but for the proof, which it has given.
    fn readmit(
        self: &Arc<Self>,
        coming: Coming,
        mut accepted: Accepted,
        reactors: &Reactors,
    ) -> Result<Start, Lost> {
        let ends = coming.ends()?;
        let entrance = match self.entrance(accepted.session.info(), coming.group_tag, ends) {
            Ok(entrance) => entrance,
            Err(why) => {
                coming.say_goodbye(&mut accepted);
                return Err(why);
            }
        };
        let Entrance { target, portal, key, entry, rule } = entrance;
        let (peer, reached) = ends;
        let reactor = self.loads.add().ok_or(Lost::Portal)?;
        let place = Place::new(reactor);
        let offer = target.offer();
        let events = Events::new(place, reactors.poster());
        let nexus = offer.nexus(coming.group_tag, rule, &key.initiator, events.clone());
        let leading = (accepted.connection.cid(), *accepted.session.parameters());
        let tsih = accepted.session.info().tsih;
        let opened = nexus.filter(|_| self.table().resume(tsih, key, entry, place, leading));
        let Some(nexus) = opened else {
            self.loads.remove(reactor);
            return Err(Lost::Taken);
        };
        if let Err(error) = nexus.take_over(&coming.nexus) {
            tracing::warn!(
                initiator = nexus.initiator,
                "a logical unit is as powered on to an initiator: {error}"
            );
        }
        portal.readmit(peer.ip());
        let Coming { socket, begun, .. } = coming;
        let returning =
            Returning { socket, peer, reached, place, accepted, begun, target, offer, nexus, events };
        Ok(Start { reactor, returning, portal })
    }

    /// Where a session comes in.
    fn entrance(
        &self,
        info: &SessionInfo,
        group: u16,
        (peer, reached): (SocketAddr, SocketAddr),
    ) -> Result<Entrance, Lost> {
        if info.session_type != SessionType::Normal || info.tsih == 0 {
            return Err(NoSession.into());
        }
        let target = self.target(&info.target_name).ok_or(Lost::Target)?;
        let offer = target.offer();
        let denied = |denied: crate::access::Denied| Lost::Denied(denied.reason());
        offer.port(group).ok_or(Lost::Portal)?;
        let rule = offer.admits(info, peer.ip()).map_err(denied)?;
        let portal = self.portal_for(group, reached).ok_or(Lost::Portal)?;
        let entry = Entry::new(offer.id_of(rule), info, peer.ip());
        let key = NexusKey { target: target.name().to_owned(), group, initiator: InitiatorPort::of(info) };
        Ok(Entrance { target, portal, key, entry, rule })
    }

    /// A portal of a group: that which listens on `reached`, if there is one.
    fn portal_for(&self, group: u16, reached: SocketAddr) -> Option<Arc<Shared>> {
        let mut portals = self.portals();
        portals.retain(|portal| portal.group_tag == group && portal.is_listening());
        let place = portals.iter().position(|portal| portal.listens_on(reached)).unwrap_or(0);
        portals.get(place).cloned()
    }

    /// Those of a reactor.
    fn connections(self: &Arc<Self>, cx: &mut dyn Cx) -> Vec<Rc<Connection>> {
        let mut connections = Local::of(cx).connections();
        connections.retain(|connection| Arc::ptr_eq(connection.entity(), self));
        connections
    }
}

/// A session that is let in, but not served yet.
struct Start {
    reactor: ReactorId,
    returning: Returning,
    portal: Arc<Shared>,
}

/// Where a session comes in, and as what.
struct Entrance {
    target: Arc<Target>,
    portal: Arc<Shared>,
    key: NexusKey,
    entry: Entry,
    /// The number of its access rule.
    rule: Option<usize>,
}

/// A session that may be let in, but for what the protocol machine has of it.
struct Coming {
    socket: TcpStream,
    group_tag: u16,
    nexus: NexusState,
    /// What of the stream comes before what is still to be received.
    begun: Vec<u8>,
}

impl Coming {
    /// The addresses of both ends. The socket is made what a connection needs.
    fn ends(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        self.socket.set_nonblocking(true)?;
        self.socket.set_nodelay(true)?;
        Ok((self.socket.peer_addr()?, self.socket.local_addr()?))
    }

    /// Says that the connection is dropped, if that can be sent at once.
    fn say_goodbye(&self, Accepted { connection, session }: &mut Accepted) {
        let mut out = Outbox::default();
        events::announce_drop(connection, session, AsyncEvent::DROP_CONNECTION, &mut out);
        for piece in out.pieces() {
            if let Piece::Bytes(bytes) = piece {
                // It is closed, whatever comes of this.
                let _ = (&self.socket).write(bytes);
            }
        }
    }
}

/// How many sessions have not come to rest.
#[derive(Default)]
pub(crate) struct Drain {
    left: Mutex<usize>,
    changed: Condvar,
}

/// A session that has not come to rest, as long as this is kept.
pub(crate) struct Awaited(Arc<Drain>);

impl Drain {
    /// There is one more.
    pub(crate) fn add(self: &Arc<Self>) -> Awaited {
        *self.left() += 1;
        Awaited(self.clone())
    }

    fn left(&self) -> MutexGuard<'_, usize> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is none, but not for longer than `until`.
    fn wait(&self, until: Instant) {
        let most = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.left(), most, |left| *left > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        *self.0.left() -= 1;
        self.0.changed.notify_all();
    }
}
