//! A file as one reactor uses it.

use crate::bounce::{self, Bounce};
use crate::file::Shared;
use crate::job::{Job, Zeroing};
use crate::probe::{Alignment, Discarding, Inline};
use crate::sys;
use crate::witness::Witness;
use lunette_store::pool::{LARGEST, Pool};
use lunette_store::{
    Caps, Cx, FileOp, IoError, IoId, IoResult, Memory, Op, Pending, Relay, SeekTarget, Seg, Sg, Sink, Store,
    Submit, seek,
};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of bounce buffers in use at most. More operations wait, so that buffers never run out for good.
const BOUNCE_LIMIT: usize = 8 * LARGEST;
/// Most bounces that are kept for later.
const MOST_SPARE: usize = 64;
/// Bytes that are written at a time where zeroes must be written out.
const ZERO_CHUNK: usize = 256 << 10;
/// How long a job waits when the reactor takes no more file operations.
const RETRY: Duration = Duration::from_millis(1);

pub(crate) struct Attached {
    shared: Arc<Shared>,
    pending: Pending<Kept>,
    guess: Guess,
    bounce: Pool,
    /// Jobs that wait for a bounce buffer, oldest first. Not empty only while others are pending.
    waiting: RefCell<VecDeque<(IoId, Bounce)>>,
    /// Bounces of no use now, with room for their lists.
    spare: RefCell<Vec<Bounce>>,
    /// The memory of a step while it is submitted.
    segs: RefCell<Vec<Seg>>,
    zeroes: OnceCell<Memory>,
}

pub(crate) enum Kept {
    Flush(IoId),
    DurableWrite(IoId),
    /// The witness is asked before a flush has succeeded.
    AskedForFlush(IoId),
    /// The witness is asked what was lost besides the room for a durable write.
    AskedForWrite(IoId),
    /// That bytes were lost is about to be known beyond this process: then this is the result.
    Keeping(IoId, IoResult),
    /// One step of a job is on its way.
    Job(IoId, Job),
    /// A timer runs until the job's next step is tried again.
    Stalled(IoId, Job),
}

