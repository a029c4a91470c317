//! The copy manager of a logical unit (SPC-4 5.16): copies that an initiator asks for and that do not pass through it.
//!
//! A copy runs between units that its nexus sees itself, and may do there what the nexus may do. It is one command of one
//! unit; on the others it takes no place in the task set, so copies that cross do not wait for each other.

mod end;
mod transfer;

pub(crate) use transfer::run;

use crate::{LogicalUnit, NexusId, Run};
use lunette_scsi::third_party_copy::{CopyLimits, CopyState, CopyStatus, encode_failure_details};
use lunette_scsi::{AdditionalSense, Opcode, Sense, SenseBytes};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What every copy manager takes.
pub(crate) const LIMITS: CopyLimits = CopyLimits {
    cscds: 64,
    segments: 256,
    // That many of each, of the longest kinds.
    list_length: 64 * 32 + 256 * 32,
    segment_length: 256 << 20,
    concurrent: 64,
    granularity: 9,
};

/// The copies of one unit.
#[derive(Default)]
pub(crate) struct Copies(Mutex<Table>);

#[derive(Default)]
struct Table {
    running: usize,
    /// By nexus and list identifier: those that run, and those that have ended and of which not all has been told.
    known: HashMap<(NexusId, u8), SharedProgress>,
}

type SharedProgress = Arc<Mutex<Progress>>;

/// What there is to tell of a copy.
struct Progress {
    status: CopyStatus,
    /// Its end has been told.
    is_told: bool,
    /// The sense data with which it has failed, until they have been told.
    failure: Option<SenseBytes>,
}

/// A copy at work. When it is dropped it has failed, unless it has [ended](Self::end) before.
pub(crate) struct Copy<'a> {
    copies: &'a Copies,
    progress: SharedProgress,
}

impl Copies {
    /// A copy begins; `None` for one that nobody can ask for.
    fn begin(&self, run: &Run, list_id: Option<u8>) -> Result<Copy<'_>, Sense> {
        let mut table = self.lock();
        if table.running == usize::from(LIMITS.concurrent) {
            return Err(Sense::illegal_request(AdditionalSense::INSUFFICIENT_RESOURCES));
        }
        let status = CopyStatus { state: CopyState::IN_PROGRESS, segments: 0, bytes: 0 };
        let progress = Arc::new(Mutex::new(Progress { status, is_told: false, failure: None }));
        if let Some(id) = list_id.filter(|_| !run.nexus_is_lost()) {
            let key = (run.nexus.id(), id);
            let known = table.known.get(&key);
            if known.is_some_and(|known| lock(known).status.state == CopyState::IN_PROGRESS) {
                return Err(Sense::illegal_request(AdditionalSense::OPERATION_IN_PROGRESS));
            }
            table.known.insert(key, progress.clone());
        }
        table.running += 1;
        Ok(Copy { copies: self, progress })
    }

    /// How far a copy of a nexus has come. That it has ended is told once (SPC-4 6.25).
    pub(crate) fn take_status(&self, nexus: NexusId, list_id: u8) -> Option<CopyStatus> {
        self.ask((nexus, list_id), |progress| {
            let has_ended = progress.status.state != CopyState::IN_PROGRESS;
            (!std::mem::replace(&mut progress.is_told, has_ended)).then_some(progress.status)
        })
    }

    /// The sense data of a copy of a nexus that has ended, if it has failed and they were not told before; they are kept if
    /// they are longer than `room` (SPC-4 6.23).
    pub(crate) fn take_failure(&self, nexus: NexusId, list_id: u8, room: usize) -> Option<Vec<u8>> {
        self.ask((nexus, list_id), |progress| {
            if progress.status.state == CopyState::IN_PROGRESS {
                return None;
            }
            let details = encode_failure_details(progress.failure.as_deref());
            progress.failure.take_if(|_| room == 0 || room >= details.len());
            Some(details)
        })
    }

    /// Asks for a copy; one of which all has been told is forgotten.
    fn ask<R>(&self, key: (NexusId, u8), ask: impl FnOnce(&mut Progress) -> Option<R>) -> Option<R> {
        let mut table = self.lock();
        let mut progress = lock(table.known.get(&key)?);
        let answer = ask(&mut progress);
        let is_over = progress.is_told && progress.failure.is_none();
        drop(progress);
        if is_over {
            table.known.remove(&key);
        }
        answer
    }

    /// A nexus is lost.
    pub(crate) fn forget(&self, nexus: NexusId) {
        self.lock().known.retain(|(of, _), _| *of != nexus);
    }

    /// The unit is reset.
    pub(crate) fn forget_all(&self) {
        self.lock().known.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(progress: &SharedProgress) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Copy<'_> {
    /// So many bytes more have been written, up to the first that has not.
    fn wrote(&self, bytes: u64) {
        lock(&self.progress).status.bytes += bytes;
    }

    /// The next segment is being processed.
    fn segment_begins(&self) {
        lock(&self.progress).status.segments += 1;
    }

    /// It is over, with this sense data if it has failed.
    fn end(self, failure: Option<SenseBytes>) {
        let mut progress = lock(&self.progress);
        progress.status.state = if failure.is_none() { CopyState::COMPLETED } else { CopyState::FAILED };
        progress.failure = failure;
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        let mut progress = lock(&self.progress);
        if progress.status.state == CopyState::IN_PROGRESS {
            progress.status.state = CopyState::FAILED;
        }
        drop(progress);
        self.copies.lock().running -= 1;
    }
}

impl LogicalUnit {
    /// Whether it has a copy manager.
    pub(crate) fn copies_blocks(&self) -> bool {
        !self.commands().rows_of(Opcode::THIRD_PARTY_COPY_OUT.0).is_empty()
    }
}
