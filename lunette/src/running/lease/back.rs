//! Taking units back that another process could not give up at a planned restart.

use super::take::{TakenUnit, begin_terms};
use crate::config;
use crate::handover::Handed;
use crate::running::Running;
use crate::running::handover::wall;
use anyhow::Result;
use lunette_engine::UnitState;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long virtual machines may take to go on after a start.
const RESUMED: Duration = Duration::from_secs(60);
/// How long what another process had may take to be let go of.
const LOCK: Duration = Duration::from_secs(5);
const LOCK_STEP: Duration = Duration::from_millis(10);

impl Running {
    /// Takes what another process has handed over because it could not give it up: others use it, too. What initiators rely on goes along,
    /// so it is there before they are.
    pub(in crate::running) fn take_back(&self, handed: &mut Handed) {
        let specs: Vec<_> = self.now().model.units.values().filter(|spec| spec.migratable).cloned().collect();
        let mut has_some = false;
        for spec in specs {
            let naa = self.leases.naa(&spec.name).map(|naa| naa.to_string());
            let Some(state) = naa.and_then(|naa| handed.unit(&naa)) else { continue };
            match self.take_back_unit(&spec, state) {
                Ok(()) => has_some = true,
                Err(error) => tracing::warn!("{} is not gone on with: {error:#}", spec.name),
            }
        }
        if has_some {
            // By then virtual machines that go on have asked for it.
            self.begin_after(RESUMED, Self::begin_to_leave);
        }
    }

    fn take_back_unit(&self, spec: &Arc<config::Unit>, state: UnitState) -> Result<()> {
        let deadline = Instant::now() + LOCK;
        let taken = loop {
            // What the other process had asked of the store may still be on its way.
            match self.take_unit(spec, false) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(LOCK_STEP),
                taken => break taken?,
            }
        };
        begin_terms(std::slice::from_ref(&taken))?;
        let TakenUnit { unit, term, .. } = taken;
        if let Err(error) = unit.unit.take_over(state, self.reactors.clock()(), wall()) {
            tracing::warn!("{} does not go on in all as it was in another process: {error}", spec.name);
        }
        tracing::info!("{} is still served here, term {}", spec.name, term.number + 1);
        self.serve_unit(&spec.name, unit);
        Ok(())
    }
}
