//! Formatting and sanitizing: work on the whole medium, in the background, that goes on to its end whatever becomes of the
//! command that asked for it, of its nexus and of the program.

use crate::condition::Condition;
use crate::extent::{Capacity, Extent, Geometry};
use crate::medium::Medium;
use lunette_engine::{HexBytes, LogicalUnit, Nexus, Progress, RangeUse, Run, StateError, Steps};
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
/// How often it is saved how far an operation has come.
const MARK: Duration = Duration::from_secs(5);

/// An operation, as it is saved while it goes on, and after it has failed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) work: Work,
    pub(crate) failed: bool,
    /// Blocks that need not be done again after a restart, those of all passes.
    #[serde(default)]
    done: u64,
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
        Self { kind, work, failed: false, done: 0 }
    }

    /// How many times each block is written.
    fn passes(&self) -> u8 {
        match self.work {
            Work::Zero { .. } => 1,
            Work::Overwrite { passes, .. } => passes,
        }
    }

    /// The blocks of all passes.
    fn all(&self, geometry: Geometry) -> u64 {
        geometry.blocks * u64::from(self.passes())
    }

    /// Whether a disk of this geometry can carry it out: it may have been saved by one of another.
    fn fits(&self, geometry: Geometry) -> bool {
        let has_block = match &self.work {
            Work::Zero { .. } => true,
            Work::Overwrite { block, .. } => block.0.len() as u64 == geometry.block(),
        };
        has_block && self.passes() > 0 && self.done <= self.all(geometry)
    }
}

/// Carries out operations on one disk.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) condition: Arc<Condition>,
    pub(crate) capacity: Capacity,
    pub(crate) fast_zero: bool,
    /// Bytes that are written in a second at most; zero: no limit.
    pub(crate) pace: u64,
}

/// How far an operation has come when it ends without an error.
enum Progressed {
    ToItsEnd,
    /// It was to end before.
    Partly,
}

/// An operation in the background.
struct Job {
    worker: Worker,
    /// Which stays as it is as long as the operation goes on.
    geometry: Geometry,
    operation: Operation,
    progress: Arc<Progress>,
    /// The nexus that asked for it and need not be told.
    by: Weak<Nexus>,
    /// Whether it has succeeded, when it has ended.
    ended: Arc<OnceLock<bool>>,
    /// The whole medium, which nobody else reads or writes meanwhile; after a restart nobody has begun to.
    _medium: Option<RangeUse>,
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
        unit.end_self_test();
        let (begun, ended) = (Arc::<AtomicBool>::default(), Arc::<OnceLock<bool>>::default());
        let by = Arc::downgrade(&run.nexus);
        let geometry = self.capacity.geometry();
        let job =
            Job { worker: self, geometry, operation, progress, by, ended: ended.clone(), _medium: None };
        let result = job.set_off(&run, begun.clone()).await;
        if !begun.load(Ordering::Acquire) {
            condition.set_operation(&unit, before);
            return result;
        }
        while !immediate && ended.get().is_none() {
            run.wait_apart().await.map_err(|_| aborted())?;
        }
        match ended.get() {
            Some(false) => Err(kind.failure()),
            _ => Ok(()),
        }
    }

    /// Gives up a SANITIZE that has failed, if there is one.
    pub(crate) async fn give_up(self, run: Run) -> Result<(), Sense> {
        let turn = run.turn().await?;
        let (condition, nexus) = (self.condition, run.nexus.clone());
        // Looked at now: while this waited, another one may have begun.
        if !condition.check_exit()? {
            return Ok(());
        }
        run.save(&turn, SECTION, None::<Operation>, move |unit| {
            if condition.forget_failure(unit) {
                tell_ready(unit, Some(&nexus));
            }
        })
        .await
    }

    /// Puts the saved operation into effect, but for the work.
    pub(crate) fn restore(&self, unit: &LogicalUnit) -> Result<(), StateError> {
        let Some(operation) = unit.saved().get::<Option<Operation>>(SECTION)? else { return Ok(()) };
        if !operation.fits(self.capacity.geometry()) {
            return Err(StateError("an interrupted operation was for another block length".into()));
        }
        self.condition.set_operation(unit, Some((operation, Arc::default())));
        Ok(())
    }

    /// Goes on with the saved operation.
    pub(crate) fn resume(self, unit: &Arc<LogicalUnit>, post: &dyn Post) {
        let Some((operation, progress)) = self.condition.operation() else { return };
        if !operation.failed {
            let (by, ended) = (Weak::new(), Arc::default());
            let geometry = self.capacity.geometry();
            let job = Job { worker: self, geometry, operation, progress, by, ended, _medium: None };
            unit.begin(post, async move |steps| job.work(&steps).await);
        }
    }

    /// What was written is followed by a pause, which leaves the store to others.
    async fn pause(&self, steps: &Steps, written: u64) {
        if self.pace == 0 {
            return;
        }
        let nanos = u128::from(written) * 1_000_000_000 / u128::from(self.pace);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Shorter only if it is to end.
        let _ = steps.sleep(time).await;
    }
}

