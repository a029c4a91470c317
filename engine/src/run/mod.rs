//! Work of several steps, commands and what goes on in the background, written as plain `async` functions.
//!
//! The future asks for one step at a time by leaving it in a cell that it shares with the engine; the engine carries it out
//! and polls again when it has completed. No executor: the engine knows exactly when to poll. Buffers belong to the cell, so
//! they outlive the future whatever happens to it.

mod cell;

use cell::{Answer, Bytes};
pub(crate) use cell::{RunCell, Step};

use crate::alarm::Alarm;
use crate::checks::Refusal;
use crate::nexus::ItlNexus;
use crate::session::Itl;
use crate::statistics::Counted;
use crate::{Io, IoKind, LogicalUnit, Nexus, NexusId};
use lunette_scsi::{Cdb, Sense, Status};
use lunette_store::{Backing, IoError, IoResult, Memory, Post, SeekTarget};
use std::future::Future;
use std::ops::{Deref, Range};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of memory for reads that are copied; a multiple of every block length.
const COPIED_AT_A_TIME: u64 = 64 << 10;

/// What carries out work of several steps; GOOD or CHECK CONDITION in the end.
pub type RunFuture = Pin<Box<dyn Future<Output = Result<(), Sense>>>>;

/// What work on a logical unit is made of: store operations, calls that may block, and waiting.
///
/// Each step answers [`IoError::Aborted`] once the work has been aborted, but never before what it began has ended.
pub struct Steps {
    /// The logical unit.
    pub unit: Arc<LogicalUnit>,
    cell: Rc<RunCell>,
    /// The unit is another than that of the command.
    elsewhere: bool,
}

/// What a command of several steps works with.
pub struct Run {
    steps: Steps,
    /// The nexus the command came by.
    pub nexus: Arc<Nexus>,
    /// The command.
    pub cdb: Cdb,
    /// What is between that and the unit.
    itl: Arc<ItlNexus>,
    /// How often the nexus had been lost when the command came.
    losses: u64,
}

impl Deref for Run {
    type Target = Steps;

    fn deref(&self) -> &Steps {
        &self.steps
    }
}

impl Run {
    pub(crate) fn new(itl: &Itl, cdb: Cdb, cell: Rc<RunCell>) -> Self {
        let steps = Steps::new(itl.unit().clone(), cell);
        Self { steps, nexus: itl.nexus.clone(), cdb, itl: itl.shared.clone(), losses: itl.losses }
    }

    /// Whether the nexus has been lost since the command came, which is aborted then but may not know it yet, or does not see
    /// the unit any more. What ends with the nexus must not be begun any more: nobody would end it.
    pub fn nexus_is_lost(&self) -> bool {
        self.nexus.losses() != self.losses || self.itl.has_left()
    }

    /// What is between the nexus and `unit`, if the initiator sees that; this command's own unit it has seen.
    pub(crate) fn itl_with(&self, unit: &LogicalUnit) -> Option<Arc<ItlNexus>> {
        if unit.number() == self.unit.number() { Some(self.itl.clone()) } else { self.nexus.itl(unit) }
    }

    /// Whether the command was aborted itself: what it comes to is told nobody, as against one that only has to end because of
    /// [another unit](Steps::on).
    pub(crate) fn is_discarded(&self) -> bool {
        self.cell.discarded.get()
    }

    /// How many bytes of data-out there are: fewer than the command wanted when the initiator sent fewer.
    pub fn data_out_len(&self) -> u64 {
        self.cell.data_out.borrow().as_sg().len()
    }

    /// A private copy of data-out bytes from `at`, as many as there are.
    pub fn data_out(&self, at: u64, length: u64) -> Vec<u8> {
        self.cell.data_out.borrow().as_sg().part(at, length).to_vec(length)
    }

