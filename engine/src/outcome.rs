//! What became of a command.

use crate::LogicalUnit;
use crate::plan::{Io, IoKind, Reply};
use crate::session::Itl;
use crate::tasks::Task;
use lunette_scsi::{Sense, Status};
use lunette_store::{IoError, IoResult, Sg};

/// What became of a command: what the transport frames.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Status.
    pub status: Status,
    /// Sense data, with CHECK CONDITION.
    pub sense: Option<Box<Sense>>,
    /// Whether sense data is asked for in descriptor format (the D_SENSE bit of the Control mode page).
    pub descriptor_sense: bool,
    /// Bytes of data-in that the initiator's memory received.
    pub moved_in: u64,
    /// Bytes of data-out that were taken.
    pub moved_out: u64,
    /// Bytes of data-in that the command would have given to a large enough buffer.
    pub wanted_in: u64,
    /// Bytes of data-out that the command would have taken.
    pub wanted_out: u64,
}

impl Outcome {
    pub(crate) fn status(status: Status) -> Self {
        Self {
            status,
            sense: None,
            descriptor_sense: false,
            moved_in: 0,
            moved_out: 0,
            wanted_in: 0,
            wanted_out: 0,
        }
    }

    /// There is no room for a command of a nexus that has others there, or none (SAM-5 5.3.1).
    pub(crate) fn no_room(has_others: bool) -> Self {
        Self::status(if has_others { Status::TASK_SET_FULL } else { Status::BUSY })
    }

    #[cold]
    pub(crate) fn failed(unit: &LogicalUnit, sense: Sense) -> Self {
        let descriptor_sense = unit.descriptor_sense();
        Self { sense: Some(Box::new(sense)), descriptor_sense, ..Self::status(Status::CHECK_CONDITION) }
    }

    /// Of a command that needed no I/O.
    pub(crate) fn of_reply(task: &Task, reply: Reply, data_in: Sg<'_>) -> Self {
        match reply.sense {
            Some(sense) => Self::failed(task.itl.unit(), *sense),
            None => {
                let moved_in = data_in.copy_in(0, &reply.data) as u64;
                Self { moved_in, ..Self::of_task(task, reply.status) }
            }
        }
    }

    /// Of a command that is one operation on the store, which has moved `moving` bytes.
    pub(crate) fn of_io(itl: &Itl, io: Io, moving: u64, result: IoResult) -> Self {
        itl.usage.counters.count_io(io.kind, moving, result);
        let (wanted_in, wanted_out) = (io.wanted_in(), io.wanted_out());
        let ended = |status| Self { wanted_in, wanted_out, ..Self::status(status) };
        match result {
            Ok(_) if io.kind == IoKind::Read => Self { moved_in: moving, ..ended(Status::GOOD) },
            Ok(_) => Self { moved_out: moving, ..ended(Status::GOOD) },
            Err(IoError::Busy) => ended(Status::BUSY),
            Err(error) => Self::failed(itl.unit(), itl.unit().device().io_failed(&io, error)),
        }
    }

    /// Of a command of several steps.
    pub(crate) fn of_run(task: &Task, result: Result<(), Sense>) -> Self {
        let cell = task.running.as_ref().map(|running| &running.cell);
        let moved_in = cell.map_or(0, |cell| cell.moved_in());
        match result {
            Ok(()) => {
                let wanted_in =
                    cell.and_then(|cell| cell.wanted_in()).unwrap_or(task.wanted_in).max(moved_in);
                let moved_out = cell.and_then(|cell| cell.moved_out()).unwrap_or(task.moving);
                let status = cell.map_or(Status::GOOD, |cell| cell.status());
                Self { moved_in, wanted_in, moved_out, ..Self::of_task(task, status) }
            }
            Err(sense) => Self { moved_out: task.moving, ..Self::failed(task.itl.unit(), sense) },
        }
    }

    fn of_task(task: &Task, status: Status) -> Self {
        Self { wanted_in: task.wanted_in, wanted_out: task.wanted_out, ..Self::status(status) }
    }

    /// Data-in residual against the initiator's expected length.
    pub fn residual_in(&self, expected: u64) -> Residual {
        Residual::of(expected, self.moved_in, self.wanted_in)
    }

    /// Data-out residual against the initiator's expected length.
    pub fn residual_out(&self, expected: u64) -> Residual {
        Residual::of(expected, self.moved_out, self.wanted_out)
    }

    /// Bytes of both of the initiator's buffers that were not moved, for transports with one residual.
    pub fn not_moved(&self, expected_in: u64, expected_out: u64) -> u64 {
        let (data_in, data_out) =
            (expected_in.saturating_sub(self.moved_in), expected_out.saturating_sub(self.moved_out));
        data_in.saturating_add(data_out)
    }

    /// Whether one of the initiator's buffers was too small for the command.
    pub fn overflows(&self, expected_in: u64, expected_out: u64) -> bool {
        self.wanted_in > expected_in || self.wanted_out > expected_out
    }
}

/// The difference between what an initiator expected to move and what the command moved or wanted to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residual {
    /// None.
    None,
    /// This many expected bytes were not moved.
    Underflow(u64),
    /// The command had this many bytes more than the initiator expected; they were not moved.
    Overflow(u64),
}

impl Residual {
    fn of(expected: u64, moved: u64, wanted: u64) -> Self {
        if wanted > expected {
            Residual::Overflow(wanted - expected)
        } else if moved < expected {
            Residual::Underflow(expected - moved)
        } else {
            Residual::None
        }
    }
}

/// Why a command was ended without a status of its own (SAM-5 5.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aborted {
    /// By a task management function of its own I_T nexus.
    ByItsNexus,
    /// By a task management function of another I_T nexus.
    ByAnotherNexus,
    /// By a logical unit or target reset.
    ByReset,
    /// By the end of its I_T nexus.
    NexusLost,
}

/// How a command that was not answered at once has ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Completion {
    /// With a status.
    Ended(Outcome),
    /// Aborted: nothing touches the initiator's memory any more.
    Aborted(Aborted),
}
