//! What has to be written back when a write that happens as a whole fails, or the power with it.
//!
//! The old content is saved with the unit's state before it is written over, and forgotten when the new one is safe. If it is
//! still there when the unit starts, it is written back before the first command. All the time nobody else reads or writes
//! these blocks, so nothing newer is lost.

use crate::condition::Condition;
use crate::extent::Extent;
use lunette_engine::{HexBytes, Io, IoKind, LogicalUnit, StateError, Steps, Turn};
use lunette_scsi::{AdditionalSense, Sense};
use lunette_store::{IoError, Memory, Post};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The section of the saved state.
const SECTION: &str = "undo";
/// How long to wait before state is saved again that has to be.
const RETRY: Duration = Duration::from_secs(1);

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

    /// Saves it: from now on it is written back when the unit starts.
    pub(crate) async fn save(&self, steps: &Steps, turn: &Turn) -> Result<(), Sense> {
        steps.save(turn, SECTION, &Some(self), |_| ()).await
    }

    /// Writes it back, block by block. Where there was no room for the new ones there is none for the old ones either, but
    /// there they are still.
    pub(crate) async fn carry_out(&self, steps: &Steps, block: u64) -> Result<(), Sense> {
        for (bytes, number) in self.bytes.0.chunks(block as usize).zip(0..) {
            let part = Extent { offset: self.offset + number * block, length: bytes.len() as u64 };
            let bytes = Rc::new(Memory::from_bytes(bytes));
            match steps.write(part.offset, &bytes, part.length, false).await {
                Ok(_) | Err(IoError::NoSpace) => {}
                Err(error) => return Err(failed(steps, part, error)),
            }
        }
        steps.flush().await.map(drop).map_err(|error| failed(steps, self.extent(), error))
    }

    fn extent(&self) -> Extent {
        Extent { offset: self.offset, length: self.bytes.0.len() as u64 }
    }
}

/// Nothing is to be written back any more. That has to be saved before anybody else writes there, however long it takes.
pub(crate) async fn forget(steps: &Steps, turn: &Turn) {
    while steps.save(turn, SECTION, &None::<Undo>, |_| ()).await.is_err() {
        if steps.sleep(RETRY).await.is_err() {
            return;
        }
    }
}

/// The sense data for a write that failed.
pub(crate) fn failed(steps: &Steps, extent: Extent, error: IoError) -> Sense {
    failed_as(IoKind::Write { durable: true }, steps, extent, error)
}

fn failed_as(kind: IoKind, steps: &Steps, Extent { offset, length }: Extent, error: IoError) -> Sense {
    steps.unit.device().io_failed(&Io { kind, offset, length, granularity: 1 }, error)
}

/// Keeps a unit from being ready if something has to be written back.
pub(crate) fn restore(unit: &LogicalUnit, condition: &Condition) -> Result<(), StateError> {
    if unit.saved().get::<Option<Undo>>(SECTION)?.is_some() {
        let why = AdditionalSense::LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY;
        condition.recover(unit, Some(why));
    }
    Ok(())
}

/// Writes it back.
pub(crate) fn resume(unit: &Arc<LogicalUnit>, condition: &Arc<Condition>, block: u64, post: &dyn Post) {
    let condition = condition.clone();
    let Ok(Some(undo)) = unit.saved().get::<Option<Undo>>(SECTION) else { return };
    unit.begin(post, async move |steps| {
        let turn = steps.turn().await?;
        let written = undo.carry_out(&steps, block).await;
        let why = AdditionalSense::LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED;
        if written.is_ok() {
            forget(&steps, &turn).await;
        }
        condition.recover(&steps.unit, written.is_err().then_some(why));
        Ok(())
    });
}
