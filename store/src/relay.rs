//! Stores that hear the completions of their own operations.

use crate::{Caps, Cx, IoId, Op, Post, ReactorId, Sink, SinkId, Store, Submit};
use slab::Slab;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// A store that passes operations on under ids of its own and forwards their completions to whoever asked.
pub trait Relay: Store + Sink {
    /// What is kept of an operation that is on its way.
    type Kept;

    /// The operations that are on their way.
    fn pending(&self) -> &Pending<Self::Kept>;
}

/// Operations on their way, by the token they were passed on with. Its room is kept and used again.
pub struct Pending<T> {
    sink: OnceCell<SinkId>,
    kept: RefCell<Slab<T>>,
}

impl<T> Pending<T> {
    /// Keeps `kept`; returns the id to pass the operation on with.
    ///
    /// # Panics
    /// Before [`attach_relay`] was given the store.
    pub fn keep(&self, kept: T) -> IoId {
        IoId {
            sink: *self.sink.get().expect("attached before used"),
            token: self.kept.borrow_mut().insert(kept) as u64,
        }
    }

    /// What was kept under `token`; it is kept no more.
    pub fn take(&self, token: u64) -> Option<T> {
        self.kept.borrow_mut().try_remove(token as usize)
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty()
    }
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { sink: OnceCell::new(), kept: RefCell::default() }
    }
}

/// Registers `relay` as a sink for as long as the returned handle lives.
///
/// A handle that is dropped too early, with operations on their way, leaves the sink in place for ever: the kernel may
/// still write to memory of the relay's.
pub fn attach_relay<T: Relay + 'static>(cx: &mut dyn Cx, relay: T) -> Rc<dyn Store> {
    let relay = Rc::new(relay);
    let sink = cx.register(relay.clone());
    let _ = relay.pending().sink.set(sink);
    let released = Cell::new(false);
    Rc::new(Handle { relay, sink, reactor: cx.reactor(), poster: cx.poster(), released })
}

struct Handle<T: Relay> {
    relay: Rc<T>,
    sink: SinkId,
    reactor: ReactorId,
    poster: Arc<dyn Post>,
    /// The sink is not registered any more.
    released: Cell<bool>,
}

impl<T: Relay> Store for Handle<T> {
    fn caps(&self) -> &Caps {
        self.relay.caps()
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        self.relay.submit(op, id, cx)
    }

    fn release(&self, cx: &mut dyn Cx) {
        if self.relay.pending().is_empty() && !self.released.replace(true) {
            self.relay.release(cx);
            cx.unregister(self.sink);
        }
    }
}

impl<T: Relay> Drop for Handle<T> {
    fn drop(&mut self) {
        if self.relay.pending().is_empty() && !self.released.get() {
            let sink = self.sink;
            let message = move |cx: &mut dyn Cx| cx.unregister(sink);
            self.poster.post(self.reactor, Box::new(message));
        }
    }
}
