//! What the connections of one reactor share.

use crate::budget::Budget;
use crate::connection::{Connection, Token};
use crate::limits::{CONNECTION_MEMORY, REACTOR_BUFFERS, REACTOR_BUFFERS_KEPT, RECEIVE, SPARES};
use lunette_store::pool::Pool;
use lunette_store::{Cx, IoId, Message, ReactorId, SinkId, local_or_insert};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) reactor: ReactorId,
    pub(crate) connection: u64,
}

impl Place {
    /// A place for a new connection.
    pub(crate) fn new(reactor: ReactorId) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { reactor, connection: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
}

pub(crate) struct Local {
    pub(crate) pool: Pool,
    /// Who has how much of that.
    pub(crate) budget: Rc<Budget>,
    /// What has just been received, before it is parsed.
    pub(crate) receive: RefCell<Vec<u8>>,
    /// Buffers for input that has to wait.
    spares: RefCell<Vec<Vec<u8>>>,
    /// Bytes that the buffers of connections occupy.
    pub(crate) occupied: Cell<usize>,
    /// How many sockets there are whose last input is taken in.
    pub(crate) lingering: Cell<usize>,
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    /// Connections with commands that found no buffer, in the order in which they began to wait.
    hungry: RefCell<Vec<SinkId>>,
}

impl Local {
    pub(crate) fn of(cx: &mut dyn Cx) -> Rc<Self> {
        let pool = Pool::of(cx, || Pool::new(REACTOR_BUFFERS, REACTOR_BUFFERS_KEPT));
        local_or_insert(cx, |_| {
            Rc::new(Self {
                pool,
                budget: Rc::default(),
                receive: RefCell::new(vec![0; RECEIVE]),
                spares: RefCell::default(),
                occupied: Cell::new(0),
                lingering: Cell::new(0),
                connections: RefCell::default(),
                hungry: RefCell::default(),
            })
        })
    }

    pub(crate) fn add(&self, connection: &Rc<Connection>) {
        self.connections.borrow_mut().insert(connection.place.connection, connection.clone());
    }

    pub(crate) fn remove(&self, connection: &Connection) {
        self.connections.borrow_mut().remove(&connection.place.connection);
    }

    pub(crate) fn connections(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().values().cloned().collect()
    }

    /// Ends the connections that occupy the most memory, if all together occupy too much.
    pub(crate) fn relieve(&self, cx: &mut dyn Cx) {
        if self.occupied.get() <= CONNECTION_MEMORY {
            return;
        }
        let connections = self.connections.borrow();
        connections.values().for_each(|connection| connection.shrink());
        while self.occupied.get() > CONNECTION_MEMORY {
            let greediest = connections.values().max_by_key(|connection| connection.occupied());
            let Some(greediest) = greediest.filter(|connection| connection.occupied() > 0) else { return };
            greediest.condemn(cx);
        }
    }

    /// An empty buffer for input that has to wait.
    pub(crate) fn take_spare(&self) -> Vec<u8> {
        self.spares.borrow_mut().pop().unwrap_or_default()
    }

    /// Such a buffer is not needed any more.
    pub(crate) fn put_spare(&self, mut spare: Vec<u8>) {
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARES && spare.capacity() <= 2 * RECEIVE {
            spare.clear();
            spares.push(spare);
        }
    }

    /// Has a connection told, once, when buffers have come back. It waits only once at a time.
    pub(crate) fn is_hungry(&self, sink: SinkId) {
        self.hungry.borrow_mut().push(sink);
    }

    /// Tells those that wait for buffers, if any have come back.
    pub(crate) fn feed_hungry(&self, cx: &mut dyn Cx) {
        if !self.budget.take_relief() {
            return;
        }
        for sink in self.hungry.borrow_mut().drain(..) {
            cx.complete(IoId { sink, token: Token::BUFFERS }, Ok(0));
        }
    }
}

/// Calls `act` with a connection on its reactor, if it is still there.
pub(crate) fn post(
    place: Place,
    cx: &mut dyn Cx,
    act: impl FnOnce(&Connection, &mut dyn Cx) + Send + 'static,
) {
    post_or(place, cx, act, |_| ());
}

/// The same; `otherwise` is called there if it has gone.
pub(crate) fn post_or(
    place: Place,
    cx: &mut dyn Cx,
    act: impl FnOnce(&Connection, &mut dyn Cx) + Send + 'static,
    otherwise: impl FnOnce(&mut dyn Cx) + Send + 'static,
) {
    cx.poster().post(place.reactor, message(place, act, otherwise));
}

/// The same as a message to its reactor.
pub(crate) fn message(
    place: Place,
    act: impl FnOnce(&Connection, &mut dyn Cx) + Send + 'static,
    otherwise: impl FnOnce(&mut dyn Cx) + Send + 'static,
) -> Message {
    Box::new(move |cx: &mut dyn Cx| {
        let connection = Local::of(cx).connections.borrow().get(&place.connection).cloned();
        match connection {
            Some(connection) => act(&connection, cx),
            None => otherwise(cx),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Held, Share};
    use lunette_store::sim::Sim;
    use lunette_store::{IoResult, Sink};

    /// Notes who was told.
    struct Told(u64, Rc<RefCell<Vec<u64>>>);

    impl Sink for Told {
        fn complete(&self, _: u64, _: IoResult, _: &mut dyn Cx) {
            self.1.borrow_mut().push(self.0);
        }
    }

    #[test]
    fn who_waits_for_buffers_is_told_when_some_have_come_back() {
        let mut sim = Sim::new(1);
        let told = Rc::<RefCell<Vec<u64>>>::default();
        let local = Local::of(sim.cx(0));
        for number in [1, 2, 3] {
            let sink = sim.cx(0).register(Rc::new(Told(number, told.clone())));
            local.is_hungry(sink);
        }
        let mut feed = || {
            local.feed_hungry(sim.cx(0));
            sim.settle();
            told.take()
        };
        assert!(feed().is_empty(), "nothing has");
        let mut share = Share::of(&local.budget);
        assert!(share.take(4096));
        share.give_back(Held::default());
        assert!(feed().is_empty());
        share.give_back(Held { solicited: 4096, unsolicited: 0 });
        assert_eq!(feed(), [1, 2, 3]);
        assert!(share.take_unsolicited(4096));
        drop(share);
        assert!(feed().is_empty(), "nobody waits any more");
    }
}
