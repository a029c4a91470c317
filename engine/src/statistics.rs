//! What a logical unit has done: counted on each reactor by itself, and added up when somebody asks.

use crate::plan::IoKind;
use lunette_scsi::{Sense, SenseKey};
use lunette_store::{IoError, IoResult};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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

/// The counters of one unit on one reactor, which is the only one that writes them: adding is a load and a store, and their
/// cache line is shared with nothing.
#[derive(Default, Debug)]
#[repr(align(128))]
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
}

/// The counters of one unit on all reactors.
#[derive(Default, Debug)]
pub(crate) struct Statistics {
    parts: Mutex<Vec<Arc<Counters>>>,
    /// What copies of other units have done here, on any reactor.
    copied: Mutex<[Totals; 3]>,
}

impl Statistics {
    /// The counters for another reactor.
    pub(crate) fn join(&self) -> Arc<Counters> {
        let counters = Arc::<Counters>::default();
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(counters.clone());
        counters
    }

    /// A part of a copy, whose bytes go to no initiator of this unit and come from none.
    pub(crate) fn count_copied(&self, work: Counted, bytes: u64, result: IoResult) {
        let mut copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = &mut copied[work as usize];
        match result {
            Ok(_) => totals.bytes = totals.bytes.wrapping_add(bytes),
            Err(IoError::Os(_) | IoError::Short { .. }) => totals.errors += 1,
            Err(_) => {}
        }
    }

    pub(crate) fn totals(&self, work: Counted) -> Totals {
        let mut totals = self.copied.lock().unwrap_or_else(PoisonError::into_inner)[work as usize];
        for counters in &*self.parts.lock().unwrap_or_else(PoisonError::into_inner) {
            let counter = &counters.0[work as usize];
            let [commands, bytes, surplus, errors] =
                [&counter.commands, &counter.bytes, &counter.surplus, &counter.errors]
                    .map(|counter| counter.load(Ordering::Relaxed));
            totals.commands = totals.commands.wrapping_add(commands);
            totals.bytes = totals.bytes.wrapping_add(bytes);
            totals.transferred = totals.transferred.wrapping_add(bytes).wrapping_add(surplus);
            totals.errors = totals.errors.wrapping_add(errors);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_scsi::AdditionalSense;

    #[test]
    fn reactors_count_by_themselves() {
        let statistics = Statistics::default();
        let (first, second) = (statistics.join(), statistics.join());
        first.count_io(IoKind::Read, 512, Ok(0));
        second.count_io(IoKind::Read, 1024, Ok(0));
        second.count_io(IoKind::Write { durable: true }, 8, Err(IoError::Os(5)));
        second.count_io(IoKind::Write { durable: true }, 8, Err(IoError::Busy));
        second.count_io(IoKind::Flush, 8, Ok(0));
        let miscompare = Err(Sense::miscompare(0));
        first.count(Counted::Verify, 99, 99, &miscompare);
        let failed = Err(Sense::medium_error(AdditionalSense::UNRECOVERED_READ_ERROR));
        first.count(Counted::Verify, 99, 99, &failed);
        let of = |work| statistics.totals(work);
        assert_eq!(of(Counted::Read), Totals { commands: 2, bytes: 1536, transferred: 1536, errors: 0 });
        assert_eq!(of(Counted::Write), Totals { errors: 1, ..Totals::default() });
        assert_eq!(of(Counted::Verify), Totals { errors: 1, ..Totals::default() });
        // One block that is written often, and a copy.
        first.count(Counted::Write, 4096, 512, &Ok(()));
        statistics.count_copied(Counted::Write, 8, Ok(0));
        statistics.count_copied(Counted::Write, 8, Err(IoError::Os(5)));
        statistics.count_copied(Counted::Write, 8, Err(IoError::Aborted));
        assert_eq!(of(Counted::Write), Totals { commands: 1, bytes: 4104, transferred: 512, errors: 2 });
    }
}
