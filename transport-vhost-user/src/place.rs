//! What an export's connections and queues share.

use crate::aside::Aside;
use crate::events::Events;
use crate::lease::Lease;
use crate::targets::Targets;
use lunette_store::log::LineBudget;
use lunette_store::{Cx, ReactorId};
use std::sync::Arc;

/// On which of an export's `reactors`, of which there is at least one, a request queue is: they take turns. Queues are
/// counted from 0.
pub fn reactor_of(request_queue: u16, reactors: &[ReactorId]) -> ReactorId {
    reactors[usize::from(request_queue) % reactors.len()]
}

/// What all parts of an export know of it.
pub(crate) struct Place {
    /// The export, for the log.
    pub(crate) name: String,
    pub(crate) targets: Arc<Targets>,
    pub(crate) events: Arc<Events>,
    /// Where connections themselves, control and event queues are.
    pub(crate) home: ReactorId,
    /// Where the request queues are, round robin.
    pub(crate) reactors: Arc<[ReactorId]>,
    /// Guest memory is kept in memory.
    pub(crate) pin_memory: bool,
    /// What is in flight is noted for front ends too that keep no memory for that.
    pub(crate) keep_notes: bool,
    /// Where the front end can hold up this export alone.
    pub(crate) aside: Aside,
    pub(crate) log: LineBudget,
    pub(crate) observer: Observer,
    /// Whom to ask whether the units may be served here, if anybody.
    pub(crate) lease: Option<Arc<dyn Lease>>,
}

/// Something that has happened to an export.
#[derive(Clone, Copy)]
pub enum ExportEvent<'a> {
    /// A front end has connected; one that was connected to has spoken.
    Connected,
    /// An attempt to connect to the front end has failed; why.
    Unreachable(&'a str),
    /// The front end was connected to. It has not spoken yet, or not even accepted the connection.
    Reached,
    /// It has disconnected (`None`), or the connection was ended; why.
    Disconnected(Option<&'a str>),
    /// Something that another process would need to go on ([`Handle::snapshot`](crate::Handle::snapshot)) has changed.
    Agreed,
}

/// Who wants to know, if anybody does.
#[derive(Default)]
pub(crate) struct Observer(pub(crate) Option<Tell>);

pub(crate) type Tell = Box<dyn Fn(ExportEvent<'_>) + Send + Sync>;

impl Observer {
    pub(crate) fn tell(&self, event: ExportEvent<'_>) {
        if let Some(tell) = &self.0 {
            tell(event);
        }
    }
}

impl Place {
    /// The reactor of queue `index`.
    pub(crate) fn reactor(&self, index: u16) -> ReactorId {
        match index.checked_sub(2) {
            None => self.home,
            Some(request_queue) => reactor_of(request_queue, &self.reactors),
        }
    }

    /// Whether a line may be written to the log that the guest or the front end causes, as often as it likes.
    pub(crate) fn may_log(&self, cx: &dyn Cx) -> bool {
        self.log.allows(&self.name, cx.now())
    }
}