    /// Puts `bytes` at position `at` of data-in; what does not fit the initiator's buffer is counted as a residual.
    pub fn put_data_in(&self, at: u64, bytes: &[u8]) {
        let moved = self.cell.data_in.borrow().as_sg().copy_in(at, bytes);
        self.cell.moved_in.set(self.cell.moved_in.get().max(at + moved as u64));
    }

    /// There are `length` bytes of data-in: what the plan announced was only the most that it could be.
    pub fn set_data_in_len(&self, length: u64) {
        self.cell.wanted_in.set(Some(length));
    }

    /// The end of a command that is not processed.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Result<(), Sense> {
        match refusal {
            Refusal::Sense(sense) => Err(sense),
            Refusal::Conflict => {
                self.cell.status.set(Status::RESERVATION_CONFLICT);
                Ok(())
            }
            Refusal::Status(status) => {
                self.cell.status.set(status);
                Ok(())
            }
        }
    }

    /// Does what [`Plan::Io`](crate::Plan::Io) does, for commands that have to do something else before. It takes the
    /// range that it reads or writes.
    ///
    /// # Errors
    /// What the device makes of a failure of the store.
    pub async fn transfer(&self, io: Io) -> Result<(), Sense> {
        let (ends_inside, room) = {
            let data_in = self.cell.data_in.borrow();
            (io.ends_inside_a_block(data_in.as_sg()), data_in.as_sg().len())
        };
        let _range = self.share(io.bytes()).await?;
        let result = match io.kind {
            IoKind::Read if ends_inside => {
                let result = self.read_by_copying(io, room).await;
                self.count(Counted::Read, room, &result);
                return result;
            }
            IoKind::Read => {
                let length = io.length.min(room);
                let to = Bytes::DataIn(0..length);
                let result = self.step(Step::Read { offset: io.offset, to }).await;
                self.cell.moved_in.set(length);
                self.cell.usage.counters.count_io(IoKind::Read, length, result);
                result
            }
            IoKind::Write { durable } => {
                let there = self.data_out_len().min(io.length);
                let whole = there - there % io.block();
                self.cell.moved_out.set(Some(whole));
                let result = self.write_data_out(io.offset, 0..whole, durable).await;
                self.cell.usage.counters.count_io(io.kind, whole, result);
                result
            }
            IoKind::Flush => self.flush().await,
        };
        result.map(drop).map_err(|error| self.unit.device().io_failed(&io, error))
    }

    /// Reads whole blocks and hands over what fits the initiator's memory, `room` bytes.
    async fn read_by_copying(&self, io: Io, room: u64) -> Result<(), Sense> {
        let length = io.length.min(room.next_multiple_of(io.block()));
        let memory = Rc::new(Memory::zeroed(length.min(COPIED_AT_A_TIME) as usize));
        for at in (0..length).step_by(COPIED_AT_A_TIME as usize) {
            let part = Io { offset: io.offset + at, length: COPIED_AT_A_TIME.min(length - at), ..io };
            let result = self.read(part.offset, &memory, part.length).await;
            result.map_err(|error| self.unit.device().io_failed(&part, error))?;
            self.put_data_in(at, &memory.to_vec()[..part.length as usize]);
        }
        Ok(())
    }

    /// Waits for the reads and writes that have not taken their ranges.
    pub(crate) async fn await_transfers(&self) -> IoResult {
        self.step(Step::AwaitTransfers).await
    }

    /// Aborts the commands of some nexuses for this unit, but not this one, and waits until nothing touches their
    /// initiators' memory any more. (PREEMPT AND ABORT, SPC-4 5.12.11.2.6.)
    ///
    /// # Errors
    /// [`IoError::Aborted`] if this command was aborted itself.
    pub async fn abort_commands_of(&self, nexuses: &[NexusId]) -> IoResult {
        self.step(Step::Abort(nexuses.into())).await
    }

    /// Aborts the other commands for this unit because of an error, all or those of its nexus, and waits for their end.
    pub(crate) async fn abort_others(&self, own: bool) -> IoResult {
        self.step(Step::AbortOthers { own }).await
    }

    /// Clears the auto contingent allegiance of its nexus.
    pub(crate) async fn clear_allegiance(&self) -> IoResult {
        self.step(Step::ClearAllegiance).await
    }

    /// Waits until the commands for this unit that are being processed now have ended, but for this one and others that wait
    /// for the same. Those that wait for a turn are among them, so this one must not have it.
    ///
    /// # Errors
    /// [`IoError::Aborted`] if this command was aborted.
    pub async fn settle(&self) -> IoResult {
        self.step(Step::Settle { anew: false }).await
    }

    /// The same after mode pages have changed: commands that have not begun are decoded again, so that whatever ends from
    /// now on has gone by what is in force.
    pub(crate) async fn settle_anew(&self) -> IoResult {
        self.step(Step::Settle { anew: true }).await
    }
}

