//! Where a connection belongs.

use lunette_engine::Nexus;
use lunette_store::ReactorId;
use std::sync::Arc;

/// What all parts of a connection know of it.
pub(crate) struct Place {
    /// The export, for the log.
    pub(crate) name: String,
    pub(crate) nexus: Arc<Nexus>,
    /// Where the connection itself, the control and the event queue are.
    pub(crate) home: ReactorId,
    /// Where the request queues are, round robin.
    pub(crate) reactors: Arc<[ReactorId]>,
}

impl Place {
    /// The reactor of queue `index`.
    pub(crate) fn reactor(&self, index: u16) -> ReactorId {
        match index.checked_sub(2) {
            None => self.home,
            Some(request_queue) => self.reactors[usize::from(request_queue) % self.reactors.len()],
        }
    }
}
