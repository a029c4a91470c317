//! The dirty log, while the virtual machine may be moving elsewhere.
//!
//! A log is mapped aside and given to the queues like other memory. They mark what they write while the front end has
//! acknowledged `VHOST_F_LOG_ALL` and there is a log; either may come first. A message that changes this is answered when all
//! queues know, so nothing is marked in a former log after that.

use super::notes::{Made, Noting};
use super::state::Concerned;
use super::{Connection, EndReason, State, Token};
use crate::aside::{Aside, Foreign};
use crate::memory::{DirtyLog, MemoryMap, Unused};
use crate::queue::Logging;
use lunette_store::Cx;
use lunette_vhost_user::{
    Ack, Features, LogArea, MemoryRegion, ProtocolFeatures, SharedRegion, VringAddress,
};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A dirty log that is mapped.
pub(super) struct MappedLog {
    log: DirtyLog,
    area: LogArea,
    fd: OwnedFd,
}

impl MappedLog {
    /// Maps a log, and pins it if `pin`. It may take its time.
    pub(super) fn new(area: LogArea, fd: OwnedFd, pin: bool, aside: &Aside) -> Result<Self, String> {
        let LogArea { size, offset: mmap_offset } = area;
        if size == 0 {
            return Err("the dirty log is empty".to_owned());
        }
        let aside = aside.clone();
        let release = move |unused: Unused| aside.post(move || drop(unused));
        let region = MemoryRegion { guest_address: 0, size, user_address: 0, mmap_offset };
        let shared = SharedRegion { region, fd };
        let map = MemoryMap::new(std::slice::from_ref(&shared)).map_err(|error| error.to_string())?;
        if pin {
            // It works as well without.
            let _ = map.pin();
        }
        let log = DirtyLog::new(map.released_to(Box::new(release)), size).ok_or("it is not there")?;
        Ok(Self { log, area, fd: shared.fd })
    }
}

impl Connection {
    /// Maps a log that the front end has made.
    pub(super) fn map_log(&self, state: &mut State, area: LogArea, fd: OwnedFd, ack: Ack, cx: &mut dyn Cx) {
        let made = Made::default();
        state.noting = Some(Noting::Log(ack, made.clone()));
        let (aside, pin) = (self.place.aside.clone(), self.place.pin_memory);
        self.do_aside(Token::Noted, made, move || MappedLog::new(area, fd, pin, &aside), cx);
    }

    /// Goes over to a log that was mapped.
    pub(super) fn log_mapped(
        &self,
        state: &mut State,
        mapped: Result<MappedLog, String>,
        ack: Ack,
        cx: &mut dyn Cx,
    ) -> Result<(), EndReason> {
        let concerned = mapped.and_then(|mapped| match mapped.log.covers(&state.memory) {
            true => {
                self.adopt_log(state, mapped);
                Ok(Concerned::All)
            }
            false => Err(too_short(mapped.area, &state.memory)),
        });
        self.conclude(state, concerned, ack, cx)
    }

    pub(super) fn adopt_log(&self, state: &mut State, MappedLog { log, area, fd }: MappedLog) {
        state.log = Some(Arc::new(log));
        state.log_file = Some((area, Foreign::new(fd, &self.place.aside)));
    }

    /// Says if there is memory now that the log is too short for.
    pub(super) fn compare_log(&self, state: &State, cx: &mut dyn Cx) {
        if let (Some(log), Some((area, _))) = (&state.log, &state.log_file)
            && state.is_logging()
            && !log.covers(&state.memory)
            && self.place.may_log(cx)
        {
            tracing::warn!(export = %self.place.name, "{}", too_short(*area, &state.memory));
        }
    }

    /// Whether dirty logging may be switched on, if the last SET_FEATURES has done so; why not.
    ///
    /// Whoever cannot be told goes on, and finds the units still here when its rings start elsewhere. QEMU up to 10.1 is one of
    /// them: it ends itself when it is refused, with its guest. Its vhost-user-scsi device has a configuration space of its
    /// own, and is known by that.
    pub(super) fn may_log_writes(&self, state: &State, ack: &Ack, cx: &mut dyn Cx) -> Result<(), String> {
        if !state.backend.has_acknowledged(Features::LOG_ALL) {
            return Ok(());
        }
        let takes_refusals = state.backend.state().protocol_features.contains(ProtocolFeatures::CONFIG);
        match self.may_leave() {
            Err(why) if !(ack.is_wanted() && takes_refusals) => {
                if self.place.may_log(cx) {
                    let export = &self.place.name;
                    tracing::warn!(%export, "{why}; if it goes elsewhere all the same, its units stay here");
                }
                Ok(())
            }
            answer => answer,
        }
    }
}

impl State {
    /// Whether what is written is marked, or would be if there was a log.
    pub(super) fn is_logging(&self) -> bool {
        self.backend.state().features.contains(Features::LOG_ALL)
    }

    /// Where a queue marks what it writes.
    pub(super) fn logging(&self, address: Option<&VringAddress>) -> Option<Logging> {
        let log = self.log.clone().filter(|_| self.is_logging())?;
        let marked = address.filter(|address| address.flags & VringAddress::LOG != 0);
        Some(Logging { log, used: marked.map(|address| address.log) })
    }
}

fn too_short(area: LogArea, memory: &MemoryMap) -> String {
    let (size, end) = (area.size, memory.end());
    format!("a dirty log of {size} bytes is too short for guest memory, which ends at {end:#x}")
}
