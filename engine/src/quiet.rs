//! Commands that wait because their logical unit is to be quiet.
//!
//! They enter the task set as always. When one would begin, it waits with those for which the store has no room, and counts
//! as one of them; but it is offered to the store only when all may go on.

use crate::LogicalUnit;
use crate::engine::Engine;
use crate::plan::Plan;
use crate::session::CommandFrame;
use crate::tasks::Task;
use lunette_scsi::{Opcode, TaskAttribute};
use lunette_store::{Cx, Message, Post};

impl LogicalUnit {
    /// Lets the commands go on that [`quiesce`](Self::quiesce) holds back, in their order.
    pub fn resume_commands(&self, post: &dyn Post) {
        let unit = self.number();
        for part in self.coordination().resume() {
            let message: Message = Box::new(move |cx| Engine::on(cx).go_on_with(unit, cx));
            post.post(part, message);
        }
    }
}

impl Engine {
    /// Goes on with what is held back here.
    fn go_on_with(&self, unit: u64, cx: &mut dyn Cx) {
        let Some(set) = self.known_set(unit) else { return };
        set.queue().release();
        set.hold_for_room();
        self.advance(unit, cx);
    }
}

/// Whether a task that would begin now has to wait: it needs the store, or changes something.
pub(crate) fn is_held(task: &Task) -> bool {
    let is_answer = || matches!(task.plan, Some(Plan::Done(_)));
    task.itl.set.is_quiesced() && task.failure.is_none() && !is_answer()
}

/// Whether a command is answered also before those that came earlier and wait: it only asks who or how the unit is.
pub(crate) fn is_answered_at_once(command: &CommandFrame<'_>) -> bool {
    // Who looks into an allegiance is waited for.
    command.attribute != TaskAttribute::Aca
        && matches!(
            command.cdb.opcode(),
            Opcode::INQUIRY | Opcode::REPORT_LUNS | Opcode::REQUEST_SENSE | Opcode::TEST_UNIT_READY
        )
}
