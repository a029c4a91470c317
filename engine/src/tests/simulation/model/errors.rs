//! What the failure of one command does to others (QERR), and what those are told (TAS).

use super::functions::Reasons;
use crate::tests::simulation::world::{Command, World};
use crate::{Aborted, Completion};
use lunette_scsi::AdditionalSense;

/// QERR: all are aborted, or those of the same nexus.
const ABORT_ALL: u8 = 0b01;
const ABORT_OWN: u8 = 0b11;

pub(super) fn check(world: &World) {
    check_errors(world);
    check_cleared(world);
}

/// Whether an error of `failed` is about `other`.
fn concerns(world: &World, failed: &Command, other: &Command) -> bool {
    match world.settings.on_error {
        ABORT_ALL => true,
        ABORT_OWN => failed.nexus == other.nexus,
        _ => false,
    }
}

/// Whether an error of `failed` may have aborted `other`.
pub(super) fn may_abort(world: &World, failed: &Command, other: &Command) -> bool {
    failed.may_have_failed() && failed.overlaps(other) && concerns(world, failed, other)
}

/// When an error is told, what it aborts is over.
fn check_errors(world: &World) {
    for failed in world.commands.iter().filter(|command| command.has_failed()) {
        for other in world.commands.iter().filter(|other| other.arrived < failed.arrived && other.is_good()) {
            assert!(
                other.end() < failed.end() || !concerns(world, failed, other),
                "{:?} outlives the error of {:?}",
                other.kind,
                failed.kind
            );
        }
    }
}

/// Whether a unit attention condition may be with another command of the nexus, that has come to no end yet and is aborted
/// before it tells it.
pub(super) fn may_miss_attention(world: &World, command: &Command) -> bool {
    let withholds = |other: &Command| {
        let is_own = other.nexus == command.nexus && other.overlaps(command);
        is_own && other.was_aborted() && other.begun.is_none()
    };
    world.commands.iter().any(withholds)
}

/// Whose commands another nexus has aborted without a status learns of it before one of its later commands is processed.
fn check_cleared(world: &World) {
    for (number, command) in world.commands.iter().enumerate() {
        let Some((end, Completion::Aborted(Aborted::ByAnotherNexus))) = command.ended else { continue };
        let Reasons { functions, preemptions, errors } = Reasons::of(world, number);
        if !preemptions.is_empty() {
            continue;
        }
        let sent = functions.iter().map(|function| function.sent);
        let since = sent.chain(errors.iter().map(|failed| failed.arrived)).min().unwrap_or(0);
        let own = || world.commands.iter().filter(|other| other.nexus == command.nexus);
        let is_later =
            |other: &&Command| other.arrived > end && other.is_good() && !may_miss_attention(world, other);
        let Some(first) = own().find(is_later) else { continue };
        let told = own().any(|other| {
            other.end() > since
                && other.arrived < first.end()
                && other.attention().is_some_and(|sense| {
                    sense == AdditionalSense::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR || sense.asc == 0x29
                })
        });
        assert!(told, "nexus {} was not told that {:?} was cleared", command.nexus, command.kind);
    }
}
