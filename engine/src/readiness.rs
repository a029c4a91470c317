//! Whether a logical unit can process commands that need its medium.

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
