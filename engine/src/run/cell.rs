//! What work of several steps shares with the engine, and the steps that it may ask for.

use crate::alarm::Alarm;
use crate::manage::Units;
use crate::statistics::Usage;
use crate::{LogicalUnit, NexusId};
use lunette_scsi::Status;
use lunette_store::{Backing, IoError, IoResult, Memory, Op, SeekTarget, Sg, SgList};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Shared between the steps and the engine.
pub(crate) struct RunCell {
    pub(super) data_out: RefCell<SgList>,
    pub(super) data_in: RefCell<SgList>,
    pub(super) moved_in: Cell<u64>,
    pub(super) wanted_in: Cell<Option<u64>>,
    pub(super) moved_out: Cell<Option<u64>>,
    pub(super) status: Cell<Status>,
    pub(super) step: RefCell<Option<Step>>,
    /// The unit whose store has the last step, if it is another than that of the command.
    pub(super) elsewhere: RefCell<Option<Arc<LogicalUnit>>>,
    /// Numbers of the other units that it has to do with.
    pub(super) reached: RefCell<Vec<u64>>,
    pub(super) answer: Cell<Option<IoResult>>,
    pub(super) aborted: Cell<bool>,
    /// The command was aborted itself.
    pub(super) discarded: Cell<bool>,
    /// Work in the background is to end.
    pub(super) ending: Cell<bool>,
    pub(super) alarm: Alarm,
    pub(super) usage: Arc<Usage>,
    /// When the last step has ended.
    pub(super) now: Cell<Duration>,
    /// It was rung, and nothing has waited for it yet.
    pub(super) rung: Cell<bool>,
}

/// One step that owns its memory.
pub(crate) enum Step {
    Read {
        offset: u64,
        to: Bytes,
    },
    Write {
        offset: u64,
        from: Bytes,
        durable: bool,
    },
    Flush,
    Zero {
        offset: u64,
        length: u64,
        unmap: bool,
    },
    Discard {
        offset: u64,
        length: u64,
    },
    Copy {
        offset: u64,
        source: RawFd,
        from: u64,
        length: u64,
    },
    Seek {
        offset: u64,
        target: SeekTarget,
    },
    Call(Box<dyn FnOnce() -> IoResult + Send>),
    /// A call about a store.
    CallOn(Arc<dyn Backing>, Box<dyn FnOnce() -> IoResult + Send>),
    Abort(Box<[NexusId]>),
    /// Aborts the others after an error, those of the same nexus or all.
    AbortOthers {
        own: bool,
    },
    ClearAllegiance,
    /// Waits for the end of others; `anew`: and decodes again those that have not begun.
    Settle {
        anew: bool,
    },
    AwaitTransfers,
    /// Waits for the end of everything on the unit, for work in the background.
    AwaitBegun {
        anew: bool,
    },
    Reach,
    Sleep(Duration),
    Wait,
    /// Those who wait for others to end do not wait for this one.
    WaitApart,
    /// Waits for work in the background that an aborted command waits for too.
    WaitAnyway,
}

/// Bytes that a step moves.
#[derive(Clone)]
pub(crate) enum Bytes {
    Own(Rc<Memory>, Range<u64>),
    DataOut(Range<u64>),
    DataIn(Range<u64>),
}

pub(super) struct Answer<'a>(pub(super) &'a RunCell);

