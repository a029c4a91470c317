//! Formatting and sanitizing: work on the whole medium, in the background, that goes on to its end whatever becomes of the
//! command that asked for it, of its nexus and of the program.

use crate::condition::Condition;
use crate::extent::{Extent, Geometry};
use crate::medium::Medium;
use lunette_engine::{HexBytes, LogicalUnit, Nexus, Progress, Run, StateError, Steps};
use lunette_scsi::{AdditionalSense, Sense};
use lunette_store::Post;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// The section of the saved state.
const SECTION: &str = "medium";
/// Bytes that are written between two pauses; a multiple of every block length.
const CHUNK: u64 = 1 << 20;
/// Bytes that are cleared at a time, where that is not done by writing.
const LARGE_CHUNK: u64 = 1 << 30;

/// An operation, as it is saved while it goes on, and after it has failed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) work: Work,
    pub(crate) failed: bool,
}

/// What it is to initiators.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) enum Kind {
    Format,
    Sanitize {
        /// EXIT FAILURE MODE may give it up after it has failed (AUSE).
        unrestricted: bool,
    },
}

/// What it does to all blocks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) enum Work {
    /// Makes them read as zero, and gives back their room if `unmap`.
    Zero { unmap: bool },
    /// Writes `block` to each of them, so many times; if `invert`, inverted every other time, but not the last.
    Overwrite { block: HexBytes, passes: u8, invert: bool },
}

impl Kind {
    /// What others are told while it goes on.
    pub(crate) fn in_progress(self) -> AdditionalSense {
        match self {
            Kind::Format => AdditionalSense::LOGICAL_UNIT_NOT_READY_FORMAT_IN_PROGRESS,
            Kind::Sanitize { .. } => AdditionalSense::LOGICAL_UNIT_NOT_READY_SANITIZE_IN_PROGRESS,
        }
    }

    /// What they are told after it has failed.
    pub(crate) fn left_behind(self) -> AdditionalSense {
        match self {
            Kind::Format => AdditionalSense::MEDIUM_FORMAT_CORRUPTED,
            Kind::Sanitize { .. } => AdditionalSense::SANITIZE_COMMAND_FAILED,
        }
    }

    /// What the command that began it is told when it fails.
    fn failure(self) -> Sense {
        Sense::medium_error(match self {
            Kind::Format => AdditionalSense::FORMAT_COMMAND_FAILED,
            Kind::Sanitize { .. } => AdditionalSense::SANITIZE_COMMAND_FAILED,
        })
    }
}

impl Operation {
    pub(crate) fn new(kind: Kind, work: Work) -> Self {
        Self { kind, work, failed: false }
    }

    /// Whether a disk of this geometry can carry it out: it may have been saved by one of another.
    fn fits(&self, geometry: Geometry) -> bool {
        match &self.work {
            Work::Zero { .. } => true,
            Work::Overwrite { block, passes, .. } => block.0.len() as u64 == geometry.block() && *passes > 0,
        }
    }
}

/// Carries out operations on one disk.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) condition: Arc<Condition>,
    pub(crate) geometry: Geometry,
    pub(crate) fast_zero: bool,
    /// Bytes that are written in a second at most; zero: no limit.
    pub(crate) pace: u64,
}

/// An operation in the background.
struct Job {
    worker: Worker,
    operation: Operation,
    progress: Arc<Progress>,
    /// The nexus that asked for it and need not be told.
    by: Weak<Nexus>,
    /// Whether it has succeeded, when it has ended.
    ended: Arc<OnceLock<bool>>,
}

impl Worker {
    /// Begins an operation, and waits for its end unless that is `immediate`. Once it is saved that it goes on, nothing can
    /// stop it.
    pub(crate) async fn carry_out(
        self,
        run: Run,
        operation: Operation,
        immediate: bool,
    ) -> Result<(), Sense> {
        let (condition, unit, kind) = (self.condition.clone(), run.unit.clone(), operation.kind);
        let (before, progress) = condition.begin(&unit, &operation)?;
        let (begun, ended) = (Arc::<AtomicBool>::default(), Arc::<OnceLock<bool>>::default());
        let saved = operation.clone();
        let by = Arc::downgrade(&run.nexus);
        let job = Job { worker: self, operation, progress, by, ended: ended.clone() };
        let result = set_off(&run, saved, job, begun.clone()).await;
        if !begun.load(Ordering::Acquire) {
            condition.set_operation(&unit, before);
            return result;
        }
        while !immediate && ended.get().is_none() {
            run.wait().await.map_err(|_| aborted())?;
        }
        match ended.get() {
            Some(false) => Err(kind.failure()),
            _ => Ok(()),
        }
    }

    /// Gives up an operation that has failed.
    pub(crate) async fn give_up(self, run: Run) -> Result<(), Sense> {
        let turn = run.turn().await?;
        let (condition, nexus) = (self.condition, run.nexus.clone());
        run.save(&turn, SECTION, &None::<Operation>, move |unit| {
            condition.set_operation(unit, None);
            tell_ready(unit, Some(&nexus));
        })
        .await
    }

