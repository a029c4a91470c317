//! What is looked at before a command is processed, in the order of SAM-5 5.3, and what it then wants done.

use crate::command::{Attention, CommandSpec, Row, Unknown};
use crate::outcome::Outcome;
use crate::plan::{Plan, Reply};
use crate::session::{CommandFrame, Itl};
use crate::tasks::Task;
use crate::{LogicalUnit, Request};
use lunette_scsi::{AdditionalSense, Cdb, Sense, Status, TaskAttribute};
use std::rc::Rc;

/// Why a command is not processed.
#[derive(PartialEq, Debug)]
pub(crate) enum Refusal {
    Sense(Sense),
    /// RESERVATION CONFLICT.
    Conflict,
    /// BUSY or ACA ACTIVE.
    Status(Status),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

impl Refusal {
    #[cold]
    pub(crate) fn outcome(self, unit: &LogicalUnit) -> Outcome {
        match self {
            Refusal::Sense(sense) => Outcome::failed(unit, sense),
            Refusal::Conflict => Outcome::status(Status::RESERVATION_CONFLICT),
            Refusal::Status(status) => Outcome::status(status),
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Sense(sense) => Self::check_condition(sense),
            Refusal::Conflict => Self { status: Status::RESERVATION_CONFLICT, sense: None, data: Vec::new() },
            Refusal::Status(status) => Self { status, sense: None, data: Vec::new() },
        }
    }
}

/// Finds out what a command wants done, unless something stands in its way.
pub(crate) fn plan(itl: &Rc<Itl>, command: &CommandFrame<'_>) -> Result<Plan, Refusal> {
    let row = itl.unit().commands().find(command.cdb);
    itl.usage.has_come(row);
    if !itl.shared.gate.is_open() {
        return plan_past_gate(itl, row, command);
    }
    decode(itl, row, command).map_err(Refusal::Sense)
}

#[cold]
fn plan_past_gate(
    itl: &Rc<Itl>,
    row: Result<&Row, Unknown>,
    command: &CommandFrame<'_>,
) -> Result<Plan, Refusal> {
    if itl.shared.gate.is_retired() {
        return Err(Sense::illegal_request(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED).into());
    }
    if itl.shared.gate.has_allegiance() {
        itl.unit().admits_beside_allegiance(itl.nexus.id(), command)?;
    }
    pass_gate(itl, row.ok().map(|row| row.spec), command.cdb)?;
    let plan = decode(itl, row, command).map_err(Refusal::Sense)?;
    Ok(if itl.shared.gate.has_ranges() { plan.with_range() } else { plan })
}

/// Whether a command may be processed for all that has closed the gate; the order is that of SAM-5 5.3.
fn pass_gate(itl: &Itl, command: Option<&CommandSpec>, cdb: &Cdb) -> Result<(), Refusal> {
    if command.is_none_or(|command| command.attention == Attention::Reported)
        && let Some(sense) = itl.nexus.take_attention(&itl.shared)
    {
        return Err(Refusal::Sense(sense));
    }
    command.map_or(Ok(()), |command| admits(itl, command, cdb))
}

/// What a command wants done, if nothing stands in its way.
pub(crate) fn decode(
    itl: &Rc<Itl>,
    row: Result<&Row, Unknown>,
    command: &CommandFrame<'_>,
) -> Result<Plan, Sense> {
    let unit = itl.unit();
    let row = row.map_err(|unknown| match unknown {
        Unknown::ServiceAction if !unit.device().is_placeholder() => {
            // A CDB may end before it.
            let (byte, bit) = command.cdb.service_action_at();
            Sense::invalid_field_in_cdb(byte.min(command.cdb.len() as u16), bit)
        }
        _ => unit.device().unknown_command(),
    })?;
    row.check(command.cdb)?;
    if command.attribute == TaskAttribute::Aca && !itl.shared.gate.has_allegiance() {
        return Err(Sense::aborted_command(AdditionalSense::INVALID_MESSAGE_ERROR));
    }
    let &CommandFrame { cdb, data_out, priority, reference_number, .. } = command;
    unit.decode(row, &Request { cdb, data_out, priority, reference_number, unit, nexus: &itl.nexus })
}

/// Whether the target port, reservations and the state of the unit let a command be processed. The port comes first: who is
/// told of a conflict gives up, who is told of an inactive port tries another.
fn admits(itl: &Itl, command: &CommandSpec, cdb: &Cdb) -> Result<(), Refusal> {
    let gate = &itl.shared.gate;
    if gate.has_inactive_port() {
        itl.unit().accessible(&itl.nexus.port, command.access).map_err(Refusal::Sense)?;
    }
    if gate.excludes(command.reservation_of(cdb)) {
        return Err(Refusal::Conflict);
    }
    if gate.is_unready() {
        // Those that leave unit attention conditions alone are those that a self-test lets through.
        if command.attention == Attention::Reported {
            itl.unit().is_not_tested()?;
        }
        return itl.unit().admits(command.needs).map_err(Refusal::Sense);
    }
    Ok(())
}

/// Decodes a task again that has waited: what it is to do may depend on mode pages that another one has changed. Commands
/// that do not report unit attention conditions have taken one, or given up one, when they were decoded first.
pub(crate) fn decode_again(task: &mut Task) {
    let itl = &task.itl;
    let unit = itl.unit();
    let Ok(row) = unit.commands().find(&task.cdb) else { return };
    if let Err(refusal) = admits(itl, row.spec, &task.cdb) {
        task.plan = Some(Plan::Done(refusal.into()));
    } else if row.spec.attention == Attention::Reported {
        let &mut Task { ref cdb, data_out, priority, reference_number, .. } = task;
        let request = Request { cdb, data_out, priority, reference_number, unit, nexus: &itl.nexus };
        let refused = |sense| Plan::Done(Reply::check_condition(sense));
        let plan = unit.decode(row, &request).unwrap_or_else(refused);
        (task.wanted_in, task.wanted_out) = (plan.wanted_in(), plan.wanted_out());
        task.plan = Some(plan);
    }
}

/// Looks again at what may have come between a command and its turn, or its data: it must not be processed after another
/// nexus was told that it will not.
#[cold]
pub(crate) fn recheck(task: &mut Task) {
    let row = task.itl.unit().commands().find(&task.cdb);
    if let Some(refusal) = row.ok().and_then(|row| admits(&task.itl, row.spec, &task.cdb).err()) {
        task.plan = Some(Plan::Done(refusal.into()));
    } else if task.itl.shared.gate.has_ranges() {
        task.plan = task.plan.take().map(Plan::with_range);
    }
}
