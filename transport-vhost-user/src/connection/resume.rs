//! Going on with a connection that another process had.
//!
//! Its descriptors are looked at and its memory is mapped [aside](crate::aside), as if the front end had just sent them.

use super::descriptors::vet;
use super::ledger::Ledger;
use super::log::MappedLog;
use super::notes::Mapped;
use super::offer::{CONTROL_QUEUE, FIXED_QUEUES, LAYOUTS, offer};
use super::state::{kick, notifier};
use super::{Connection, EndReason, Phase, State, Token};
use crate::aside::{Aside, Foreign};
use crate::handover::{HandedConnection, Record, Role};
use crate::memory::MemoryMap;
use crate::queue::Fds;
use crate::wire::Sizes;
use lunette_store::Cx;
use lunette_vhost_user::{Backend, HEADER_SIZE, MAX_PAYLOAD, SharedRegion};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of a message or a reply.
const MOST_BYTES: usize = HEADER_SIZE + MAX_PAYLOAD;

/// A connection of another process on its way.
pub(super) struct Resuming(Arc<Mutex<Option<Result<Resumed, String>>>>);

struct Resumed {
    backend: Backend,
    record: Record,
    /// Those that are left.
    fds: BTreeMap<Role, OwnedFd>,
    map: MemoryMap,
    files: Vec<SharedRegion>,
    notes: Option<Mapped>,
    ledger: Option<Ledger>,
    log: Option<MappedLog>,
}

impl Connection {
    /// Goes on with what another process had, before any message is read.
    pub(crate) fn resume(&self, handed: HandedConnection, request_queues: u16, cx: &mut dyn Cx) {
        let result = Arc::<Mutex<Option<Result<Resumed, String>>>>::default();
        self.state().resuming = Some(Resuming(result.clone()));
        let (aside, pin, place) = (self.place.aside.clone(), self.place.pin_memory, self.place.clone());
        let keep_notes = self.place.keep_notes;
        let work = move || {
            let resumed = Resumed::prepare(handed, request_queues, pin, keep_notes, &aside);
            if let Ok(resumed) = &resumed
                && pin
                && let Err(error) = resumed.map.pin()
            {
                tracing::warn!(export = %place.name, %error, "guest memory is not pinned (RLIMIT_MEMLOCK?)");
            }
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(resumed);
            Ok(0)
        };
        self.place.aside.run(work, self.id(Token::Resumed), cx);
    }

    /// All is mapped: the rings start.
    pub(super) fn resumed(&self, state: &mut State, cx: &mut dyn Cx) -> Result<(), EndReason> {
        let Some(Resuming(result)) = state.resuming.take() else { return Ok(()) };
        let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        let resumed = result.unwrap_or_else(|| Err("it was not looked at".to_owned()));
        let resumed = resumed.map_err(|why| Some(format!("it cannot be gone on with: {why}")))?;
        let Resumed { backend, mut record, mut fds, map, files, notes, ledger, log } = resumed;
        self.adopt_memory(state, map, files, cx);
        if state.phase != Phase::Open {
            self.dispose(fds.into_values().collect());
            return Ok(());
        }
        state.backend = backend;
        state.broken = std::mem::take(&mut record.broken);
        state.forbidding = record.forbidding & LAYOUTS;
        if let Some((sense, cdb)) = record.sizes {
            state.config.sizes = Sizes { sense, cdb };
        }
        if let Some(notes) = notes {
            self.adopt_notes(state, notes, cx);
        }
        state.ledger = ledger;
        if let Some(log) = log {
            self.adopt_log(state, log);
        }
        state.channel = fds.remove(&Role::Channel).map(|fd| Foreign::new(fd, &self.place.aside));
        let unread = (0..).map_while(|n| fds.remove(&Role::Unread(n))).collect();
        state.decoder.feed(&record.unread, unread);
        state.outbox = std::mem::take(&mut record.unsent);
        state.outbox_fd = fds.remove(&Role::Unsent);
        let adopted = self.adopt_queues(state, &mut fds);
        self.dispose(fds.into_values().collect());
        adopted.map_err(Some)?;
        self.place.events.take_over(&record.events);
        let vrings = &state.backend.state().vrings;
        let started = (0..).zip(vrings).filter(|(_, vring)| vring.started).map(|(index, _)| index);
        state.resumed = started.filter(|index| !record.waiting.contains(index)).collect();
        if state.resumed.iter().all(|index| *index < FIXED_QUEUES) {
            state.resumed.clear();
        }
        state.has_changed = true;
        if record.drained {
            state.rested = record.rested;
            // Its bases are out of date when the first ring goes on.
            state.begin_change();
        }
        self.start_queues(state, cx);
        Ok(())
    }

