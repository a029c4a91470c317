//! Task management functions: what they have done when they are answered, and what nobody has asked for.

use super::errors;
use crate::tests::simulation::world::{Command, Function, World};
use crate::{Aborted, Completion};
use lunette_scsi::{ServiceResponse, TaskManagementFunction as Name};

pub(super) fn check(world: &World) {
    world.functions.iter().for_each(|function| check_function(world, function));
    check_aborts(world);
    check_resets(world);
}

/// Whether a function concerns a command.
pub(super) fn concerns(world: &World, function: &Function, number: usize) -> bool {
    let own = world.commands[number].nexus == function.nexus;
    match function.function {
        Some(Name::AbortTask | Name::QueryTask) => own && number == function.command,
        Some(Name::AbortTaskSet | Name::ITNexusReset | Name::QueryTaskSet) | None => own,
        Some(Name::ClearAca) => own && world.commands[number].is_of_allegiance(),
        Some(Name::ClearTaskSet | Name::LogicalUnitReset | Name::TargetWarmReset) => true,
        _ => false,
    }
}

pub(super) fn aborts(function: &Function) -> bool {
    !matches!(function.function, Some(Name::QueryTask | Name::QueryTaskSet | Name::QueryAsynchronousEvent))
}

pub(super) fn resets(function: &Function) -> bool {
    matches!(function.function, Some(Name::LogicalUnitReset | Name::TargetWarmReset))
}

/// When a function is answered, it has done what it is for.
fn check_function(world: &World, function: &Function) {
    let Some((answered, response)) = function.answered else { return };
    let commands = || {
        let all = world.commands.iter().enumerate();
        all.filter(|(number, _)| concerns(world, function, *number)).map(|(_, command)| command)
    };
    if aborts(function) {
        // What came as an answer to an allegiance that was not there is none.
        let is_none = |command: &Command| {
            function.function == Some(Name::ClearAca) && command.may_have_failed() && command.begun.is_none()
        };
        for command in commands().filter(|command| command.arrived < function.sent && !is_none(command)) {
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
    for (number, command) in world.commands.iter().enumerate().filter(|(_, command)| command.was_aborted()) {
        let Some((end, completion)) = &command.ended else { continue };
        let mut reasons = Reasons::of(world, number);
        let told = world.settings.tells_aborted;
        let allowed = match completion {
            Completion::Aborted(Aborted::ByReset) => {
                reasons.functions.retain(|function| resets(function));
                reasons.by(|nexus| !told || nexus == command.nexus)
            }
            Completion::Aborted(Aborted::NexusLost | Aborted::ByItsNexus) => {
                reasons.by(|nexus| nexus == command.nexus)
            }
            Completion::Aborted(Aborted::ByAnotherNexus) => {
                !told && reasons.by(|nexus| nexus != command.nexus)
            }
            Completion::Ended(_) => told && reasons.by(|nexus| nexus != command.nexus),
        };
        assert!(allowed, "{:?} was aborted without a reason at {end}: {completion:?}", command.kind);
    }
}

/// What may have aborted a command.
pub(super) struct Reasons<'a> {
    pub(super) functions: Vec<&'a Function>,
    pub(super) preemptions: Vec<&'a Command>,
    pub(super) errors: Vec<&'a Command>,
}

impl<'a> Reasons<'a> {
    pub(super) fn of(world: &'a World, number: usize) -> Self {
        let command = &world.commands[number];
        let concerns = |function: &&Function| {
            aborts(function) && function.sent < command.end() && concerns(world, function, number)
        };
        let preempts =
            |other: &&Command| other.preempts() == Some(command.nexus) && other.arrived < command.end();
        Self {
            functions: world.functions.iter().filter(concerns).collect(),
            preemptions: world.commands.iter().filter(preempts).collect(),
            errors: world.commands.iter().filter(|other| errors::may_abort(world, other, command)).collect(),
        }
    }

    /// Whether one of them came by such a nexus.
    fn by(&self, nexus: impl Fn(usize) -> bool) -> bool {
        let commands = self.preemptions.iter().chain(&self.errors).map(|command| command.nexus);
        self.functions.iter().map(|function| function.nexus).chain(commands).any(nexus)
    }
}

/// Every nexus learns of a reset before one of its later commands is processed.
fn check_resets(world: &World) {
    for function in world.functions.iter().filter(|function| resets(function)) {
        let Some((answered, _)) = function.answered else { continue };
        let nexuses = world.commands.iter().map(|command| command.nexus).max().unwrap_or(0);
        for nexus in 0..=nexuses {
            let own = || world.commands.iter().filter(move |command| command.nexus == nexus);
            let is_later = |command: &&Command| {
                command.arrived > answered && command.is_good() && !errors::may_miss_attention(world, command)
            };
            let Some(first) = own().find(is_later) else { continue };
            let told = own().any(|command| {
                command.end() > function.sent
                    && command.arrived < first.end()
                    && command.attention().is_some_and(|sense| sense.asc == 0x29)
            });
            assert!(told, "nexus {nexus} was not told of a reset");
        }
    }
}
