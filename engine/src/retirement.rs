//! The end of a logical unit, while others are served.

use crate::LogicalUnit;
use crate::engine::Engine;
use crate::jobs::Asker;
use lunette_store::{Post, ReactorId};
use std::collections::BTreeSet;

impl LogicalUnit {
    /// Ends the unit. It takes no commands from now on, wherever it may still be in a [map](crate::LunMap): LOGICAL UNIT NOT
    /// SUPPORTED, which is also what those come to that it has. Its work in the background is [to end](crate::Steps::is_ending).
    /// When all that has ended, on all reactors, and no reactor has anything of the unit or its store any more, `done` is
    /// called, once, on one of them or before this returns; it must not wait. The unit is then in no hands but those of the
    /// caller, and of maps that show it. A store that never completes keeps it for ever.
    ///
    /// Returns whether the unit was not retired before; `done` is called only then.
    pub fn retire(&self, post: &dyn Post, done: impl FnOnce() + Send + 'static) -> bool {
        if !self.close() {
            return false;
        }
        self.end_self_test();
        let (number, reactors) = (self.number(), self.coordination().close());
        match reactors.first() {
            None => done(),
            Some(first) => post.post(
                *first,
                Engine::message(move |engine, cx| {
                    let job = engine.jobs.borrow_mut().insert(Asker::Owner(Box::new(done)));
                    engine.end_work_on(number, reactors, job, cx);
                }),
            ),
        }
        true
    }

    /// These reactors have seen the unit, which may not be seen there any more.
    pub(crate) fn was_seen_on(&self, reactors: &BTreeSet<ReactorId>) {
        self.coordination().seen_on(reactors);
    }
}
