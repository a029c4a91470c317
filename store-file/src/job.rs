//! Operations that take several steps: zeroing that may have to be written out, and transfers through aligned buffers.

use crate::file::Shared;
use lunette_store::pool::{LARGEST, Pool, PoolBuf};
use lunette_store::{FileOp, IoError, IoResult, Op, Seg, Sg};
use std::os::fd::RawFd;

pub(crate) enum Job {
    Zero(Zeroing),
    Bounce(Bounce),
}

/// One file operation of a job.
pub(crate) enum Step {
    Read { offset: u64, to: Seg },
    Write { offset: u64, from: Seg, durable: bool },
    Allocate { mode: i32, offset: u64, length: u64 },
}

impl Step {
    pub(crate) fn as_op(&self, fd: RawFd) -> FileOp<'_> {
        match *self {
            Self::Read { offset, ref to } => {
                FileOp::Read { fd, offset, to: Sg::new(std::slice::from_ref(to)) }
            }
            Self::Write { offset, ref from, durable } => {
                FileOp::Write { fd, offset, from: Sg::new(std::slice::from_ref(from)), durable }
            }
            Self::Allocate { mode, offset, length } => FileOp::Allocate { fd, mode, offset, length },
        }
    }
}

impl Job {
    /// What to do next; `zeroes` gives a run of zero bytes to write from.
    pub(crate) fn step(&self, zeroes: impl FnOnce() -> Seg) -> Step {
        match self {
            Self::Zero(job) => job.step(zeroes),
            Self::Bounce(job) => job.step(),
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
        matches!(self, Self::Bounce(Bounce { op: Op::Write { durable: true, .. }, .. }))
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

    fn step(&self, zeroes: impl FnOnce() -> Seg) -> Step {
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
            Way::Write => Step::Write {
                offset,
                from: zeroes().part(0, usize::try_from(length).unwrap_or(usize::MAX)),
                durable: false,
            },
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

/// A read or write through an aligned buffer, piece by piece.
pub(crate) struct Bounce {
    /// With an empty list.
    op: Op<'static>,
    segs: Vec<Seg>,
    length: u64,
    done: u64,
    buffer: Option<PoolBuf>,
}

impl Bounce {
    /// `op` is a read or a write.
    pub(crate) fn new(op: Op<'_>) -> Self {
        Self {
            segs: op.sg().iter().collect(),
            length: op.sg().len(),
            op: op.with_sg(Sg::empty()),
            done: 0,
            buffer: None,
        }
    }

    /// Takes the buffer that the first step needs; `false` if there is none now.
    pub(crate) fn take_buffer(&mut self, pool: &Pool) -> bool {
        let length = self.length.min(LARGEST as u64) as usize;
        self.buffer = pool.take(length);
        self.buffer.is_some()
    }

    /// The buffer, as far as the next piece fills it.
    fn piece(&self) -> Seg {
        let left = usize::try_from(self.length - self.done).unwrap_or(usize::MAX);
        let buffer = self.buffer.as_ref().expect("a buffer was taken first");
        buffer.seg().part(0, left)
    }

    /// The part of the caller's memory that belongs to the next piece.
    fn theirs(&self, length: u64) -> Sg<'_> {
        Sg::new(&self.segs).part(self.done, length)
    }

    fn step(&self) -> Step {
        let piece = self.piece();
        let offset = self.op.range().0 + self.done;
        match self.op {
            Op::Write { durable, .. } => {
                self.theirs(piece.len() as u64).copy_to(Sg::new(&[piece]));
                Step::Write { offset, from: piece, durable }
            }
            _ => Step::Read { offset, to: piece },
        }
    }

    fn advance(&mut self, result: IoResult) -> Option<IoResult> {
        let (moved, ended) = match result {
            Ok(moved) => (moved, false),
            Err(IoError::Short { moved }) => (moved, true),
            Err(error) => return Some(Err(error)),
        };
        if matches!(self.op, Op::Read { .. }) {
            let piece = [self.piece()];
            Sg::new(&piece).copy_to(self.theirs(moved));
        }
        self.done += moved;
        if ended {
            return Some(Err(IoError::Short { moved: self.done }));
        }
        (self.done >= self.length).then_some(Ok(self.done))
    }
}