impl Attached {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            pending: Pending::default(),
            guess: Guess::default(),
            bounce: Pool::new(BOUNCE_LIMIT, LARGEST),
            waiting: RefCell::default(),
            spare: RefCell::default(),
            segs: RefCell::default(),
            zeroes: OnceCell::new(),
        }
    }

    fn read(&self, offset: u64, to: Sg<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        if self.shared.probed.inline == Inline::Always {
            return Submit::Done(sys::read_all(self.shared.borrow(), offset, to));
        }
        if let Some(moved) = self.read_cached(offset, to) {
            return Submit::Done(Ok(moved));
        }
        if let Some(need) = self.misaligned(to) {
            return self.bounce(Op::Read { offset, to }, need, id, cx);
        }
        self.start(FileOp::Read { fd: self.shared.fd(), offset, to }, id, cx)
    }

    /// All of the bytes, if they are in the page cache.
    fn read_cached(&self, offset: u64, to: Sg<'_>) -> Option<u64> {
        if !self.shared.can_read_cached() || !self.guess.likely() {
            return None;
        }
        let result = sys::read_cached(self.shared.borrow(), offset, to);
        if let Err(error) = &result
            && IoError::from_errno(error.raw_os_error().unwrap_or(0)) == IoError::Unsupported
        {
            self.shared.cannot_read_cached();
        }
        let all = result.ok().filter(|moved| *moved == to.len());
        self.guess.learn(all.is_some());
        all
    }

    fn write(&self, offset: u64, from: Sg<'_>, durable: bool, id: IoId, cx: &mut dyn Cx) -> Submit {
        let probed = &self.shared.probed;
        if probed.inline == Inline::Always && (!durable || probed.memory) {
            let fd = self.shared.borrow();
            return Submit::Done(sys::write_all(fd, offset, from, durable));
        }
        if let Some(need) = self.misaligned(from) {
            return self.bounce(Op::Write { offset, from, durable }, need, id, cx);
        }
        let op = FileOp::Write { fd: self.shared.fd(), offset, from, durable };
        if !durable {
            return self.start(op, id, cx);
        }
        self.shared.durable_write_begins();
        let submitted = self.file(op, Kept::DurableWrite(id), cx);
        if submitted == Submit::Full {
            self.shared.durable_write_is_over();
        }
        submitted
    }

    fn flush(&self, id: IoId, cx: &mut dyn Cx) -> Submit {
        if self.caps().read_only {
            return Submit::Done(Ok(0));
        }
        if let Some(error) = self.shared.failure() {
            if !self.shared.is_untold() {
                return Submit::Done(Err(error));
            }
            self.tell(id, Err(error), cx);
            return Submit::Queued;
        }
        self.file(FileOp::Sync { fd: self.shared.fd() }, Kept::Flush(id), cx)
    }

    fn discard(&self, offset: u64, length: u64, id: IoId, cx: &mut dyn Cx) -> Submit {
        match self.shared.probed.discarding {
            Discarding::No => Submit::Done(Err(IoError::Unsupported)),
            Discarding::Punch => self.zero(offset, length, true, id, cx),
            Discarding::Device => self.discard_device(offset, length, id, cx),
        }
    }

    /// Discards the whole sectors of the range; what is left over may keep its content.
    fn discard_device(&self, offset: u64, length: u64, id: IoId, cx: &mut dyn Cx) -> Submit {
        let sector = u64::from(self.shared.probed.sector);
        let start = offset.next_multiple_of(sector);
        let end = (offset + length) / sector * sector;
        if start >= end {
            return Submit::Done(Ok(0));
        }
        let shared = self.shared.clone();
        let work = move || {
            sys::discard(shared.borrow(), start, end - start)?;
            Ok(0)
        };
        cx.blocking_in(&self.shared.syncer, Box::new(work), id);
        Submit::Queued
    }

    fn seek(&self, offset: u64, target: SeekTarget, id: IoId, cx: &mut dyn Cx) -> Submit {
        let shared = self.shared.clone();
        let work = move || seek(shared.borrow(), offset, target, shared.probed.caps.size.get());
        cx.blocking_in(&self.shared.syncer, Box::new(work), id);
        Submit::Queued
    }

    fn zero(&self, offset: u64, length: u64, unmap: bool, id: IoId, cx: &mut dyn Cx) -> Submit {
        let job = Zeroing::new(offset, length, unmap, &self.shared);
        self.step(id, Job::Zero(job), cx)
    }

    /// What direct I/O needs, if the memory is not like that.
    fn misaligned(&self, sg: Sg<'_>) -> Option<Alignment> {
        self.shared.probed.direct.filter(|need| bounce::is_misaligned(sg, *need))
    }

    fn bounce(&self, op: Op<'_>, need: Alignment, id: IoId, cx: &mut dyn Cx) -> Submit {
        let mut bounce = self.spare.borrow_mut().pop().unwrap_or_default();
        bounce.begin(op, need);
        if self.waiting.borrow().is_empty() && bounce.take_buffer(&self.bounce) {
            return self.step(id, Job::Bounce(bounce), cx);
        }
        self.waiting.borrow_mut().push_back((id, bounce));
        Submit::Queued
    }

    fn start(&self, op: FileOp<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        match self.shared.lane(&op) {
            Some(lane) => cx.file_in(lane, op, id),
            None => cx.file(op, id),
        }
    }

    /// Starts a file operation whose completion we want to see.
    fn file(&self, op: FileOp<'_>, kept: Kept, cx: &mut dyn Cx) -> Submit {
        let ours = self.pending.keep(kept);
        match self.start(op, ours, cx) {
            Submit::Queued => Submit::Queued,
            Submit::Full => {
                self.pending.take(ours.token);
                Submit::Full
            }
            Submit::Done(result) => {
                cx.complete(ours, result);
                Submit::Queued
            }
        }
    }

    /// Starts the next step of a job.
    fn step(&self, id: IoId, mut job: Job, cx: &mut dyn Cx) -> Submit {
        let zeroes = || self.zeroes.get_or_init(|| Memory::zeroed(ZERO_CHUNK)).seg();
        let mut segs = self.segs.borrow_mut();
        segs.clear();
        let step = job.step(&mut segs, zeroes);
        let ours = self.pending.keep(Kept::Job(id, job));
        match self.start(step.with_memory(self.shared.fd(), Sg::new(&segs)), ours, cx) {
            Submit::Queued => Submit::Queued,
            Submit::Done(result) => {
                cx.complete(ours, result);
                Submit::Queued
            }
            Submit::Full => {
                if let Some(Kept::Job(id, job)) = self.pending.take(ours.token) {
                    cx.timer(RETRY, self.pending.keep(Kept::Stalled(id, job)));
                }
                Submit::Queued
            }
        }
    }

    fn advance(&self, id: IoId, mut job: Job, result: IoResult, cx: &mut dyn Cx) {
        match job.advance(result, &self.shared) {
            None => {
                self.step(id, job, cx);
            }
            Some(result) => {
                let is_durable = job.is_durable();
                if let Job::Bounce(bounce) = job {
                    self.put_aside(bounce);
                }
                match is_durable {
                    true => {
                        self.note_durable(result);
                        self.tell(id, result, cx);
                    }
                    false => cx.complete(id, result),
                }
                self.start_waiting(cx);
            }
        }
    }

    /// Gives its buffer back, and keeps its room.
    fn put_aside(&self, mut bounce: Bounce) {
        bounce.end();
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MOST_SPARE {
            spare.push(bounce);
        }
    }

    /// Gives buffers that came back to the jobs that wait for one.
    fn start_waiting(&self, cx: &mut dyn Cx) {
        while let Some((id, bounce)) = self.next_waiting() {
            self.step(id, Job::Bounce(bounce), cx);
        }
    }

    fn next_waiting(&self) -> Option<(IoId, Bounce)> {
        let mut waiting = self.waiting.borrow_mut();
        let (_, bounce) = waiting.front_mut()?;
        bounce.take_buffer(&self.bounce).then_some(())?;
        waiting.pop_front()
    }

    /// A durable write that fails may mean that its device has lost what was written before it. Want of space does not:
    /// the write itself was refused, and whether bytes before it found no room either, the witness knows.
    fn note_durable(&self, result: IoResult) {
        if let Err(error @ IoError::Os(_)) = result {
            self.shared.fail(error);
        }
    }

    fn durable_write_ended(&self, id: IoId, result: IoResult, cx: &mut dyn Cx) {
        if result == Err(IoError::NoSpace) && self.shared.witness.is_some() {
            return self.ask(Kept::AskedForWrite(id), cx);
        }
        self.note_durable(result);
        self.shared.durable_write_is_over();
        self.tell(id, result, cx);
    }

    fn flush_ended(&self, id: IoId, result: IoResult, cx: &mut dyn Cx) {
        // A durable write may have been told what this would have been told otherwise.
        if result.is_ok() && self.shared.has_durable_writes() && self.shared.witness.is_some() {
            return self.ask(Kept::AskedForFlush(id), cx);
        }
        self.tell(id, self.flushed(result), cx);
    }

    /// Ends an operation that may tell of lost bytes. Whoever hears of them relies on it that no later flush succeeds, also if this
    /// process is killed.
    fn tell(&self, id: IoId, result: IoResult, cx: &mut dyn Cx) {
        if result.is_ok() || !self.shared.is_untold() {
            return cx.complete(id, result);
        }
        let shared = self.shared.clone();
        let work = move || {
            shared.keep_failure();
            Ok(0)
        };
        cx.blocking_in(&self.shared.syncer, Box::new(work), self.pending.keep(Kept::Keeping(id, result)));
    }

    /// Asks the witness.
    fn ask(&self, kept: Kept, cx: &mut dyn Cx) {
        let shared = self.shared.clone();
        let work = move || {
            shared.witness.as_ref().map_or(Ok(()), Witness::ask)?;
            Ok(0)
        };
        cx.blocking_in(&self.shared.syncer, Box::new(work), self.pending.keep(kept));
    }

    fn flushed(&self, result: IoResult) -> IoResult {
        let result = result.map_err(|error| self.shared.fail(error));
        // Another flush may have failed while this one ran.
        self.shared.failure().map_or(result.map(|_| 0), Err)
    }
}