impl Job {
    /// Waits until nothing else works on the medium, and begins as soon as it is saved that it goes on.
    async fn set_off(self, run: &Run, begun: Arc<AtomicBool>) -> Result<(), Sense> {
        run.settle().await.map_err(|_| aborted())?;
        // What is left are the copies of other units' copy managers.
        let job = Self { _medium: Some(run.claim(self.geometry.whole().bytes()).await?), ..self };
        let turn = run.turn().await?;
        let (unit, poster, alarm) = (run.unit.clone(), run.poster(), run.alarm());
        let saved = job.operation.clone();
        let begin = move |_: &LogicalUnit| {
            begun.store(true, Ordering::Release);
            unit.begin(&*poster, async move |steps| {
                let result = job.work(&steps).await;
                alarm.ring();
                result
            });
        };
        run.save(&turn, SECTION, Some(saved), begin).await
    }

    async fn work(self, steps: &Steps) -> Result<(), Sense> {
        let result = match self.perform(steps).await {
            // It is saved how far it has come, and others find it where they find it after a restart.
            Ok(Progressed::Partly) => return Ok(()),
            Ok(Progressed::ToItsEnd) => Ok(()),
            Err(sense) => Err(sense),
        };
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

    async fn perform(&self, steps: &Steps) -> Result<Progressed, Sense> {
        let (geometry, fast_zero) = (self.geometry, self.worker.fast_zero);
        let medium = Medium { run: steps, geometry };
        let writes = !(fast_zero && matches!(self.operation.work, Work::Zero { .. }));
        let (all, mut done, mut marked) = (self.operation.all(geometry), self.operation.done, steps.now());
        self.progress.set(done, all);
        for pass in 0..self.operation.passes() {
            let done_of_it = done.saturating_sub(u64::from(pass) * geometry.blocks).min(geometry.blocks);
            let rest = geometry.whole().after(done_of_it * geometry.block());
            for part in rest.steps(if writes { CHUNK } else { LARGE_CHUNK }) {
                self.work_on(&medium, pass, part).await?;
                done += part.length / geometry.block();
                self.progress.set(done, all);
                if writes {
                    self.worker.pause(steps, part.length).await;
                }
                if steps.is_ending() || steps.now() - marked >= MARK {
                    medium.flush_if(true).await?;
                    // If that cannot be saved, more is done again.
                    let _ = record(steps, &Some(Operation { done, ..self.operation.clone() })).await;
                    marked = steps.now();
                }
                if steps.is_ending() && done < all {
                    return Ok(Progressed::Partly);
                }
            }
            medium.flush_if(true).await?;
        }
        Ok(Progressed::ToItsEnd)
    }

    async fn work_on(&self, medium: &Medium<&Steps>, pass: u8, part: Extent) -> Result<(), Sense> {
        match &self.operation.work {
            Work::Zero { unmap } => medium.zero(part, *unmap, self.worker.fast_zero).await,
            Work::Overwrite { block, passes, invert } => {
                medium.fill(part, &block_of(pass, &block.0, *passes, *invert)).await
            }
        }
    }
}

/// What is written in a pass, from 0 on.
fn block_of(pass: u8, block: &[u8], passes: u8, invert: bool) -> Vec<u8> {
    let mask = if invert && (passes - pass).is_multiple_of(2) { 0xff } else { 0 };
    block.iter().map(|byte| byte ^ mask).collect()
}

async fn record(steps: &Steps, left: &Option<Operation>) -> Result<(), Sense> {
    let turn = steps.turn().await?;
    steps.save(&turn, SECTION, left.clone(), |_| {}).await
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
