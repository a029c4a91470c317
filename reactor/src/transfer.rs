//! One file operation on its way, carried out piece by piece.

use crate::lanes::Queue;
use lunette_store::{FileOp, IoError, IoId, IoResult, Seg, Sg, SinkId};
use std::os::fd::RawFd;

/// Most segments that one call takes (`IOV_MAX`).
const MOST_SEGS: usize = 1024;
/// Most bytes that one call moves (`MAX_RW_COUNT` for pages of 4 KiB).
const MOST_BYTES: usize = 0x7fff_f000;
/// Segments for which an idle transfer keeps room: a driver's request of 512 KiB in single pages.
const KEPT_SEGS: usize = 128;
/// How often in a row "try again" is believed of an operation that may block.
const MOST_TRIES: u8 = 16;

/// What is done to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Read,
    Write { durable: bool },
    Sync,
    Allocate { mode: i32, length: u64 },
}

/// The kernel's answer to a piece means this.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// There is more to move.
    Continue,
    /// The same again, and this time it may block.
    Retry,
    /// The operation has ended.
    Done(IoResult),
}

/// An operation under way. Made once and used again and again, so that its list of segments keeps its room.
pub(crate) struct Transfer {
    pub(crate) id: IoId,
    pub(crate) fd: RawFd,
    pub(crate) action: Action,
    /// Whose threads carry it out, if not the kernel.
    pub(crate) queue: Option<Queue>,
    /// Where in the file the next piece begins.
    pub(crate) offset: u64,
    moved: u64,
    left: u64,
    segs: Vec<Seg>,
    first: usize,
    /// Answers in a row that said "try again".
    tries: u8,
}

/// The answer to an operation that needs no kernel: empty, or beyond what a file can be.
pub(crate) fn settled(op: &FileOp<'_>) -> Option<IoResult> {
    let (offset, length) = match *op {
        FileOp::Read { offset, to: list, .. } | FileOp::Write { offset, from: list, .. } => {
            (offset, list.len())
        }
        FileOp::Allocate { offset, length, .. } => (offset, length),
        FileOp::Sync { .. } => return None,
    };
    match offset.checked_add(length) {
        Some(end) if i64::try_from(end).is_ok() => (length == 0).then_some(Ok(0)),
        _ => Some(Err(IoError::OutOfRange)),
    }
}

impl Transfer {
    pub(crate) fn idle() -> Self {
        Self {
            id: IoId { sink: SinkId(u32::MAX), token: 0 },
            fd: -1,
            action: Action::Sync,
            queue: None,
            offset: 0,
            moved: 0,
            left: 0,
            segs: Vec::with_capacity(1),
            first: 0,
            tries: 0,
        }
    }

    /// Begins `op`, which is not [`settled`].
    pub(crate) fn start(&mut self, op: FileOp<'_>, id: IoId) {
        let (fd, action, offset, list) = match op {
            FileOp::Read { fd, offset, to } => (fd, Action::Read, offset, to),
            FileOp::Write { fd, offset, from, durable } => (fd, Action::Write { durable }, offset, from),
            FileOp::Sync { fd } => (fd, Action::Sync, 0, Sg::empty()),
            FileOp::Allocate { fd, mode, offset, length } => {
                (fd, Action::Allocate { mode, length }, offset, Sg::empty())
            }
        };
        self.id = id;
        self.fd = fd;
        self.action = action;
        self.offset = offset;
        self.moved = 0;
        self.left = list.len();
        self.first = 0;
        self.tries = 0;
        self.segs.clear();
        match list.single() {
            Some(seg) => self.segs.push(seg),
            None => self.segs.extend(list.iter()),
        }
    }

    /// The file whose data is made durable, if that is all that is done.
    pub(crate) fn synced(&self) -> Option<RawFd> {
        (self.action == Action::Sync).then_some(self.fd)
    }

    /// Gives back the room of an unusually long list.
    pub(crate) fn end(&mut self) {
        self.segs.clear();
        self.segs.shrink_to(KEPT_SEGS);
    }

    /// The segments of the next piece.
    pub(crate) fn piece(&self) -> &[Seg] {
        let rest = &self.segs[self.first..];
        &rest[..rest.len().min(MOST_SEGS)]
    }

    /// The next piece if it is one run of bytes: address and length.
    pub(crate) fn run(&self) -> Option<(*mut u8, u32)> {
        match self.piece() {
            [seg] => Some((seg.address(), seg.len().min(MOST_BYTES) as u32)),
            _ => None,
        }
    }

    /// Takes in what the kernel said to the last piece: bytes moved, or an error number.
    pub(crate) fn advance(&mut self, answer: Result<usize, i32>) -> Step {
        match answer {
            Err(libc::EINTR) => Step::Retry,
            Err(libc::EAGAIN) if self.tries < MOST_TRIES => {
                self.tries += 1;
                Step::Retry
            }
            // With O_DIRECT, what follows the unaligned end of a file is refused rather than empty.
            Err(libc::EINVAL) if self.moved > 0 && self.action == Action::Read => self.short(),
            Err(errno) => Step::Done(Err(IoError::from_errno(errno))),
            Ok(_) if self.left == 0 => Step::Done(Ok(self.moved)),
            Ok(0) => self.short(),
            Ok(count) => {
                self.consume(count);
                match self.left {
                    0 => Step::Done(Ok(self.moved)),
                    _ => Step::Continue,
                }
            }
        }
    }

