//! Steps on the medium that several commands take, in pieces of bounded size.

use crate::extent::{Extent, Geometry};
use lunette_engine::{Counted, Io, IoKind, Run, Steps};
use lunette_scsi::Sense;
use lunette_scsi::lba_status::ProvisioningStatus;
use lunette_store::{IoError, IoResult, Memory, SeekTarget};
use std::ops::Deref;
use std::rc::Rc;

/// The most bytes that are read, compared or written at a time; a multiple of every block length.
const STEP: u64 = 256 << 10;
/// Bytes that are given back or cleared at a time, where that is not done by writing.
const LARGE_STEP: u64 = 1 << 30;

/// The medium of one command in progress, or of work in the background.
pub(crate) struct Medium<R = Run> {
    pub(crate) run: R,
    pub(crate) geometry: Geometry,
}

impl<R: Deref<Target = Steps>> Medium<R> {
    /// Reads a range, to learn whether it can be read.
    pub(crate) async fn read_through(&self, extent: Extent) -> Result<(), Sense> {
        let result = self.read_pieces(extent).await;
        self.run.count(Counted::Verify, extent.length, &result);
        result
    }

    async fn read_pieces(&self, extent: Extent) -> Result<(), Sense> {
        let step = self.step(extent);
        let memory = Rc::new(Memory::zeroed(step as usize));
        for part in extent.steps(step) {
            self.read(part, &memory).await?;
        }
        Ok(())
    }

    /// Compares a range with what `expected` says of its bytes, by position in the range and number.
    pub(crate) async fn compare(
        &self,
        extent: Extent,
        expected: impl Fn(&R, u64, u64) -> Vec<u8>,
    ) -> Result<(), Sense> {
        let result = self.compare_pieces(extent, expected).await;
        self.run.count(Counted::Verify, extent.length, &result);
        result
    }

    async fn compare_pieces(
        &self,
        extent: Extent,
        expected: impl Fn(&R, u64, u64) -> Vec<u8>,
    ) -> Result<(), Sense> {
        let step = self.step(extent);
        let memory = Rc::new(Memory::zeroed(step as usize));
        for part in extent.steps(step) {
            self.read(part, &memory).await?;
            let at = part.offset - extent.offset;
            let expected = expected(&self.run, at, part.length);
            let differs = memory.to_vec().iter().zip(&expected).position(|(a, b)| a != b);
            if let Some(position) = differs {
                return Err(Sense::miscompare(at + position as u64));
            }
        }
        Ok(())
    }

    /// Writes `block` to every block of a range.
    pub(crate) async fn fill(&self, extent: Extent, block: &[u8]) -> Result<(), Sense> {
        let step = self.step(extent);
        let memory = Rc::new(Memory::from_bytes(&block.repeat((step / self.geometry.block()) as usize)));
        for part in extent.steps(step) {
            let result = self.run.write(part.offset, &memory, part.length, false).await;
            self.check(IoKind::Write { durable: false }, part, result)?;
        }
        Ok(())
    }

    /// Makes a range read as zero; `fast` if the store does that without writing.
    pub(crate) async fn zero(&self, extent: Extent, unmap: bool, fast: bool) -> Result<(), Sense> {
        for part in extent.steps(if fast { LARGE_STEP } else { 16 * STEP }) {
            let result = self.run.zero(part.offset, part.length, unmap).await;
            self.check(IoKind::Write { durable: false }, part, result)?;
        }
        Ok(())
    }

    /// Gives a range back.
    pub(crate) async fn discard(&self, extent: Extent) -> Result<(), Sense> {
        for part in extent.steps(LARGE_STEP) {
            let result = self.run.discard(part.offset, part.length).await;
            self.check(IoKind::Write { durable: false }, part, result)?;
        }
        Ok(())
    }

