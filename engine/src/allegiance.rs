//! Auto contingent allegiance (SAM-5 5.10): after an error, the nexus that had it may look into it before anybody goes on.
//!
//! A command with NACA set that ends with CHECK CONDITION establishes the condition. Until it is cleared, new commands are
//! refused, all but those with the ACA task attribute of the *faulted* nexus, and what is in the task set but has not begun
//! is suspended.

use crate::checks::Refusal;
use crate::engine::{Engine, Token};
use crate::nexus::ItlNexus;
use crate::order::TURNS_AT_A_TIME;
use crate::session::{CommandFrame, Itl};
use crate::tasks::{Phase, Task, TaskId};
use crate::unit::State;
use crate::{LogicalUnit, NexusId};
use lunette_scsi::{Cdb, Opcode, Status, TaskAttribute, service_action};
use lunette_store::{Cx, Post};
use std::sync::Arc;

/// The condition, while it is established.
#[derive(Debug)]
pub(crate) struct Allegiance {
    /// Whose command has failed.
    faulted: NexusId,
    /// The tag of its command with the ACA task attribute that is in the task set.
    task: Option<u64>,
}

impl Allegiance {
    /// After a command of `faulted` has failed.
    pub(crate) fn of(faulted: NexusId) -> Self {
        Self { faulted, task: None }
    }

    pub(crate) fn is_of(&self, nexus: NexusId) -> bool {
        self.faulted == nexus
    }
}

impl LogicalUnit {
    /// Whether the condition is established: some commands then wait until it is cleared.
    pub fn has_allegiance(&self) -> bool {
        self.state().allegiance.is_some()
    }

    /// A command with NACA set has failed. A condition of another nexus stays.
    pub(crate) fn establish_allegiance(&self, of: &Itl) {
        let mut state = self.state();
        // Nobody would clear it.
        if of.shared.has_left() {
            return;
        }
        state.allegiance.get_or_insert(Allegiance::of(of.nexus.id()));
        state.itls().for_each(|itl| itl.set_allegiance(true));
    }

    /// Clears the condition if it is one of these nexuses'. Returns whether it was.
    fn clear_allegiance(&self, of: impl Fn(NexusId) -> bool) -> bool {
        let mut state = self.state();
        let cleared = state.allegiance.take_if(|allegiance| of(allegiance.faulted)).is_some();
        if cleared {
            state.itls().for_each(|itl| itl.set_allegiance(false));
        }
        cleared
    }

    /// Whether the condition lets a new command be processed (SAM-5 5.10.3, 5.10.4).
    pub(crate) fn admits_beside_allegiance(
        &self,
        nexus: NexusId,
        &CommandFrame { tag, attribute, cdb, .. }: &CommandFrame<'_>,
    ) -> Result<(), Refusal> {
        let mut state = self.state();
        let Some(allegiance) = &mut state.allegiance else { return Ok(()) };
        let is_own = nexus == allegiance.faulted;
        if is_own && attribute == TaskAttribute::Aca && allegiance.task.is_none() {
            allegiance.task = Some(tag);
            return Ok(());
        }
        let is_plain = !is_own && attribute != TaskAttribute::Aca;
        match is_plain {
            true if preempts(cdb) => Ok(()),
            true if !cdb.naca() => Err(Refusal::Status(Status::BUSY)),
            _ => Err(Refusal::Status(Status::ACA_ACTIVE)),
        }
    }

    /// A command with the ACA task attribute has ended. It may have belonged to a condition that was there before.
    pub(crate) fn allegiance_task_ended(&self, nexus: NexusId, tag: u64) {
        if let Some(allegiance) = &mut self.state().allegiance
            && (allegiance.faulted, allegiance.task) == (nexus, Some(tag))
        {
            allegiance.task = None;
        }
    }
}

impl State {
    /// What is between the unit and the nexuses that know it.
    pub(crate) fn itls(&self) -> impl Iterator<Item = Arc<ItlNexus>> {
        self.nexuses.iter().filter_map(|met| met.itl.upgrade())
    }
}

/// Whether this is what another nexus may still do: PREEMPT AND ABORT.
fn preempts(cdb: &Cdb) -> bool {
    cdb.opcode() == Opcode::PERSISTENT_RESERVE_OUT
        && cdb.service_action() == Some(service_action::PREEMPT_AND_ABORT)
}

/// Whether a task that is about to begin has to wait until the condition is cleared.
pub(crate) fn is_suspended(task: &Task) -> bool {
    let Itl { shared, nexus, .. } = &*task.itl;
    let preempts = || preempts(&task.cdb) && !task.itl.unit().is_faulted(nexus.id());
    shared.gate.has_allegiance() && task.attribute != TaskAttribute::Aca && !preempts()
}

impl LogicalUnit {
    /// Clears the condition if it is one of these nexuses'; what it has suspended goes on.
    pub(crate) fn end_allegiance(&self, of: impl Fn(NexusId) -> bool, post: &dyn Post) {
        if self.clear_allegiance(of) {
            let (number, parts): (_, Vec<_>) = (self.number(), self.coordination().parts().collect());
            for part in parts {
                post.post(part, Engine::message(move |engine, cx| engine.resume(number, cx)));
            }
        }
    }

    fn is_faulted(&self, nexus: NexusId) -> bool {
        self.state().allegiance.as_ref().is_some_and(|allegiance| allegiance.is_of(nexus))
    }
}

impl Engine {
    /// Goes on with what was suspended here.
    fn resume(&self, unit: u64, cx: &mut dyn Cx) {
        let suspended = |task: &Task| task.phase == Phase::Suspended && task.itl.unit().number() == unit;
        let suspended = self.tasks.borrow().select(suspended);
        self.resume_some(unit, suspended, cx);
    }

    fn resume_some(&self, unit: u64, mut suspended: Vec<TaskId>, cx: &mut dyn Cx) {
        let later = suspended.split_off(suspended.len().min(TURNS_AT_A_TIME));
        for id in suspended.into_iter().filter(|id| self.is_suspended(*id)) {
            self.unpark(id, cx);
            self.has_room(id);
        }
        if !later.is_empty() {
            Self::post(self.reactor, cx, move |engine, cx| engine.resume_some(unit, later, cx));
        }
        // Those that wait for room again, as they did before, are to be offered it.
        self.tell(Token::Advance(unit), Ok(0), cx);
    }

    fn is_suspended(&self, id: TaskId) -> bool {
        self.tasks.borrow_mut().get(id).is_some_and(|task| task.phase == Phase::Suspended)
    }
}