impl Store for Attached {
    fn caps(&self) -> &Caps {
        &self.shared.probed.caps
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        if let Err(error) = self.caps().check(&op) {
            return Submit::Done(Err(error));
        }
        match op {
            Op::Flush => self.flush(id, cx),
            Op::Seek { offset, target } => self.seek(offset, target, id, cx),
            _ if op.range().1 == 0 => Submit::Done(Ok(0)),
            Op::Read { offset, to } => self.read(offset, to, id, cx),
            Op::Write { offset, from, durable } => self.write(offset, from, durable, id, cx),
            Op::Zero { offset, length, unmap } => self.zero(offset, length, unmap, id, cx),
            Op::Discard { offset, length } => self.discard(offset, length, id, cx),
            Op::Copy { offset, source, from, length } => {
                let shared = self.shared.clone();
                let work = move || sys::copy(source, from, shared.borrow(), offset, length);
                cx.blocking_in(&self.shared.writer, Box::new(work), id);
                Submit::Queued
            }
        }
    }
}

impl Sink for Attached {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        match self.pending.take(token) {
            Some(Kept::Flush(id)) => self.flush_ended(id, result, cx),
            Some(Kept::DurableWrite(id)) => self.durable_write_ended(id, result, cx),
            Some(Kept::AskedForFlush(id)) => self.tell(id, self.flushed(result), cx),
            Some(Kept::AskedForWrite(id)) => {
                let _ = result.map_err(|error| self.shared.fail(error));
                self.shared.durable_write_is_over();
                self.tell(id, Err(IoError::NoSpace), cx);
            }
            Some(Kept::Keeping(id, result)) => cx.complete(id, result),
            Some(Kept::Job(id, job)) => self.advance(id, job, result, cx),
            Some(Kept::Stalled(id, job)) => {
                self.step(id, job, cx);
            }
            None => {}
        }
    }
}

