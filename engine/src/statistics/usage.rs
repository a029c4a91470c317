//! What the commands of one I_T nexus for one logical unit have come to on one reactor, which alone writes here.

use super::histogram::{Histogram, Measured};
use super::{Counted, Counters, add};
use crate::command::{CommandTable, Row, Unknown};
use crate::{Completion, Outcome};
use lunette_scsi::{Opcode, SenseKey, Status};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Kinds of commands whose times are told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// READ of any length.
    Read,
    /// WRITE, WRITE AND VERIFY and WRITE ATOMIC of any length.
    Write,
    /// All others.
    Other,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Other];

    /// That of an operation code; those of variable length are others.
    #[inline]
    pub(crate) fn of(opcode: Opcode) -> Self {
        match opcode {
            Opcode::READ_6 | Opcode::READ_10 | Opcode::READ_12 | Opcode::READ_16 => Self::Read,
            Opcode::WRITE_6
            | Opcode::WRITE_10
            | Opcode::WRITE_12
            | Opcode::WRITE_16
            | Opcode::WRITE_AND_VERIFY_10
            | Opcode::WRITE_AND_VERIFY_12
            | Opcode::WRITE_AND_VERIFY_16
            | Opcode::WRITE_ATOMIC_16 => Self::Write,
            _ => Self::Other,
        }
    }
}

/// The counters. What many nexuses never need is there when it is needed first, so that one that has only looked at a unit
/// takes little.
#[derive(Default, Debug)]
#[repr(align(128))]
pub(crate) struct Usage {
    pub(crate) counters: Counters,
    /// Commands that have come, by row of the unit's table; in the end those that have none.
    commands: Box<[AtomicU64]>,
    times: [OnceLock<Box<Measured>>; 3],
    failures: OnceLock<Box<Failures>>,
    /// Commands that have not ended, but for those that end at once.
    under_way: AtomicU32,
    /// Commands that have ended, but whose time is not counted yet.
    unmeasured: [AtomicU32; 3],
}

/// How commands have failed.
#[derive(Default, Debug)]
struct Failures {
    sense_keys: [AtomicU64; 16],
    statuses: [AtomicU64; STATUSES.len()],
    aborted: AtomicU64,
}

/// The statuses that are counted.
const STATUSES: [Status; 6] = [
    Status::CHECK_CONDITION,
    Status::BUSY,
    Status::RESERVATION_CONFLICT,
    Status::TASK_SET_FULL,
    Status::ACA_ACTIVE,
    Status::TASK_ABORTED,
];

impl Usage {
    /// For the commands of a table.
    pub(super) fn new(table: &CommandTable) -> Self {
        let commands = (0..=table.rows().len()).map(|_| AtomicU64::new(0)).collect();
        Self { commands, ..Self::default() }
    }

    /// A command has come.
    #[inline]
    pub(crate) fn has_come(&self, row: Result<&Row, Unknown>) {
        let index = row.map_or(self.commands.len().wrapping_sub(1), |row| row.index.into());
        if let Some(count) = self.commands.get(index) {
            add(count, 1);
        }
    }

    /// A command does not end at once.
    #[inline]
    pub(crate) fn begins(&self) {
        self.under_way.store(self.under_way.load(Relaxed) + 1, Relaxed);
    }

    /// Such a command is there no more.
    #[inline]
    pub(crate) fn ends(&self) {
        self.under_way.store(self.under_way.load(Relaxed) - 1, Relaxed);
    }

    /// A command has ended whose time is counted later. Returns whether it is the first of its class.
    #[inline]
    pub(crate) fn ends_at_once(&self, class: Class) -> bool {
        let count = &self.unmeasured[class as usize];
        let before = count.load(Relaxed);
        count.store(before + 1, Relaxed);
        before == 0
    }

    /// The commands whose time is to be counted took this long.
    pub(crate) fn measure(&self, time: Duration) {
        for (class, count) in Class::ALL.into_iter().zip(&self.unmeasured) {
            match count.load(Relaxed) {
                0 => {}
                commands => {
                    count.store(0, Relaxed);
                    self.took(class, time, commands);
                }
            }
        }
    }

