//! The copy manager of a logical unit (SPC-4 5.16): copies that an initiator asks for and that do not pass through it.
//!
//! A copy runs between units that its nexus sees itself, and may do there what the nexus may do. It is one command of one
//! unit; on the others it takes no place in the task set, so copies that cross do not wait for each other.

mod end;
mod transfer;

pub(crate) use transfer::run;

use crate::{LogicalUnit, NexusId};
use lunette_scsi::third_party_copy::{CopyLimits, CopyState, CopyStatus};
use lunette_scsi::{AdditionalSense, Opcode, Sense};
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
    /// By nexus and list identifier: those that run, and those that have ended and of which nobody has asked since.
    known: HashMap<(NexusId, u8), SharedStatus>,
}

type SharedStatus = Arc<Mutex<CopyStatus>>;

/// A copy at work. When it is dropped it has failed, unless it has [ended](Self::end) before.
pub(crate) struct Copy<'a> {
    copies: &'a Copies,
    status: SharedStatus,
}

impl Copies {
    /// A copy begins; `None` for one that nobody can ask for.
    fn begin(&self, nexus: NexusId, list_id: Option<u8>) -> Result<Copy<'_>, Sense> {
        let mut table = self.lock();
        if table.running == usize::from(LIMITS.concurrent) {
            return Err(Sense::illegal_request(AdditionalSense::INSUFFICIENT_RESOURCES));
        }
        let status = CopyStatus { state: CopyState::IN_PROGRESS, segments: 0, bytes: 0 };
        let status = Arc::new(Mutex::new(status));
        if let Some(id) = list_id {
            let known = table.known.get(&(nexus, id));
            if known.is_some_and(|known| get(known).state == CopyState::IN_PROGRESS) {
                return Err(Sense::illegal_request(AdditionalSense::OPERATION_IN_PROGRESS));
            }
            table.known.insert((nexus, id), status.clone());
        }
        table.running += 1;
        Ok(Copy { copies: self, status })
    }

    /// How far a copy of a nexus has come. One that has ended is forgotten then (SPC-4 6.18).
    pub(crate) fn take_status(&self, nexus: NexusId, list_id: u8) -> Option<CopyStatus> {
        let mut table = self.lock();
        let status = get(table.known.get(&(nexus, list_id))?);
        if status.state != CopyState::IN_PROGRESS {
            table.known.remove(&(nexus, list_id));
        }
        Some(status)
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

fn lock(status: &SharedStatus) -> MutexGuard<'_, CopyStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

fn get(status: &SharedStatus) -> CopyStatus {
    *lock(status)
}

impl Copy<'_> {
    /// So many bytes more have been written.
    fn wrote(&self, bytes: u64) {
        lock(&self.status).bytes += bytes;
    }

    /// One segment more is done.
    fn segment_done(&self) {
        lock(&self.status).segments += 1;
    }

    /// All are done.
    fn end(self) {
        lock(&self.status).state = CopyState::COMPLETED;
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        let mut status = lock(&self.status);
        if status.state == CopyState::IN_PROGRESS {
            status.state = CopyState::FAILED;
        }
        drop(status);
        self.copies.lock().running -= 1;
    }
}

impl LogicalUnit {
    /// Whether it has a copy manager.
    pub(crate) fn copies_blocks(&self) -> bool {
        !self.commands().rows_of(Opcode::THIRD_PARTY_COPY_OUT.0).is_empty()
    }
}
