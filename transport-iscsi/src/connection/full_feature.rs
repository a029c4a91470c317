//! The full-feature phase of a connection: commands, from their arrival to their response.

use crate::budget::{Budget, Held, Share};
use crate::limits::{AT_ONCE, COMMAND_WORK, DIRECT_RECEIVE, MAX_TRANSFER, TURN};
use crate::local::Local;
use crate::memory;
use crate::slots::{Request, SlotId, Slots, Stage};
use crate::status::SessionCounters;
use lunette_engine::{self as engine, Admission, CommandFrame, Completion, GivenUp, Outcome, Started};
use lunette_iscsi::target::{self, Accepted, Directory, Event, Residual, Response, TaskId};
use lunette_iscsi::{Error, Outbox, Payload};
use lunette_scsi::{AdditionalSense, Sense, SenseBytes, SenseFormat, SenseKey, Status};
use lunette_store::{Cx, Sg, SinkId, pool};
use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;
use std::time::Duration;

/// Most runs of bytes in the data-in of a command.
const RUNS: usize = (MAX_TRANSFER as usize).div_ceil(pool::LARGEST);

/// What surrounds a connection while it works.
pub(crate) struct Env<'a> {
    pub(crate) out: &'a mut Outbox,
    pub(crate) local: &'a Local,
    pub(crate) sink: SinkId,
    /// The connection is to be told when buffers have come back.
    pub(crate) hungry: &'a Cell<bool>,
    pub(crate) cx: &'a mut dyn Cx,
}

impl Env<'_> {
    fn wait_for_buffers(&self) {
        if !self.hungry.replace(true) {
            self.local.is_hungry(self.sink);
        }
    }
}

/// What is beyond the commands.
pub(crate) enum Wish {
    /// Log out, under this initiator task tag.
    Logout(u32),
    /// End the sessions of the target.
    ColdReset,
}

pub(crate) struct FullFeature {
    pub(crate) machine: target::Connection,
    pub(crate) session: target::Session,
    /// `None` in a discovery session.
    pub(crate) nexus: Option<engine::Session>,
    pub(super) slots: Slots,
    /// Whose slot is whose, by [`TaskId::index`].
    by_task: Vec<SlotId>,
    share: Share,
    /// Commands that the engine carries out.
    running: usize,
    /// Buffers for data-in or for data-out that was asked for have come back since commands were looked at that wait.
    pub(super) relieved: bool,
    pub(super) counters: SessionCounters,
    /// Work left in this turn.
    turn_left: u64,
    /// When the last command came.
    pub(super) last_command: Option<Duration>,
    pub(super) managements: super::manage::Managements,
}

impl FullFeature {
    pub(crate) fn new(accepted: Accepted, nexus: Option<engine::Session>, budget: &Rc<Budget>) -> Self {
        let Accepted { connection: machine, session } = accepted;
        let by_task = vec![SlotId::NONE; session.slots()];
        Self {
            machine,
            session,
            nexus,
            slots: Slots::default(),
            by_task,
            share: Share::of(budget),
            running: 0,
            relieved: false,
            counters: SessionCounters::default(),
            turn_left: TURN,
            last_command: None,
            managements: super::manage::Managements::default(),
        }
    }

    /// Others have had their turn.
    pub(super) fn begin_turn(&mut self) {
        self.turn_left = TURN;
    }

    /// Whether so much has been done that others have to have theirs.
    pub(super) fn turn_is_over(&self) -> bool {
        self.turn_left == 0
    }

    /// Takes input up to the next event and deals with that. Returns how much that was and whether there may be more
    /// events in the rest.
    pub(crate) fn take(
        &mut self,
        directory: &dyn Directory,
        input: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(usize, bool, Option<Wish>), Error> {
        let received = self.machine.receive(&mut self.session, directory, input, env.out)?;
        let used = received.used;
        let Some(event) = received.event else { return Ok((used, false, None)) };
        let mut wish = None;
        match event {
            Event::Command(command) => {
                let request = Request::of(&command);
                self.command(request, env);
            }
            Event::Deliver(task) => self.deliver_held(task, env),
            Event::Payload { task, offset, bytes } => {
                // They are the end of what was used, and now they borrow only from there.
                let bytes = &input[used - bytes.len()..used];
                self.payload(task, offset, bytes);
            }
            Event::DataComplete(task) => self.data_complete(task, env),
            Event::DataFailed { task, error } => {
                let (key, asc, ascq) = error.sense();
                self.data_failed(task, Sense::new(SenseKey(key), AdditionalSense { asc, ascq }), env);
            }
            Event::TaskManagement(function) => self.manage(&function, env),
            Event::Pong { .. } => {}
            Event::Logout { tag, .. } => wish = Some(Wish::Logout(tag)),
        }
        Ok((used, true, wish))
    }

    /// Where the next bytes of the stream go, when they are data worth receiving straight into a command's buffer.
    pub(crate) fn direct(&self) -> Option<Sg<'_>> {
        self.expected().filter(|to| to.len() >= DIRECT_RECEIVE)
    }

