//! Commands arrive: they end at once, go straight to the store, or become tasks.

use crate::checks::{Refusal, decode, plan};
use crate::engine::{Engine, Token};
use crate::execution::operation;
use crate::outcome::Outcome;
use crate::plan::{Io, IoKind, Plan};
use crate::quiet::is_answered_at_once;
use crate::session::{Admission, CommandFrame, Itl, Started};
use crate::statistics::Class;
use crate::tasks::{Phase, Task};
use lunette_scsi::TaskAttribute;
use lunette_store::{Cx, Sg, Submit};
use std::rc::Rc;

impl Engine {
    pub(crate) fn admit(&self, itl: &Rc<Itl>, command: &CommandFrame<'_>, cx: &mut dyn Cx) -> Admission {
        let admission = match plan(itl, command) {
            Ok(plan) => self.enter(itl, command, plan, cx),
            Err(refusal) => self.turn_away(itl, command, refusal, cx),
        };
        if let Admission::Ended(outcome) = &admission {
            self.ended_on_arrival(itl, command.cdb.opcode(), outcome, cx);
        }
        admission
    }

    /// Admits and starts a command whose data-out is there already.
    #[inline]
    pub(crate) fn execute(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Started {
        if itl.shared.gate.is_open() {
            let row = itl.unit().commands().find(command.cdb);
            itl.usage.has_come(row);
            match decode(itl, row, command) {
                Ok(plan) => {
                    if let Plan::Io(io) = plan
                        && is_immediate(itl, command, &io, data_in)
                        && self.passes(itl, &io, data_out, data_in, cx)
                    {
                        // Spares it the destructor, for this plan owns nothing.
                        std::mem::forget(plan);
                        return self.transfer(itl, command, io, data_out, data_in, cx);
                    }
                    self.execute_plan(itl, command, Ok(plan), data_out, data_in, cx)
                }
                Err(sense) => self.execute_plan(itl, command, Err(sense.into()), data_out, data_in, cx),
            }
        } else {
            self.execute_plan(itl, command, plan(itl, command), data_out, data_in, cx)
        }
    }

    /// Admits and starts a command that is more than one operation on the store.
    fn execute_plan(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        plan: Result<Plan, Refusal>,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Started {
        match plan {
            Ok(Plan::Io(io))
                if is_immediate(itl, command, &io, data_in)
                    && self.passes(itl, &io, data_out, data_in, cx) =>
            {
                self.transfer(itl, command, io, data_out, data_in, cx)
            }
            Ok(plan) => {
                let admission = self.enter(itl, command, plan, cx);
                self.start_admitted(itl, command, admission, data_out, data_in, cx)
            }
            Err(refusal) => {
                let admission = self.turn_away(itl, command, refusal, cx);
                self.start_admitted(itl, command, admission, Sg::empty(), Sg::empty(), cx)
            }
        }
    }

    /// Whether a command may go straight to the store as far as limits are concerned.
    #[inline]
    fn passes(&self, itl: &Rc<Itl>, io: &Io, data_out: Sg<'_>, data_in: Sg<'_>, cx: &mut dyn Cx) -> bool {
        !itl.shared.gate.is_limited() || self.pays_at_once(itl, io, data_out.len(), data_in.len(), cx)
    }

    /// A command is not processed.
    #[cold]
    fn turn_away(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        refusal: Refusal,
        cx: &mut dyn Cx,
    ) -> Admission {
        if command.attribute == TaskAttribute::Aca && !matches!(refusal, Refusal::Status(_)) {
            itl.unit().allegiance_task_ended(itl.nexus.id(), command.tag);
        }
        if let Refusal::Sense(sense) = &refusal
            && let Some(admission) = self.fail_on_arrival(itl, command, sense, cx.now())
        {
            return admission;
        }
        Admission::Ended(refusal.outcome(itl.unit()))
    }

    fn start_admitted(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        admission: Admission,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Started {
        match admission {
            Admission::Admitted { task, .. } => self.start(task, data_out, data_in, cx),
            Admission::Ended(outcome) => {
                self.ended_on_arrival(itl, command.cdb.opcode(), &outcome, cx);
                Started::Ended(outcome)
            }
        }
    }

    /// What nearly all commands come to: one operation on the store, for a task that nothing holds back. It becomes a
    /// task only if the store does not answer at once; nobody could see it before.
    fn transfer(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        io: Io,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Started {
        let mut tasks = self.tasks.borrow_mut();
        let Some(id) = tasks.vacant(&itl.share) else {
            let full = Admission::Ended(Outcome::no_room(itl.tasks.get() > 0));
            drop(tasks);
            return self.start_admitted(itl, command, full, data_out, data_in, cx);
        };
        let op = operation(io, data_out, data_in);
        let moving = op.range().1;
        match self.submit(id, itl, io, op, cx) {
            Submit::Full => {
                let task = Task::new(itl.clone(), command, Plan::Io(io), cx.now());
                let task = Task { enabled: true, paid: usize::MAX, ..task };
                tasks.occupy(id, task);
                itl.set.began();
                match Self::wait_for_room(&mut tasks, id, data_out, data_in) {
                    Some(outcome) => {
                        drop(tasks);
                        self.end_with(id, &outcome, cx);
                        Started::Ended(outcome)
                    }
                    None => {
                        self.tell(Token::Advance(itl.set.unit.number()), Ok(0), cx);
                        Started::Pending
                    }
                }
            }
            Submit::Done(result) => {
                let outcome = Outcome::of_io(itl, io, moving, result);
                if result.is_err() {
                    drop(tasks);
                    return self.fail_at_once(itl, command, outcome, cx);
                }
                self.ended_at_once(itl, class_of(io), cx);
                Started::Ended(outcome)
            }
            Submit::Queued => {
                let phase = Phase::Running;
                let task = Task::new(itl.clone(), command, Plan::Io(io), cx.now());
                let task = Task { phase, enabled: true, moving, ..task };
                tasks.occupy(id, task);
                itl.set.began();
                Started::Pending
            }
        }
    }

    /// The store has refused a command's operation.
    #[cold]
    fn fail_at_once(
        &self,
        itl: &Rc<Itl>,
        command: &CommandFrame<'_>,
        outcome: Outcome,
        cx: &mut dyn Cx,
    ) -> Started {
        let sense = outcome.sense.as_ref();
        let admission = sense.and_then(|sense| self.fail_on_arrival(itl, command, sense, cx.now()));
        let admission = admission.unwrap_or(Admission::Ended(outcome));
        self.start_admitted(itl, command, admission, Sg::empty(), Sg::empty(), cx)
    }

    fn enter(&self, itl: &Rc<Itl>, command: &CommandFrame<'_>, plan: Plan, cx: &mut dyn Cx) -> Admission {
        let passes = itl.set.is_quiesced() && is_answered_at_once(command);
        let attribute = if passes { TaskAttribute::Simple } else { command.attribute };
        let paid = match attribute == TaskAttribute::Simple || !itl.shared.gate.is_limited() {
            true => Some(0),
            false => self.pays_on_arrival(itl, command, &plan, cx),
        };
        let task = Task { attribute, ..Task::new(itl.clone(), command, plan, cx.now()) };
        let (wanted_out, wanted_in) = (task.wanted_out, task.wanted_in);
        let mut tasks = self.tasks.borrow_mut();
        let Some(id) = paid.and_then(|paid| tasks.insert(Task { paid, ..task })) else {
            if command.attribute == TaskAttribute::Aca {
                itl.unit().allegiance_task_ended(itl.nexus.id(), command.tag);
            }
            return Admission::Ended(Outcome::no_room(itl.tasks.get() > 0));
        };
        drop(tasks);
        match passes {
            true => self.begin_at_once(id, itl),
            false => self.take_place(id, itl, command.attribute, cx),
        }
        Admission::Admitted { task: id, wanted_out, wanted_in }
    }
}

#[inline]
fn class_of(io: Io) -> Class {
    match io.kind {
        IoKind::Read => Class::Read,
        IoKind::Write { .. } => Class::Write,
        IoKind::Flush => Class::Other,
    }
}

/// Whether a command with this plan runs as soon as it has come.
#[inline]
fn is_immediate(itl: &Itl, command: &CommandFrame<'_>, io: &Io, data_in: Sg<'_>) -> bool {
    command.attribute == TaskAttribute::Simple && !itl.set.is_blocked() && !io.ends_inside_a_block(data_in)
}
