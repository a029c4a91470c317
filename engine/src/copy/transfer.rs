//! Carrying out EXTENDED COPY.

use super::end::{End, Role, aborted, aborted_at};
use super::{Copy, LIMITS};
use crate::{Counted, RangeUse, Run, Steps};
use lunette_scsi::third_party_copy::{Amount, Cscd, ExtendedCopyList, Segment};
use lunette_scsi::{AdditionalSense, Sense};
use lunette_store::{IoError, Memory};
use std::ops::Range;
use std::os::fd::RawFd;
use std::rc::Rc;

/// Bytes that are copied at a time; a multiple of every block length.
const CHUNK: u64 = 256 << 10;

/// Carries out the copy that `list` asks for.
pub(crate) async fn run(run: &Run, list: &[u8]) -> Result<(), Sense> {
    let list = ExtendedCopyList::parse(list, &LIMITS, run.unit.identity.version)?;
    let copy = run.unit.copies().begin(run, list.list_id)?;
    let result = process_all(run, &copy, &list).await;
    if !run.is_discarded() {
        let encode = if run.unit.descriptor_sense() { Sense::to_descriptor } else { Sense::to_fixed };
        copy.end(result.as_ref().err().map(encode));
    }
    result
}

async fn process_all(run: &Run, copy: &Copy<'_>, list: &ExtendedCopyList) -> Result<(), Sense> {
    for (number, segment) in (0..).zip(&list.segments) {
        copy.segment_begins();
        // The lower two bytes of COMMAND-SPECIFIC INFORMATION say which segment has failed (SPC-4 5.16.7.4).
        let result = process(run, copy, &list.cscds, segment).await;
        result.map_err(|sense| sense.with_command_specific(number))?;
    }
    Ok(())
}

async fn process(run: &Run, copy: &Copy<'_>, cscds: &[Cscd], segment: &Segment) -> Result<(), Sense> {
    let source = End::find(run, Role::Source, cscds, &segment.source)?;
    let destination = End::find(run, Role::Destination, cscds, &segment.destination)?;
    let length = length(segment.amount, &source, &destination)?;
    let from = source.range(&segment.source, length)?;
    let to = destination.range(&segment.destination, length)?;
    source.check(run)?;
    destination.check(run)?;
    Transfer { run, copy, source, destination }.carry_out(from, to).await
}

/// The bytes of a segment, whole blocks of both ends.
fn length(amount: Amount, source: &End, destination: &End) -> Result<u64, Sense> {
    let (length, otherwise) = match amount {
        Amount::SourceBlocks(blocks) => {
            (u64::from(blocks) * source.block, AdditionalSense::UNEXPECTED_INEXACT_SEGMENT)
        }
        Amount::DestinationBlocks(blocks) => {
            (u64::from(blocks) * destination.block, AdditionalSense::UNEXPECTED_INEXACT_SEGMENT)
        }
        Amount::Bytes(bytes) => (bytes.into(), AdditionalSense::COPY_SEGMENT_GRANULARITY_VIOLATION),
    };
    if !length.is_multiple_of(source.block) || !length.is_multiple_of(destination.block) {
        return Err(aborted(otherwise));
    }
    if length > LIMITS.segment_length.into() {
        let too_long = AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST;
        return Err(aborted_at(too_long, Segment::AMOUNT_AT));
    }
    Ok(length)
}

/// One segment at work.
struct Transfer<'a> {
    run: &'a Run,
    copy: &'a Copy<'a>,
    source: End,
    destination: End,
}