    fn adopt_queues(&self, state: &mut State, fds: &mut BTreeMap<Role, OwnedFd>) -> Result<(), String> {
        for index in 0..state.fds.len() as u16 {
            state.fds[usize::from(index)] = Fds {
                kick: fds.remove(&Role::Kick(index)).map(kick).transpose()?,
                call: notifier(fds.remove(&Role::Call(index)), index, &self.place)?,
                error: notifier(fds.remove(&Role::Error(index)), index, &self.place)?,
            };
        }
        Ok(())
    }

    fn start_queues(&self, state: &mut State, cx: &mut dyn Cx) {
        state.begin_round();
        // The control queue is the last: what it is about has been taken again by then.
        (0..state.fds.len() as u16).rev().for_each(|index| self.tell(state, index, true, cx));
        if state.control_waits && !state.commands_are_missing() {
            state.control_waits = false;
            self.tell(state, CONTROL_QUEUE, false, cx);
        }
    }
}

impl Resumed {
    /// Looks at everything and maps the memory. That may take its time.
    fn prepare(
        handed: HandedConnection,
        request_queues: u16,
        pin: bool,
        keep_notes: bool,
        aside: &Aside,
    ) -> Result<Self, String> {
        let HandedConnection { record, mut fds } = handed;
        let backend = Backend::resume(offer(request_queues), record.backend.clone())
            .map_err(|error| error.to_string())?;
        if record.unread.len() > MOST_BYTES || record.unsent.len() > MOST_BYTES {
            return Err("a message is too long".to_owned());
        }
        if record.sizes.is_some_and(|(_, cdb)| cdb == 0) {
            return Err("CDBs have no bytes".to_owned());
        }
        fds.values().try_for_each(vet)?;
        let file = |(index, region)| {
            let fd = fds.remove(&Role::Memory(index)).ok_or("a region of memory is missing")?;
            Ok(SharedRegion { region, fd })
        };
        let regions = (0..).zip(record.backend.memory.iter().copied());
        let files = regions.map(file).collect::<Result<Vec<_>, &str>>()?;
        let map = MemoryMap::new(&files).map_err(|error| error.to_string())?;
        let notes = match (record.notes, fds.remove(&Role::Notes)) {
            (Some(area), Some(fd)) if area.mmap_size > 0 && area.queues > 0 => {
                Some(Mapped::new(area, fd, pin, aside)?)
            }
            (None, None) if keep_notes && record.drained => {
                let own = Mapped::own(request_queues, aside);
                own.inspect_err(|error| tracing::warn!("what is in flight is not noted: {error}")).ok()
            }
            (None, None) => None,
            _ => return Err("the memory for notes is missing".to_owned()),
        };
        let ledger = match fds.remove(&Role::Ledger) {
            Some(fd) => Some(Ledger::adopt(fd, record.agreement)?),
            None if !record.drained => return Err("nobody knows what was agreed on last".to_owned()),
            None if record.agreement.is_some() => {
                return Err("the number of the agreement is missing".to_owned());
            }
            None if keep_notes => Some(Ledger::new().map_err(|error| error.to_string())?),
            None => None,
        };
        let log = match (record.log, fds.remove(&Role::Log)) {
            (Some(area), Some(fd)) => Some(MappedLog::new(area, fd, pin, aside)?),
            (None, None) => None,
            _ => return Err("the dirty log is missing".to_owned()),
        };
        let mut resumed = Self { backend, record, fds, map, files, notes, ledger, log };
        resumed.settle_broken()?;
        Ok(resumed)
    }

    /// Rings that have come to rest or not run yet begin at their bases, others at what their notes say. One of which nothing is noted was
    /// broken when the other process died, or being started or stopped: it is left alone until it is started anew.
    fn settle_broken(&mut self) -> Result<(), String> {
        if self.record.drained {
            return Ok(());
        }
        let mut started = (0..).zip(&self.backend.state().vrings).filter(|(_, vring)| vring.started);
        match &self.notes {
            None if started.next().is_some() => Err("what was in flight was not noted".to_owned()),
            None => Ok(()),
            Some(mapped) => {
                let is_known = |index| mapped.notes.is_begun(index) || self.record.waiting.contains(&index);
                let unknown = started.filter(|(index, _)| !is_known(*index));
                self.record.broken.extend(unknown.map(|(index, _)| index));
                Ok(())
            }
        }
    }
}
