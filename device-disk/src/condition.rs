//! The condition of the medium: whether it is there, whether it is running, and what is being done to it. Only the last
//! outlives the program: a disk starts with its medium in and running.

use crate::operation::{Kind, Operation};
use lunette_engine::{ChangeError, LogicalUnit, Nexus, NexusId, NotReady, Progress, Run, Saved, StateError};
use lunette_scsi::{AdditionalSense, Sense};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An operation that goes on or has failed, and how far it has come.
pub(crate) type Underway = (Operation, Arc<Progress>);

/// The condition of one disk's medium.
#[derive(Default, Debug)]
pub(crate) struct Condition(Mutex<State>);

#[derive(Default, Debug)]
struct State {
    ejected: bool,
    /// Who has stopped it, if it is stopped.
    stopped_by: HashSet<NexusId>,
    /// How often it was started after it had stopped.
    cycles: u32,
    /// The nexuses that prevent the removal of the medium.
    preventing: HashSet<NexusId>,
    operation: Option<Underway>,
    /// What was left half written and has to be put right before the medium can be used: where it is, and why that takes
    /// its time.
    recovering: BTreeMap<u64, AdditionalSense>,
    /// It becomes larger or smaller, so no operation on all of it begins.
    resizing: bool,
}

/// Where it is handed over.
const SECTION: &str = "medium";

/// What another process goes on with.
#[derive(PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Handed {
    ejected: bool,
    cycles: u32,
}

/// The same of a nexus.
#[derive(PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct HandedNexus {
    stops: bool,
    prevents: bool,
}

/// Nothing, if that is what there is to say.
fn section<T: Serialize + Default + PartialEq>(value: &T) -> Saved {
    let mut saved = Saved::default();
    if *value != T::default() {
        // Flags and numbers can always be written.
        let _ = saved.set(SECTION, value);
    }
    saved
}

/// How an operation keeps commands out.
fn keeps_out((operation, progress): &Underway) -> NotReady {
    match operation.failed {
        true => NotReady::failed(operation.kind.left_behind()),
        false => NotReady::busy(operation.kind.in_progress(), progress.clone()),
    }
}

impl State {
    fn not_ready(&self) -> Option<NotReady> {
        if let Some(why) = self.recovering.values().max_by_key(|why| (why.asc, why.ascq)) {
            return Some(NotReady::because(*why));
        }
        self.operation.as_ref().map(keeps_out).or_else(|| self.at_rest())
    }

    /// Whether the medium is out, or does not run.
    fn at_rest(&self) -> Option<NotReady> {
        if self.ejected {
            return Some(NotReady::because(AdditionalSense::MEDIUM_NOT_PRESENT_TRAY_OPEN));
        }
        let stopped = AdditionalSense::LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED;
        (!self.stopped_by.is_empty()).then(|| NotReady::because(stopped))
    }

    /// Whether an operation may begin. One that has failed may be tried again; but a failed SANITIZE gives way to another
    /// one only, and if it was restricted, to a restricted one (SBC-4 4.11.3).
    fn check_operation(&self, wanted: Kind) -> Result<(), Sense> {
        let refused = |why: Option<NotReady>| why.map_or(Ok(()), |why| Err(why.sense()));
        if self.resizing {
            return Err(Sense::not_ready(AdditionalSense::LOGICAL_UNIT_NOT_READY_OPERATION_IN_PROGRESS));
        }
        let Some((failed, _)) = self.operation.as_ref().filter(|(operation, _)| operation.failed) else {
            return refused(self.not_ready());
        };
        match (failed.kind, wanted) {
            (Kind::Sanitize { .. }, Kind::Format) => refused(self.not_ready()),
            (Kind::Sanitize { unrestricted: false }, Kind::Sanitize { unrestricted: true }) => {
                Err(Sense::invalid_field_in_cdb(1, Some(5)))
            }
            _ => refused(self.at_rest()),
        }
    }

