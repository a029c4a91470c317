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
    /// Bytes that these have processed.
    pub(crate) bytes: u64,
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

    /// A command of several steps, or a part of it that is of another kind.
    pub(crate) fn count(&self, work: Counted, bytes: u64, result: &Result<(), Sense>) {
        match result {
            Ok(()) => self.succeeded(work, bytes),
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
pub(crate) struct Statistics(Mutex<Vec<Arc<Counters>>>);

impl Statistics {
    /// The counters for another reactor.
    pub(crate) fn join(&self) -> Arc<Counters> {
        let counters = Arc::<Counters>::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(counters.clone());
        counters
    }

    pub(crate) fn totals(&self, work: Counted) -> Totals {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals = Totals::default();
        for counters in &*all {
            let counter = &counters.0[work as usize];
            totals.commands = totals.commands.wrapping_add(counter.commands.load(Ordering::Relaxed));
            totals.bytes = totals.bytes.wrapping_add(counter.bytes.load(Ordering::Relaxed));
            totals.errors = totals.errors.wrapping_add(counter.errors.load(Ordering::Relaxed));
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
        first.count(Counted::Verify, 99, &miscompare);
        let failed = Err(Sense::medium_error(AdditionalSense::UNRECOVERED_READ_ERROR));
        first.count(Counted::Verify, 99, &failed);
        assert_eq!(statistics.totals(Counted::Read), Totals { commands: 2, bytes: 1536, errors: 0 });
        assert_eq!(statistics.totals(Counted::Write), Totals { commands: 0, bytes: 0, errors: 1 });
        assert_eq!(statistics.totals(Counted::Verify), Totals { commands: 0, bytes: 0, errors: 1 });
    }
}
