//! Auto contingent allegiance: whom it keeps out, and what it suspends.

use super::functions::resets;
use crate::tests::simulation::world::{Command, Time, World};
use lunette_scsi::{AdditionalSense, Status, TaskManagementFunction as Name};

/// Something that clears an allegiance, or may do so.
struct Clearing {
    since: Time,
    until: Time,
    /// Whose; `None`: anybody's.
    faulted: Option<usize>,
}

pub(super) fn check(world: &World) {
    let (sure, possible) = (sure_clearings(world), possible_clearings(world));
    for failed in world.commands.iter().filter(|command| command.naca && command.has_failed()) {
        check_in_force(world, failed, &sure, &possible);
    }
    for command in &world.commands {
        check_reasons(world, command, &sure);
    }
    check_one_at_a_time(world, &possible);
}

/// Functions clear it before they are answered, and so does who ceases to see the unit.
fn sure_clearings(world: &World) -> Vec<Clearing> {
    let clearing = |faulted, function: &crate::tests::simulation::world::Function| {
        let until = function.answered.as_ref().map_or(Time::MAX, |(answered, _)| *answered);
        Clearing { since: function.sent, until, faulted }
    };
    let functions = world.functions.iter().filter_map(|function| match function.function {
        _ if resets(function) => Some(clearing(None, function)),
        Some(Name::ClearAca | Name::ITNexusReset) | None => Some(clearing(Some(function.nexus), function)),
        _ => None,
    });
    let sights = world.sights.iter().map(|(nexus, time)| Clearing {
        since: *time,
        until: *time,
        faulted: Some(*nexus),
    });
    functions.chain(sights).collect()
}

/// So may pre-emptions, and errors of commands that are to look into it.
fn possible_clearings(world: &World) -> Vec<Clearing> {
    let commands = world.commands.iter().filter_map(|command| {
        let answers = command.is_of_allegiance() && !command.naca && command.may_have_failed();
        let faulted = command.preempts().or(answers.then_some(command.nexus))?;
        Some(Clearing { since: command.arrived, until: command.end(), faulted: Some(faulted) })
    });
    sure_clearings(world).into_iter().chain(commands).collect()
}

/// Those who may be the faulted nexus between `since` and `until`.
fn possibly_faulted(world: &World, sure: &[Clearing], since: Time, until: Time) -> Vec<usize> {
    let established = |command: &&Command| {
        let clears = |clearing: &Clearing| {
            clearing.faulted.is_none_or(|faulted| faulted == command.nexus)
                && command.end() < clearing.since
                && clearing.until < since
        };
        command.naca && command.may_have_failed() && command.arrived < until && !sure.iter().any(clears)
    };
    world.commands.iter().filter(established).map(|command| command.nexus).collect()
}

/// From the time that the error is told until somebody may have cleared it, the allegiance is in force.
fn check_in_force(world: &World, failed: &Command, sure: &[Clearing], possible: &[Clearing]) {
    let told = failed.end();
    let later = possible.iter().filter(|clearing| clearing.until > failed.arrived);
    let cleared = later.map(|clearing| clearing.since).min().unwrap_or(Time::MAX);
    if cleared < told {
        return;
    }
    let in_force = |time: Time| told < time && time < cleared;
    let faulted = possibly_faulted(world, sure, failed.arrived, told);
    let is_certain = faulted.iter().all(|nexus| *nexus == failed.nexus);
    for other in world.commands.iter().filter(|other| !std::ptr::eq(*other, failed)) {
        let what = (other.attribute, other.kind);
        if !other.is_of_allegiance() {
            assert!(!other.begun.is_some_and(in_force), "{what:?} begins in spite of an allegiance");
            let runs = other.begun.is_some_and(|begun| begun < told) && !other.may_have_failed();
            assert!(!runs || other.end() < told, "{what:?} runs when an allegiance is told");
        }
        if in_force(other.arrived) {
            check_status(failed, other, is_certain);
        }
    }
}

/// The status of a command that comes while an allegiance is in force, which is surely that of `failed` if `is_certain`.
fn check_status(failed: &Command, other: &Command, is_certain: bool) {
    let (own, aca) = (other.nexus == failed.nexus, other.is_of_allegiance());
    let what = (other.attribute, other.kind, other.status());
    let refused = [Some(Status::ACA_ACTIVE), Some(Status::BUSY)].contains(&other.status());
    if other.preempts().is_some() && !aca && (!own || !is_certain) {
        return;
    }
    assert!(refused || aca, "{what:?} is processed in spite of an allegiance");
    if !is_certain {
        return;
    }
    let expected = match (own, aca) {
        (true, true) => {
            let message = other.attention() == Some(AdditionalSense::INVALID_MESSAGE_ERROR);
            return assert!(!message, "{what:?} is not known to look into an allegiance");
        }
        (false, false) if !other.naca => Status::BUSY,
        _ => Status::ACA_ACTIVE,
    };
    assert_eq!(other.status(), Some(expected), "{what:?} comes while an allegiance is in force");
}

/// Nobody is kept out for an allegiance that cannot be, or looks into one.
fn check_reasons(world: &World, command: &Command, sure: &[Clearing]) {
    let faulted = || possibly_faulted(world, sure, command.arrived, command.end());
    if command.status() == Some(Status::ACA_ACTIVE) {
        assert!(!faulted().is_empty(), "{:?} is refused for no allegiance", command.kind);
    }
    if command.is_of_allegiance() && (command.begun.is_some() || command.is_good()) {
        assert!(faulted().contains(&command.nexus), "{:?} looks into no allegiance", command.kind);
    }
}

/// Whether an allegiance may be in force when a command ends.
pub(super) fn may_be_in_force(world: &World, command: &Command) -> bool {
    !possibly_faulted(world, &sure_clearings(world), command.arrived, command.end()).is_empty()
}

/// One command at a time looks into an allegiance.
fn check_one_at_a_time(world: &World, possible: &[Clearing]) {
    let of_allegiance =
        || world.commands.iter().filter(|command| command.is_of_allegiance() && command.begun.is_some());
    for one in of_allegiance() {
        for other in of_allegiance().filter(|other| one.arrived < other.arrived) {
            let cleared = possible
                .iter()
                .any(|clearing| clearing.since < other.arrived && one.arrived < clearing.until);
            assert!(cleared || one.end() < other.arrived, "two commands look into an allegiance");
        }
    }
}