impl Steps {
    /// For work in the background, which has neither a nexus nor data.
    pub(crate) fn new(unit: Arc<LogicalUnit>, cell: Rc<RunCell>) -> Self {
        Self { unit, cell, elsewhere: false }
    }

    /// The same work on another logical unit, whose store is reached on this reactor. It stays out of the order of that
    /// unit's task set. It is aborted like commands for that unit when that is reset, or its nexus is preempted there; it
    /// can tell its initiator so.
    pub fn on(&self, unit: &Arc<LogicalUnit>) -> Steps {
        let mut reached = self.cell.reached.borrow_mut();
        if !reached.contains(&unit.number()) {
            reached.push(unit.number());
        }
        Steps { unit: unit.clone(), cell: self.cell.clone(), elsewhere: true }
    }

    /// Lets this reactor be asked from now on by who aborts work on this unit: to be said before it is found out whether the
    /// work may be done at all.
    pub(crate) async fn reach(&self) -> IoResult {
        self.step(Step::Reach).await
    }

    /// Reads the first `length` bytes of `to` from the store.
    pub async fn read(&self, offset: u64, to: &Rc<Memory>, length: u64) -> IoResult {
        self.step(Step::Read { offset, to: Bytes::Own(to.clone(), 0..length) }).await
    }

    /// Writes the first `length` bytes of `from` to the store.
    pub async fn write(&self, offset: u64, from: &Rc<Memory>, length: u64, durable: bool) -> IoResult {
        self.step(Step::Write { offset, from: Bytes::Own(from.clone(), 0..length), durable }).await
    }

    /// Writes a range of data-out to the store, straight from the initiator's memory.
    pub async fn write_data_out(&self, offset: u64, range: Range<u64>, durable: bool) -> IoResult {
        self.step(Step::Write { offset, from: Bytes::DataOut(range), durable }).await
    }

    /// For work in the background: waits until everything has ended that has begun for this unit by now, or works on it for
    /// another, on all reactors. `anew`: what has not begun is decoded again, so whatever ends from now on has gone by what was
    /// in force before. What goes on in the background itself is not waited for.
    pub(crate) async fn await_begun(&self, anew: bool) -> IoResult {
        self.step(Step::AwaitBegun { anew }).await
    }

    /// Makes what was written before durable.
    pub async fn flush(&self) -> IoResult {
        self.step(Step::Flush).await
    }

    /// Makes a range read as zero, giving back its room if `unmap`.
    pub async fn zero(&self, offset: u64, length: u64, unmap: bool) -> IoResult {
        self.step(Step::Zero { offset, length, unmap }).await
    }

    /// Gives a range back.
    pub async fn discard(&self, offset: u64, length: u64) -> IoResult {
        self.step(Step::Discard { offset, length }).await
    }

    /// Has the store take bytes over from the file `source`, which stays open until this has ended.
    pub(crate) async fn copy(&self, offset: u64, source: RawFd, from: u64, length: u64) -> IoResult {
        self.step(Step::Copy { offset, source, from, length }).await
    }

