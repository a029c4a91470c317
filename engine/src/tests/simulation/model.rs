//! What may be seen of a unit from outside.

use super::disk::BLOCKS;
use super::world::{Command, Function, Kind, Time, World};
use super::{EXCLUSIVE_ACCESS, key};
use crate::{Aborted, Completion};
use lunette_scsi::{AdditionalSense, ServiceResponse, Status, TaskAttribute, service_action};
use std::collections::BTreeMap;

pub(super) fn check(world: &World) {
    for block in 0..BLOCKS {
        check_block(world, block);
    }
    check_order(world);
    world.functions.iter().for_each(|function| check_function(world, function));
    check_aborts(world);
    check_resets(world);
    check_reservations(world);
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
            Kind::CompareAndWrite { block: at, number, .. } => (at == block).then_some(number),
            _ => None,
        }
    }
}

/// The write of a value, and its reads: they follow each other without another write of the same block between them.
struct Cluster {
    first_end: Time,
    last_start: Time,
}

/// Whether some serial order of the commands explains what was read from `block`. As no value is written twice, one exists
/// if and only if no two clusters have to be inside each other (Gibbons and Korach).
fn check_block(world: &World, block: usize) {
    let mut clusters = BTreeMap::<u64, Cluster>::new();
    let initial = Cluster { first_end: 0, last_start: 0 };
    clusters.insert(block as u64 + 1, initial);
    for command in &world.commands {
        if let Some(value) = command.write(block) {
            clusters.insert(value, Cluster { first_end: command.end(), last_start: start(world, command) });
        }
    }
    let (mut read, mut compared) = (vec![block as u64 + 1], Vec::new());
    for command in &world.commands {
        let Some(value) = command.read(block) else { continue };
        let written = clusters.get_mut(&value);
        let cluster = written.unwrap_or_else(|| panic!("{value:x} was never written to block {block}"));
        assert!(
            cluster.last_start <= command.end() || read.contains(&value),
            "{value:x} was read before it was written"
        );
        cluster.first_end = cluster.first_end.min(command.end());
        cluster.last_start = cluster.last_start.max(start(world, command));
        read.push(value);
        if matches!(command.kind, Kind::CompareAndWrite { .. }) {
            assert!(!compared.contains(&value), "{value:x} in block {block} was replaced twice");
            compared.push(value);
        }
    }
    // What did not end well, and was never read, may not have been written.
    for command in world.commands.iter().filter(|command| !command.is_good()) {
        if let Some(value) = command.write(block).filter(|value| !read.contains(value)) {
            clusters.remove(&value);
        }
    }
    let all: Vec<_> = clusters.iter().collect();
    for (value, one) in &all {
        if one.first_end >= one.last_start {
            continue;
        }
        // From its first end to its last start, the block has this value.
        for (other_value, other) in all.iter().filter(|(other, _)| other != value) {
            let (start, end) = (other.first_end.min(other.last_start), other.first_end.max(other.last_start));
            let lasts = other.first_end < other.last_start;
            let overlaps = start < one.last_start && one.first_end < end;
            let inside = one.first_end < start && end < one.last_start;
            assert!(
                !(if lasts { overlaps } else { inside }),
                "block {block} was {value:x} when it was {other_value:x}"
            );
        }
    }
}

/// The earliest time at which a command may have had an effect: its arrival, or the end of what is before it in the order
/// of the task set (SAM-5 8.6).
fn start(world: &World, command: &Command) -> Time {
    let before = world.commands.iter().filter(|other| command.is_good() && precedes(other, command));
    before.map(Command::end).max().unwrap_or(0).max(command.arrived)
}

/// Whether `first` has to have ended before `second` is processed.
fn precedes(first: &Command, second: &Command) -> bool {
    use TaskAttribute::{HeadOfQueue, Ordered};
    if first.arrived >= second.arrived {
        return false;
    }
    match (first.attribute, second.attribute) {
        (_, HeadOfQueue) => false,
        (_, Ordered) => true,
        (Ordered | HeadOfQueue, _) => true,
        _ => false,
    }
}

fn check_order(world: &World) {
    for second in &world.commands {
        let Some(begun) = second.begun else { continue };
        for first in world.commands.iter().filter(|first| precedes(first, second)) {
            assert!(
                first.end() < begun,
                "{:?} {:?} was begun before the end of {:?} {:?}",
                second.attribute,
                second.kind,
                first.attribute,
                first.kind
            );
        }
    }
}

