//! Transports that have to come to rest do not wait for what waits itself: how long that takes may be up to other initiators.

use crate::engine::{Engine, Token};
use crate::session::Session;
use crate::tasks::{Abort, Phase, Task};
use lunette_store::{Cx, IoError};

impl Engine {
    /// Ends the commands of a session's responder that have not begun, here and where they have hopped to.
    pub(crate) fn turn_back(&self, session: &Session, cx: &mut dyn Cx) {
        let responder = session.responder();
        self.end_waiting(|task| task.itl.responder.ptr_eq(responder), Abort::TurnedBack, cx);
        let from = self.reactor;
        for (reactor, tickets) in self.hops.away_of(responder) {
            Self::post(reactor, cx, move |engine, cx| {
                let visitors = engine.hops.visitors(from, &tickets);
                engine.end_waiting(|task| visitors.include(task), Abort::TurnedBack, cx);
            });
        }
    }

    /// Ends those of some tasks here that wait, and for which nothing has been done.
    pub(crate) fn end_waiting(&self, concerns: impl Fn(&Task) -> bool, how: Abort, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        for id in tasks.select(|task| waits(task) && concerns(task)) {
            if let Some(task) = tasks.get(id) {
                task.aborted = Some(how);
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