    /// Finds the first byte from `offset` on that the store keeps or does not keep; its size if there is none.
    pub async fn seek(&self, offset: u64, target: SeekTarget) -> IoResult {
        self.step(Step::Seek { offset, target }).await
    }

    /// Makes a call that may block, on another thread. It is made even if the work is aborted meanwhile.
    pub async fn call(&self, work: impl FnOnce() -> IoResult + Send + 'static) -> IoResult {
        self.step(Step::Call(Box::new(work))).await
    }

    /// The same for a call about a store, which holds up nothing but that if it does block.
    pub async fn call_on(
        &self,
        store: &Arc<dyn Backing>,
        work: impl FnOnce(&dyn Backing) -> IoResult + Send + 'static,
    ) -> IoResult {
        let about = store.clone();
        self.step(Step::CallOn(store.clone(), Box::new(move || work(&*about)))).await
    }

    /// For [`LogicalUnit::begin`].
    pub fn poster(&self) -> Arc<dyn Post> {
        self.cell.alarm.poster().clone()
    }

    /// Lets `time` pass.
    ///
    /// # Errors
    /// [`IoError::Aborted`] if the work was aborted or [is to end](Self::is_ending), be it before the time has passed.
    pub async fn sleep(&self, time: Duration) -> IoResult {
        if self.is_ending() {
            return Err(IoError::Aborted);
        }
        self.step(Step::Sleep(time)).await
    }

    /// Wakes this work when it waits.
    pub fn alarm(&self) -> Alarm {
        self.cell.alarm.clone()
    }

    /// Waits until the [`alarm`](Self::alarm) has rung since the last wait.
    pub async fn wait(&self) -> IoResult {
        if self.cell.rung.take() {
            return Ok(0);
        }
        self.step(Step::Wait).await
    }

    /// The same for the end of work in the background that takes long: who waits until the commands that are being processed
    /// have ended does not wait for this one.
    ///
    /// # Errors
    /// [`IoError::Aborted`] if the command was aborted.
    pub async fn wait_apart(&self) -> IoResult {
        if self.cell.rung.take() {
            return Ok(0);
        }
        self.step(Step::WaitApart).await
    }

    /// The same, whether the work has been aborted or not.
    pub(crate) async fn wait_anyway(&self) {
        if !self.cell.rung.take() {
            let _ = self.take_step(Step::WaitAnyway).await;
        }
    }

    /// When the last step ended, counted from the program's start.
    pub fn now(&self) -> Duration {
        self.cell.now.get()
    }

    /// Counts what a command has done, for the log pages; what [`Run::transfer`] does is counted already.
    pub fn count(&self, what: Counted, bytes: u64, result: &Result<(), Sense>) {
        self.count_transfer(what, bytes, bytes, result);
    }

    /// The same for a command that processes `bytes` of the medium, but transfers more or fewer.
    pub fn count_transfer(&self, what: Counted, bytes: u64, transferred: u64, result: &Result<(), Sense>) {
        self.cell.usage.counters.count(what, bytes, transferred, result);
    }

    /// Whether work in the background is to end soon, because its unit is [retired](LogicalUnit::retire): it saves how far it
    /// has come, and goes on if a unit is made again of what was saved. All steps can still be taken, but for
    /// [`sleep`](Self::sleep).
    pub fn is_ending(&self) -> bool {
        self.cell.ending.get()
    }

    /// Whether the work has been aborted.
    pub fn is_aborted(&self) -> bool {
        self.cell.aborted.get()
    }

    async fn step(&self, step: Step) -> IoResult {
        if self.cell.aborted.get() {
            return Err(IoError::Aborted);
        }
        self.take_step(step).await
    }

    async fn take_step(&self, step: Step) -> IoResult {
        *self.cell.step.borrow_mut() = Some(step);
        *self.cell.elsewhere.borrow_mut() = self.elsewhere.then(|| self.unit.clone());
        Answer(&self.cell).await
    }
}
