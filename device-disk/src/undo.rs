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

    /// Writes it back, or all that can be of it, so that it lasts.
    ///
    /// A block that cannot be written is as good if nobody sees anything else there: it still holds the old content, or the
    /// medium does not yield it, though it does so with others. Where it is a cache of the system that gives the old content
    /// back, the medium may still hold something else: to insist on it would keep the disk away for ever for one bad block.
    /// Nothing here asks for a flush: once a file has lost anything, none succeeds.
    pub(crate) async fn carry_out(&self, steps: &Steps, geometry: Geometry) -> Result<(), Sense> {
        let whole = self.extent();
        if self.put_back(steps, whole).await == Block::Old {
            return Ok(());
        }
        let (mut result, mut lost, mut works) = (Ok(()), Ok(()), false);
        for part in whole.steps(geometry.block()) {
            match self.put_back(steps, part).await {
                Block::Old => works = true,
                Block::Lost(error) => lost = lost.and(Err(failed(steps, part, error))),
                Block::Other(error) => result = result.and(Err(failed(steps, part, error))),
            }
        }
        if works { result } else { result.and(lost) }
    }

    /// Writes a part of it back. What that has come to.
    async fn put_back(&self, steps: &Steps, part: Extent) -> Block {
        let at = (part.offset - self.offset) as usize;
        let old = &self.bytes.0[at..at + part.length as usize];
        let memory = Rc::new(Memory::from_bytes(old));
        let Err(error) = steps.write(part.offset, &memory, part.length, true).await else {
            return Block::Old;
        };
        match steps.read(part.offset, &memory, part.length).await {
            Ok(_) if memory.to_vec() == old => Block::Old,
            Err(error) if error.is_of_medium() => Block::Lost(error),
            _ => Block::Other(error),
        }
    }

    /// Writes it back if that has not been done, however often it has to be tried, and forgets it. Nobody may use its blocks
    /// meanwhile: a part of what was to be written as a whole would be seen, or something newer be written over.
    async fn insist(
        &self,
        steps: &Steps,
        mut is_back: bool,
        condition: &Condition,
        geometry: Geometry,
    ) -> Result<(), Sense> {
        let mut failures = 0u64;
        while let Err(sense) = self.see_to(steps, &mut is_back, geometry).await {
            failures += 1;
            if failures == FAILURES {
                condition.needs_help(&steps.unit, self.offset);
                let Extent { offset, length } = self.extent();
                let what = if is_back { "forgotten" } else { "undone" };
                tracing::error!(
                    serial = steps.unit.identity.serial, offset, length, why = %sense.additional,
                    "a write that was to be atomic cannot be {what}; until it is, its blocks cannot be used"
                );
            }
            rest(steps).await?;
        }
        if failures >= FAILURES {
            tracing::info!(
                serial = steps.unit.identity.serial,
                offset = self.offset,
                "the blocks can be used again"
            );
        }
        Ok(())
    }

    async fn see_to(&self, steps: &Steps, is_back: &mut bool, geometry: Geometry) -> Result<(), Sense> {
        if !*is_back {
            self.carry_out(steps, geometry).await?;
            *is_back = true;
        }
        self.forget(steps).await
    }

    /// It is not to be written back any more, which has to be saved before anybody else writes there.
    async fn forget(&self, steps: &Steps) -> Result<(), Sense> {
        steps.save(&steps.turn().await?, &self.section(), None::<Self>, |_| ()).await
    }

    /// The same, however often it has to be tried, while that may pass soon. Between two tries others have their turn, to
    /// fail as well.
    pub(crate) async fn forget_soon(&self, steps: &Steps) -> Result<(), Sense> {
        for _ in 1..FAILURES {
            if self.forget(steps).await.is_ok() {
                return Ok(());
            }
            rest(steps).await?;
        }
        self.forget(steps).await
    }

    /// Sees to it in the background that it is back, if that has not been done, and forgotten. Who waits for a part of the
    /// claimed `range` that it is in waits no more. Where half of something is on the medium the disk is not ready, as it is
    /// when it starts like that.
    pub(crate) fn insist_later(
        self,
        steps: &Steps,
        is_back: bool,
        condition: Arc<Condition>,
        geometry: Geometry,
        range: RangeUse,
    ) {
        let why = AdditionalSense::LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY;
        if is_back {
            range.refuse_others(Sense::hardware_error(AdditionalSense::INTERNAL_TARGET_FAILURE));
        } else {
            condition.recover(&steps.unit, self.offset, why);
            range.refuse_others(NotReady::because(why).sense());
        }
        steps.unit.begin(&*steps.poster(), async move |steps| {
            self.insist(&steps, is_back, &condition, geometry).await?;
            drop(range);
            condition.recovered(&steps.unit, self.offset);
            Ok(())
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

/// What is in some blocks now.
#[derive(PartialEq)]
enum Block {
    /// The old content.
    Old,
    /// Nothing that the medium would yield.
    Lost(IoError),
    /// Perhaps something else; they could not be written.
    Other(IoError),
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
            undo.insist(&steps, false, &condition, geometry).await?;
            condition.recovered(&steps.unit, undo.offset);
        }
        Ok(())
    });
}
