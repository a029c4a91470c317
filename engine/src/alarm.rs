//! Waking what waits.

use crate::engine::Engine;
use lunette_store::{Cx, IoId, Message, Post, ReactorId};
use std::sync::Arc;

/// Wakes work that [waits](crate::Steps::wait), from wherever.
#[derive(Clone)]
pub struct Alarm {
    poster: Arc<dyn Post>,
    reactor: ReactorId,
    id: IoId,
}

impl Alarm {
    pub(crate) fn new(id: IoId, cx: &dyn Cx) -> Self {
        Self { poster: cx.poster(), reactor: cx.reactor(), id }
    }

    pub(crate) fn poster(&self) -> &Arc<dyn Post> {
        &self.poster
    }

    /// Ends the wait, now or when it begins.
    pub fn ring(&self) {
        let token = self.id.token;
        let message: Message = Box::new(move |cx| Engine::on(cx).rung(token, cx));
        self.poster.post(self.reactor, message);
    }
}
