//! Transports that have to come to rest do not wait for what waits itself: how long that takes may be up to other initiators.

use crate::NexusId;
use crate::engine::{Engine, Token};
use crate::manage::reactors_of;
use crate::session::Session;
use crate::tasks::{Abort, Phase, Task};
use lunette_store::{Cx, IoError};

impl Engine {
    /// Ends the commands of a nexus that have not begun, on all reactors.
    pub(crate) fn turn_back(&self, session: &Session, cx: &mut dyn Cx) {
        let nexus = session.nexus().id();
        for reactor in reactors_of(&session.nexus().port.all_units()) {
            if reactor != self.reactor {
                Self::post(reactor, cx, move |engine, cx| engine.turn_back_here(nexus, cx));
            }
        }
        self.turn_back_here(nexus, cx);
    }

    fn turn_back_here(&self, nexus: NexusId, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        for id in tasks.select(|task| waits(task) && task.itl.nexus.id() == nexus) {
            if let Some(task) = tasks.get(id) {
                task.aborted = Some(Abort::TurnedBack);
                task.phase = Phase::Running;
                task.parked = None;
                self.tell(Token::Task(id), Err(IoError::Aborted), cx);
            }
        }
    }
}

/// Whether a task's transport is done, but nothing has been done for it.
fn waits(task: &Task) -> bool {
    matches!(task.phase, Phase::Parked | Phase::Suspended | Phase::Waiting)
}
