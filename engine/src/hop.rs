//! Commands that hop to the reactor where their logical unit lives.
//!
//! A unit may be bound to some reactors ([`LogicalUnit::live_on`](crate::LogicalUnit::live_on)). A command that arrives
//! elsewhere with all its data is sent there, executed in a session of the same nexus, and its end is sent back. (A
//! transport that gathers data-out by and by [admits](Session::admit) commands where they arrive; they stay there.) Messages
//! between two reactors keep their order, so commands do too, and messages are in causal order
//! ([`Post`](lunette_store::Post)), so a task management function finds the commands before it, whichever way they went.

use crate::engine::Engine;
use crate::outcome::{Aborted, Completion};
use crate::session::{CommandFrame, Responder, Session, Started};
use crate::tasks::Task;
use crate::{Nexus, NexusId};
use lunette_scsi::{Cdb, ServiceResponse};
use lunette_store::{Cx, ReactorId, Sg, SgList};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// The hops of one reactor, both ways.
#[derive(Default)]
pub(crate) struct Hops {
    next: Cell<u64>,
    /// Commands that arrived here and are away.
    away: RefCell<HashMap<u64, Away>>,
    /// Where the commands of other reactors that are here came from.
    visitors: Rc<Visitors>,
    /// In which they are executed.
    sessions: RefCell<HashMap<NexusId, Rc<Session>>>,
}

struct Away {
    at: ReactorId,
    responder: Weak<dyn Responder>,
    cookie: u64,
}

/// Answers the commands of other reactors.
#[derive(Default)]
struct Visitors(RefCell<HashMap<u64, Origin>>);

#[derive(Clone, Copy)]
struct Origin {
    reactor: ReactorId,
    /// What the command is known by there.
    ticket: u64,
}

/// Some of the commands of other reactors.
pub(crate) struct Selection {
    responder: Weak<dyn Responder>,
    cookies: HashSet<u64>,
}

impl Selection {
    pub(crate) fn include(&self, task: &Task) -> bool {
        task.itl.responder.ptr_eq(&self.responder) && self.cookies.contains(&task.cookie)
    }
}

/// A command on its way.
struct Visit {
    nexus: Arc<Nexus>,
    /// Without the CDB and with the ticket for a cookie.
    frame: CommandFrame<'static>,
    cdb: Cdb,
    data_out: SgList,
    data_in: SgList,
    from: ReactorId,
    /// How often the nexus had been lost when its session was opened.
    losses: u64,
}

/// Stands in a frame whose CDB travels beside it.
static ELSEWHERE: Cdb = match Cdb::new(&[0]) {
    Ok(cdb) => cdb,
    Err(_) => unreachable!(),
};

impl Hops {
    fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    /// The nexus has ended: what is left of it here ends with its last task.
    pub(crate) fn forget(&self, nexus: NexusId) {
        self.sessions.borrow_mut().remove(&nexus);
    }

    /// The tickets of a responder's commands that are away, by where they are.
    pub(crate) fn away_of(&self, responder: &Weak<dyn Responder>) -> BTreeMap<ReactorId, HashSet<u64>> {
        let mut tickets = BTreeMap::<_, HashSet<_>>::new();
        for (ticket, away) in self.away.borrow().iter().filter(|(_, away)| away.responder.ptr_eq(responder)) {
            tickets.entry(away.at).or_default().insert(*ticket);
        }
        tickets
    }

    /// The commands of another reactor that are here with one of these tickets.
    pub(crate) fn visitors(&self, from: ReactorId, tickets: &HashSet<u64>) -> Selection {
        let visitors = self.visitors.0.borrow();
        let wanted = |origin: &Origin| origin.reactor == from && tickets.contains(&origin.ticket);
        let cookies =
            visitors.iter().filter(|(_, origin)| wanted(origin)).map(|(cookie, _)| *cookie).collect();
        Selection { responder: Rc::downgrade(&self.visitors) as Weak<dyn Responder>, cookies }
    }

    fn session(&self, nexus: Arc<Nexus>, cx: &mut dyn Cx) -> Rc<Session> {
        let mut sessions = self.sessions.borrow_mut();
        let responder = Rc::downgrade(&self.visitors);
        sessions.entry(nexus.id()).or_insert_with(|| Rc::new(Session::open(nexus, responder, cx))).clone()
    }
}

impl Engine {
    /// Has a command executed on reactor `to`.
    pub(crate) fn hop(
        &self,
        to: ReactorId,
        session: &Session,
        command: &CommandFrame<'_>,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Started {
        let ticket = self.hops.number();
        let away = Away { at: to, responder: session.responder().clone(), cookie: command.cookie };
        self.hops.away.borrow_mut().insert(ticket, away);
        let mut visit = Visit {
            nexus: session.nexus().clone(),
            frame: CommandFrame { cdb: &ELSEWHERE, cookie: ticket, ..*command },
            cdb: *command.cdb,
            data_out: SgList::new(),
            data_in: SgList::new(),
            from: self.reactor,
            losses: session.losses(),
        };
        visit.data_out.assign(data_out);
        visit.data_in.assign(data_in);
        Self::post(to, cx, move |engine, cx| engine.receive(visit, cx));
        Started::Pending
    }

    fn receive(&self, visit: Visit, cx: &mut dyn Cx) {
        // The end of the nexus may have come here, from a third reactor, before this.
        if visit.losses != visit.nexus.losses() {
            let (from, ticket) = (visit.from, visit.frame.cookie);
            let lost = Completion::Aborted(Aborted::NexusLost);
            return Self::post(from, cx, move |engine, cx| engine.returned(ticket, lost, cx));
        }
        let cookie = self.hops.number();
        let origin = Origin { reactor: visit.from, ticket: visit.frame.cookie };
        self.hops.visitors.0.borrow_mut().insert(cookie, origin);
        let session = self.hops.session(visit.nexus, cx);
        let frame = CommandFrame { cdb: &visit.cdb, cookie, ..visit.frame };
        match session.execute_here(&frame, visit.data_out.as_sg(), visit.data_in.as_sg(), cx) {
            Started::Ended(outcome) => {
                self.hops.visitors.command_ended(cookie, Completion::Ended(outcome), cx)
            }
            Started::Pending => {}
        }
    }

    /// A command that was away has ended.
    fn returned(&self, ticket: u64, completion: Completion, cx: &mut dyn Cx) {
        let Some(away) = self.hops.away.borrow_mut().remove(&ticket) else { return };
        if let Some(responder) = away.responder.upgrade() {
            responder.command_ended(away.cookie, completion, cx);
        }
    }
}

impl Responder for Visitors {
    fn command_ended(&self, cookie: u64, completion: Completion, cx: &mut dyn Cx) {
        if let Some(Origin { reactor, ticket }) = self.0.borrow_mut().remove(&cookie) {
            Engine::post(reactor, cx, move |engine, cx| engine.returned(ticket, completion, cx));
        }
    }

    fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {}
}
