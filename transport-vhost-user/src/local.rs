//! What this crate keeps on each reactor, so that messages from other reactors find it.

use crate::connection::Connection;
use crate::export::Listener;
use crate::queue::Queue;
use lunette_store::{Cx, ReactorId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Declares a number for things that reactors know by it.
macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub(crate) struct $name(u64);

        impl $name {
            pub(crate) fn next() -> Self {
                static NEXT: AtomicU64 = AtomicU64::new(0);
                Self(NEXT.fetch_add(1, Ordering::Relaxed))
            }
        }
    };
}

numbers! {
    /// An export of the program.
    ExportId
}

numbers! {
    /// A connection of the program.
    ConnectionId
}

/// The exports, connections and queues of one reactor.
#[derive(Default)]
pub(crate) struct Local {
    pub(crate) listeners: RefCell<HashMap<ExportId, Rc<Listener>>>,
    pub(crate) connections: RefCell<HashMap<ConnectionId, Rc<Connection>>>,
    pub(crate) queues: RefCell<HashMap<(ConnectionId, u16), Rc<Queue>>>,
}

impl Local {
    pub(crate) fn on(cx: &mut dyn Cx) -> Rc<Self> {
        lunette_store::local_or_insert(cx, |_| Rc::default())
    }

    pub(crate) fn connection(&self, id: ConnectionId) -> Option<Rc<Connection>> {
        self.connections.borrow().get(&id).cloned()
    }

    pub(crate) fn queue(&self, id: ConnectionId, index: u16) -> Option<Rc<Queue>> {
        self.queues.borrow().get(&(id, index)).cloned()
    }

    /// All queues of a connection that are on this reactor.
    pub(crate) fn queues_of(&self, id: ConnectionId) -> Vec<Rc<Queue>> {
        let queues = self.queues.borrow();
        queues.iter().filter(|((owner, _), _)| *owner == id).map(|(_, queue)| queue.clone()).collect()
    }
}

/// Runs `act` on reactor `to`, after the caller has returned.
pub(crate) fn post(to: ReactorId, cx: &mut dyn Cx, act: impl FnOnce(&Local, &mut dyn Cx) + Send + 'static) {
    let message = move |cx: &mut dyn Cx| {
        let local = Local::on(cx);
        act(&local, cx);
    };
    cx.poster().post(to, Box::new(message));
}
