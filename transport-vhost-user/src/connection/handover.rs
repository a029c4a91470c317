//! Leaving a connection to another process: no message is read any more, the rings stop with what has begun, and what is
//! left goes along. The front end is told nothing.

use super::ledger::Ledger;
use super::state::{Phase, Taker};
use super::tenancy::Tenancy;
use super::{Connection, State};
use crate::handover::{HandedConnection, Record, Role, Snapshot};
use lunette_store::Cx;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

impl Connection {
    /// Leaves the connection to `taker` as soon as what has begun has ended; nothing if it ends otherwise.
    pub(crate) fn hand_over(&self, taker: Taker, cx: &mut dyn Cx) {
        let mut state = self.state();
        if state.phase != Phase::Open {
            return taker(None);
        }
        state.taker = Some(taker);
        drop(state);
        self.advance(cx);
    }

    /// What another process needs to go on, if this one should die.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut state = self.state();
        let is_settled = state.ledger.as_ref().is_none_or(Ledger::is_settled);
        match state.phase {
            Phase::Open if state.is_busy() || !is_settled => {
                state.has_changed = true;
                Snapshot::Unsettled
            }
            // Nobody could tell whether it is out of date.
            Phase::Open if state.ledger.is_none() => Snapshot::Nothing,
            // Without a descriptor for each it cannot be gone on with.
            Phase::Open => {
                let described = self.describe(&state, false);
                described.map_or(Snapshot::Nothing, |whole| Snapshot::Connection(Box::new(whole)))
            }
            _ => Snapshot::Nothing,
        }
    }

    /// Everything has ended that had begun.
    pub(super) fn leave(&self, state: &mut State, cx: &mut dyn Cx) {
        let handed = self.describe(state, true);
        if let Err(error) = &handed
            && self.place.may_log(cx)
        {
            tracing::warn!(export = %self.place.name, %error, "the connection cannot be handed over");
        }
        // Those that could not be given up end with this process.
        state.tenancy = Tenancy::Away;
        if let Some(taker) = state.taker.take() {
            taker(handed.ok());
        }
    }

    fn describe(&self, state: &State, drained: bool) -> io::Result<HandedConnection> {
        let mut fds = Descriptors::default();
        fds.add(Role::Socket, Some(self.socket.as_fd()))?;
        for (index, (_, file)) in (0..).zip(&state.files) {
            fds.add(Role::Memory(index), Some(file.as_fd()))?;
        }
        for (index, queue) in (0..).zip(&state.fds) {
            fds.add(Role::Kick(index), queue.kick.as_ref().map(|fd| fd.as_fd()))?;
            fds.add(Role::Call(index), queue.call.as_ref().map(|fd| fd.descriptor()))?;
            fds.add(Role::Error(index), queue.error.as_ref().map(|fd| fd.descriptor()))?;
        }
        fds.add(Role::Channel, state.channel.as_ref().map(AsFd::as_fd))?;
        fds.add(Role::Notes, state.notes_file.as_ref().map(|(_, fd)| fd.as_fd()))?;
        fds.add(Role::Ledger, state.ledger.as_ref().map(Ledger::file))?;
        fds.add(Role::Log, state.log_file.as_ref().map(|(_, fd)| fd.as_fd()))?;
        for (index, fd) in (0..).zip(state.decoder.begun_fds()) {
            fds.add(Role::Unread(index), Some(fd.as_fd()))?;
        }
        fds.add(Role::Unsent, state.outbox_fd.as_ref().map(AsFd::as_fd))?;
        let sizes = state.config.sizes;
        let record = Record {
            drained,
            backend: state.backend.state().clone(),
            rested: state.rested.clone(),
            waiting: state.waiting_anew().collect(),
            broken: state.broken.clone(),
            sizes: Some((sizes.sense, sizes.cdb)),
            forbidding: state.forbidding,
            unread: state.decoder.begun().to_vec(),
            unsent: state.outbox.clone(),
            notes: state.notes_file.as_ref().map(|(area, _)| *area),
            log: state.log_file.as_ref().map(|(area, _)| *area),
            agreement: state.ledger.as_ref().map(Ledger::number),
            events: self.place.events.hand_over(),
        };
        Ok(HandedConnection { record, fds: fds.0 })
    }
}

#[derive(Default)]
struct Descriptors(BTreeMap<Role, OwnedFd>);

impl Descriptors {
    fn add(&mut self, role: Role, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if let Some(fd) = fd {
            self.0.insert(role, fd.try_clone_to_owned()?);
        }
        Ok(())
    }
}
