//! The state file of a logical unit: what it saves for itself, its reservations for one.
//!
//! It lies under `units/` in the state directory, named by the unit's kept world-wide name. While a unit is served it is
//! locked: daemons may share a state directory, but not a unit.

use super::StateDir;
use super::failure;
use super::file::{Folder, Kind, Unusable};
use super::holder;
use super::locks::UnitLock;
use lunette_engine::{StateError, StateKeeper};
use lunette_scsi::Naa;
use lunette_store::log::LineBudget;
use std::path::PathBuf;
use std::time::Instant;

/// Longest file: more than a thousand registrations.
const KIND: Kind = Kind { name: "unit state", version: 1, most: 16 << 20 };

/// A unit's state file, which nobody else has.
pub(crate) struct UnitState {
    state: StateDir,
    naa: Naa,
    /// How many had been locked then.
    number: u64,
    /// For what initiators make fail.
    budget: LineBudget,
    since: Instant,
    _lock: UnitLock,
}

impl std::fmt::Debug for UnitState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnitState").field("naa", &self.naa).finish_non_exhaustive()
    }
}

impl UnitState {
    pub(super) fn new(state: StateDir, naa: Naa, lock: UnitLock, number: u64) -> Self {
        let (budget, since) = (LineBudget::default(), Instant::now());
        Self { state, naa, number, budget, since, _lock: lock }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.state.units().path().join(file_of(self.naa))
    }

    /// Says for others that this process serves the unit. That is for people, so whoever cannot say it logs that.
    pub(crate) fn tell_holder(&self) {
        if let Err(error) = holder::write(self.state.units(), self.naa, &self.state.0.own) {
            tracing::warn!("cannot say who serves {}: {error}", self.naa);
        }
    }

    /// Whether bytes of its store were lost while a process had it that has not ended in order.
    pub(crate) fn has_failed(&self) -> bool {
        failure::is_there(self.state.units(), self.naa)
    }

    /// Bytes of its store are lost.
    pub(crate) fn keep_failure(&self) {
        self.state.keep_failure(self.naa);
    }

    fn unusable(&self, why: &Unusable) -> StateError {
        StateError(format!("{} {why}", self.path().display()))
    }
}

/// The name of the file of the unit whose kept world-wide name is `naa`.
pub(super) fn file_of(naa: Naa) -> String {
    format!("{naa}.state")
}

/// What is saved of the unit whose kept world-wide name is `naa`.
pub(super) fn saved(folder: &Folder, naa: Naa) -> Result<Option<Vec<u8>>, Unusable> {
    Ok(folder.load(&KIND, &file_of(naa))?.map(|content| content.bytes))
}

impl StateKeeper for UnitState {
    fn load(&self) -> Result<Option<Vec<u8>>, StateError> {
        let saved = saved(self.state.units(), self.naa).map_err(|why| self.unusable(&why))?;
        let Some(bytes) = saved else { return Ok(None) };
        self.state.settle_unit(self.number).map_err(|error| self.unusable(&Unusable::from(error)))?;
        Ok(Some(bytes))
    }

    fn save(&self, state: &[u8]) -> Result<(), StateError> {
        self.state.units().save(&KIND, &file_of(self.naa), state).map_err(|error| {
            let error = format!("cannot save {}: {error}", self.path().display());
            if self.budget.allows(&self.naa.to_string(), self.since.elapsed()) {
                tracing::error!("{error}");
            }
            StateError(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_has_its_own_state_and_is_served_once() {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDir::open(temporary.path()).unwrap();
        let [five, six] = [5, 6].map(Naa::locally_assigned);
        let unit = state.unit(five).unwrap();
        assert_eq!(unit.load(), Ok(None));
        unit.save(b"{}").unwrap();
        assert_eq!(unit.load(), Ok(Some(b"{}".to_vec())));
        assert_eq!(state.unit(six).unwrap().load(), Ok(None));
        let another = StateDir::open(temporary.path()).unwrap();
        for state in [&state, &another] {
            let error = state.unit(five).unwrap_err();
            assert!(error.to_string().contains("another lunette serves the same logical unit"), "{error}");
        }
        drop(unit);
        let unit = another.unit(five).unwrap();
        std::fs::write(unit.path(), "lunette unit state, version 2, whatever").unwrap();
        let error = unit.load().unwrap_err().0;
        assert!(error.ends_with("naa.3000000000000005.state was saved by a newer lunette"), "{error}");
        std::fs::write(unit.path(), "").unwrap();
        assert!(unit.load().unwrap_err().0.ends_with("naa.3000000000000005.state is damaged"));
    }
}
