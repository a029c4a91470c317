//! Taking units for a virtual machine that is about to run here.

use super::{Departure, ExportLease, Phase, SECTION, Still, Term};
use crate::config;
use crate::config::values::Name;
use crate::control::events;
use crate::running::handover::wall;
use crate::running::{Now, Running};
use crate::state::{Record, UnitState};
use crate::units::{self, Opened, OtherSize, Unit};
use anyhow::{Context, Result, anyhow, ensure};
use lunette_engine::{LogicalUnit, Saved, StateKeeper};
use lunette_transport_vhost_user::DeviceState;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// When units come for a virtual machine.
#[derive(Clone, Copy)]
pub(super) enum Moment {
    /// Before its rings start. `goes_on`: they have run before.
    Start { goes_on: bool },
    /// While it runs, so that it notices.
    Late,
}

/// A unit that is ours, but that nobody sees yet.
pub(super) struct TakenUnit {
    pub(super) spec: Arc<config::Unit>,
    pub(super) unit: Unit,
    pub(super) term: Term,
}

/// Somebody else has a unit, or just had it.
#[derive(Debug, Error)]
#[error("it is {0} now")]
pub(super) struct Elsewhere(String);

impl Running {
    /// Takes the units of an export that are not here: all of them, or none. Returns the state of the virtual machine's device, if it
    /// has left it with them.
    ///
    /// One that goes on brings none if it was there where another state directory is: what it relies on would be lost.
    pub(super) fn take_for(&self, lease: &ExportLease, goes_on: bool) -> Result<Option<DeviceState>> {
        let gone = "the virtual machine has gone";
        let all = |now: &Now| now.units_of(lease).0;
        let (turn, names) = self.turn_of(all, || lease.is_wanted()).context(gone)?;
        let state = self.take_missing(lease, &names, Moment::Start { goes_on })?;
        lease.arrive();
        drop(turn);
        if self.now().missing(lease).next().is_some() {
            self.begin_late(lease, ());
        }
        self.leave_unseen(&names);
        Ok(state)
    }

    /// To be said by who has the turn of the units `names`: before a start all that the export shows of those that others could serve.
    pub(super) fn take_missing(
        &self,
        lease: &ExportLease,
        names: &BTreeSet<Name>,
        moment: Moment,
    ) -> Result<Option<DeviceState>> {
        let missing: Vec<_> = {
            let now = self.now();
            let names = names.iter().filter(|name| !now.units.contains_key(*name));
            names.filter_map(|name| now.model.units.get(name).cloned()).collect()
        };
        let goes_on = matches!(moment, Moment::Start { goes_on: true });
        let taken =
            missing.iter().map(|spec| self.take_unit(spec, goes_on).with_context(|| spec.name.to_string()));
        let mut taken = taken.collect::<Result<Vec<_>>>()?;
        // To open them may have taken long.
        let is_wanted = match moment {
            Moment::Start { .. } => lease.is_wanted(),
            // What comes while others leave would come for nobody.
            Moment::Late => lease.phase() == Phase::Here && !lease.is_leaving(),
        };
        ensure!(is_wanted, "the virtual machine has gone");
        begin_terms(&taken)?;
        let state = state_for(lease, &taken);
        let (now, wall) = (self.reactors.clock()(), wall());
        for TakenUnit { spec, unit, term } in &mut taken {
            let Some(Departure { unit: state, .. }) = term.departure.take() else { continue };
            if let Err(error) = unit.unit.take_over(state, now, wall) {
                tracing::warn!("{} does not go on in all as it was elsewhere: {error}", spec.name);
            }
        }
        for TakenUnit { spec, unit, term } in taken {
            self.serve_unit(&spec.name, unit);
            let _still = matches!(moment, Moment::Start { .. }).then(|| Still::of(lease));
            if let Err(error) = self.show_unit(&spec.name, [units::place(&spec), None]) {
                tracing::error!("{} is not shown everywhere: {error:#}", spec.name);
            }
            tracing::info!("{} is served here from now on, term {}", spec.name, term.number + 1);
            events::taken(&self.events, &spec.name);
        }
        Ok(state)
    }