/// Whether a function concerns a command.
fn concerns(world: &World, function: &Function, number: usize) -> bool {
    use lunette_scsi::TaskManagementFunction as Name;
    let own = world.commands[number].nexus == function.nexus;
    match function.function {
        Some(Name::AbortTask | Name::QueryTask) => own && number == function.command,
        Some(Name::AbortTaskSet | Name::ITNexusReset | Name::QueryTaskSet) | None => own,
        Some(Name::ClearTaskSet | Name::LogicalUnitReset | Name::TargetWarmReset) => true,
        _ => false,
    }
}

fn aborts(function: &Function) -> bool {
    use lunette_scsi::TaskManagementFunction as Name;
    !matches!(function.function, Some(Name::QueryTask | Name::QueryTaskSet | Name::QueryAsynchronousEvent))
}

fn resets(function: &Function) -> bool {
    use lunette_scsi::TaskManagementFunction as Name;
    matches!(function.function, Some(Name::LogicalUnitReset | Name::TargetWarmReset))
}

/// When a function is answered, it has done what it is for.
fn check_function(world: &World, function: &Function) {
    use lunette_scsi::TaskManagementFunction as Name;
    let Some((answered, response)) = function.answered else { return };
    let commands = || {
        let all = world.commands.iter().enumerate();
        all.filter(|(number, _)| concerns(world, function, *number)).map(|(_, command)| command)
    };
    if aborts(function) {
        for command in commands().filter(|command| command.arrived < function.sent) {
            assert!(command.end() < answered, "{:?} has not ended {:?}", function.function, command.kind);
        }
    } else if function.function != Some(Name::QueryAsynchronousEvent) {
        let succeeded = matches!(response, ServiceResponse::FunctionSucceeded { .. });
        let surely = commands().any(|command| command.arrived < function.sent && command.end() > answered);
        let possibly = commands().any(|command| command.arrived < answered && command.end() > function.sent);
        assert!(succeeded || !surely, "a query has missed a command");
        assert!(!succeeded || possibly, "a query has seen a command that was not there");
    }
}

/// Nothing is aborted without a reason.
fn check_aborts(world: &World) {
    for (number, command) in world.commands.iter().enumerate() {
        let Some((end, Completion::Aborted(why))) = &command.ended else { continue };
        let functions = world
            .functions
            .iter()
            .filter(|function| aborts(function) && function.sent < *end && concerns(world, function, number));
        let reasons: Vec<_> = functions.collect();
        let preempted = || {
            world.commands.iter().any(|other| {
                matches!(other.kind, Kind::Reserve { action: service_action::PREEMPT_AND_ABORT, victim, .. }
                    if victim == command.nexus && other.arrived < *end)
            })
        };
        let allowed = match why {
            Aborted::ByReset => reasons.iter().any(|function| resets(function)),
            Aborted::NexusLost | Aborted::ByItsNexus => {
                reasons.iter().any(|function| function.nexus == command.nexus)
            }
            Aborted::ByAnotherNexus => {
                reasons.iter().any(|function| function.nexus != command.nexus) || preempted()
            }
        };
        assert!(allowed || preempted(), "{:?} was aborted without a reason: {why:?}", command.kind);
    }
}

/// Every nexus learns of a reset before one of its later commands is processed.
fn check_resets(world: &World) {
    for function in world.functions.iter().filter(|function| resets(function)) {
        let Some((answered, _)) = function.answered else { continue };
        let nexuses = world.commands.iter().map(|command| command.nexus).max().unwrap_or(0);
        for nexus in 0..=nexuses {
            let own = || world.commands.iter().filter(move |command| command.nexus == nexus);
            let Some(first) = own().find(|command| command.arrived > answered && command.is_good()) else {
                continue;
            };
            let told = own().any(|command| {
                command.end() > function.sent
                    && command.arrived < first.end()
                    && command.attention().is_some_and(|sense| sense.asc == 0x29)
            });
            assert!(told, "nexus {nexus} was not told of a reset");
        }
    }
}

impl Command {
    fn reserve(&self) -> Option<(u16, u8, usize)> {
        match self.kind {
            Kind::Reserve { action, reservation_type, victim } => Some((action, reservation_type, victim)),
            _ => None,
        }
    }