impl Transfer<'_> {
    /// Copies in chunks, so that other commands go on and aborts are heeded.
    async fn carry_out(&self, from: Range<u64>, to: Range<u64>) -> Result<(), Sense> {
        // Both are named before either is waited for, so that who retires one finds this.
        let ends = [&self.source, &self.destination].map(|end| (end, self.run.on(&end.unit)));
        for (end, steps) in &ends {
            steps.reach().await.map_err(|_| end.failed())?;
        }
        // Who has changed one of the units did not know of this before.
        self.source.check_begin(self.run, &from)?;
        self.destination.check_begin(self.run, &to)?;
        let length = from.end - from.start;
        let step = self.step();
        let memory = Rc::new(Memory::zeroed(step.min(length) as usize));
        let chunks = length.div_ceil(step);
        let mut file = self.file();
        // What is to be copied must not be overwritten before.
        let backwards = self.is_within_unit() && from.contains(&to.start) && from.start < to.start;
        for done in 0..chunks {
            let at = step * if backwards { chunks - 1 - done } else { done };
            let bytes = step.min(length - at);
            // What is written from the end on counts when all is.
            let in_order = if backwards { 0 } else { at };
            let incomplete = |sense: Sense| match done {
                0 => sense,
                _ => sense.with_information((length - in_order) / self.destination.block),
            };
            let (from, to) = (from.start + at, to.start + at);
            if let Some(source) = file
                && !self.take_over(source, from, to, bytes).await.map_err(incomplete)?
            {
                file = None;
            }
            if file.is_none() {
                self.read(from, bytes, &memory).await.map_err(incomplete)?;
                self.write(to, bytes, &memory).await.map_err(incomplete)?;
            }
            self.source.charge(self.run, bytes);
            self.destination.charge(self.run, bytes);
            if !backwards {
                self.copy.wrote(bytes);
            }
        }
        if backwards {
            self.copy.wrote(length);
        }
        Ok(())
    }

    /// Whole blocks of both ends, no more than the stores take.
    fn step(&self) -> u64 {
        let ends = [&self.source, &self.destination];
        let block = ends.iter().fold(1, |block, end| block.max(end.block));
        let most =
            ends.iter().filter_map(|end| end.unit.backing()).map(|backing| backing.caps().max_transfer);
        (most.fold(CHUNK, u64::min) / block * block).max(block)
    }

    fn is_within_unit(&self) -> bool {
        self.source.unit.number() == self.destination.unit.number()
    }

    /// Whether what is written has to survive a power loss.
    fn is_durable(&self) -> bool {
        let unit = &self.destination.unit;
        unit.backing().is_some_and(|backing| backing.caps().volatile_cache) && !unit.write_cache_enabled()
    }

    /// The source's file, if both ends are files, so that the bytes need not come here.
    fn file(&self) -> Option<RawFd> {
        let file = |end: &End| end.unit.backing()?.descriptor();
        file(&self.destination).and(file(&self.source)).filter(|_| !self.is_durable())
    }

    /// Has the destination's store take bytes over from the file `source`. Returns whether it could.
    async fn take_over(&self, source: RawFd, from: u64, to: u64, length: u64) -> Result<bool, Sense> {
        let _ranges = self.take_both(from..from + length, to..to + length).await?;
        let result = self.run.on(&self.destination.unit).copy(to, source, from, length).await;
        if result == Err(IoError::Unsupported) {
            return Ok(false);
        }
        self.source.unit.statistics().count_copied(Counted::Read, length, result);
        self.destination.unit.statistics().count_copied(Counted::Write, length, result);
        result.map(|_| true).map_err(|_| self.destination.failed())
    }

    /// Takes a range of either end. Who has one may wait for another only because all take them in the order of the units, of
    /// one unit as one: so of those that wait for each other, none is the first.
    async fn take_both(
        &self,
        from: Range<u64>,
        to: Range<u64>,
    ) -> Result<(RangeUse, Option<RangeUse>), Sense> {
        let (source, destination) = (&self.source, &self.destination);
        if self.is_within_unit() {
            let both = from.start.min(to.start)..from.end.max(to.end);
            let range = self.take(destination, &self.run.on(&destination.unit), both).await?;
            source.check(self.run)?;
            return Ok((range, None));
        }
        let mut ends = [(source, from), (destination, to)];
        ends.sort_by_key(|(end, _)| end.unit.number());
        let [(first, its), (second, others)] = ends;
        let range = self.take(first, &self.run.on(&first.unit), its).await?;
        let other = self.take(second, &self.run.on(&second.unit), others).await?;
        first.check(self.run)?;
        Ok((range, Some(other)))
    }

    /// The range is given back before another is taken: who has one waits for no other.
    async fn read(&self, offset: u64, length: u64, memory: &Rc<Memory>) -> Result<(), Sense> {
        let end = &self.source;
        let steps = self.run.on(&end.unit);
        let _range = self.take(end, &steps, offset..offset + length).await?;
        let result = steps.read(offset, memory, length).await;
        end.unit.statistics().count_copied(Counted::Read, length, result);
        result.map(drop).map_err(|_| end.failed())
    }

    async fn write(&self, offset: u64, length: u64, memory: &Rc<Memory>) -> Result<(), Sense> {
        let end = &self.destination;
        let steps = self.run.on(&end.unit);
        let _range = self.take(end, &steps, offset..offset + length).await?;
        let result = steps.write(offset, memory, length, self.is_durable()).await;
        end.unit.statistics().count_copied(Counted::Write, length, result);
        result.map(drop).map_err(|_| end.failed())
    }

    /// Takes a range, if the nexus may still do its part there. It is asked twice: what has a claim for hours, FORMAT UNIT
    /// for one, is not waited for, and while something else was, much may have happened.
    async fn take(&self, end: &End, steps: &Steps, bytes: Range<u64>) -> Result<RangeUse, Sense> {
        end.check(self.run)?;
        let range = steps.share(bytes).await.map_err(|_| end.failed())?;
        end.check(self.run)?;
        Ok(range)
    }
}