impl Relay for Attached {
    type Kept = Kept;

    fn pending(&self) -> &Pending<Kept> {
        &self.pending
    }
}

/// Whether the next read is worth looking for in the page cache. After misses in a row, ever more reads go to the kernel
/// at once.
#[derive(Default)]
struct Guess {
    misses: Cell<u32>,
    skip: Cell<u32>,
}

impl Guess {
    const MOST: u32 = 6;

    fn likely(&self) -> bool {
        match self.skip.get().checked_sub(1) {
            Some(left) => {
                self.skip.set(left);
                false
            }
            None => true,
        }
    }

    fn learn(&self, hit: bool) {
        if hit {
            self.misses.set(0);
        } else {
            let misses = (self.misses.get() + 1).min(Self::MOST);
            self.misses.set(misses);
            self.skip.set((1 << misses) - 1);
        }
    }
}

#[cfg(test)]
mod guess_tests {
    use super::Guess;

    #[test]
    fn misses_in_a_row_make_it_look_less_often() {
        let guess = Guess::default();
        let looks = |reads: u32, hit: bool| -> u32 {
            (0..reads)
                .map(|_| {
                    let look = guess.likely();
                    if look {
                        guess.learn(hit);
                    }
                    u32::from(look)
                })
                .sum()
        };
        assert_eq!(looks(100, true), 100);
        assert_eq!(looks(1 + 1 + 1 + 3 + 1 + 7, false), 3);
        assert!(looks(6400, false) <= 110);
        assert!(looks(64, true) >= 1);
        assert_eq!(looks(100, true), 100);
    }
}
