//! Room in the store: who waits for it, in which order, and who is turned away.

use super::allegiance;
use crate::tests::simulation::world::{Command, Kind, World};
use lunette_scsi::{Status, TaskAttribute};

pub(super) fn check(world: &World) {
    for command in &world.commands {
        check_turned_away(world, command);
    }
    check_priorities(world);
}

/// TASK SET FULL, or BUSY for want of room, are told when so many wait, and as the nexus has others there or none.
fn check_turned_away(world: &World, command: &Command) {
    let full = command.status() == Some(Status::TASK_SET_FULL);
    let busy = command.status() == Some(Status::BUSY) && !allegiance::may_be_in_force(world, command);
    if !full && !busy {
        return;
    }
    let then = command.end();
    let there = |other: &&Command| other.arrived < then && then < other.end();
    let waits = |other: &&Command| there(other) && other.begun.is_none_or(|begun| begun > then);
    let waiting = world.commands.iter().filter(waits).count();
    assert!(waiting >= world.settings.limit, "{:?} is turned away though only {waiting} wait", command.kind);
    // Who sees the unit again is new to it.
    let whose = |command: &Command| (command.nexus, command.reactor, command.sight);
    let own = |other: &&Command| whose(other) == whose(command);
    let has_others = world.commands.iter().filter(there).any(|other| own(&other));
    assert_eq!(full, has_others, "TASK SET FULL is for those who have commands there");
}

/// Of those who were refused, the higher ones go first.
fn check_priorities(world: &World) {
    let is_suspended = world.commands.iter().any(|command| command.naca) || !world.changes.is_empty();
    let takes_ranges =
        |command: &Command| matches!(command.kind, Kind::CompareAndWrite { .. } | Kind::WriteAtomic { .. });
    if is_suspended || world.commands.iter().any(takes_ranges) {
        return;
    }
    for one in &world.commands {
        let (Some(refused), Some(begun)) = (one.refused, one.begun) else { continue };
        let overtakes = |other: &&Command| {
            other.reactor == one.reactor
                && rank(other) > rank(one)
                && other.begun.is_some_and(|time| refused < time && time < begun)
        };
        let overtaker = world.commands.iter().find(overtakes);
        assert!(
            overtaker.is_none(),
            "{:?} of priority {} is overtaken by {:?}",
            one.kind,
            one.priority,
            overtaker.map(|other| (other.kind, other.priority))
        );
    }
}

fn rank(command: &Command) -> u8 {
    match (command.attribute, command.priority) {
        (TaskAttribute::HeadOfQueue | TaskAttribute::Aca, _) => 0,
        (_, 0) => 8,
        (_, priority) => priority,
    }
}
