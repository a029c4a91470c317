//! A change that somebody has asked for, and may withdraw while nothing has come of it that lasts.

use super::ChangeError;
use lunette_store::Post;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Takes back what initiators have seen of a change.
type Undo = Box<dyn FnOnce(&dyn Post) + Send>;

/// A change of a logical unit that was asked for.
#[derive(Clone)]
pub struct ChangeRequest(Arc<Mutex<Stage>>);

/// How far it has come.
enum Stage {
    /// Nothing has come of it, but for what can be taken back.
    Open(Option<Undo>),
    /// It takes effect, or has failed.
    Settled,
    Withdrawn,
}

impl ChangeRequest {
    /// One of which nobody has seen anything.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Stage::Open(None))))
    }

    /// One of which there is something already that `undo` has to take back.
    pub(super) fn begun(undo: impl FnOnce(&dyn Post) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Stage::Open(Some(Box::new(undo))))))
    }

    /// Withdraws the change: everything is at once as it was before, also for initiators, and nothing comes of it any more.
    /// Who waits for it is told [`ChangeError::Withdrawn`], when what it has to wait for has ended; until then other changes
    /// of the unit wait.
    ///
    /// Returns whether that was possible; otherwise the change takes effect at this moment, has done so or has failed, and who
    /// waits for it is told what.
    pub fn withdraw(&self, post: &dyn Post) -> bool {
        let mut stage = self.stage();
        let Stage::Open(undo) = &mut *stage else { return matches!(*stage, Stage::Withdrawn) };
        if let Some(undo) = undo.take() {
            undo(post);
        }
        *stage = Stage::Withdrawn;
        true
    }

    /// Does `begin`, which returns whether there is now something that `undo` has to take back, if nobody has withdrawn the
    /// change.
    pub(super) fn show(
        &self,
        begin: impl FnOnce() -> bool,
        undo: impl FnOnce(&dyn Post) + Send + 'static,
    ) -> Result<(), ChangeError> {
        match &mut *self.stage() {
            Stage::Withdrawn => Err(ChangeError::Withdrawn),
            Stage::Open(known) => {
                if begin() {
                    *known = Some(Box::new(undo));
                }
                Ok(())
            }
            Stage::Settled => Ok(()),
        }
    }

    /// Nobody can withdraw the change from now on, if nobody has.
    pub(super) fn settle(&self) -> Result<(), ChangeError> {
        let mut stage = self.stage();
        if matches!(*stage, Stage::Withdrawn) {
            return Err(ChangeError::Withdrawn);
        }
        *stage = Stage::Settled;
        Ok(())
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ChangeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeRequest").finish_non_exhaustive()
    }
}
