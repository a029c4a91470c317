//! Operations that take several steps.

use crate::bounce::Bounce;
use crate::file::Shared;
use lunette_store::{FileOp, IoError, IoResult, Seg, Sg};
use std::os::fd::RawFd;

pub(crate) enum Job {
    Zero(Zeroing),
    Bounce(Bounce),
}

/// One file operation of a job, without its memory.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Read { offset: u64 },
    Write { offset: u64, durable: bool },
    Allocate { mode: i32, offset: u64, length: u64 },
}

impl Step {
    pub(crate) const fn with_memory<'a>(&self, fd: RawFd, sg: Sg<'a>) -> FileOp<'a> {
        match *self {
            Self::Read { offset } => FileOp::Read { fd, offset, to: sg },
            Self::Write { offset, durable } => FileOp::Write { fd, offset, from: sg, durable },
            Self::Allocate { mode, offset, length } => FileOp::Allocate { fd, mode, offset, length },
        }
    }
}

impl Job {
    /// What to do next; its memory is put into `segs`, which is empty. `zeroes` gives a run of zero bytes to write from.
    pub(crate) fn step(&mut self, segs: &mut Vec<Seg>, zeroes: impl FnOnce() -> Seg) -> Step {
        match self {
            Self::Zero(job) => job.step(segs, zeroes),
            Self::Bounce(job) => job.step(segs),
        }
    }

    /// Takes the result of the last step; returns that of the job when it has ended.
    pub(crate) fn advance(&mut self, result: IoResult, shared: &Shared) -> Option<IoResult> {
        match self {
            Self::Zero(job) => job.advance(result, shared),
            Self::Bounce(job) => job.advance(result),
        }
    }

    pub(crate) const fn is_durable(&self) -> bool {
        match self {
            Self::Zero(_) => false,
            Self::Bounce(job) => job.is_durable(),
        }
    }
}

/// Makes a range read as zero, by the first way that works.
pub(crate) struct Zeroing {
    offset: u64,
    end: u64,
    unmap: bool,
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Punch,
    ZeroRange,
    Write,
}

impl Zeroing {
    pub(crate) fn new(offset: u64, length: u64, unmap: bool, shared: &Shared) -> Self {
        let mut job = Self { offset, end: offset + length, unmap, way: Way::Write };
        job.way = job.best_way(shared);
        job
    }

    /// Memory is not kept back for zeroes that nobody asked to unmap either.
    fn best_way(&self, shared: &Shared) -> Way {
        let sector = u64::from(shared.probed.sector);
        if !(self.offset.is_multiple_of(sector) && self.end.is_multiple_of(sector)) {
            Way::Write
        } else if (self.unmap || shared.probed.memory) && shared.can_punch() {
            Way::Punch
        } else if shared.can_zero_range() {
            Way::ZeroRange
        } else {
            Way::Write
        }
    }

    fn step(&self, segs: &mut Vec<Seg>, zeroes: impl FnOnce() -> Seg) -> Step {
        let (offset, length) = (self.offset, self.end - self.offset);
        match self.way {
            Way::Punch => Step::Allocate {
                mode: libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                offset,
                length,
            },
            Way::ZeroRange => Step::Allocate {
                mode: libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
                offset,
                length,
            },
            Way::Write => {
                segs.push(zeroes().part(0, usize::try_from(length).unwrap_or(usize::MAX)));
                Step::Write { offset, durable: false }
            }
        }
    }

    fn advance(&mut self, result: IoResult, shared: &Shared) -> Option<IoResult> {
        match (self.way, result) {
            (Way::Punch, Err(IoError::Unsupported)) => shared.cannot_punch(),
            (Way::ZeroRange, Err(IoError::Unsupported)) => shared.cannot_zero_range(),
            (_, Err(error)) => return Some(Err(error)),
            (Way::Punch | Way::ZeroRange, Ok(_)) => return Some(Ok(0)),
            (Way::Write, Ok(moved)) => {
                self.offset += moved;
                return (self.offset >= self.end).then_some(Ok(0));
            }
        }
        self.way = self.best_way(shared);
        None
    }
}