    pub(super) fn take_unit(&self, spec: &Arc<config::Unit>, goes_on: bool) -> Result<TakenUnit> {
        let record = self.record_of(spec)?;
        self.check_name(spec, &record)?;
        let keeper = self.state.try_unit(record.naa)?;
        let keeper = keeper.ok_or_else(|| Elsewhere(self.why_standby(&spec.name)))?;
        let term = term_of(&keeper)?;
        ensure!(
            term.number > 0 || !goes_on,
            "its virtual machine goes on, but was never served with this state directory: the daemons that serve it need the same one"
        );
        let opened = open(spec, &term)?;
        keeper.tell_holder();
        let unit = units::build(spec, opened, &record, Some(keeper))?;
        ensure!(unit.unit.keeps_state(), "what is kept of it cannot be used");
        Ok(TakenUnit { spec: spec.clone(), unit, term })
    }

    /// By what initiators know a unit that others could serve too.
    pub(super) fn record_of(&self, spec: &config::Unit) -> Result<Record> {
        let record = units::record_of_standby(spec, &self.state)?;
        self.leases.know(&spec.name, record.naa);
        Ok(record)
    }
}

/// A unit is served that others could serve from now on.
pub(in crate::running) fn begin_first_term(unit: &LogicalUnit) -> Result<()> {
    let Term { number, .. } = unit.saved().get(SECTION)?;
    Ok(unit.save_at_once(SECTION, &Term { number: number.max(1), departure: None })?)
}

/// A unit is served that others cannot serve: what was left of it for the next one is of no use to anybody, later least of all.
pub(in crate::running) fn forget_departure(unit: &LogicalUnit) -> Result<()> {
    let Term { number, departure } = unit.saved().get(SECTION).unwrap_or_default();
    if departure.is_some() {
        unit.save_at_once(SECTION, &Term { number, departure: None })?;
    }
    Ok(())
}

/// What is kept of a unit's terms.
fn term_of(keeper: &UnitState) -> Result<Term> {
    let saved = keeper.load()?.map(|bytes| Saved::parse(&bytes)).transpose()?.unwrap_or_default();
    Ok(saved.get(SECTION)?)
}

/// Opens a unit's store, whatever size it has by now. A file that has been there is not made anew: it would be empty.
fn open(spec: &config::Unit, term: &Term) -> Result<Opened> {
    let size = spec.size.filter(|_| term.number == 0);
    let spec = config::Unit { size, ..spec.clone() };
    Opened::open_within(&spec, OtherSize::Take, Duration::ZERO)
}

/// From now on nobody else goes on with what was left with the units. If that cannot be said of one of them, it is said of none, as
/// far as that can be.
pub(super) fn begin_terms(taken: &[TakenUnit]) -> Result<()> {
    for (count, TakenUnit { spec, unit, term }) in taken.iter().enumerate() {
        let begun = Term { number: term.number + 1, departure: None };
        let Err(error) = unit.unit.save_at_once(SECTION, &begun) else { continue };
        for TakenUnit { unit, term, .. } in taken.iter().take(count + 1) {
            let _ = unit.unit.save_at_once(SECTION, term);
        }
        return Err(anyhow!(error).context(spec.name.to_string()));
    }
    Ok(())
}

/// The state of the device that the virtual machine has left, if all of its units have come from the same journey.
fn state_for(lease: &ExportLease, taken: &[TakenUnit]) -> Option<DeviceState> {
    let departures: Vec<_> = taken.iter().map(|taken| taken.term.departure.as_ref()).collect();
    let first = departures.iter().find_map(|departure| *departure)?;
    let fits = |departure: &Option<&Departure>| departure.is_some_and(|it| it.journey == first.journey);
    let why = if first.guest != lease.guest {
        "they were left by another virtual machine"
    } else if !departures.iter().all(fits) {
        "they were not left together"
    } else {
        return first.device.clone();
    };
    let names: Vec<&Name> = taken.iter().map(|taken| &taken.spec.name).collect();
    tracing::warn!(?names, "units are as after a power cycle for their virtual machine: {why}");
    None
}