    /// So many commands took this long.
    pub(crate) fn took(&self, class: Class, time: Duration, commands: u32) {
        self.times[class as usize].get_or_init(Box::default).count(time, commands.into());
    }

    /// A command has ended otherwise than well.
    #[cold]
    pub(crate) fn failed(&self, outcome: &Outcome) {
        let failures = self.failures.get_or_init(Box::default);
        if let Some(at) = STATUSES.iter().position(|status| *status == outcome.status) {
            add(&failures.statuses[at], 1);
        }
        if let Some(sense) = &outcome.sense {
            add(&failures.sense_keys[usize::from(sense.key.0 & 0xf)], 1);
        }
    }

    /// What came of a command that took its time.
    pub(crate) fn completed(&self, completion: &Completion) {
        match completion {
            Completion::Ended(outcome) if is_well(outcome.status) => {}
            Completion::Ended(outcome) => self.failed(outcome),
            Completion::Aborted(_) => add(&self.failures.get_or_init(Box::default).aborted, 1),
        }
    }
}

/// Whether a status tells of no failure.
#[inline]
pub(crate) fn is_well(status: Status) -> bool {
    matches!(status, Status::GOOD | Status::CONDITION_MET)
}

/// What commands for one logical unit have come to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Activity {
    /// Commands that have come, by the standard's names.
    pub commands: BTreeMap<&'static str, u64>,
    /// Commands that have come and are unknown to the unit.
    pub unknown_commands: u64,
    /// Bytes of the medium that initiators have read.
    pub bytes_read: u64,
    /// Bytes that initiators have written to the medium.
    pub bytes_written: u64,
    /// How long commands took that have ended, by [`Class`]; those that were aborted among them.
    pub times: [Histogram; 3],
    /// Commands that have ended with CHECK CONDITION, by sense key.
    pub sense_keys: BTreeMap<SenseKey, u64>,
    /// Commands that have ended with another status than GOOD or CONDITION MET.
    pub statuses: BTreeMap<Status, u64>,
    /// Commands that were ended without a status.
    pub aborted: u64,
    /// Commands that have not ended.
    pub under_way: u32,
}

impl Activity {
    pub(super) fn add_usage(&mut self, usage: &Usage, table: &CommandTable) {
        let mut counts = usage.commands.iter().map(|count| count.load(Relaxed));
        for (row, count) in table.rows().iter().zip(&mut counts).filter(|(_, count)| *count > 0) {
            *self.commands.entry(row.spec.name).or_default() += count;
        }
        self.unknown_commands += counts.next().unwrap_or_default();
        self.bytes_read += usage.counters.totals(Counted::Read).transferred;
        self.bytes_written += usage.counters.totals(Counted::Write).transferred;
        for (time, measured) in self.times.iter_mut().zip(&usage.times) {
            measured.get().into_iter().for_each(|measured| time.add_measured(measured));
        }
        self.under_way += usage.under_way.load(Relaxed);
        let Some(failures) = usage.failures.get() else { return };
        self.aborted += failures.aborted.load(Relaxed);
        let keys = (0..).map(SenseKey).zip(&failures.sense_keys);
        for (key, count) in
            keys.map(|(key, count)| (key, count.load(Relaxed))).filter(|(_, count)| *count > 0)
        {
            *self.sense_keys.entry(key).or_default() += count;
        }
        let statuses = STATUSES.into_iter().zip(&failures.statuses);
        for (status, count) in statuses.map(|(status, count)| (status, count.load(Relaxed))) {
            if count > 0 {
                *self.statuses.entry(status).or_default() += count;
            }
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        fn sum<K: Ord + Copy>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            from.iter().for_each(|(key, count)| *to.entry(*key).or_default() += count);
        }
        sum(&mut self.commands, &other.commands);
        sum(&mut self.sense_keys, &other.sense_keys);
        sum(&mut self.statuses, &other.statuses);
        self.unknown_commands += other.unknown_commands;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.times.iter_mut().zip(&other.times).for_each(|(to, from)| to.add(from));
        self.aborted += other.aborted;
        self.under_way += other.under_way;
    }
}
