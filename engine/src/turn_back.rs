//! Transports that have to come to rest do not wait for what waits itself: how long that takes may be up to other initiators.

use crate::engine::{Engine, Token};
use crate::session::Session;
use crate::tasks::{Abort, Phase, Task};
use lunette_store::{Cx, IoError};

impl Engine {
    /// Ends the commands of a session's responder that have not begun, here and where they have hopped to.
    pub(crate) fn turn_back(&self, session: &Session, cx: &mut dyn Cx) {
        let responder = session.responder();
        self.turn_back_here(|task| task.itl.responder.ptr_eq(responder), cx);
        let from = self.reactor;
        for (reactor, tickets) in self.hops.away_of(responder) {
            Self::post(reactor, cx, move |engine, cx| {
                let visitors = engine.hops.visitors(from, &tickets);
                engine.turn_back_here(|task| visitors.include(task), cx);
            });
        }
    }

    fn turn_back_here(&self, is_theirs: impl Fn(&Task) -> bool, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        for id in tasks.select(|task| waits(task) && is_theirs(task)) {
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
