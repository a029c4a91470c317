//! What is done with the requests that a queue holds: commands, and functions of the control queue.

use crate::local::post;
use crate::queue::{Queue, State};
use crate::ring::{Head, RingError};
use crate::wire::{Address, Command, ControlRequest, Expected, Response, ResponseField};
use lunette_engine::{CommandFrame, Completion, Management, Session, Started};
use lunette_scsi::{NotificationClasses, ServiceResponse};
use lunette_store::{Cx, Sg};

/// A task management function that waits until the request queues have caught up.
pub(crate) struct Waiting {
    address: Address,
    management: Management,
    /// Reactors whose queues have not.
    reactors: usize,
}

impl Queue {
    /// Begins the command in `state.chain`, and answers it if it ends at once.
    #[inline]
    pub(crate) fn take_command(
        &self,
        state: &mut State,
        head: Head,
        cx: &mut dyn Cx,
    ) -> Result<(), RingError> {
        let sizes = state.setup.sizes;
        let (readable, writable) = (state.chain.readable(), state.chain.writable());
        let data_out = readable.part(sizes.command(), u64::MAX);
        let data_in = writable.part(sizes.response(), u64::MAX);
        if readable.len() < sizes.command() || writable.len() < sizes.response() {
            return Err(RingError::TooShort { readable: readable.len(), writable: writable.len() });
        }
        let expected = Expected { data_in: data_in.len(), data_out: data_out.len() };
        let field = ResponseField { bytes: writable.part(0, sizes.response()), expected };
        // Data both ways is in a request only by agreement (VIRTIO 1.2 5.6.6.1).
        if !data_in.is_empty() && !data_out.is_empty() && !state.setup.bidirectional {
            let written = field.fail(Response::FAILURE);
            state.answer(head, written);
            return Ok(());
        }
        let cookie = state.slots.next().into();
        match self.execute(&Command::read(&readable, sizes), cookie, &field, data_out, data_in, cx) {
            Some(written) => state.answer(head, written),
            None => {
                state.hold(head, expected, sizes.response());
            }
        }
        Ok(())
    }

    /// Carries a command out. How many bytes were written, if it has ended and been answered.
    #[inline]
    fn execute(
        &self,
        command: &Command,
        cookie: u64,
        field: &ResponseField<'_>,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Option<u32> {
        let Some((address, session)) = self.reach(command.address, cx) else {
            return Some(field.fail(Response::BAD_TARGET));
        };
        let frame = CommandFrame {
            lun: address.lun,
            tag: command.tag,
            attribute: command.attribute,
            priority: command.priority,
            reference_number: command.reference_number,
            cdb: &command.cdb,
            data_out: data_out.len(),
            cookie,
        };
        match session.execute(&frame, data_out, data_in, cx) {
            Started::Ended(outcome) => Some(field.end(&outcome)),
            Started::Pending => None,
        }
    }

    /// The session for a request to `address`, if there is such a target.
    #[inline]
    fn reach(&self, address: Option<Address>, cx: &mut dyn Cx) -> Option<(Address, &Session)> {
        let address = address?;
        Some((address, self.sessions.reach(address, cx)?))
    }

    pub(crate) fn command_answered(&self, cookie: u64, completion: Completion, cx: &mut dyn Cx) {
        let respond = |field: &ResponseField<'_>| match &completion {
            Completion::Ended(outcome) => field.end(outcome),
            Completion::Aborted(why) => field.fail((*why).into()),
        };
        self.ended(cookie, respond, cx);
    }

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
                let bytes = self.notifications(subscribe, address, classes, cx);
                let written = writable.copy_in(0, &bytes);
                state.answer(head, written as u32);
                return Ok(());
            }
            ControlRequest::Manage { function, address, tag } => match (self.reach(address, cx), function) {
                (None, _) => Response::BAD_TARGET,
                (_, None) => Response::FUNCTION_REJECTED,
                (Some((address, _)), Some(function)) => {
                    let reactors = self.reactors_of_requests();
                    let management = Management { function, lun: address.lun, tag };
                    let waiting = Waiting { address, management, reactors: reactors.len() };
                    let number = state.slots.next();
                    state.hold(head, Expected::default(), 1).waiting = Some(Box::new(waiting));
                    self.ask_to_catch_up(number, &reactors, cx);
                    return Ok(());
                }
            },
        };
        let written = writable.copy_in(0, &[response.0]);
        state.answer(head, written as u32);
        Ok(())
    }

    /// Which of `classes` a logical unit can tell of; it does from now on if the driver subscribes.
    fn notifications(
        &self,
        subscribe: bool,
        address: Option<Address>,
        classes: NotificationClasses,
        cx: &mut dyn Cx,
    ) -> [u8; ControlRequest::NOTIFICATIONS_RESPONSE] {
        let Some((Address { target, lun }, session)) = self.reach(address, cx) else {
            return ControlRequest::notifications(NotificationClasses::NONE, Response::BAD_TARGET);
        };
        let actual = classes & session.nexus().meet(lun).device().notifications();
        if subscribe && let (Some(target), Some(lun)) = (target, lun.index()) {
            self.place.events.subscribe(target, lun, actual);
        }
        ControlRequest::notifications(actual, Response::OK)
    }

    fn reactors_of_requests(&self) -> Vec<lunette_store::ReactorId> {
        let mut reactors = self.place.reactors.to_vec();
        reactors.sort_unstable();
        reactors.dedup();
        reactors
    }

    /// Has all request queues take what the driver sent before this function.
    fn ask_to_catch_up(&self, number: u16, reactors: &[lunette_store::ReactorId], cx: &mut dyn Cx) {
        let (connection, index, home) = (self.connection, self.index, self.place.home);
        for reactor in reactors {
            post(*reactor, cx, move |local, cx| {
                local.queues_of(connection).iter().for_each(|queue| queue.catch_up(cx));
                post(home, cx, move |local, cx| {
                    if let Some(queue) = local.queue(connection, index) {
                        queue.caught_up(number, cx);
                    }
                });
            });
        }
    }

    /// One more reactor has caught up; after the last one, the function is carried out.
    fn caught_up(&self, number: u16, cx: &mut dyn Cx) {
        let mut state = self.state();
        let Some(slot) = state.slots.get_mut(number) else { return };
        let Some(waiting) = &mut slot.waiting else { return };
        waiting.reactors -= 1;
        if waiting.reactors > 0 {
            return;
        }
        let Some(waiting) = slot.waiting.take() else { return };
        drop(state);
        if let Some(session) = self.sessions.reach(waiting.address, cx) {
            session.manage(&waiting.management, u64::from(number), cx);
        }
    }

    pub(crate) fn management_answered(&self, cookie: u64, response: ServiceResponse, cx: &mut dyn Cx) {
        self.ended(cookie, |field| field.bytes.copy_in(0, &[Response::from(response).0]) as u32, cx);
    }
}
