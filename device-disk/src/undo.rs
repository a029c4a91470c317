//! What has to be written back when a write that happens as a whole fails, or the power with it.
//!
//! The old content is saved with the unit's state before it is written over, and forgotten when the new one is safe. If it is
//! still there when the unit starts, it is written back before the first command. All the time nobody else reads or writes
//! these blocks, so nothing newer is lost.

use crate::condition::Condition;
use crate::extent::{Extent, Geometry};
use lunette_engine::{
    HexBytes, Io, IoKind, LogicalUnit, NotReady, RangeUse, StateError, Steps, Turn, sense_of,
};
use lunette_scsi::{AdditionalSense, Sense};
use lunette_store::{IoError, Memory, Post};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What the names of sections of the saved state begin with; each write has its own.
const SECTIONS: &str = "undo";
/// How long to wait before what has to be done is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// After how many tries in vain somebody has to see to it.
const FAILURES: u64 = 3;

/// What some blocks have held.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct Undo {
    offset: u64,
    bytes: HexBytes,
}

impl Undo {
    /// What there is now.
    pub(crate) async fn of(steps: &Steps, extent: Extent) -> Result<Self, Sense> {
        let old = Rc::new(Memory::zeroed(extent.length as usize));
        let read = steps.read(extent.offset, &old, extent.length).await;
        read.map_err(|error| failed_as(IoKind::Read, steps, extent, error))?;
        Ok(Self { offset: extent.offset, bytes: HexBytes(old.to_vec()) })
    }

    /// Where it is saved. No two writes are at the same blocks.
    pub(crate) fn section(&self) -> String {
        format!("{SECTIONS} {}", self.offset)
    }

    /// Saves it: from now on it is written back when the unit starts.
    pub(crate) async fn save(&self, steps: &Steps, turn: Turn) -> Result<(), Sense> {
        steps.save(&turn, &self.section(), Some(self.clone()), |_| ()).await
    }

    /// Writes it back, block by block, all that can be. A block that cannot be written is as good if nobody can see anything
    /// else there: it still holds the old content, or it cannot be read either, though the store is there.
    pub(crate) async fn carry_out(&self, steps: &Steps, geometry: Geometry) -> Result<(), Sense> {
        let mut result = Ok(());
        for part in self.extent().steps(geometry.block()) {
            let at = (part.offset - self.offset) as usize;
            let old = &self.bytes.0[at..at + part.length as usize];
            let bytes = Rc::new(Memory::from_bytes(old));
            if let Err(error) = steps.write(part.offset, &bytes, part.length, false).await
                && shows_other(steps, part, old).await
            {
                result = result.and(Err(failed(steps, part, error)));
            }
        }
        let flushed = steps.flush().await.map(drop);
        result.and(flushed.map_err(|error| failed(steps, self.extent(), error)))
    }

    /// Writes it back, however often that has to be tried, and forgets it. The medium cannot be used meanwhile, for a part
    /// of what was to be written as a whole would be seen.
    async fn insist(&self, steps: &Steps, condition: &Condition, geometry: Geometry) -> Result<(), Sense> {
        let mut failures = 0u64;
        while let Err(sense) = self.carry_out(steps, geometry).await {
            failures += 1;
            if failures == FAILURES {
                let why = AdditionalSense::LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED;
                condition.recover(&steps.unit, self.offset, why);
                let Extent { offset, length } = self.extent();
                tracing::error!(
                    serial = steps.unit.identity.serial, offset, length, why = %sense.additional,
                    "a write that was to be atomic cannot be undone; until it is, the disk is not ready"
                );
            }
            rest(steps).await?;
        }
        forget(steps, &self.section()).await?;
        condition.recovered(&steps.unit, self.offset);
        if failures >= FAILURES {
            tracing::info!(serial = steps.unit.identity.serial, "the write is undone");
        }
        Ok(())
    }

