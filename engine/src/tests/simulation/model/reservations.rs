//! Persistent reservations, and those of RESERVE(6).

use super::functions::resets;
use crate::Completion;
use crate::tests::simulation::world::{Command, Function, Kind, Time, World};
use crate::tests::simulation::{EXCLUSIVE_ACCESS, key};
use lunette_scsi::{Status, TaskManagementFunction as Name, service_action};

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
                [Status::GOOD, Status::TASK_ABORTED].contains(&outcome.status)
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
            Kind::Write { .. } | Kind::CompareAndWrite { .. } | Kind::WriteAtomic { .. } => true,
            Kind::Read { .. } => reservation_type == EXCLUSIVE_ACCESS,
            _ => false,
        }
    }
}

pub(super) fn check(world: &World) {
    for command in &world.commands {
        let Some((action, kind, victim)) = command.reserve() else { continue };
        if action == service_action::RESERVE && command.is_good() {
            let ends = world.commands.iter().filter(|other| other.may_end(command.nexus));
            let spans = ends.map(|other| (other.arrived, other.end()));
            let excludes = |other: &Command| other.is_excluded_by(kind);
            check_exclusion(world, command, spans, excludes);
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
        if command.kind == Kind::Lock && command.is_good() {
            check_lock(world, command);
        }
        if command.status() == Some(Status::RESERVATION_CONFLICT) && command.reserve().is_none() {
            let mut reasons = world
                .commands
                .iter()
                .filter(|other| may_exclude(world, other, command) || may_lock_out(world, other, command));
            assert!(reasons.next().is_some(), "{:?} conflicts with no reservation", command.kind);
        }
    }
}

/// When RESERVE(6) of a nexus may end, or surely does.
fn unlocks(world: &World, nexus: usize, surely: bool) -> impl Iterator<Item = (Time, Time)> {
    let releases = world.commands.iter().filter(move |command| {
        let released = if surely { command.is_good() } else { command.may_have_changed() };
        command.kind == Kind::Unlock && command.nexus == nexus && released
    });
    let ends = world.functions.iter().filter(move |function| {
        let loses = matches!(function.function, Some(Name::ITNexusReset) | None);
        resets(function) || loses && function.nexus == nexus
    });
    let answered = |function: &Function| function.answered.as_ref().map_or(Time::MAX, |(time, _)| *time);
    let ends = ends.map(move |function| (function.sent, answered(function)));
    let sights = world.sights.iter().filter(move |(of, _)| *of == nexus).map(|(_, time)| (*time, *time));
    releases.map(|command| (command.arrived, command.end())).chain(ends).chain(sights)
}

/// RESERVE(6) keeps others from everything but RELEASE.
fn check_lock(world: &World, lock: &Command) {
    let excludes = |other: &Command| other.kind != Kind::Unlock;
    check_exclusion(world, lock, unlocks(world, lock.nexus, false), excludes);
}

/// Whether `lock` may be why `command` is told of a conflict.
fn may_lock_out(world: &World, lock: &Command, command: &Command) -> bool {
    let mut over = unlocks(world, lock.nexus, true);
    lock.kind == Kind::Lock
        && lock.nexus != command.nexus
        && lock.may_have_changed()
        && lock.arrived < command.end()
        && !over.any(|(since, until)| lock.end() < since && until < command.arrived)
}

/// While a reservation is surely in force, no command of others is processed that it excludes. It may end in each of `ends`.
fn check_exclusion(
    world: &World,
    reserve: &Command,
    ends: impl Iterator<Item = (Time, Time)>,
    excludes: impl Fn(&Command) -> bool,
) {
    let later = ends.filter(|(_, until)| *until > reserve.arrived);
    let until = later.map(|(since, _)| since).min().unwrap_or(Time::MAX);
    // Where nothing takes ranges, commands do not wait between the last look at reservations and the store.
    let takes_ranges =
        |command: &Command| matches!(command.kind, Kind::CompareAndWrite { .. } | Kind::WriteAtomic { .. });
    let at_once = !world.commands.iter().any(takes_ranges);
    for other in world.commands.iter().filter(|other| other.nexus != reserve.nexus) {
        let begins = other.begun.is_some_and(|begun| reserve.end() < begun && begun < until);
        let in_steps = matches!(other.kind, Kind::Read { in_steps: true, .. });
        assert!(
            !(at_once && begins && excludes(other)) || in_steps,
            "{:?} begins in spite of a reservation",
            other.kind
        );
        if reserve.end() < other.arrived && other.end() < until && excludes(other) {
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
