//! Changes of guest memory.
//!
//! Mapping and unmapping may take long (pages are brought in, or many given back), so neither is done on a reactor. Each
//! change makes a new map. The old one comes back to the connection when its last user has let go, and is unmapped; until
//! then it is an *epoch* of its own. A front end that wants a reply gets it when no epoch but the last is left. One that
//! does not may change memory again, but not without bound.

use super::state::{Concerned, Then};
use super::{Connection, EndReason, Phase, State, Token};
use crate::aside::{Aside, Foreign};
use crate::local::{ConnectionId, Local};
use crate::memory::{MapError, MemoryMap, Unused};
use lunette_store::{Cx, IoResult, Post, ReactorId};
use lunette_vhost_user::{Ack, Change, MemoryRegion, SharedRegion};
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

/// Most epochs at a time, the current one not counted.
const MOST_EPOCHS: usize = 8;

/// What a message makes of guest memory.
pub(super) enum MemoryChange {
    Replace(Vec<SharedRegion>),
    Add(SharedRegion),
    Remove(MemoryRegion),
}

impl MemoryChange {
    /// The change of memory that `change` is, or the change itself.
    pub(super) fn of(change: Change) -> Result<Self, Change> {
        match change {
            Change::SetMemoryTable(table) => Ok(Self::Replace(table)),
            Change::AddMemoryRegion(region) => Ok(Self::Add(region)),
            Change::RemoveMemoryRegion(region) => Ok(Self::Remove(region)),
            other => Err(other),
        }
    }

    fn apply(&self, memory: &MemoryMap) -> Result<MemoryMap, MapError> {
        match self {
            Self::Replace(table) => MemoryMap::new(table),
            Self::Add(region) => memory.with(region),
            Self::Remove(region) => Ok(memory.without(region)),
        }
    }

    /// Keeps the descriptors in step with the regions.
    fn keep(self, files: &mut Vec<RegionFile>, aside: &Aside) {
        let file = |SharedRegion { region, fd }| (region, Foreign::new(fd, aside));
        match self {
            Self::Replace(table) => *files = table.into_iter().map(file).collect(),
            Self::Add(region) => files.push(file(region)),
            Self::Remove(region) => {
                if let Some(at) =
                    files.iter().position(|(kept, _)| kept.guest_address == region.guest_address)
                {
                    files.remove(at);
                }
            }
        }
    }
}

/// A region of guest memory and the file that it is in, which another process would have to map.
pub(super) type RegionFile = (MemoryRegion, Foreign);

/// A change of memory on its way.
pub(super) struct Mapping {
    ack: Ack,
    mapped: Arc<Mutex<Option<Mapped>>>,
}

struct Mapped {
    map: Result<MemoryMap, MapError>,
    change: MemoryChange,
    /// Why it could not be pinned.
    pinned: io::Result<()>,
}

/// An empty map that comes back to a connection.
pub(super) fn no_memory(id: ConnectionId, home: ReactorId, poster: Arc<dyn Post>) -> Arc<MemoryMap> {
    owned(MemoryMap::default(), id, home, poster)
}

fn owned(map: MemoryMap, id: ConnectionId, home: ReactorId, poster: Arc<dyn Post>) -> Arc<MemoryMap> {
    let release = move |unused: Unused| {
        let message = move |cx: &mut dyn Cx| {
            if let Some(connection) = Local::on(cx).connection(id) {
                connection.unmap(unused, cx);
            }
        };
        poster.post(home, Box::new(message));
    };
    Arc::new(map.released_to(Box::new(release)))
}

impl Connection {
    /// Has the change made where that may take its time.
    pub(super) fn map(&self, state: &mut State, change: MemoryChange, ack: Ack, cx: &mut dyn Cx) {
        let mapped = Arc::<Mutex<Option<Mapped>>>::default();
        state.mapping = Some(Mapping { ack, mapped: mapped.clone() });
        let (old, pin) = (state.memory.clone(), self.place.pin_memory);
        let work = move || {
            let map = change.apply(&old);
            let pinned = map.as_ref().map_or(Ok(()), |map| if pin { map.pin() } else { Ok(()) });
            *mapped.lock().unwrap_or_else(PoisonError::into_inner) = Some(Mapped { map, change, pinned });
            Ok(0)
        };
        self.place.aside.run(work, self.id(Token::Mapped), cx);
    }

    /// Goes over to the memory that has been mapped.
    pub(super) fn mapped(&self, state: &mut State, cx: &mut dyn Cx) -> Result<(), EndReason> {
        let Some(Mapping { ack, mapped }) = state.mapping.take() else { return Ok(()) };
        let mapped = mapped.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Mapped { map, change, pinned } = mapped.expect("mapped before we were told");
        if state.phase != Phase::Open {
            self.discard(change);
            // Comes back to be unmapped, like any other that is in use no more.
            if let Ok(map) = map {
                state.epochs += 1;
                drop(owned(map, self.id, self.place.home, cx.poster()));
            }
            return Ok(());
        }
        let map = match map {
            Ok(map) => map,
            Err(error) => {
                self.discard(change);
                state.backend.undo_memory_change();
                return self.conclude(state, Err(error.to_string()), ack, cx);
            }
        };
        if let Err(error) = pinned
            && self.place.may_log(cx)
        {
            tracing::warn!(export = %self.place.name, %error, "guest memory is not pinned (RLIMIT_MEMLOCK?)");
        }
        let map = owned(map, self.id, self.place.home, cx.poster());
        change.keep(&mut state.files, &self.place.aside);
        self.change_memory(state, map);
        self.compare_log(state, cx);
        state.begin_round();
        (0..state.fds.len() as u16).for_each(|index| self.tell(state, index, false, cx));
        let reply = ack.done(true);
        state.epochs_allowed = if reply.is_some() { 0 } else { MOST_EPOCHS };
        state.then = reply.map_or(Then::Nothing, Then::Send);
        Ok(())
    }

    /// Closes the descriptors of a change that did not happen.
    fn discard(&self, change: MemoryChange) {
        self.place.aside.post(move || drop(change));
    }

    /// Takes memory on that another process had.
    pub(super) fn adopt_memory(
        &self,
        state: &mut State,
        map: MemoryMap,
        files: Vec<SharedRegion>,
        cx: &mut dyn Cx,
    ) {
        MemoryChange::Replace(files).keep(&mut state.files, &self.place.aside);
        let map = owned(map, self.id, self.place.home, cx.poster());
        self.change_memory(state, map);
    }

    fn change_memory(&self, state: &mut State, map: Arc<MemoryMap>) {
        state.epochs += 1;
        drop(mem::replace(&mut state.memory, map));
    }

    /// Gives the last memory up.
    pub(super) fn leave_memory(&self, state: &mut State) {
        self.change_memory(state, Arc::default());
    }

    /// Unmaps memory that nobody uses any more.
    fn unmap(&self, unused: Unused, cx: &mut dyn Cx) {
        let id = self.id(Token::Unmapped);
        let work = move || -> IoResult {
            drop(unused);
            Ok(0)
        };
        self.place.aside.run(work, id, cx);
    }
}

impl Concerned {
    /// The queues, of `count`.
    pub(super) fn queues(&self, count: usize) -> std::ops::Range<u16> {
        match *self {
            Self::None => 0..0,
            Self::One(index) => index..index + 1,
            Self::All => 0..count as u16,
        }
    }
}
