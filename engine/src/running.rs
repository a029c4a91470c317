//! Work of several steps as the engine holds it.

use crate::LogicalUnit;
use crate::room::{Rank, Standing};
use crate::run::{RunCell, RunFuture, Step};
use crate::stuck::AtStore;
use crate::task_set::TaskSet;
use lunette_scsi::Sense;
use lunette_store::IoResult;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Work of several steps in progress, as the engine holds it.
pub(crate) struct Running {
    pub(crate) cell: Rc<RunCell>,
    future: RunFuture,
    /// It sleeps or waits: nothing that was begun has to end first, unless it waits for what was detached.
    idle: Option<Idle>,
    /// It waits for others to end.
    settling: bool,
    /// Those who wait for others to end do not wait for it.
    apart: bool,
    /// It does nothing but read.
    reads: bool,
    /// A step that the store had no room for.
    put_back: Option<Step>,
    /// Where it waits for room.
    place: Option<Place>,
    pub(crate) rank: Rank,
}

/// A place among those that wait for room in the store of a unit; given up when this is dropped.
pub(crate) struct Place {
    pub(crate) set: Rc<TaskSet>,
    pub(crate) standing: Standing,
}

/// What idle work waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Idle {
    Timer,
    Alarm,
    /// The same, for work in the background that has to end first.
    Detached,
    /// The end of other commands.
    Others,
    /// Room in the store.
    Room,
}

/// What work of several steps has come to.
pub(crate) enum Progress {
    /// It wants this operation.
    Wants(Step),
    /// It is done.
    Done(Result<(), Sense>),
}

impl Running {
    pub(crate) fn new(cell: Rc<RunCell>, future: RunFuture, rank: Rank) -> Self {
        Self {
            cell,
            future,
            idle: None,
            settling: false,
            apart: false,
            reads: false,
            put_back: None,
            place: None,
            rank,
        }
    }

    /// The same, which does [nothing but read](crate::RunPlan::reads), if it is so.
    pub(crate) fn that_reads(self, reads: bool) -> Self {
        Self { reads, ..self }
    }

    /// Whether a store has a read of it, and it does nothing else.
    pub(crate) fn is_reading(&self) -> bool {
        self.reads && self.is_at_work()
    }

    /// The store has no room for this step now: it comes again when [`proceed`](Self::proceed) is called next.
    pub(crate) fn put_back(&mut self, step: Step, place: Place) {
        (self.put_back, self.place, self.idle) = (Some(step), Some(place), Some(Idle::Room));
    }

    /// Whether it waits for room.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.idle == Some(Idle::Room)
    }

    /// The place where it has waited for room until now.
    pub(crate) fn take_place(&mut self) -> Option<Place> {
        self.place.take()
    }

    /// Goes on until the next operation or the end. `answer` is the result of the last operation.
    pub(crate) fn proceed(&mut self, answer: Option<IoResult>) -> Progress {
        let aborted = self.cell.is_aborted();
        self.idle = None;
        (self.settling, self.apart) = (false, false);
        if let Some(step) = self.put_back.take()
            && !aborted
        {
            return Progress::Wants(step);
        }
        self.cell.answer(answer);
        match self.future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Progress::Done(result),
            Poll::Pending => {
                let step = self.cell.take_step();
                Progress::Wants(step.expect("work awaits only its own steps"))
            }
        }
    }

    /// Whether a store, or a call that may block, has its last step.
    pub(crate) fn is_at_work(&self) -> bool {
        self.idle.is_none()
    }

    /// What a store has of it, which is work for `unit` known by `token`.
    pub(crate) fn at_store(&self, unit: &Arc<LogicalUnit>, token: u64) -> AtStore {
        let unit = self.cell.elsewhere().unwrap_or_else(|| unit.clone());
        AtStore { unit, token, since: Some(self.cell.now()) }
    }

    /// From now on it is idle.
    pub(crate) fn rest(&mut self, idle: Idle) {
        self.idle = Some(idle);
    }

    /// From now on it waits for others to end, which need not wait for it.
    pub(crate) fn settle(&mut self) {
        self.idle = Some(Idle::Others);
        self.settling = true;
    }

    /// Those who wait for others to end do not wait for it from now on.
    pub(crate) fn set_apart(&mut self) {
        self.apart = true;
    }

    pub(crate) fn is_apart(&self) -> bool {
        self.apart
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.settling
    }

    /// Aborts it. Returns whether it is idle, so that nothing else would make it go on.
    pub(crate) fn abort(&mut self) -> bool {
        self.cell.abort();
        self.idle.take_if(|idle| *idle != Idle::Detached).is_some()
    }

    /// Has work in the background end soon. Returns whether it is asleep, so that nothing else would make it go on.
    pub(crate) fn end(&mut self) -> bool {
        self.cell.set_ending();
        self.idle.take_if(|idle| *idle == Idle::Timer).is_some()
    }

    /// Its alarm rings. Returns whether it has waited for that.
    pub(crate) fn ring(&mut self) -> bool {
        let waited = matches!(self.idle, Some(Idle::Alarm | Idle::Detached));
        if waited {
            self.idle = None;
        } else {
            self.cell.set_rung();
        }
        waited
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set.queue().remove(self.standing);
        self.set.hold_for_room();
    }
}
