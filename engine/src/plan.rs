//! What a decoded command wants done, and what became of it.

use crate::run::{Run, RunFuture};
use lunette_scsi::{Sense, Status};
use lunette_store::Sg;
use std::ops::Range;

/// What a command wants done.
pub enum Plan {
    /// Nothing: this is the answer.
    Done(Reply),
    /// One operation on the store, straight between it and the initiator's memory.
    Io(Io),
    /// Several steps.
    Run(RunPlan),
}

/// One operation on the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Io {
    /// Which operation.
    pub kind: IoKind,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Logical block length. What the store is asked to move is a multiple of it, also when the initiator sends or takes less
    /// than the command is about.
    pub granularity: u32,
}

impl Io {
    /// Whether this reads more than `data_in` takes, and that is not whole blocks.
    pub(crate) fn ends_inside_a_block(&self, data_in: Sg<'_>) -> bool {
        let room = data_in.len();
        self.kind == IoKind::Read && room < self.length && !room.is_multiple_of(self.block())
    }

    /// Bytes of data-out that it takes.
    pub(crate) fn wanted_out(&self) -> u64 {
        if matches!(self.kind, IoKind::Write { .. }) { self.length } else { 0 }
    }

    /// Bytes of data-in that it gives.
    pub(crate) fn wanted_in(&self) -> u64 {
        if self.kind == IoKind::Read { self.length } else { 0 }
    }

    /// The bytes of the unit that it reads or writes.
    pub(crate) fn bytes(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }

    /// The same by a command of several steps.
    pub(crate) fn in_steps(self) -> Plan {
        let reads = self.kind == IoKind::Read;
        match Plan::run_both(self.wanted_out(), self.wanted_in(), async move |run| run.transfer(self).await) {
            Plan::Run(plan) => Plan::Run(RunPlan { reads, ..plan }),
            plan => plan,
        }
    }

    pub(crate) fn block(&self) -> u64 {
        self.granularity.max(1).into()
    }
}

/// Which operation on the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoKind {
    /// Data-in.
    Read,
    /// Data-out.
    Write {
        /// Survives a power loss before GOOD.
        durable: bool,
    },
    /// What was written before survives a power loss before GOOD.
    Flush,
}

/// The start of a command of several steps: given its [`Run`], the future that carries it out.
pub type RunStart = Box<dyn FnOnce(Run) -> RunFuture>;

/// A command of several steps.
pub struct RunPlan {
    /// Bytes of data-out that it needs.
    pub wanted_out: u64,
    /// The most bytes of data-in that it gives.
    pub wanted_in: u64,
    /// Bytes that it writes to the medium, if that is more than it is sent; those of what it copies are counted as it goes.
    pub writes: u64,
    /// Whether it does nothing but read: what a store has of it may be left to itself.
    pub(crate) reads: bool,
    /// Makes the future.
    pub start: RunStart,
}

impl RunPlan {
    /// Steps that need `wanted_out` bytes of data-out.
    pub(crate) fn new<F>(wanted_out: u64, steps: impl FnOnce(Run) -> F + 'static) -> Self
    where
        F: Future<Output = Result<(), Sense>> + 'static,
    {
        Self {
            wanted_out,
            wanted_in: 0,
            writes: 0,
            reads: false,
            start: Box::new(|run| Box::pin(steps(run))),
        }
    }
}

impl Plan {
    /// GOOD without data.
    pub fn good() -> Self {
        Plan::Done(Reply::good(Vec::new()))
    }

    /// GOOD with `data`, cut to the command's allocation length.
    pub fn data(mut data: Vec<u8>, allocation_length: u64) -> Self {
        data.truncate(usize::try_from(allocation_length).unwrap_or(usize::MAX));
        Plan::Done(Reply::good(data))
    }

    /// Several steps, written as an `async` closure, that need `wanted_out` bytes of data-out.
    pub fn run<F>(wanted_out: u64, steps: impl FnOnce(Run) -> F + 'static) -> Self
    where
        F: Future<Output = Result<(), Sense>> + 'static,
    {
        Self::run_both(wanted_out, 0, steps)
    }

    /// Several steps that give at most `wanted_in` bytes of data-in.
    pub fn run_in<F>(wanted_in: u64, steps: impl FnOnce(Run) -> F + 'static) -> Self
    where
        F: Future<Output = Result<(), Sense>> + 'static,
    {
        Self::run_both(0, wanted_in, steps)
    }

    /// Several steps that need `wanted_out` bytes of data-out and give at most `wanted_in` bytes of data-in.
    pub fn run_both<F>(wanted_out: u64, wanted_in: u64, steps: impl FnOnce(Run) -> F + 'static) -> Self
    where
        F: Future<Output = Result<(), Sense>> + 'static,
    {
        Plan::Run(RunPlan { wanted_in, ..RunPlan::new(wanted_out, steps) })
    }

    /// Says that several steps write so many bytes to the medium, more than they are sent.
    pub fn writing(self, writes: u64) -> Self {
        match self {
            Plan::Run(run) => Plan::Run(RunPlan { writes, ..run }),
            plan => plan,
        }
    }

    /// The same, with its range taken if it reads or writes.
    pub(crate) fn with_range(self) -> Self {
        match self {
            Plan::Io(io) if io.kind != IoKind::Flush => io.in_steps(),
            plan => plan,
        }
    }

    /// Bytes of data-out that the command needs before it can start.
    pub fn wanted_out(&self) -> u64 {
        match self {
            Plan::Io(io) => io.wanted_out(),
            Plan::Run(run) => run.wanted_out,
            Plan::Done(_) => 0,
        }
    }

    /// The most bytes of data-in that the command gives.
    pub fn wanted_in(&self) -> u64 {
        match self {
            Plan::Io(io) => io.wanted_in(),
            Plan::Run(run) => run.wanted_in,
            Plan::Done(reply) => reply.data.len() as u64,
        }
    }
}

/// The answer of a command that needs no I/O.
#[derive(Clone, PartialEq, Debug)]
pub struct Reply {
    /// Status.
    pub status: Status,
    /// Sense data, with CHECK CONDITION.
    pub sense: Option<Box<Sense>>,
    /// Data-in.
    pub data: Vec<u8>,
}

impl Reply {
    /// GOOD with `data`.
    pub fn good(data: Vec<u8>) -> Self {
        Self { status: Status::GOOD, sense: None, data }
    }

    /// CHECK CONDITION.
    pub fn check_condition(sense: Sense) -> Self {
        Self { status: Status::CHECK_CONDITION, sense: Some(Box::new(sense)), data: Vec::new() }
    }
}
