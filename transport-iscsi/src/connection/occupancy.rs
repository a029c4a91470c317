//! The memory that a connection's own buffers occupy: for what has come in part, and for what is to be sent.

use super::{Connection, Phase, State, Token};
use lunette_store::{Cx, IoId};

impl State {
    fn footprint(&self) -> usize {
        let machine = match &self.phase {
            Phase::Login(login, _) => login.footprint(),
            Phase::FullFeature(full) => full.machine.footprint(),
        };
        self.out.footprint() + self.stash.as_ref().map_or(0, Vec::capacity) + machine
    }

    /// Gives back everything: the connection is over, but the engine may hold its commands for long.
    pub(super) fn drop_buffers(&mut self) {
        self.stash = None;
        self.out.shrink();
        if let Phase::FullFeature(full) = &mut self.phase {
            full.machine.drop_buffers();
            debug_assert_eq!(self.footprint(), 0);
        }
    }

    /// Gives back what an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        self.out.shrink();
        if let Phase::FullFeature(full) = &mut self.phase {
            full.machine.shrink();
        }
    }
}

impl Connection {
    /// Counts what its buffers occupy. Somebody has to go if those of the whole reactor occupy too much.
    pub(super) fn count_memory(&self, state: &State, cx: &mut dyn Cx) {
        let (before, now) = (self.occupied.get(), state.footprint());
        if before != now && !self.condemned.get() {
            self.occupied.set(now);
            self.local.occupied.update(|all| all - before + now);
            if now > before {
                self.local.relieve(cx);
            }
        }
    }

    /// It counts no more.
    pub(super) fn release_memory(&self) {
        self.local.occupied.update(|all| all - self.occupied.take());
        self.condemned.set(true);
    }

    /// What its buffers occupy, as far as that counts.
    pub(crate) fn occupied(&self) -> usize {
        self.occupied.get()
    }

    /// Gives back what it can without a loss, unless it is at work.
    pub(crate) fn shrink(&self) {
        if let Ok(mut state) = self.state.try_borrow_mut()
            && !self.condemned.get()
        {
            state.out.shrink();
            let before = self.occupied.replace(state.footprint());
            self.local.occupied.update(|all| all - before + self.occupied.get());
        }
    }

    /// It ends soon, and counts no more from now on.
    pub(crate) fn condemn(&self, cx: &mut dyn Cx) {
        self.release_memory();
        cx.complete(IoId { sink: self.sink.get(), token: Token::CONDEMNED }, Ok(0));
    }
}
