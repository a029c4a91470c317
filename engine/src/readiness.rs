//! Whether a logical unit can process commands that need its medium.

use crate::LogicalUnit;
use crate::command::Needs;
use crate::unit::State;
use lunette_scsi::{AdditionalSense, Sense, SenseKey};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// Why a logical unit is not ready.
#[derive(Clone, Debug)]
pub struct NotReady {
    /// The sense key of what commands that need a ready unit are told: NOT READY, or MEDIUM ERROR if an operation has
    /// failed and left the medium unusable.
    pub key: SenseKey,
    /// The rest of it.
    pub additional: AdditionalSense,
    /// How far the operation has come that keeps it busy, if one does.
    pub progress: Option<Arc<Progress>>,
}

/// Its store does not answer.
const STUCK: NotReady = NotReady::because(AdditionalSense::LOGICAL_UNIT_COMMUNICATION_TIME_OUT);

/// Who wants to know when a unit is not ready.
pub(crate) type Observer = Box<dyn Fn(Option<&NotReady>) + Send + Sync>;

/// How far an operation in the background has come.
#[derive(Default, Debug)]
pub struct Progress(AtomicU16);

impl Progress {
    /// So many of all parts are done.
    pub fn set(&self, done: u64, of: u64) {
        let part = u128::from(done.min(of)) * u128::from(u16::MAX) / u128::from(of.max(1));
        self.0.store(part as u16, Ordering::Relaxed);
    }

    /// In parts of 65,536 (PROGRESS INDICATION, SPC-4 4.5.2.4.4).
    pub fn get(&self) -> u16 {
        self.0.load(Ordering::Relaxed)
    }
}

impl NotReady {
    /// Because of `additional`, until something is done about it.
    pub const fn because(additional: AdditionalSense) -> Self {
        Self { key: SenseKey::NOT_READY, additional, progress: None }
    }

    /// Because an operation has failed, until one succeeds.
    pub const fn failed(additional: AdditionalSense) -> Self {
        Self { key: SenseKey::MEDIUM_ERROR, additional, progress: None }
    }

    /// Because of an operation, until it ends.
    pub fn busy(additional: AdditionalSense, progress: Arc<Progress>) -> Self {
        Self { progress: Some(progress), ..Self::because(additional) }
    }

    /// Whether an operation is going on that leaves the unit to few commands.
    pub fn is_busy(&self) -> bool {
        self.progress.is_some()
    }

    /// The sense data for a command now.
    pub fn sense(&self) -> Sense {
        let sense = Sense::new(self.key, self.additional);
        self.progress.as_ref().map_or(sense, |progress| sense.with_progress(progress.get()))
    }
}

impl LogicalUnit {
    /// Commands that need a ready unit are refused from now on, or no more.
    pub fn set_not_ready(&self, why: Option<NotReady>) {
        self.change_readiness(|state| state.not_ready = why);
    }

    /// A self-test in the foreground keeps the unit busy from now on, or no more.
    pub(crate) fn set_testing(&self, why: Option<NotReady>) {
        self.change_readiness(|state| state.testing = why);
    }

    /// The unit rests in a lower power condition from now on, which REQUEST SENSE tells as `condition`, or no more. The next
    /// command that needs a ready unit ends that (SPC-4 5.11).
    pub fn rest(&self, condition: Option<AdditionalSense>) {
        self.change_readiness(|state| state.resting = condition);
    }

    /// Why the unit is not ready, if it is not.
    pub fn not_ready(&self) -> Option<NotReady> {
        self.state().not_ready()
    }

    /// Has `act` called whenever the reason changes for which the unit is not ready, also when there is none any more: on
    /// whatever thread, while the unit is locked, so it must neither wait nor ask the unit. To be said once; said again, it has no
    /// effect.
    pub fn observe_readiness(&self, act: impl Fn(Option<&NotReady>) + Send + Sync + 'static) {
        let _ = self.readiness_observer.set(Box::new(act));
    }

    pub(crate) fn change_readiness(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        let before = state.not_ready();
        change(&mut state);
        let ready = state.is_ready();
        let after = state.not_ready();
        let reason = |why: &NotReady| (why.key, why.additional);
        if before.as_ref().map(reason) != after.as_ref().map(reason)
            && let Some(tell) = self.readiness_observer.get()
        {
            tell(after.as_ref());
        }
        // Still locked, so that no nexus misses it and the gates are those of the last change.
        state.itls().for_each(|itl| itl.set_ready(ready));
    }

    /// Whether the unit is ready for commands that need that; TEST UNIT READY's answer.
    ///
    /// # Errors
    /// The sense data of such commands.
    pub fn ready(&self) -> Result<(), Sense> {
        self.device().ready()?;
        self.state().not_ready().map_or(Ok(()), |why| Err(why.sense()))
    }

    /// What REQUEST SENSE tells when nothing else is pending: why the unit is not ready, how far a
    /// self-test has come, or in which power condition the unit is.
    pub(crate) fn pollable_sense(&self) -> Sense {
        let resting = |condition| Sense::new(SenseKey::NO_SENSE, condition);
        let testing = || self.self_tests().sense();
        let rests = || self.state().resting.map(resting);
        self.ready().err().or_else(testing).or_else(rests).unwrap_or(Sense::NO_SENSE)
    }

    /// Ends a self-test in the background, for a command that changes or takes away what is tested (SPC-4 clause 5).
    pub fn end_self_test(&self) {
        self.self_tests().abort_otherwise();
    }

    /// Whether the unit is not kept busy by a self-test in the foreground, beside which only INQUIRY, REPORT LUNS and REQUEST
    /// SENSE are processed (SPC-4 clause 5).
    pub(crate) fn is_not_tested(&self) -> Result<(), Sense> {
        self.state().testing.as_ref().map_or(Ok(()), |testing| Err(testing.sense()))
    }

    /// Whether the unit lets a command be processed; one that needs the medium ends its rest.
    pub(crate) fn admits(&self, needs: Needs) -> Result<(), Sense> {
        match needs {
            Needs::Nothing => Ok(()),
            Needs::Idle => {
                self.intact()?;
                match self.state().not_ready() {
                    Some(why) if why.is_busy() => Err(why.sense()),
                    _ => Ok(()),
                }
            }
            Needs::Ready => {
                self.ready()?;
                self.rest(None);
                Ok(())
            }
        }
    }

    /// Whether the kept state is known, for commands that are about it and need nothing else.
    pub(crate) fn intact(&self) -> Result<(), Sense> {
        let why = AdditionalSense::LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED;
        if self.state().damaged { Err(Sense::not_ready(why)) } else { Ok(()) }
    }
}

impl State {
    /// Why the unit is not ready.
    fn not_ready(&self) -> Option<NotReady> {
        let why = AdditionalSense::LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED;
        if self.damaged {
            return Some(NotReady::because(why));
        }
        let stuck = || (!self.stuck.is_empty()).then_some(STUCK);
        self.testing.as_ref().or(self.not_ready.as_ref()).cloned().or_else(stuck)
    }

    /// Whether commands need not ask.
    pub(crate) fn is_ready(&self) -> bool {
        self.not_ready().is_none() && self.resting.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_runs_from_zero_to_all() {
        let progress = Progress::default();
        for (done, of, shown) in [(0, 8, 0), (4, 8, 32767), (8, 8, 65535), (9, 8, 65535), (0, 0, 0)] {
            progress.set(done, of);
            assert_eq!(progress.get(), shown);
        }
        progress.set(u64::MAX, u64::MAX);
        assert_eq!(progress.get(), 65535);
    }
}
