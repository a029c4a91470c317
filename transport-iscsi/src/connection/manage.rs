//! Task management functions (RFC 7143 11.5, RFC 7144).
//!
//! Before a function that aborts many tasks is carried out, a target is to wait for the data that it has asked the initiator
//! for (RFC 7143 4.2.3.3). This one does not: open-iscsi by default (FastAbort) and ESXi send no such data once they have
//! asked for the function, and would wait for its answer until they give up the session. There is nothing to wait for
//! either: all comes by one connection, so what is under way comes before whatever follows the answer, and data for tasks
//! that are gone are dropped.

use super::full_feature::{Env, FullFeature, Wish};
use lunette_engine::Management;
use lunette_iscsi::pdu::{TaskManagementFunction as Wire, TaskManagementResult};
use lunette_iscsi::target::{TaskId, TaskManagement};
use lunette_scsi::{Lun, ServiceResponse, TaskManagementFunction as Function};

/// The functions of a connection that are not answered.
#[derive(Default)]
pub(crate) struct Managements {
    /// Those that the engine has, by cookie.
    running: Vec<Option<Running>>,
    /// Those before which commands are missing.
    held: Vec<TaskManagement>,
}

#[derive(Clone, Copy)]
struct Running {
    task: TaskId,
    function: Function,
}

impl Managements {
    fn insert(&mut self, running: Running) -> u64 {
        let free = self.running.iter().position(Option::is_none).unwrap_or(self.running.len());
        if free == self.running.len() {
            self.running.push(None);
        }
        self.running[free] = Some(running);
        free as u64
    }

    fn remove(&mut self, cookie: u64) -> Option<Running> {
        self.running.get_mut(usize::try_from(cookie).ok()?)?.take()
    }
}

impl FullFeature {
    pub(super) fn manage(&mut self, asked: &TaskManagement, env: &mut Env<'_>) {
        if asked.held {
            return self.managements.held.push(*asked);
        }
        self.run_management(asked, env);
    }

    /// The turn of a function that was held has come.
    pub(super) fn deliver_management(&mut self, task: TaskId, env: &mut Env<'_>) {
        let held = &mut self.managements.held;
        if let Some(place) = held.iter().position(|asked| asked.task == task) {
            let asked = held.swap_remove(place);
            self.run_management(&asked, env);
        }
    }

    fn run_management(&mut self, asked: &TaskManagement, env: &mut Env<'_>) {
        let Some(function) = function(asked.function) else {
            return self.answer(asked.task, TaskManagementResult::NOT_SUPPORTED, env);
        };
        let lun = Lun::from_bytes(asked.lun);
        let referenced = asked
            .referenced
            .and_then(|task| self.slot_of(task))
            .and_then(|id| Some((id, self.slots.get(id)?)));
        let mut tag = 0;
        match (function, referenced) {
            (Function::AbortTask, Some((id, slot))) if slot.stage.is_ours() => {
                self.drop_command(id);
                return self.answer(asked.task, TaskManagementResult::COMPLETE, env);
            }
            (Function::AbortTask | Function::QueryTask, Some((_, slot))) => tag = slot.request.tag.into(),
            // It has ended while the function was held.
            (Function::AbortTask, None) => {
                return self.answer(asked.task, TaskManagementResult::NO_TASK, env);
            }
            (Function::QueryTask, None) => {
                return self.answer(asked.task, TaskManagementResult::COMPLETE, env);
            }
            _ => self.drop_ours(function, lun),
        }
        let cookie = self.managements.insert(Running { task: asked.task, function });
        if let Some(nexus) = &self.nexus {
            nexus.manage(&Management { function, lun, tag }, cookie, env.cx);
        }
    }

    /// Commands that the engine does not know were sent before the function, as they came before it, so it concerns
    /// them too.
    fn drop_ours(&mut self, function: Function, lun: Lun) {
        let whole_target = match function {
            Function::AbortTaskSet | Function::ClearTaskSet | Function::LogicalUnitReset => false,
            Function::TargetWarmReset | Function::TargetColdReset | Function::ITNexusReset => true,
            _ => return,
        };
        let ours = self.slots.iter().filter(|(_, slot)| slot.stage.is_ours());
        let concerned = ours.filter(|(_, slot)| whole_target || slot.request.lun == lun);
        let ids: Vec<_> = concerned.map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.drop_command(id));
    }

    /// The engine has carried out a function.
    pub(crate) fn managed(
        &mut self,
        cookie: u64,
        response: ServiceResponse,
        env: &mut Env<'_>,
    ) -> Option<Wish> {
        let Running { task, function } = self.managements.remove(cookie)?;
        let additional = match response {
            ServiceResponse::FunctionSucceeded { additional } => additional,
            _ => [0; 3],
        };
        let result = result(function, response);
        self.machine.finish_task_management(&mut self.session, task, result, additional, env.out);
        (function == Function::TargetColdReset).then_some(Wish::ColdReset)
    }

    fn answer(&mut self, task: TaskId, result: TaskManagementResult, env: &mut Env<'_>) {
        self.machine.finish_task_management(&mut self.session, task, result, [0; 3], env.out);
    }
}

fn function(wire: Wire) -> Option<Function> {
    Some(match wire {
        Wire::ABORT_TASK => Function::AbortTask,
        Wire::ABORT_TASK_SET => Function::AbortTaskSet,
        Wire::CLEAR_ACA => Function::ClearAca,
        Wire::CLEAR_TASK_SET => Function::ClearTaskSet,
        Wire::LOGICAL_UNIT_RESET => Function::LogicalUnitReset,
        Wire::TARGET_WARM_RESET => Function::TargetWarmReset,
        Wire::TARGET_COLD_RESET => Function::TargetColdReset,
        Wire::QUERY_TASK => Function::QueryTask,
        Wire::QUERY_TASK_SET => Function::QueryTaskSet,
        Wire::I_T_NEXUS_RESET => Function::ITNexusReset,
        Wire::QUERY_ASYNCHRONOUS_EVENT => Function::QueryAsynchronousEvent,
        _ => return None,
    })
}

fn result(function: Function, response: ServiceResponse) -> TaskManagementResult {
    match response {
        ServiceResponse::FunctionComplete => TaskManagementResult::COMPLETE,
        ServiceResponse::FunctionSucceeded { .. } => TaskManagementResult::SUCCEEDED,
        ServiceResponse::IncorrectLogicalUnitNumber => TaskManagementResult::NO_LUN,
        ServiceResponse::FunctionRejected if function == Function::ClearAca => {
            TaskManagementResult::NOT_SUPPORTED
        }
        ServiceResponse::FunctionRejected | ServiceResponse::ServiceDeliveryOrTargetFailure => {
            TaskManagementResult::REJECTED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_codes_of_the_standard() {
        let code = |response| result(Function::AbortTask, response).0;
        assert_eq!(code(ServiceResponse::FunctionComplete), 0);
        assert_eq!(code(ServiceResponse::FunctionSucceeded { additional: [0; 3] }), 7);
        assert_eq!(code(ServiceResponse::IncorrectLogicalUnitNumber), 2);
        assert_eq!(code(ServiceResponse::FunctionRejected), 255);
        assert_eq!(result(Function::ClearAca, ServiceResponse::FunctionRejected).0, 5);
    }
}
