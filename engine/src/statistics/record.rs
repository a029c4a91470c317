//! The counters of a logical unit on all reactors, by I_T nexus.

use super::usage::{Activity, Usage};
use super::{Counted, Totals};
use crate::{LogicalUnit, Nexus};
use lunette_store::{IoError, IoResult, ReactorId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What one logical unit has done.
#[derive(Clone, Default, Debug)]
pub struct UnitActivity {
    /// For each I_T nexus that has used it and is still there.
    pub nexuses: Vec<NexusActivity>,
    /// For all initiators, also those that have gone.
    pub total: Activity,
}

/// What one logical unit has done for an I_T nexus.
#[derive(Clone, Debug)]
pub struct NexusActivity {
    /// The initiator port's name.
    pub initiator: String,
    /// The target port's name.
    pub port: String,
    /// What was done.
    pub activity: Activity,
}

/// All counters of one unit.
#[derive(Default, Debug)]
pub(crate) struct Statistics(Mutex<Kept>);

#[derive(Default, Debug)]
struct Kept {
    nexuses: Vec<Entry>,
    /// Of what goes on in the background.
    background: Vec<Arc<Usage>>,
    /// Of nexuses that are there no more.
    past: Box<Past>,
    last: u64,
}

#[derive(Default, Debug)]
struct Past {
    activity: Activity,
    totals: [Totals; 3],
}

#[derive(Clone, Debug)]
struct Entry {
    number: u64,
    initiator: Arc<str>,
    port: Arc<str>,
    parts: Vec<(ReactorId, Arc<Usage>)>,
}

/// What is counted for one I_T_L nexus; what it has come to remains the unit's when this is dropped.
#[derive(Debug)]
pub(crate) struct Record {
    unit: Weak<LogicalUnit>,
    number: u64,
}

impl Statistics {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters of what goes on in the background on another reactor.
    pub(crate) fn join(&self) -> Arc<Usage> {
        let usage = Arc::<Usage>::default();
        self.kept().background.push(usage.clone());
        usage
    }

    /// Whether nobody who has looked at the unit takes more than what everybody does.
    #[cfg(test)]
    pub(crate) fn is_small(&self) -> bool {
        let kept = self.kept();
        let mut parts = kept.nexuses.iter().flat_map(|entry| &entry.parts);
        kept.background.is_empty() && parts.all(|(_, usage)| usage.is_small())
    }

    /// A part of a copy, whose bytes go to no initiator of this unit and come from none.
    pub(crate) fn count_copied(&self, work: Counted, bytes: u64, result: IoResult) {
        let totals = &mut self.kept().past.totals[work as usize];
        match result {
            Ok(_) => totals.bytes = totals.bytes.wrapping_add(bytes),
            Err(IoError::Os(_) | IoError::Short { .. }) => totals.errors += 1,
            Err(_) => {}
        }
    }

    pub(crate) fn totals(&self, work: Counted) -> Totals {
        let kept = self.kept();
        let mut totals = kept.past.totals[work as usize];
        let parts = kept.nexuses.iter().flat_map(|entry| entry.parts.iter().map(|(_, usage)| usage));
        parts.chain(&kept.background).for_each(|usage| totals.add(usage.counters.totals(work)));
        totals
    }
}

impl LogicalUnit {
    /// What it has done so far. To be asked on any thread: reactors count without being held up.
    pub fn activity(&self) -> UnitActivity {
        // Nobody who comes or goes waits until all is added up.
        let (mut total, entries) = {
            let kept = self.statistics().kept();
            let used = kept.nexuses.iter().filter(|entry| !entry.parts.is_empty());
            (kept.past.activity.clone(), used.cloned().collect::<Vec<_>>())
        };
        let of = |entry: &Entry| {
            let mut activity = Activity::default();
            entry.parts.iter().for_each(|(_, usage)| activity.add_usage(usage, self.commands()));
            NexusActivity { initiator: entry.initiator.to_string(), port: entry.port.to_string(), activity }
        };
        let nexuses: Vec<_> = entries.iter().map(of).collect();
        nexuses.iter().for_each(|nexus| total.add(&nexus.activity));
        UnitActivity { nexuses, total }
    }
}

impl Record {
    /// Of `nexus` and `unit`.
    pub(crate) fn new(unit: &Arc<LogicalUnit>, nexus: &Nexus) -> Self {
        let mut kept = unit.statistics().kept();
        kept.last += 1;
        let number = kept.last;
        let (initiator, port) = (nexus.initiator.as_str().into(), nexus.registrant().port.clone());
        kept.nexuses.push(Entry { number, initiator, port, parts: Vec::new() });
        Self { unit: Arc::downgrade(unit), number }
    }

    /// The counters of one reactor, made when it is first asked for.
    pub(crate) fn part(&self, unit: &LogicalUnit, reactor: ReactorId) -> Arc<Usage> {
        let mut kept = unit.statistics().kept();
        let Some(entry) = kept.nexuses.iter_mut().find(|entry| entry.number == self.number) else {
            return Arc::default();
        };
        if let Some((_, usage)) = entry.parts.iter().find(|(known, _)| *known == reactor) {
            return usage.clone();
        }
        let usage = Arc::new(Usage::new(unit.commands()));
        entry.parts.push((reactor, usage.clone()));
        usage
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(unit) = self.unit.upgrade() else { return };
        let mut kept = unit.statistics().kept();
        let Some(at) = kept.nexuses.iter().position(|entry| entry.number == self.number) else { return };
        let entry = kept.nexuses.swap_remove(at);
        for (_, usage) in &entry.parts {
            kept.past.activity.add_usage(usage, unit.commands());
            for work in [Counted::Read, Counted::Write, Counted::Verify] {
                kept.past.totals[work as usize].add(usage.counters.totals(work));
            }
        }
        // A command that an operator has turned away with its nexus is under way no more.
        kept.past.activity.under_way = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::IoKind;
    use lunette_scsi::{AdditionalSense, Sense};

    #[test]
    fn reactors_count_by_themselves() {
        let statistics = Statistics::default();
        let (first, second) = (statistics.join(), statistics.join());
        let (first, second) = (&first.counters, &second.counters);
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
