//! What the failure of one command does to others: QERR of the Control mode page (SPC-4 7.5.8), and NACA of the command
//! (SAM-5 5.10).
//!
//! A command that is to end with CHECK CONDITION first does that, as a command of several steps that ends with the same sense
//! data, so its initiator is told when nothing of what was aborted touches any memory.

use crate::engine::Engine;
use crate::outcome::Outcome;
use crate::plan::{Plan, RunPlan};
use crate::run::Run;
use crate::session::{Admission, CommandFrame, Itl};
use crate::tasks::{Task, TaskId};
use lunette_scsi::{Cdb, Sense, TaskAttribute};
use lunette_store::{Cx, Sg};
use std::rc::Rc;
use std::time::Duration;

/// What an error does to the other commands of the task set (QERR).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnError {
    /// They are processed as if nothing had happened.
    GoOn,
    /// They are aborted.
    AbortAll,
    /// Those of the same nexus are aborted.
    AbortOwn,
}

impl Engine {
    /// Makes a task of a command that has failed on arrival, if it has something to do before it ends. If there is no room for
    /// one, the initiator is told that instead.
    #[cold]
    pub(crate) fn fail_on_arrival(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        sense: &Sense,
        now: Duration,
    ) -> Option<Admission> {
        if !has_aftermath(itl, command.cdb, command.attribute) {
            return None;
        }
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.vacant(&itl.share) else {
            itl.shared.give_back(sense);
            return Some(Admission::Ended(Outcome::no_room(itl.tasks.get() > 0)));
        };
        let plan = Plan::Run(aftermath(itl, command.cdb, command.attribute, sense));
        // Whatever its attribute, it is over.
        let command = CommandFrame { attribute: TaskAttribute::Simple, ..*command };
        let failure = Some(Box::new(*sense));
        tasks.occupy(task, Task { failure, enabled: true, ..Task::new(itl.clone(), &command, plan, now) });
        itl.set.began();
        Some(Admission::Admitted { task, wanted_out: 0, wanted_in: 0 })
    }

    /// A task has come to `outcome`. If that is an error, it may have something to do before it ends.
    #[cold]
    pub(crate) fn fail(
        &self,
        id: TaskId,
        task: &mut Task,
        outcome: Outcome,
        cx: &mut dyn Cx,
    ) -> Option<Outcome> {
        let Some(sense) = outcome.sense.as_ref().filter(|_| task.failure.is_none() && task.aborted.is_none())
        else {
            return Some(outcome);
        };
        if !has_aftermath(&task.itl, &task.cdb, task.attribute) {
            return Some(outcome);
        }
        let plan = aftermath(&task.itl, &task.cdb, task.attribute, sense);
        task.failure = Some(sense.clone());
        if task.plan.take().is_some() {
            self.check_transfers(id, cx);
        }
        self.begin_task(id, task, plan, Sg::empty(), Sg::empty(), cx);
        self.drive_task(id, task, None, cx)
    }
}

/// Whether a command with this CDB and attribute has something to do before it ends with CHECK CONDITION.
fn has_aftermath(itl: &Itl, cdb: &Cdb, attribute: TaskAttribute) -> bool {
    let unit = itl.unit();
    !unit.device().is_placeholder()
        && !unit.is_retired()
        && (cdb.naca() || unit.on_error() != OnError::GoOn || is_answer_to_allegiance(itl, attribute))
}

fn is_answer_to_allegiance(itl: &Itl, attribute: TaskAttribute) -> bool {
    attribute == TaskAttribute::Aca && itl.shared.gate.has_allegiance()
}

/// What a command does before it ends with CHECK CONDITION.
fn aftermath(itl: &Itl, cdb: &Cdb, attribute: TaskAttribute, sense: &Sense) -> RunPlan {
    let (unit, naca, on_error) = (itl.unit(), cdb.naca(), itl.unit().on_error());
    let is_answer = is_answer_to_allegiance(itl, attribute);
    if naca {
        unit.establish_allegiance(itl);
    }
    let sense = *sense;
    RunPlan::new(0, async move |run: Run| {
        if is_answer && !naca {
            let _ = run.clear_allegiance().await;
        }
        // If this is aborted, the sense data is not told anyway.
        let _ = match on_error {
            OnError::GoOn => Ok(0),
            OnError::AbortAll => run.abort_others(false).await,
            OnError::AbortOwn => run.abort_others(true).await,
        };
        if naca {
            let _ = run.settle().await;
        }
        Err(sense)
    })
}