    /// What there is of the block `lba`, and the first block after it of which that may not hold. A block is mapped if
    /// the store keeps any byte of it, or cannot tell.
    pub(crate) async fn provisioning(&self, lba: u64) -> Result<(ProvisioningStatus, u64), Sense> {
        let (block, blocks) = (self.geometry.block(), self.geometry.blocks);
        let unit = &self.run.unit;
        let failed = |error| unit.device().io_failed(&self.io(IoKind::Read, lba * block, block), error);
        let position = |found: IoResult| match found {
            Ok(position) => Ok(Some(position)),
            Err(IoError::Unsupported) => Ok(None),
            Err(error) => Err(failed(error)),
        };
        let Some(data) = position(self.run.seek(lba * block, SeekTarget::Data).await)? else {
            return Ok((ProvisioningStatus::MAPPED, blocks));
        };
        let first = (data / block).min(blocks);
        if first > lba {
            return Ok((ProvisioningStatus::DEALLOCATED, first));
        }
        let hole = position(self.run.seek((lba + 1) * block, SeekTarget::Hole).await)?;
        let end = hole.map_or(blocks, |hole| hole.div_ceil(block));
        Ok((ProvisioningStatus::MAPPED, end.clamp(lba + 1, blocks)))
    }

    /// Makes what was written durable, if the command has to.
    pub(crate) async fn flush_if(&self, durable: bool) -> Result<(), Sense> {
        if durable {
            let result = self.run.flush().await;
            self.check(IoKind::Flush, Extent { offset: 0, length: 0 }, result)?;
        }
        Ok(())
    }

    /// Bytes of a range that are moved at a time: whole blocks, no more than the store takes.
    pub(crate) fn step(&self, extent: Extent) -> u64 {
        let block = self.geometry.block();
        let most = self.run.unit.backing().map_or(STEP, |backing| backing.caps().max_transfer.min(STEP));
        most.min(extent.length).max(block) / block * block
    }

    pub(crate) async fn read(&self, part: Extent, memory: &Rc<Memory>) -> Result<(), Sense> {
        let result = self.run.read(part.offset, memory, part.length).await;
        self.check(IoKind::Read, part, result)
    }

    pub(crate) fn check(&self, kind: IoKind, extent: Extent, result: IoResult) -> Result<(), Sense> {
        let io = self.io(kind, extent.offset, extent.length);
        let failed = |error: IoError| self.run.unit.device().io_failed(&io, error);
        result.map(|_| ()).map_err(failed)
    }

    fn io(&self, kind: IoKind, offset: u64, length: u64) -> Io {
        Io { kind, offset, length, granularity: self.geometry.block_length }
    }
}

impl Medium {
    /// Hands over what a range holds, each byte combined with its byte of data-out by exclusive or, and then writes
    /// data-out there if `write`.
    pub(crate) async fn exchange(&self, extent: Extent, write: bool, durable: bool) -> Result<(), Sense> {
        let step = self.step(extent);
        let memory = Rc::new(Memory::zeroed(step as usize));
        for part in extent.steps(step) {
            self.read(part, &memory).await?;
            let at = part.offset - extent.offset;
            // One copy, for what is written has to be what was combined, whatever the initiator's memory holds by then.
            let new = self.run.data_out(at, part.length);
            let combined: Vec<u8> = memory.to_vec().iter().zip(&new).map(|(old, new)| old ^ new).collect();
            self.run.put_data_in(at, &combined);
            if write {
                let new = Rc::new(Memory::from_bytes(&new));
                let result = self.run.write(part.offset, &new, part.length, durable).await;
                self.check(IoKind::Write { durable }, part, result)?;
            }
        }
        Ok(())
    }

    /// Writes data-out to a range, as many whole blocks as there are; returns which.
    pub(crate) async fn write_data_out(&self, extent: Extent, durable: bool) -> Result<Extent, Sense> {
        let extent = extent.cut(self.run.data_out_len(), self.geometry);
        if extent.length > 0 {
            let result = self.run.write_data_out(extent.offset, 0..extent.length, durable).await;
            let result = self.check(IoKind::Write { durable }, extent, result);
            self.run.count(Counted::Write, extent.length, &result);
            result?;
        }
        Ok(extent)
    }
}