    /// Where the next bytes of the stream go, when they are data for which a command has a buffer.
    pub(crate) fn expected(&self) -> Option<Sg<'_>> {
        let (task, offset, length) = self.machine.expected_payload(&self.session)?;
        let slot = self.slots.get(self.slot_of(task)?)?;
        let to = slot.data_out.sg().part(offset.into(), length as u64);
        (slot.stage.takes_data() && to.len() == length as u64).then_some(to)
    }

    /// Takes the next part of what is [`expected`](Self::expected), which is in its place already.
    pub(crate) fn take_in_place(
        &mut self,
        directory: &dyn Directory,
        bytes: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Error> {
        let received = self.machine.receive(&mut self.session, directory, bytes, out)?;
        debug_assert!(received.used == bytes.len() && matches!(received.event, Some(Event::Payload { .. })));
        Ok(())
    }

    /// Whether the engine carries out no command.
    pub(super) fn is_at_rest(&self) -> bool {
        self.running == 0
    }

    /// Whether all that has come is answered.
    pub(super) fn is_drained(&self) -> bool {
        self.machine.is_between_requests(&self.session) && self.slots.iter().next().is_none()
    }

    /// Gives up the commands that wait for the initiator.
    pub(crate) fn abandon_waiting(&mut self, cx: &mut dyn Cx) {
        let waiting = self.slots.iter().filter(|(_, slot)| slot.stage.takes_data());
        let ids: Vec<_> = waiting.map(|(id, _)| id).collect();
        for id in ids {
            self.abandon(id, cx);
            self.drop_command(id);
        }
    }

    /// The bytes of a payload in the outbox.
    pub(crate) fn data_in(&self, token: u64) -> Sg<'_> {
        self.slots.get(SlotId::from_cookie(token)).map_or(Sg::empty(), |slot| slot.data_in.sg())
    }

    /// A payload has left the outbox.
    pub(crate) fn sent(&mut self, token: u64) {
        self.free(SlotId::from_cookie(token));
    }

    pub(super) fn slot_of(&self, task: TaskId) -> Option<SlotId> {
        let id = *self.by_task.get(task.index())?;
        self.slots.get(id).filter(|slot| slot.request.task == task).map(|_| id)
    }

    fn command(&mut self, request: Request, env: &mut Env<'_>) {
        self.counters.commands += 1;
        self.turn_left = self.turn_left.saturating_sub(COMMAND_WORK);
        self.last_command = Some(env.cx.now());
        let (task, held, whole) = (request.task, request.held, request.whole);
        let unsolicited = request.unsolicited_length.min(request.write_length);
        let id = self.slots.insert(request);
        if let Some(place) = self.by_task.get_mut(task.index()) {
            *place = id;
        }
        if whole && self.slots.hungriest().is_none() && self.supply_at_once(id, env.local) {
            self.arrive(id, env);
        } else if !held {
            self.deliver(id, env);
        } else if !self.fill_data_out(id, unsolicited, env.local) {
            self.busy(id, env);
        }
    }

    /// Gives a command that is [`whole`](target::Command::whole) buffers for all that the initiator expects; false if there is no
    /// room for them, or if it may need less.
    fn supply_at_once(&mut self, id: SlotId, local: &Local) -> bool {
        let Some(slot) = self.slots.get(id) else { return false };
        let (read, write) = (slot.request.read_length, slot.request.write_length);
        read <= AT_ONCE && self.fill_data_out(id, write, local) && self.fill_data_in(id, read as usize, local)
    }

    /// The engine gets a command as soon as its own PDU is whole.
    fn arrive(&mut self, id: SlotId, env: &mut Env<'_>) {
        let Some(slot) = self.slots.enter(id, Stage::Arriving) else { return };
        let (task, write) = (slot.request.task, slot.request.write_length);
        if write == 0 || self.machine.request_data(&mut self.session, task, write, env.out) {
            self.start(id, env);
        }
    }

    fn deliver_held(&mut self, task: TaskId, env: &mut Env<'_>) {
        match self.slot_of(task) {
            Some(id) => self.deliver(id, env),
            None => self.deliver_management(task, env),
        }
    }

    /// The turn of a command has come.
    fn deliver(&mut self, id: SlotId, env: &mut Env<'_>) {
        let Some(slot) = self.slots.get_mut(id).filter(|slot| slot.stage == Stage::Held) else { return };
        let Some(nexus) = &self.nexus else { return };
        match nexus.admit(&frame(id, &slot.request), env.cx) {
            Admission::Ended(outcome) => self.refuse(id, outcome, env),
            Admission::Admitted { task, wanted_out, wanted_in } => {
                slot.task = Some(task);
                let wanted_out = wanted_out.min(slot.request.write_length.into());
                let wanted_in = wanted_in.min(slot.request.read_length.into());
                if wanted_out > MAX_TRANSFER || wanted_in > MAX_TRANSFER {
                    self.abandon(id, env.cx);
                    return self.fail(id, Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB), env);
                }
                slot.wanted_out = wanted_out as u32;
                slot.wanted_in = wanted_in as u32;
                self.prepare(id, env);
            }
        }
    }

    /// Gets buffers for a command that was admitted, now or later.
    fn prepare(&mut self, id: SlotId, env: &mut Env<'_>) {
        let Some(slot) = self.slots.get(id) else { return };
        let coming = slot.request.unsolicited_length.min(slot.wanted_out);
        if !self.fill_data_out(id, coming, env.local) {
            self.abandon(id, env.cx);
            return self.busy(id, env);
        }
        // One that needs nothing more has no reason to wait.
        if self.wants(id) > 0 {
            self.slots.enter(id, Stage::Hungry);
            if self.next_hungry() != Some(id) {
                return;
            }
        }
        self.supply(id, env);
    }

    /// Gives buffers to the commands that wait for some.
    pub(crate) fn feed_hungry(&mut self, env: &mut Env<'_>) {
        while let Some(id) = self.next_hungry() {
            if !self.supply(id, env) {
                return;
            }
        }
    }

    /// The command that gets buffers next, if the session may have them: the one that has waited for the longest time, or else
    /// the first for a logical unit that has none. Other units may be stuck.
    fn next_hungry(&self) -> Option<SlotId> {
        let first = self.slots.hungriest()?;
        if self.share.leaves_room(self.wants(first)) {
            return Some(first);
        }
        self.slots.hungry().find(|id| self.is_first_of_its_unit(*id))
    }

    /// Whether no command for the same logical unit has buffers for data-in or for data-out that was asked for.
    fn is_first_of_its_unit(&self, id: SlotId) -> bool {
        let Some(lun) = self.slots.get(id).map(|slot| slot.request.lun) else { return false };
        !self.slots.iter().any(|(_, slot)| slot.held.solicited > 0 && slot.request.lun == lun)
    }

    /// Bytes of buffers that a command still needs.
    fn wants(&self, id: SlotId) -> usize {
        self.slots
            .get(id)
            .map_or(0, |slot| pool::footprint(slot.more_out()) + pool::footprint(slot.wanted_in as usize))
    }

    /// Gives a command all its buffers and lets it go on; false if others have too much for that yet.
    fn supply(&mut self, id: SlotId, env: &mut Env<'_>) -> bool {
        let wants = self.wants(id);
        let Some(slot) = self.slots.get_mut(id) else { return true };
        let (more_out, wanted_in) = (slot.more_out(), slot.wanted_in as usize);
        if !self.share.take(wants) {
            env.wait_for_buffers();
            return false;
        }
        slot.held.solicited = wants;
        let pool = &env.local.pool;
        if !pool.fill(&mut slot.data_in, wanted_in) || !pool.fill(&mut slot.data_out, more_out) {
            slot.data_in.clear();
            slot.held.solicited = 0;
            self.share.give_back(Held { solicited: wants, unsolicited: 0 });
            env.wait_for_buffers();
            return false;
        }
        self.gather(id, env);
        true
    }

    fn fill_data_out(&mut self, id: SlotId, length: u32, local: &Local) -> bool {
        let Some(slot) = self.slots.get_mut(id) else { return true };
        let missing = (length as usize).saturating_sub(slot.data_out.sg().len() as usize);
        if missing == 0 {
            return true;
        }
        let wants = pool::footprint(missing);
        if !self.share.take_unsolicited(wants) {
            return false;
        }
        slot.held.unsolicited += wants;
        local.pool.fill(&mut slot.data_out, missing)
    }

    /// Gets a buffer for data-in, now or never.
    fn fill_data_in(&mut self, id: SlotId, length: usize, local: &Local) -> bool {
        let wants = pool::footprint(length);
        let leaves_room = self.share.leaves_room(wants) || self.is_first_of_its_unit(id);
        let Some(slot) = self.slots.get_mut(id) else { return true };
        if !leaves_room || !self.share.take(wants) {
            return false;
        }
        let filled = local.pool.fill(&mut slot.data_in, length);
        if filled {
            slot.held.solicited = wants;
        } else {
            self.share.give_back(Held { solicited: wants, unsolicited: 0 });
        }
        filled
    }

    fn gather(&mut self, id: SlotId, env: &mut Env<'_>) {
        let Some(slot) = self.slots.enter(id, Stage::Gathering) else { return };
        slot.marked = false;
        let Request { task, write_length, .. } = slot.request;
        let wanted = slot.wanted_out;
        // What comes without R2T is waited for also if nothing is wanted: no answer comes before it (RFC 7143 11.4.2).
        if write_length == 0 || self.machine.request_data(&mut self.session, task, wanted, env.out) {
            self.start(id, env);
        }
    }

    fn payload(&mut self, task: TaskId, offset: u32, bytes: &[u8]) {
        let Some(id) = self.slot_of(task) else { return };
        let Some(slot) = self.slots.get_mut(id) else { return };
        if slot.stage.takes_data() {
            slot.data_out.sg().copy_in(offset.into(), bytes);
        }
    }

    fn data_complete(&mut self, task: TaskId, env: &mut Env<'_>) {
        let Some(id) = self.slot_of(task) else { return };
        match self.slots.get_mut(id).and_then(|slot| slot.outcome.take()) {
            Some(outcome) => self.respond(id, &outcome, env),
            None => self.start(id, env),
        }
    }

    /// Data-out is all there.
    fn start(&mut self, id: SlotId, env: &mut Env<'_>) {
        let (Some(slot), Some(nexus)) = (self.slots.get_mut(id), &self.nexus) else { return };
        let before = std::mem::replace(&mut slot.stage, Stage::Running);
        let (data_out, data_in) = (slot.data_out.sg(), slot.data_in.sg());
        let started = match (before, slot.task) {
            (Stage::Arriving, _) => nexus.execute_here(&frame(id, &slot.request), data_out, data_in, env.cx),
            (Stage::Gathering, Some(task)) => {
                nexus.start(task, data_out.part(0, slot.wanted_out.into()), data_in, env.cx)
            }
            _ => return slot.stage = before,
        };
        match started {
            Started::Ended(outcome) => self.respond(id, &outcome, env),
            Started::Pending => self.running += 1,
        }
    }

    fn data_failed(&mut self, task: TaskId, sense: Sense, env: &mut Env<'_>) {
        let Some(id) = self.slot_of(task) else { return };
        // A command that runs does not need the data.
        if self.slots.get(id).is_some_and(|slot| slot.stage != Stage::Running) {
            self.abandon(id, env.cx);
            self.respond(id, &failed(sense), env);
        }
    }

    /// The engine has ended a command.
    pub(crate) fn ended(&mut self, cookie: u64, completion: Completion, env: &mut Env<'_>) {
        let id = SlotId::from_cookie(cookie);
        if self.slots.get(id).is_some_and(|slot| slot.stage == Stage::Running) {
            self.running -= 1;
        }
        match completion {
            Completion::Ended(outcome) => self.respond(id, &outcome, env),
            Completion::Aborted(_) => self.drop_command(id),
        }
    }

    /// Leaves the buffers of an aborted command to the store that has them.
    pub(crate) fn give_up(&mut self, cookie: u64, local: &Rc<Local>) -> Option<GivenUp> {
        let slot = self.slots.get_mut(SlotId::from_cookie(cookie));
        let slot = slot.filter(|slot| slot.stage == Stage::Running)?;
        let lent = self.share.lend(slot.held)?;
        slot.held = Held::default();
        let buffers = (std::mem::take(&mut slot.data_in), std::mem::take(&mut slot.data_out));
        let local = local.clone();
        Some(Box::new(move |cx| {
            drop((buffers, lent));
            local.feed_hungry(cx);
        }))
    }

    /// Ends a command without a response.
    pub(super) fn drop_command(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.get(id) {
            self.session.discard(slot.request.task);
            self.free(id);
        }
    }

    pub(super) fn abandon(&mut self, id: SlotId, cx: &mut dyn Cx) {
        let task = self.slots.get_mut(id).and_then(|slot| slot.task.take());
        if let (Some(nexus), Some(task)) = (&self.nexus, task) {
            nexus.abandon(task, cx);
        }
    }

    fn free(&mut self, id: SlotId) {
        let held = self.slots.remove(id);
        self.relieved |= held.solicited > 0;
        self.share.give_back(held);
    }

    pub(super) fn busy(&mut self, id: SlotId, env: &mut Env<'_>) {
        self.refuse(id, ended(Status::BUSY, None), env);
    }

    fn fail(&mut self, id: SlotId, sense: Sense, env: &mut Env<'_>) {
        self.refuse(id, failed(sense), env);
    }

    /// Ends a command before its start. The answer waits for the data that comes without R2T (RFC 7143 11.4.2).
    fn refuse(&mut self, id: SlotId, outcome: Outcome, env: &mut Env<'_>) {
        let Some(task) = self.slots.get(id).map(|slot| slot.request.task) else { return };
        if self.machine.request_data(&mut self.session, task, 0, env.out) {
            return self.respond(id, &outcome, env);
        }
        let Some(slot) = self.slots.enter(id, Stage::Refused) else { return };
        slot.task = None;
        slot.outcome = Some(outcome);
        slot.data_out.clear();
        self.share.give_back(std::mem::take(&mut slot.held));
    }

    fn respond(&mut self, id: SlotId, outcome: &Outcome, env: &mut Env<'_>) {
        let Some(slot) = self.slots.enter(id, Stage::Sending) else { return };
        slot.task = None;
        slot.data_out.clear();
        self.counters.bytes_read += outcome.moved_in;
        self.counters.bytes_written += outcome.moved_out;
        self.turn_left = self.turn_left.saturating_sub(outcome.moved_in + outcome.moved_out);
        self.counters.errors += u64::from(!matches!(outcome.status, Status::GOOD | Status::CONDITION_MET));
        let task = slot.request.task;
        let sense = sense_bytes(outcome);
        let (residual, read_residual) = residuals(outcome, &slot.request);
        let response = Response {
            status: outcome.status.0,
            sense: &sense,
            residual,
            read_residual,
            ..Response::default()
        };
        let mut runs = [IoSlice::new(&[]); RUNS];
        // SAFETY: the command has ended, so the store is done with its data-in; the slot keeps it until the outbox has
        // given the token back, and nobody writes to it meanwhile.
        let count = unsafe { memory::gather(slot.data_in.sg().part(0, outcome.moved_in), &mut runs) };
        let (machine, session) = (&mut self.machine, &mut self.session);
        if count == 0 {
            machine.respond(session, task, &response, None, env.out);
            self.free(id);
        } else {
            let payload = Payload::new(id.to_cookie(), &runs[..count]);
            machine.respond(session, task, &response, Some(&payload), env.out);
        }
    }
}