    /// The same in the background, with the `range` claimed that it is in. Who waits for a part of that waits no more.
    pub(crate) fn insist_later(
        self,
        steps: &Steps,
        condition: Arc<Condition>,
        geometry: Geometry,
        range: RangeUse,
    ) {
        let why = AdditionalSense::LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY;
        condition.recover(&steps.unit, self.offset, why);
        range.refuse_others(NotReady::because(why).sense());
        steps.unit.begin(&*steps.poster(), async move |steps| {
            let _range = range;
            self.insist(&steps, &condition, geometry).await
        });
    }

    /// Whether it is of whole blocks inside a disk of this geometry: it may have been saved by one of another.
    fn fits(&self, geometry: Geometry) -> bool {
        let Extent { offset, length } = self.extent();
        let end = offset.checked_add(length);
        (offset | length).is_multiple_of(geometry.block())
            && end.is_some_and(|end| end <= geometry.whole().length)
    }

    fn extent(&self) -> Extent {
        Extent { offset: self.offset, length: self.bytes.0.len() as u64 }
    }
}

/// Whether there is something else than this content.
async fn shows_other(steps: &Steps, Extent { offset, length }: Extent, content: &[u8]) -> bool {
    let found = Rc::new(Memory::zeroed(length as usize));
    steps.read(offset, &found, length).await.is_ok() && found.to_vec() != content
}

/// This is not to be written back any more. That has to be saved before anybody else writes there, however long it takes.
/// Between two tries others have their turn, to fail as well.
pub(crate) async fn forget(steps: &Steps, section: &str) -> Result<(), Sense> {
    while steps.save(&steps.turn().await?, section, None::<Undo>, |_| ()).await.is_err() {
        rest(steps).await?;
    }
    Ok(())
}

/// All that has to be written back.
fn left(unit: &LogicalUnit) -> Result<Vec<Undo>, StateError> {
    let saved = unit.saved();
    let mut all = Vec::new();
    for section in saved.sections().filter(|section| section.starts_with(SECTIONS)) {
        let Some(undo) = saved.get::<Option<Undo>>(section)? else { continue };
        if undo.section() != section {
            // It could not be forgotten by its name.
            return Err(StateError(format!("the section {section:?} belongs elsewhere")));
        }
        all.push(undo);
    }
    Ok(all)
}

async fn rest(steps: &Steps) -> Result<(), Sense> {
    steps.sleep(RETRY).await.map(drop).map_err(|error| sense_of(IoKind::Flush, error))
}

/// The sense data for a write that failed.
pub(crate) fn failed(steps: &Steps, extent: Extent, error: IoError) -> Sense {
    failed_as(IoKind::Write { durable: true }, steps, extent, error)
}

fn failed_as(kind: IoKind, steps: &Steps, Extent { offset, length }: Extent, error: IoError) -> Sense {
    steps.unit.device().io_failed(&Io { kind, offset, length, granularity: 1 }, error)
}

/// Keeps a unit from being ready if anything has to be written back.
pub(crate) fn restore(
    unit: &LogicalUnit,
    condition: &Condition,
    geometry: Geometry,
) -> Result<(), StateError> {
    for undo in left(unit)? {
        if !undo.fits(geometry) {
            return Err(StateError("an interrupted write was for a larger disk or other blocks".into()));
        }
        let why = AdditionalSense::LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY;
        condition.recover(unit, undo.offset, why);
    }
    Ok(())
}

/// Writes it back, however often that has to be tried.
pub(crate) fn resume(
    unit: &Arc<LogicalUnit>,
    condition: &Arc<Condition>,
    geometry: Geometry,
    post: &dyn Post,
) {
    let condition = condition.clone();
    let left = left(unit).unwrap_or_default();
    if left.is_empty() {
        return;
    }
    unit.begin(post, async move |steps| {
        for undo in left {
            undo.insist(&steps, &condition, geometry).await?;
        }
        Ok(())
    });
}