    /// Puts the saved operation into effect, but for the work.
    pub(crate) fn restore(&self, unit: &LogicalUnit) -> Result<(), StateError> {
        let Some(operation) = unit.saved().get::<Option<Operation>>(SECTION)? else { return Ok(()) };
        if !operation.fits(self.geometry) {
            return Err(StateError("an interrupted operation was for another block length".into()));
        }
        self.condition.set_operation(unit, Some((operation, Arc::default())));
        Ok(())
    }

    /// Does the work of the saved operation from its beginning.
    pub(crate) fn resume(self, unit: &Arc<LogicalUnit>, post: &dyn Post) {
        let Some((operation, progress)) = self.condition.operation() else { return };
        if !operation.failed {
            let job = Job { worker: self, operation, progress, by: Weak::new(), ended: Arc::default() };
            unit.begin(post, async move |steps| job.work(&steps).await);
        }
    }

    async fn pause(&self, steps: &Steps, written: u64) -> Result<(), Sense> {
        if self.pace == 0 {
            return Ok(());
        }
        let nanos = u128::from(written) * 1_000_000_000 / u128::from(self.pace);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        steps.sleep(time).await.map(drop).map_err(|_| aborted())
    }
}

/// Waits until nothing else works on the medium, and begins the job as soon as it is saved that it goes on.
async fn set_off(run: &Run, saved: Operation, job: Job, begun: Arc<AtomicBool>) -> Result<(), Sense> {
    run.settle().await.map_err(|_| aborted())?;
    let turn = run.turn().await?;
    let (unit, poster, alarm) = (run.unit.clone(), run.poster(), run.alarm());
    let begin = move |_: &LogicalUnit| {
        begun.store(true, Ordering::Release);
        unit.begin(&*poster, async move |steps| {
            let result = job.work(&steps).await;
            alarm.ring();
            result
        });
    };
    run.save(&turn, SECTION, &Some(saved), begin).await
}

impl Job {
    async fn work(self, steps: &Steps) -> Result<(), Sense> {
        let result = self.perform(steps).await;
        let failed = Operation { failed: true, ..self.operation.clone() };
        let left = result.is_err().then_some(failed.clone());
        // One that has succeeded but would be done again after a restart has not succeeded.
        let left = if record(steps, &left).await.is_ok() { left } else { Some(failed) };
        let succeeded = left.is_none();
        self.worker.condition.set_operation(&steps.unit, left.map(|left| (left, Arc::default())));
        if succeeded {
            tell_ready(&steps.unit, self.by.upgrade().as_deref());
        }
        let _ = self.ended.set(succeeded);
        result
    }

    async fn perform(&self, steps: &Steps) -> Result<(), Sense> {
        let Worker { geometry, fast_zero, .. } = self.worker;
        let medium = Medium { run: steps, geometry };
        let whole = Extent { offset: 0, length: geometry.blocks * geometry.block() };
        match &self.operation.work {
            Work::Zero { unmap } => {
                for part in whole.steps(if fast_zero { LARGE_CHUNK } else { CHUNK }) {
                    medium.zero(part, *unmap, fast_zero).await?;
                    self.advance(steps, part.offset + part.length, whole.length, !fast_zero).await?;
                }
                medium.flush_if(true).await
            }
            Work::Overwrite { block, passes, invert } => {
                let all = whole.length * u64::from(*passes);
                for pass in 0..*passes {
                    let block = block_of(pass, &block.0, *passes, *invert);
                    for part in whole.steps(CHUNK) {
                        medium.fill(part, &block).await?;
                        let done = u64::from(pass) * whole.length + part.offset + part.length;
                        self.advance(steps, done, all, true).await?;
                    }
                    medium.flush_if(true).await?;
                }
                Ok(())
            }
        }
    }

    /// So much is done. What was written is followed by a pause, which leaves the store to others.
    async fn advance(&self, steps: &Steps, done: u64, of: u64, written: bool) -> Result<(), Sense> {
        self.progress.set(done, of);
        if written { self.worker.pause(steps, CHUNK).await } else { Ok(()) }
    }
}

/// What is written in a pass, from 0 on.
fn block_of(pass: u8, block: &[u8], passes: u8, invert: bool) -> Vec<u8> {
    let mask = if invert && (passes - pass).is_multiple_of(2) { 0xff } else { 0 };
    block.iter().map(|byte| byte ^ mask).collect()
}

async fn record(steps: &Steps, left: &Option<Operation>) -> Result<(), Sense> {
    let turn = steps.turn().await?;
    steps.save(&turn, SECTION, left, |_| {}).await
}

/// The medium can be used again, and holds something else.
fn tell_ready(unit: &LogicalUnit, except: Option<&Nexus>) {
    unit.establish_attention(AdditionalSense::NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED, except);
}

fn aborted() -> Sense {
    Sense::aborted_command(AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION)
}

#[cfg(test)]
mod tests {
    use super::block_of;

    #[test]
    fn the_last_pass_writes_the_pattern_as_it_is() {
        let passes = |passes, invert| -> Vec<u8> {
            (0..passes).map(|pass| block_of(pass, &[0x12], passes, invert)[0]).collect()
        };
        assert_eq!(passes(3, false), [0x12, 0x12, 0x12]);
        assert_eq!(passes(1, true), [0x12]);
        assert_eq!(passes(2, true), [0xed, 0x12]);
        assert_eq!(passes(3, true), [0x12, 0xed, 0x12]);
    }
}