/// A command as the engine sees it.
fn frame(id: SlotId, request: &Request) -> CommandFrame<'_> {
    CommandFrame {
        tag: request.tag.into(),
        attribute: request.attribute,
        data_out: request.write_length.into(),
        cookie: id.to_cookie(),
        priority: request.priority,
        // iSCSI has no command reference number.
        ..CommandFrame::new(request.lun, &request.cdb)
    }
}

/// What became of a command that the engine did not end.
fn ended(status: Status, sense: Option<Box<Sense>>) -> Outcome {
    Outcome { status, sense, descriptor_sense: false, moved_in: 0, moved_out: 0, wanted_in: 0, wanted_out: 0 }
}

fn failed(sense: Sense) -> Outcome {
    ended(Status::CHECK_CONDITION, Some(Box::new(sense)))
}

fn sense_bytes(outcome: &Outcome) -> SenseBytes {
    let format = if outcome.descriptor_sense { SenseFormat::Descriptor } else { SenseFormat::Fixed };
    outcome.sense.as_ref().map_or(SenseBytes::new(), |sense| sense.encode(format))
}

/// The residual, and that of the read part of a bidirectional command.
fn residuals(outcome: &Outcome, request: &Request) -> (Residual, Residual) {
    let read = || residual(outcome.residual_in(request.read_length.into()));
    let write = || residual(outcome.residual_out(request.write_length.into()));
    match (request.read_length, request.write_length) {
        (0, 0) if outcome.wanted_out > 0 => (write(), Residual::Exact),
        (_, 0) => (read(), Residual::Exact),
        (0, _) => (write(), Residual::Exact),
        _ => (write(), read()),
    }
}

fn residual(residual: engine::Residual) -> Residual {
    let count = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    match residual {
        engine::Residual::None => Residual::Exact,
        engine::Residual::Underflow(bytes) => Residual::Underflow(count(bytes)),
        engine::Residual::Overflow(bytes) => Residual::Overflow(count(bytes)),
    }
}