    fn short(&self) -> Step {
        Step::Done(Err(IoError::Short { moved: self.moved }))
    }

    fn consume(&mut self, count: usize) {
        let mut count = self.left.min(count as u64) as usize;
        self.tries = 0;
        self.moved += count as u64;
        self.left -= count as u64;
        self.offset += count as u64;
        while let Some(seg) = self.segs.get_mut(self.first)
            && count > 0
        {
            if count < seg.len() {
                *seg = seg.part(count, usize::MAX);
                return;
            }
            count -= seg.len();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::Memory;

    const ID: IoId = IoId { sink: SinkId(1), token: 2 };

    fn lengths(transfer: &Transfer) -> Vec<usize> {
        transfer.piece().iter().map(|seg| seg.len()).collect()
    }

    fn reading(segs: &[Seg]) -> Transfer {
        let mut transfer = Transfer::idle();
        let to = Sg::new(segs);
        transfer.start(FileOp::Read { fd: 3, offset: 100, to }, ID);
        transfer
    }

    #[test]
    fn short_answers_are_continued_where_they_ended() {
        let memory = Memory::zeroed(30);
        let segs = [memory.seg().part(0, 10), memory.seg().part(10, 5), memory.seg().part(15, 15)];
        let mut transfer = reading(&segs);
        assert_eq!(transfer.advance(Ok(4)), Step::Continue);
        assert_eq!(lengths(&transfer), [6, 5, 15]);
        assert_eq!(transfer.offset, 104);
        assert_eq!(transfer.advance(Err(libc::EINTR)), Step::Retry);
        assert_eq!(transfer.advance(Ok(11)), Step::Continue);
        assert_eq!(transfer.run(), Some((segs[2].address(), 15)));
        assert_eq!(transfer.advance(Ok(1)), Step::Continue);
        assert_eq!(transfer.run(), Some((segs[2].address().wrapping_add(1), 14)));
        assert_eq!(transfer.advance(Ok(14)), Step::Done(Ok(30)));
    }

    #[test]
    fn long_lists_go_in_pieces() {
        let memory = Memory::zeroed(MOST_SEGS + 2);
        let segs: Vec<Seg> = (0..memory.len()).map(|n| memory.seg().part(n, 1)).collect();
        let mut transfer = reading(&segs);
        assert_eq!(transfer.piece().len(), MOST_SEGS);
        assert_eq!(transfer.advance(Ok(MOST_SEGS)), Step::Continue);
        assert_eq!(lengths(&transfer), [1, 1]);
        assert_eq!(transfer.advance(Ok(1)), Step::Continue);
        assert_eq!(transfer.advance(Ok(0)), Step::Done(Err(IoError::Short { moved: MOST_SEGS as u64 + 1 })));
        transfer.end();
        assert!(transfer.segs.capacity() <= KEPT_SEGS);
    }

    #[test]
    fn an_unaligned_end_is_an_end_and_a_bad_request_an_error() {
        let memory = Memory::zeroed(512);
        let mut transfer = reading(&[memory.seg()]);
        assert_eq!(transfer.advance(Err(libc::EINVAL)), Step::Done(Err(IoError::Os(libc::EINVAL))));
        let mut transfer = reading(&[memory.seg()]);
        assert_eq!(transfer.advance(Ok(100)), Step::Continue);
        assert_eq!(transfer.advance(Err(libc::EINVAL)), Step::Done(Err(IoError::Short { moved: 100 })));
    }

    #[test]
    fn who_says_try_again_for_ever_is_not_asked_for_ever() {
        let memory = Memory::zeroed(20);
        let mut transfer = reading(&[memory.seg()]);
        let again = |transfer: &mut Transfer| {
            let tries = (0..1000).take_while(|_| transfer.advance(Err(libc::EAGAIN)) == Step::Retry);
            tries.count()
        };
        assert_eq!(again(&mut transfer), usize::from(MOST_TRIES));
        assert_eq!(transfer.advance(Err(libc::EAGAIN)), Step::Done(Err(IoError::Os(libc::EAGAIN))));
        // Progress earns it new patience; a signal costs none.
        assert_eq!(transfer.advance(Ok(10)), Step::Continue);
        assert!((0..1000).all(|_| transfer.advance(Err(libc::EINTR)) == Step::Retry));
        assert_eq!(again(&mut transfer), usize::from(MOST_TRIES));
    }

    #[test]
    fn ranges_that_no_file_has_are_refused() {
        let memory = Memory::zeroed(2);
        let segs = [memory.seg()];
        let to = Sg::new(&segs);
        for offset in [i64::MAX as u64 - 1, u64::MAX, u64::MAX - 2] {
            let op = FileOp::Read { fd: 0, offset, to };
            assert_eq!(settled(&op), Some(Err(IoError::OutOfRange)));
        }
        let last = FileOp::Read { fd: 0, offset: i64::MAX as u64 - 2, to };
        assert_eq!(settled(&last), None);
        let empty = FileOp::Read { fd: 0, offset: 5, to: Sg::empty() };
        assert_eq!(settled(&empty), Some(Ok(0)));
        assert_eq!(settled(&FileOp::Sync { fd: 0 }), None);
    }
}
