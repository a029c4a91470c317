//! The condition of the medium: whether it is there, and whether it is running. All of it ends with the program: a disk
//! starts with its medium in and running.

use lunette_engine::{LogicalUnit, Nexus, NexusId, NotReady};
use lunette_scsi::{AdditionalSense, Sense};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The condition of one disk's medium.
#[derive(Default, Debug)]
pub(crate) struct Condition(Mutex<State>);

#[derive(Default, Debug)]
struct State {
    ejected: bool,
    stopped: bool,
    /// The nexuses that prevent the removal of the medium.
    preventing: HashSet<NexusId>,
}

impl State {
    fn not_ready(&self) -> Option<NotReady> {
        if self.ejected {
            return Some(NotReady::because(AdditionalSense::MEDIUM_NOT_PRESENT_TRAY_OPEN));
        }
        let stopped = AdditionalSense::LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED;
        self.stopped.then_some(NotReady::because(stopped))
    }

    /// The medium stays where it is while a nexus prevents its removal (SPC-4 6.18).
    fn check_movable(&self) -> Result<(), Sense> {
        let prevented = || Sense::illegal_request(AdditionalSense::MEDIUM_REMOVAL_PREVENTED);
        self.preventing.is_empty().then_some(()).ok_or_else(prevented)
    }
}

impl Condition {
    /// Takes the medium out.
    pub(crate) fn eject(&self, unit: &LogicalUnit) -> Result<(), Sense> {
        self.change(unit, |state| {
            state.check_movable()?;
            state.ejected = true;
            Ok(())
        })
    }

    /// The medium is in after all, as if it had never been out.
    pub(crate) fn undo_eject(&self, unit: &LogicalUnit) {
        self.change(unit, |state| state.ejected = false);
    }

    /// Puts the medium in, and tells all nexuses but `by`, which knows.
    pub(crate) fn load(&self, unit: &LogicalUnit, by: &Nexus) -> Result<(), Sense> {
        let changed = self.change(unit, |state| {
            state.stopped = false;
            if state.ejected {
                state.check_movable()?;
            }
            Ok(std::mem::take(&mut state.ejected))
        })?;
        if changed {
            let condition = AdditionalSense::NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED;
            unit.establish_attention(condition, Some(by));
        }
        Ok(())
    }

    /// The medium runs from now on, or no more. What is not there can do neither.
    pub(crate) fn run(&self, unit: &LogicalUnit, running: bool) -> Result<(), Sense> {
        self.change(unit, |state| {
            if state.ejected {
                return Err(Sense::not_ready(AdditionalSense::MEDIUM_NOT_PRESENT_TRAY_OPEN));
            }
            state.stopped = !running;
            Ok(())
        })
    }

    /// A nexus prevents the removal of the medium from now on, or no more.
    pub(crate) fn prevent(&self, nexus: NexusId, prevent: bool) {
        let mut state = self.state();
        if prevent {
            state.preventing.insert(nexus);
        } else {
            state.preventing.remove(&nexus);
        }
    }

    /// The unit was reset: nobody prevents anything, and what had stopped runs.
    pub(crate) fn reset(&self, unit: &LogicalUnit) {
        unit.rest(None);
        self.change(unit, |state| {
            state.preventing.clear();
            state.stopped = false;
        });
    }

    fn change<R>(&self, unit: &LogicalUnit, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = change(&mut state);
        // Still locked, so that the unit learns of changes in their order.
        unit.set_not_ready(state.not_ready());
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
