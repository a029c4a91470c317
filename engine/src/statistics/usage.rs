//! What the commands of one I_T nexus for one logical unit have come to on one reactor, which alone writes here.

use super::few::Few;
use super::histogram::{Histogram, Measured, bucket, nanoseconds};
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
    /// Commands that have come, by row of the unit's table; in the end those that have none. There from the first one on
    /// that reads or writes.
    commands: OnceLock<Box<[AtomicU64]>>,
    /// How many rows the table has.
    rows: u16,
    few: FewCommands,
    times: [OnceLock<Box<Measured>>; 3],
    failures: OnceLock<Box<Failures>>,
    /// Commands that have not ended, but for those that end at once.
    under_way: AtomicU32,
    /// Commands that have ended, but whose time is not counted yet.
    unmeasured: [AtomicU32; 3],
}

/// What is counted of few commands that neither read nor write, as of those that find a unit.
#[derive(Default, Debug)]
struct FewCommands {
    /// By row, as long as the others are not there.
    commands: Few<8>,
    /// How long they took, by bucket.
    times: Few<8>,
    /// All times together, in nanoseconds.
    time: AtomicU64,
    /// CHECK CONDITION, by sense key.
    sense_keys: Few<3>,
}

impl FewCommands {
    /// So many took this long. Returns whether there was room for that.
    fn took(&self, time: Duration, commands: u32) -> bool {
        let has_room = self.times.count(bucket(time) as u16, commands);
        if has_room {
            add(&self.time, nanoseconds(time, commands.into()));
        }
        has_room
    }

    /// A command has failed. Returns whether there was room for that.
    fn failed(&self, outcome: &Outcome) -> bool {
        let sense = outcome.sense.as_ref().filter(|_| outcome.status == Status::CHECK_CONDITION);
        sense.is_some_and(|sense| self.sense_keys.count((sense.key.0 & 0xf).into(), 1))
    }
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
        Self { rows: table.rows().len() as u16, ..Self::default() }
    }

    /// A command has come.
    #[inline]
    pub(crate) fn has_come(&self, row: Result<&Row, Unknown>) {
        let Some(commands) = self.commands.get() else { return self.has_come_early(row) };
        let index = row.map_or(commands.len().wrapping_sub(1), |row| row.index.into());
        if let Some(count) = commands.get(index) {
            add(count, 1);
        }
    }

    /// A command has come, and none that reads or writes has before.
    #[cold]
    fn has_come_early(&self, row: Result<&Row, Unknown>) {
        let (index, class) =
            row.map_or((self.rows, Class::Other), |row| (row.index, Class::of(row.spec.opcode)));
        if class != Class::Other || !self.few.commands.count(index, 1) {
            let none = || (0..=self.rows).map(|_| AtomicU64::new(0)).collect();
            self.commands
                .get_or_init(none)
                .get(usize::from(index))
                .into_iter()
                .for_each(|count| add(count, 1));
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
        let times = &self.times[class as usize];
        if class != Class::Other || times.get().is_some() || !self.few.took(time, commands) {
            times.get_or_init(Box::default).count(time, commands.into());
        }
    }

    /// Whether there is nothing but what is always there.
    #[cfg(test)]
    pub(super) fn is_small(&self) -> bool {
        let has_times = self.times.iter().any(|times| times.get().is_some());
        self.commands.get().is_none() && self.failures.get().is_none() && !has_times
    }

    /// A command has ended otherwise than well.
    #[cold]
    pub(crate) fn failed(&self, outcome: &Outcome) {
        if self.failures.get().is_none() && self.few.failed(outcome) {
            return;
        }
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
        let counts = usage.commands.get().into_iter().flatten().map(|count| count.load(Relaxed));
        let counts = (0..).zip(counts).filter(|(_, count)| *count > 0);
        for (row, count) in usage.few.commands.counts().chain(counts) {
            match table.rows().get(usize::from(row)) {
                Some(row) => *self.commands.entry(row.spec.name).or_default() += count,
                None => self.unknown_commands += count,
            }
        }
        self.bytes_read += usage.counters.totals(Counted::Read).transferred;
        self.bytes_written += usage.counters.totals(Counted::Write).transferred;
        for (time, measured) in self.times.iter_mut().zip(&usage.times) {
            measured.get().into_iter().for_each(|measured| time.add_measured(measured));
        }
        let few = &usage.few;
        self.times[Class::Other as usize].add_counts(few.times.counts(), few.time.load(Relaxed));
        for (key, count) in few.sense_keys.counts() {
            *self.sense_keys.entry(SenseKey(key as u8)).or_default() += count;
            *self.statuses.entry(Status::CHECK_CONDITION).or_default() += count;
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
