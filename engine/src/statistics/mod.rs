//! What a logical unit has done: counted for each I_T nexus on each reactor by itself, and added up when somebody asks.

mod few;
mod histogram;
mod record;
mod usage;

pub use histogram::Histogram;
pub use record::{NexusActivity, UnitActivity};
pub(crate) use record::{Record, Statistics};
pub use usage::{Activity, Class};
pub(crate) use usage::{Usage, is_well};

use crate::plan::IoKind;
use lunette_scsi::{Sense, SenseKey};
use lunette_store::{IoError, IoResult};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// Blocks that went to an initiator.
    Read,
    /// Blocks that came from one.
    Write,
    /// Blocks that were looked at on the medium.
    Verify,
}

/// What one kind of work has come to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Totals {
    /// Commands that succeeded.
    pub(crate) commands: u64,
    /// Bytes that were read, written or verified, also by copies, which are no commands to the unit.
    pub(crate) bytes: u64,
    /// Bytes that went between the unit and initiators.
    pub(crate) transferred: u64,
    /// Commands that failed because of the medium.
    pub(crate) errors: u64,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.commands = self.commands.wrapping_add(other.commands);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.transferred = self.transferred.wrapping_add(other.transferred);
        self.errors = self.errors.wrapping_add(other.errors);
    }
}

/// The counters of one nexus, or of what goes on in the background, on one reactor, which is the only one that writes them:
/// adding is a load and a store.
#[derive(Default, Debug)]
pub(crate) struct Counters([Counter; 3]);

#[derive(Default, Debug)]
struct Counter {
    commands: AtomicU64,
    bytes: AtomicU64,
    /// How many bytes more went between the unit and initiators, modulo 2⁶⁴.
    surplus: AtomicU64,
    errors: AtomicU64,
}

fn add(to: &AtomicU64, count: u64) {
    to.store(to.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

impl Counters {
    /// One operation that is a whole command.
    #[inline]
    pub(crate) fn count_io(&self, kind: IoKind, moved: u64, result: IoResult) {
        let work = match kind {
            IoKind::Read => Counted::Read,
            IoKind::Write { .. } => Counted::Write,
            IoKind::Flush => return,
        };
        match result {
            Ok(_) => self.succeeded(work, moved),
            Err(IoError::Os(_) | IoError::Short { .. }) => self.failed(work),
            Err(_) => {}
        }
    }

    /// A command of several steps, or a part of it that is of another kind, which has processed `bytes` and transferred more
    /// or fewer.
    pub(crate) fn count(&self, work: Counted, bytes: u64, transferred: u64, result: &Result<(), Sense>) {
        match result {
            Ok(()) => {
                self.succeeded(work, bytes);
                add(&self.0[work as usize].surplus, transferred.wrapping_sub(bytes));
            }
            Err(sense) if sense.key == SenseKey::MEDIUM_ERROR => self.failed(work),
            Err(_) => {}
        }
    }

    #[inline]
    fn succeeded(&self, work: Counted, bytes: u64) {
        let counter = &self.0[work as usize];
        add(&counter.commands, 1);
        add(&counter.bytes, bytes);
    }

    #[cold]
    fn failed(&self, work: Counted) {
        add(&self.0[work as usize].errors, 1);
    }

    pub(crate) fn totals(&self, work: Counted) -> Totals {
        let counter = &self.0[work as usize];
        let [commands, bytes, surplus, errors] =
            [&counter.commands, &counter.bytes, &counter.surplus, &counter.errors]
                .map(|counter| counter.load(Ordering::Relaxed));
        Totals { commands, bytes, transferred: bytes.wrapping_add(surplus), errors }
    }
}