    /// What goes on with the medium by itself, for people.
    fn occupation(&self) -> Option<&'static str> {
        if !self.recovering.is_empty() {
            return Some("undoing a write that was interrupted");
        }
        let (operation, _) = self.operation.as_ref().filter(|(operation, _)| !operation.failed)?;
        Some(match operation.kind {
            Kind::Format => "formatting the medium",
            Kind::Sanitize { .. } => "sanitizing the medium",
        })
    }

    fn check_present(&self) -> Result<(), Sense> {
        let absent = || Sense::not_ready(AdditionalSense::MEDIUM_NOT_PRESENT_TRAY_OPEN);
        (!self.ejected).then_some(()).ok_or_else(absent)
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
            state.stopped_by.clear();
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

    /// The medium runs from now on, whoever has stopped it. What is not there cannot.
    pub(crate) fn start(&self, unit: &LogicalUnit) -> Result<(), Sense> {
        self.change(unit, |state| {
            state.check_present()?;
            state.stopped_by.clear();
            Ok(())
        })
    }

    /// The nexus of a command stops the medium. Returns whether it had not before.
    pub(crate) fn stop(&self, run: &Run) -> Result<bool, Sense> {
        self.change(&run.unit, |state| {
            state.check_present()?;
            // Not before the lock, as in `prevent`.
            Ok(!run.nexus_is_lost() && state.stopped_by.insert(run.nexus.id()))
        })
    }

    /// A nexus has not stopped the medium after all, which has run on unless others have.
    pub(crate) fn undo_stop(&self, unit: &LogicalUnit, nexus: NexusId) {
        let mut state = self.state();
        state.stopped_by.remove(&nexus);
        unit.set_not_ready(state.not_ready());
    }

    /// The nexus of a command prevents the removal of the medium from now on.
    pub(crate) fn prevent(&self, run: &Run) {
        let mut state = self.state();
        // Not before the lock: what is prevented before the nexus is lost is allowed then.
        if !run.nexus_is_lost() {
            state.preventing.insert(run.nexus.id());
        }
    }

    /// A nexus prevents the removal of the medium no more.
    pub(crate) fn allow(&self, nexus: NexusId) {
        self.state().preventing.remove(&nexus);
    }

    /// An operation begins, unless something stands in its way. Returns what there was before, and its progress.
    pub(crate) fn begin(
        &self,
        unit: &LogicalUnit,
        operation: &Operation,
    ) -> Result<(Option<Underway>, Arc<Progress>), Sense> {
        self.change(unit, |state| {
            state.check_operation(operation.kind)?;
            let progress = Arc::<Progress>::default();
            let before = state.operation.replace((operation.clone(), progress.clone()));
            Ok((before, progress))
        })
    }

    /// Whether there is a failed SANITIZE to be given up; only what was begun with AUSE may be (SBC-4 4.11.3).
    pub(crate) fn check_exit(&self) -> Result<bool, Sense> {
        match &self.state().operation {
            Some(underway) if !underway.0.failed => Err(keeps_out(underway).sense()),
            Some((Operation { kind: Kind::Sanitize { unrestricted }, .. }, _)) => {
                unrestricted.then_some(true).ok_or(Sense::invalid_field_in_cdb(1, Some(4)))
            }
            _ => Ok(false),
        }
    }

    /// What has failed is given up, unless it is being tried again. Returns whether it was.
    pub(crate) fn forget_failure(&self, unit: &LogicalUnit) -> bool {
        self.change(unit, |state| state.operation.take_if(|(operation, _)| operation.failed).is_some())
    }

    /// This operation is underway, or none.
    pub(crate) fn set_operation(&self, unit: &LogicalUnit, operation: Option<Underway>) {
        self.change(unit, |state| state.operation = operation);
    }

    /// The medium cannot be used for this reason, until what was left half written at `offset` is put right.
    pub(crate) fn recover(&self, unit: &LogicalUnit, offset: u64, why: AdditionalSense) {
        self.change(unit, |state| state.recovering.insert(offset, why));
    }

    /// Putting right what was left half written at `offset`, if it was, takes somebody's help.
    pub(crate) fn needs_help(&self, unit: &LogicalUnit, offset: u64) {
        self.change(unit, |state| {
            if let Some(why) = state.recovering.get_mut(&offset) {
                *why = AdditionalSense::LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED;
            }
        });
    }

    /// What was left half written at `offset` is put right.
    pub(crate) fn recovered(&self, unit: &LogicalUnit, offset: u64) {
        self.change(unit, |state| state.recovering.remove(&offset));
    }

    /// No operation on the whole medium begins until [`end_resize`](Self::end_resize), if none goes on or has failed: what one
    /// has done, and has left to do, is known by the blocks there are.
    pub(crate) fn begin_resize(&self) -> Result<(), ChangeError> {
        let mut state = self.state();
        if let Some(what) = state.occupation() {
            return Err(ChangeError::Busy(what));
        }
        if state.operation.is_some() {
            return Err(ChangeError::Unusable);
        }
        state.resizing = true;
        Ok(())
    }

    /// It has the size that it is to have.
    pub(crate) fn end_resize(&self) {
        self.state().resizing = false;
    }

    /// What goes on with the medium by itself, for people.
    pub(crate) fn occupation(&self) -> Option<&'static str> {
        self.state().occupation()
    }

    /// The operation that goes on or has failed.
    pub(crate) fn operation(&self) -> Option<Underway> {
        self.state().operation.clone()
    }

    /// How often the medium was started after it had stopped.
    pub(crate) fn cycles(&self) -> u32 {
        self.state().cycles
    }

    /// The unit was reset: nobody prevents anything, and what had stopped runs.
    pub(crate) fn reset(&self, unit: &LogicalUnit) {
        unit.rest(None);
        self.change(unit, |state| {
            state.preventing.clear();
            state.stopped_by.clear();
        });
    }

    /// A nexus is lost: it prevents nothing, and what it has stopped runs. A virtual machine that stops its disks when it
    /// shuts down finds them running when it boots, as after a power cycle.
    pub(crate) fn lose(&self, unit: &LogicalUnit, nexus: NexusId) {
        self.change(unit, |state| {
            state.preventing.remove(&nexus);
            state.stopped_by.remove(&nexus);
        });
    }

    /// What is not saved of it, for another process.
    pub(crate) fn hand_over(&self) -> Saved {
        let state = self.state();
        section(&Handed { ejected: state.ejected, cycles: state.cycles })
    }

    /// Goes on from there.
    pub(crate) fn take_over(&self, unit: &LogicalUnit, from: &Saved) -> Result<(), StateError> {
        let Handed { ejected, cycles } = from.get(SECTION)?;
        self.change(unit, |state| (state.ejected, state.cycles) = (ejected, cycles));
        Ok(())
    }

    /// What a nexus does to it, for another process.
    pub(crate) fn hand_over_nexus(&self, nexus: NexusId) -> Saved {
        let state = self.state();
        section(&HandedNexus {
            stops: state.stopped_by.contains(&nexus),
            prevents: state.preventing.contains(&nexus),
        })
    }

    /// A nexus goes on doing that.
    pub(crate) fn take_over_nexus(
        &self,
        unit: &LogicalUnit,
        nexus: NexusId,
        from: &Saved,
    ) -> Result<(), StateError> {
        let HandedNexus { stops, prevents } = from.get(SECTION)?;
        self.change(unit, |state| {
            state.stopped_by.extend(stops.then_some(nexus));
            state.preventing.extend(prevents.then_some(nexus));
        });
        Ok(())
    }

    fn change<R>(&self, unit: &LogicalUnit, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let had_stopped = !state.stopped_by.is_empty();
        let result = change(&mut state);
        if had_stopped && state.stopped_by.is_empty() {
            state.cycles = state.cycles.saturating_add(1);
        }
        // Still locked, so that the unit learns of changes in their order.
        unit.set_not_ready(state.not_ready());
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