impl Future for Answer<'_> {
    type Output = IoResult;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<IoResult> {
        self.0.answer.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl RunCell {
    pub(crate) fn new(data_out: Sg<'_>, data_in: Sg<'_>, alarm: Alarm, usage: Arc<Usage>) -> Rc<Self> {
        let cell = Self {
            data_out: RefCell::default(),
            data_in: RefCell::default(),
            moved_in: Cell::new(0),
            wanted_in: Cell::new(None),
            moved_out: Cell::new(None),
            status: Cell::new(Status::GOOD),
            step: RefCell::new(None),
            elsewhere: RefCell::new(None),
            reached: RefCell::default(),
            answer: Cell::new(None),
            aborted: Cell::new(false),
            discarded: Cell::new(false),
            ending: Cell::new(false),
            alarm,
            usage,
            now: Cell::default(),
            rung: Cell::new(false),
        };
        cell.data_out.borrow_mut().assign(data_out);
        cell.data_in.borrow_mut().assign(data_in);
        Rc::new(cell)
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    pub(crate) fn abort(&self) {
        self.aborted.set(true);
    }

    /// The work is to end.
    pub(crate) fn set_ending(&self) {
        self.ending.set(true);
    }

    /// The command is aborted itself.
    pub(crate) fn discard(&self) {
        self.discarded.set(true);
    }

    /// The alarm has rung, and nothing has waited for it.
    pub(crate) fn set_rung(&self) {
        self.rung.set(true);
    }

    /// The result of the last step, for the future.
    pub(crate) fn answer(&self, result: Option<IoResult>) {
        let result = result.map(|result| if self.is_aborted() { Err(IoError::Aborted) } else { result });
        self.answer.set(result);
    }

    /// What the future wants done.
    pub(crate) fn take_step(&self) -> Option<Step> {
        self.step.borrow_mut().take()
    }

    pub(crate) fn set_now(&self, now: Duration) {
        self.now.set(now);
    }

    /// When the last step has begun.
    pub(crate) fn now(&self) -> Duration {
        self.now.get()
    }

    /// The unit whose store the last step is for, if it is another than that of the command.
    pub(crate) fn elsewhere(&self) -> Option<Arc<LogicalUnit>> {
        self.elsewhere.borrow().clone()
    }

    /// Whether it has to do with another unit, one of `units`.
    pub(crate) fn reaches(&self, units: &Units) -> bool {
        self.reached.borrow().iter().any(|unit| units.contain(*unit))
    }

    pub(crate) fn moved_in(&self) -> u64 {
        self.moved_in.get()
    }

    /// The status if the work ends without an error.
    pub(crate) fn status(&self) -> Status {
        self.status.get()
    }

    /// How much data-in there is, if that is less than was announced.
    pub(crate) fn wanted_in(&self) -> Option<u64> {
        self.wanted_in.get()
    }

    /// How much of data-out was taken, if not all of it.
    pub(crate) fn moved_out(&self) -> Option<u64> {
        self.moved_out.get()
    }

    /// Calls `submit` with a step's store operation.
    pub(crate) fn with_op<R>(&self, step: &Step, submit: impl FnOnce(Op<'_>) -> R) -> Option<R> {
        let (data_out, data_in) = (self.data_out.borrow(), self.data_in.borrow());
        let own = match step {
            Step::Read { to: Bytes::Own(memory, _), .. }
            | Step::Write { from: Bytes::Own(memory, _), .. } => Some(memory.seg()),
            _ => None,
        };
        let sg = |bytes: &Bytes| match bytes {
            Bytes::Own(_, range) => Sg::new(own.as_slice()).part(range.start, range.end - range.start),
            Bytes::DataOut(range) => data_out.as_sg().part(range.start, range.end - range.start),
            Bytes::DataIn(range) => data_in.as_sg().part(range.start, range.end - range.start),
        };
        Some(submit(match *step {
            Step::Read { offset, ref to } => Op::Read { offset, to: sg(to) },
            Step::Write { offset, ref from, durable } => Op::Write { offset, from: sg(from), durable },
            Step::Flush => Op::Flush,
            Step::Zero { offset, length, unmap } => Op::Zero { offset, length, unmap },
            Step::Discard { offset, length } => Op::Discard { offset, length },
            Step::Copy { offset, source, from, length } => Op::Copy { offset, source, from, length },
            Step::Seek { offset, target } => Op::Seek { offset, target },
            Step::Call(_)
            | Step::CallOn(..)
            | Step::Abort(_)
            | Step::AbortOthers { .. }
            | Step::ClearAllegiance
            | Step::Settle { .. }
            | Step::AwaitTransfers
            | Step::AwaitBegun { .. }
            | Step::Reach
            | Step::Sleep(_)
            | Step::Wait
            | Step::WaitApart
            | Step::WaitAnyway => return None,
        }))
    }
}