    /// Whether a change of reservations may have come into force.
    fn may_have_changed(&self) -> bool {
        match &self.ended {
            Some((_, Completion::Ended(outcome))) => {
                outcome.status == Status::GOOD
                    || outcome.sense.as_ref().is_some_and(|sense| sense.additional.asc == 0)
            }
            _ => true,
        }
    }

    /// Whether it may end a reservation of `holder`.
    fn may_end(&self, holder: usize) -> bool {
        let ends = match self.reserve() {
            Some((service_action::RELEASE, ..)) => self.nexus == holder,
            Some((
                service_action::CLEAR | service_action::PREEMPT | service_action::PREEMPT_AND_ABORT,
                ..,
            )) => true,
            _ => false,
        };
        ends && self.may_have_changed()
    }

    /// Whether a reservation of this type of another nexus excludes it.
    fn is_excluded_by(&self, reservation_type: u8) -> bool {
        match self.kind {
            Kind::Write { .. } | Kind::CompareAndWrite { .. } => true,
            Kind::Read { .. } => reservation_type == EXCLUSIVE_ACCESS,
            _ => false,
        }
    }
}

fn check_reservations(world: &World) {
    for command in &world.commands {
        let Some((action, kind, victim)) = command.reserve() else { continue };
        if action == service_action::RESERVE && command.is_good() {
            check_exclusion(world, command, kind);
        }
        // Nothing of who was preempted is left, or comes later.
        if action == service_action::PREEMPT_AND_ABORT && command.is_good() && victim != command.nexus {
            for other in world.commands.iter().filter(|other| other.nexus == victim) {
                let older = other.arrived < command.arrived;
                assert!(
                    !older || other.end() < command.end(),
                    "{:?} outlives its pre-emption by {:x}",
                    other.kind,
                    key(command.nexus)
                );
            }
        }
    }
    for command in &world.commands {
        if command.status() == Some(Status::RESERVATION_CONFLICT) && command.reserve().is_none() {
            let reasons = world.commands.iter().filter(|other| may_exclude(world, other, command));
            assert!(reasons.count() > 0, "{:?} conflicts with no reservation", command.kind);
        }
    }
}

/// While a reservation is surely in force, no command of others is processed that it excludes.
fn check_exclusion(world: &World, reserve: &Command, kind: u8) {
    let ends =
        world.commands.iter().filter(|other| other.end() > reserve.arrived && other.may_end(reserve.nexus));
    let until = ends.map(|other| other.arrived).min().unwrap_or(Time::MAX);
    // Where nothing takes ranges, commands do not wait between the last look at reservations and the store.
    let takes_ranges = |command: &Command| matches!(command.kind, Kind::CompareAndWrite { .. });
    let at_once = !world.commands.iter().any(takes_ranges);
    for other in world.commands.iter().filter(|other| other.nexus != reserve.nexus) {
        let begins = other.begun.is_some_and(|begun| reserve.end() < begun && begun < until);
        let in_steps = matches!(other.kind, Kind::Read { in_steps: true, .. });
        assert!(
            !(at_once && begins && other.is_excluded_by(kind)) || in_steps,
            "{:?} begins in spite of a reservation",
            other.kind
        );
        if reserve.end() < other.arrived && other.end() < until && other.is_excluded_by(kind) {
            assert!(
                other.begun.is_none() && !other.is_good(),
                "{:?} is processed in spite of a reservation",
                other.kind
            );
        }
    }
}

/// Whether a command may have been excluded by what `reserve` has changed.
fn may_exclude(world: &World, reserve: &Command, command: &Command) -> bool {
    let Some((action, ..)) = reserve.reserve() else { return false };
    let takes = matches!(
        action,
        service_action::RESERVE | service_action::PREEMPT | service_action::PREEMPT_AND_ABORT
    );
    let over = || {
        world.commands.iter().any(|other| {
            let ends = match other.reserve() {
                Some((service_action::RELEASE, ..)) => other.nexus == reserve.nexus,
                Some((service_action::CLEAR, ..)) => true,
                _ => false,
            };
            ends && other.is_good() && reserve.end() < other.arrived && other.end() < command.arrived
        })
    };
    takes
        && reserve.nexus != command.nexus
        && reserve.may_have_changed()
        && reserve.arrived < command.end()
        && !over()
}
