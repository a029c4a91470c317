//! What may be seen of a unit from outside.

mod allegiance;
mod blocks;
mod changes;
mod errors;
mod functions;
mod order;
mod reservations;
mod room;

use super::world::{Command, Kind, Time, Wish, World};
use crate::Completion;
use lunette_scsi::{AdditionalSense, Status, TaskAttribute, service_action};
use std::collections::BTreeMap;

pub(super) fn check(world: &World) {
    blocks::check(world);
    order::check(world);
    functions::check(world);
    errors::check(world);
    allegiance::check(world);
    reservations::check(world);
    room::check(world);
    changes::check(world);
}

/// What schedules have shown: a check of what never happens proves nothing.
#[derive(Default, Debug)]
pub(super) struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    pub(super) fn add(&mut self, world: &World) {
        for command in &world.commands {
            let status = command.status();
            let aborted = command.was_aborted();
            let goes = |(nexus, time): &(usize, Time)| {
                *nexus == command.nexus && command.arrived < *time && *time < command.end()
            };
            let outlasts = world.sights.iter().any(goes);
            for (what, seen) in [
                ("GOOD", command.is_good()),
                ("CHECK CONDITION with NACA", command.naca && command.has_failed()),
                ("ACA ACTIVE", status == Some(Status::ACA_ACTIVE)),
                ("BUSY", status == Some(Status::BUSY)),
                ("TASK SET FULL", status == Some(Status::TASK_SET_FULL)),
                ("TASK ABORTED", status == Some(Status::TASK_ABORTED)),
                ("RESERVATION CONFLICT", status == Some(Status::RESERVATION_CONFLICT)),
                ("a look into an allegiance", command.is_of_allegiance() && command.begun.is_some()),
                ("a command that waited for room", command.refused.is_some() && command.begun.is_some()),
                (
                    "an aborted command in the background",
                    aborted && matches!(command.kind, Kind::WriteAtomic { .. }),
                ),
                ("a command that outlasts the sight of its unit", outlasts && command.is_good()),
                ("RESERVE(6)", command.kind == Kind::Lock && command.is_good()),
                ("an error that aborts", command.has_failed() && world.settings.on_error != 0),
                (
                    "a block that is not there any more",
                    command.attention() == Some(AdditionalSense::LBA_OUT_OF_RANGE),
                ),
                (
                    "a write that the operator forbids",
                    command.attention() == Some(AdditionalSense::WRITE_PROTECTED),
                ),
            ] {
                *self.0.entry(what).or_default() += usize::from(seen);
            }
        }
        for change in &world.changes {
            let seen = change.done.as_ref().is_some_and(|(_, succeeded)| *succeeded);
            let what = match change.wish {
                Wish::Quiesce if seen => "a quiet unit",
                Wish::Quiesce => "a unit that was let go on",
                Wish::Resize(_) if seen => "another size",
                Wish::ReadOnly(_) if seen => "a unit that is protected or not",
                _ => "a change of a unit that has gone",
            };
            *self.0.entry(what).or_default() += 1;
        }
    }

    /// Everything has been seen, at least `times`.
    pub(super) fn is_complete(&self, times: usize) -> bool {
        self.0.values().all(|count| *count >= times)
    }
}

impl Command {
    /// When nothing could happen to it any more.
    fn end(&self) -> Time {
        self.ended.as_ref().map_or(Time::MAX, |(end, _)| *end)
    }

    fn status(&self) -> Option<Status> {
        match self.ended.as_ref()? {
            (_, Completion::Ended(outcome)) => Some(outcome.status),
            _ => None,
        }
    }

    fn is_good(&self) -> bool {
        self.status() == Some(Status::GOOD)
    }

    fn attention(&self) -> Option<AdditionalSense> {
        match self.ended.as_ref()? {
            (_, Completion::Ended(outcome)) => outcome.sense.as_ref().map(|sense| sense.additional),
            _ => None,
        }
    }

    /// What it has read from `block`.
    fn read(&self, block: usize) -> Option<u64> {
        match self.kind {
            _ if !self.is_good() => None,
            Kind::Read { first, count, .. } => {
                (first..first + count).contains(&block).then(|| self.data[block - first])
            }
            Kind::CompareAndWrite { block: at, expected, .. } => (at == block).then_some(expected),
            _ => None,
        }
    }

    /// What it writes to `block`, if it comes to that.
    fn write(&self, block: usize) -> Option<u64> {
        match self.kind {
            Kind::Write { first, count, number } => {
                (first..first + count).contains(&block).then(|| number + (block - first) as u64)
            }
            Kind::CompareAndWrite { block: at, number, .. } | Kind::WriteAtomic { block: at, number } => {
                (at == block).then_some(number)
            }
            _ => None,
        }
    }

    /// Whether it ended with CHECK CONDITION.
    fn has_failed(&self) -> bool {
        self.status() == Some(Status::CHECK_CONDITION)
    }

    /// Whether it was aborted, and told so or not.
    fn was_aborted(&self) -> bool {
        matches!(self.ended, Some((_, Completion::Aborted(_)))) || self.status() == Some(Status::TASK_ABORTED)
    }

    /// Whether it may have come to an error: who was aborted may have done so before.
    fn may_have_failed(&self) -> bool {
        self.has_failed() || self.was_aborted()
    }

    fn is_of_allegiance(&self) -> bool {
        self.attribute == TaskAttribute::Aca
    }

    /// Whom it pre-empts and aborts.
    fn preempts(&self) -> Option<usize> {
        match self.kind {
            Kind::Reserve { action: service_action::PREEMPT_AND_ABORT, victim, .. } => Some(victim),
            _ => None,
        }
    }

    /// Whether it was in the unit at some time that `other` was, too.
    fn overlaps(&self, other: &Command) -> bool {
        self.arrived < other.end() && other.arrived < self.end()
    }
}
