//! Functions of the control queue (VIRTIO 1.2 5.6.6.2).
//!
//! VIRTIO orders no queues, so a task management function goes round the reactors of the request queues twice. First they
//! take what the driver sent before it, or it would not find a command that it names. Last they show the driver what has
//! ended: once the function is answered, so are the commands that it aborted.

use crate::local::{ConnectionId, post};
use crate::queue::{Queue, State};
use crate::ring::{Head, RingError};
use crate::targets::Sessions;
use crate::wire::{Address, ControlRequest, Expected, Response, ResponseField};
use lunette_engine::Management;
use lunette_scsi::{NotificationClasses, ServiceResponse};
use lunette_store::{Cx, ReactorId};
use std::cell::Cell;
use std::rc::Rc;

/// A task management function that waits for the request queues.
pub(crate) struct Waiting {
    stage: Stage,
    /// Reactors that have not done their part.
    reactors: usize,
}

/// The part of one reactor in a stage of a function.
pub(crate) struct Round {
    connection: ConnectionId,
    /// The control queue.
    index: u16,
    /// The request on it.
    number: u16,
    home: ReactorId,
    /// Queues that have not done their part, and one for the reactor itself.
    queues: Cell<usize>,
}

impl Round {
    /// One more queue has done its part.
    pub(crate) fn queue_done(&self, cx: &mut dyn Cx) {
        let &Self { connection, index, number, home, .. } = self;
        self.queues.update(|queues| queues - 1);
        if self.queues.get() == 0 {
            post(home, cx, move |local, cx| {
                if let Some(queue) = local.queue(connection, index) {
                    queue.gone_through(number, cx);
                }
            });
        }
    }
}

/// What the request queues do for a function, and what follows.
#[derive(Clone, Copy)]
enum Stage {
    /// They take what there is; then the function is carried out.
    CatchUp(Address, Management),
    /// They show the driver what has ended; then the function is answered.
    Show(ServiceResponse),
}

impl Queue {
    /// Begins the control request in `state.chain`, and answers it if it ends at once.
    pub(crate) fn take_control(
        &self,
        state: &mut State,
        head: Head,
        cx: &mut dyn Cx,
    ) -> Result<(), RingError> {
        let (readable, writable) = (state.chain.readable(), state.chain.writable());
        let request = ControlRequest::read(&readable, &writable)?;
        let response = match request {
            ControlRequest::Notifications { subscribe, address, classes } => {
                let bytes = self.notifications(&mut state.sessions, subscribe, address, classes, cx);
                let written = writable.copy_in(0, &bytes);
                state.answer(head, written as u32);
                return Ok(());
            }
            ControlRequest::Manage { function, address, tag } => {
                match (address.filter(|address| state.sessions.reach(*address, cx).is_some()), function) {
                    (None, _) => Response::BAD_TARGET,
                    (_, None) => Response::FUNCTION_REJECTED,
                    (Some(address), Some(function)) => {
                        let management = Management { function, lun: address.lun, tag };
                        let number = state.slots.next();
                        state.hold(head, Expected::default(), 1);
                        self.go_through(Stage::CatchUp(address, management), state, number, cx);
                        return Ok(());
                    }
                }
            }
        };
        let written = writable.copy_in(0, &[response.0]);
        state.answer(head, written as u32);
        Ok(())
    }

    /// Which of `classes` a logical unit can tell of; it does from now on if the driver subscribes.
    fn notifications(
        &self,
        sessions: &mut Sessions,
        subscribe: bool,
        address: Option<Address>,
        classes: NotificationClasses,
        cx: &mut dyn Cx,
    ) -> [u8; ControlRequest::NOTIFICATIONS_RESPONSE] {
        let reached = address.and_then(|address| Some((address, sessions.reach(address, cx)?)));
        let Some((Address { target, lun }, session)) = reached else {
            return ControlRequest::notifications(NotificationClasses::NONE, Response::BAD_TARGET);
        };
        let actual = classes & session.nexus().meet(lun).device().notifications();
        if subscribe && let (Some(target), Some(lun)) = (target, lun.index()) {
            self.place.events.subscribe(target, lun, actual);
        }
        ControlRequest::notifications(actual, Response::OK)
    }

    fn reactors_of_requests(&self) -> Vec<ReactorId> {
        let mut reactors = self.place.reactors.to_vec();
        reactors.sort_unstable();
        reactors.dedup();
        reactors
    }

    /// Asks all request queues to do their part of `stage`.
    fn go_through(&self, stage: Stage, state: &mut State, number: u16, cx: &mut dyn Cx) {
        let reactors = self.reactors_of_requests();
        let Some(slot) = state.slots.get_mut(number) else { return };
        slot.waiting = Some(Box::new(Waiting { stage, reactors: reactors.len() }));
        let (connection, index, home) = (self.connection, self.index, self.place.home);
        for reactor in reactors {
            post(reactor, cx, move |local, cx| {
                let queues = local.queues_of(connection);
                let round = Round { connection, index, number, home, queues: Cell::new(queues.len() + 1) };
                let round = Rc::new(round);
                for queue in queues {
                    match stage {
                        Stage::CatchUp(..) => queue.catch_up(round.clone(), cx),
                        Stage::Show(_) => {
                            queue.show();
                            round.queue_done(cx);
                        }
                    }
                }
                round.queue_done(cx);
            });
        }
    }

    /// One more reactor has done its part.
    fn gone_through(&self, number: u16, cx: &mut dyn Cx) {
        let mut state = self.state();
        let Some(slot) = state.slots.get_mut(number) else { return };
        let Some(waiting) = &mut slot.waiting else { return };
        waiting.reactors -= 1;
        if waiting.reactors > 0 {
            return;
        }
        let Some(waiting) = slot.waiting.take() else { return };
        drop(state);
        match waiting.stage {
            Stage::CatchUp(address, management) => {
                if let Some(session) = self.state().sessions.reach(address, cx) {
                    return session.manage(&management, u64::from(number), cx);
                }
                // It has been removed meanwhile.
                self.answer_control(number, Response::BAD_TARGET, cx);
            }
            Stage::Show(response) => self.answer_control(number, Response::from(response), cx),
        }
    }

    fn answer_control(&self, number: u16, response: Response, cx: &mut dyn Cx) {
        // If it is kept, it is asked for again with the commands that it was to abort.
        let is_kept = self.is_kept();
        let answer = |field: &ResponseField<'_>| field.bytes.copy_in(0, &[response.0]) as u32;
        self.ended(u64::from(number), |field| (!is_kept).then(|| answer(field)), cx);
    }

    /// The engine has carried a function out.
    pub(crate) fn management_answered(&self, cookie: u64, response: ServiceResponse, cx: &mut dyn Cx) {
        self.go_through(Stage::Show(response), &mut self.state(), cookie as u16, cx);
    }
}
