//! Taking units back that another process could not give up at a planned restart.

use super::take::{Elsewhere, TakenUnit, begin_terms};
use crate::config;
use crate::handover::Handed;
use crate::running::Running;
use crate::running::handover::wall;
use crate::units;
use anyhow::{Error, Result, ensure};
use lunette_engine::UnitState;
use lunette_store_file::OpenError;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long virtual machines may take to go on after a start.
const RESUMED: Duration = Duration::from_secs(60);
/// How long what another process had may take to be let go of, all of it.
const LOCK: Duration = Duration::from_secs(5);
const LOCK_STEP: Duration = Duration::from_millis(10);

impl Running {
    /// Takes what another process has handed over because it could not give it up: others use it, too. What initiators rely on goes along,
    /// so it is there before they are.
    pub(in crate::running) fn take_back(&self, handed: &mut Handed) {
        self.take_back_within(LOCK, handed);
    }

    /// The same if what another process had may take that long to be let go of.
    pub(super) fn take_back_within(&self, time: Duration, handed: &mut Handed) {
        let specs: Vec<_> = self.now().model.units.values().filter(|spec| spec.migratable).cloned().collect();
        let come = |spec: Arc<config::Unit>| {
            let record = self.record_of(&spec).ok()?;
            let naa = units::naa(&spec, &record).to_string();
            Some((spec, handed.unit(&naa)?, handed.term(&naa)))
        };
        let mut left: Vec<_> = specs.into_iter().filter_map(come).collect();
        if left.is_empty() {
            return;
        }
        // What the other process had asked of their stores may still be on its way.
        let deadline = Instant::now() + time;
        loop {
            let is_last = Instant::now() >= deadline;
            left.retain_mut(|(spec, state, term)| !self.has_come_back(spec, state, *term, is_last));
            if left.is_empty() {
                break;
            }
            std::thread::sleep(LOCK_STEP);
        }
        // By then virtual machines that go on have asked for it.
        self.begin_after(RESUMED, Self::begin_to_leave);
    }

    /// Whether a unit is here, or will not be; not if somebody has it who may let go of it, unless this is the last time to look. It
    /// was left in the term `of`.
    fn has_come_back(
        &self,
        spec: &Arc<config::Unit>,
        state: &mut UnitState,
        of: Option<u64>,
        is_last: bool,
    ) -> bool {
        let served = match self.take_unit(spec, true) {
            Err(error) if !is_last && is_in_use(&error) => return false,
            taken => taken.and_then(|taken| self.serve_again(taken, std::mem::take(state), of)),
        };
        if let Err(error) = served {
            tracing::warn!("{} is not gone on with: {error:#}", spec.name);
        }
        true
    }

    fn serve_again(&self, taken: TakenUnit, state: UnitState, of: Option<u64>) -> Result<()> {
        // Others may have come first, and changed what is kept of it.
        let is_as_left = of.is_none_or(|of| of == taken.term.number) && taken.term.departure.is_none();
        ensure!(is_as_left, "it was served elsewhere since");
        begin_terms(std::slice::from_ref(&taken))?;
        let TakenUnit { spec, unit, term } = taken;
        if let Err(error) = unit.unit.take_over(state, self.reactors.clock()(), wall()) {
            tracing::warn!("{} does not go on in all as it was in another process: {error}", spec.name);
        }
        tracing::info!("{} is still served here, term {}", spec.name, term.number + 1);
        self.serve_unit(&spec.name, unit);
        Ok(())
    }
}

/// Whether somebody has the unit or its store, who may let go of it.
fn is_in_use(error: &Error) -> bool {
    error.is::<Elsewhere>() || matches!(error.downcast_ref(), Some(OpenError::InUse { .. }))
}
