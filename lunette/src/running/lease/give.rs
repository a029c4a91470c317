//! Giving units up that a virtual machine has left.

use super::{Departure, ExportLease, Leaving, Phase, SECTION, Still, Term};
use crate::config::values::Name;
use crate::control::events;
use crate::running::exports::Export;
use crate::running::handover::wall;
use crate::running::units::CHANGE;
use crate::running::{Now, Running};
use crate::state::random;
use anyhow::{Context, Result, anyhow};
use lunette_engine::{LogicalUnit, Saved};
use lunette_transport_vhost_user::DeviceState;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long whoever looks at a unit may keep it in its hands.
const HANDS: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(1);

type Unit = (Name, Arc<LogicalUnit>);

impl Running {
    /// Gives the units of an export up whose virtual machine may go on elsewhere, where `state` awaits it.
    pub(super) fn give_for(&self, lease: &ExportLease, state: DeviceState) -> Result<()> {
        let _leaving = Leaving::begin(lease);
        // What is to come while it runs may take its time.
        let names = |now: &Now| match lease.phase() {
            Phase::Here => now.units_here(lease).collect(),
            _ => now.units_of(lease).0,
        };
        let Some((_turn, names)) = self.turn_of(names, || lease.phase() != Phase::Ended) else {
            // Whoever ends the export has that turn, waits for this, and gives them up after it.
            return Ok(());
        };
        let here: Vec<Unit> = {
            let now = self.now();
            now.may_leave(lease).map_err(|why| anyhow!(why))?;
            names
                .into_iter()
                .filter_map(|name| now.units.get(&name).map(|unit| (name, unit.unit.clone())))
                .collect()
        };
        self.give_up(here, &[lease], Some((&lease.guest, state)))?;
        self.has_left(lease);
        Ok(())
    }

    /// The virtual machine of an export has gone, and all of its units.
    pub(super) fn has_left(&self, lease: &ExportLease) {
        lease.set(Phase::Gone);
        // What was added for it meanwhile has come for nobody.
        if self.now().units_here(lease).next().is_some() {
            self.leave_later();
        }
    }

    /// Gives up what has just come of these and is wanted no more: while a store is opened, machines go, and changes are made.
    pub(super) fn leave_unseen(&self, names: &BTreeSet<Name>) {
        let is_unseen =
            |now: &Now| names.iter().any(|name| now.units.contains_key(name) && now.is_unwanted(name));
        if is_unseen(&self.now()) {
            self.leave_later();
        }
    }

    /// The units of an export could not be given up. If its virtual machine has gone, nobody asks for that again.
    pub(super) fn keep_for(&self, lease: &ExportLease) {
        let has_gone = !self.now().export_with(lease).is_some_and(Export::is_connected);
        if has_gone {
            lease.set(Phase::Gone);
            self.leave_later();
        }
    }

    /// Takes what running virtual machines miss, and gives up what none of them sees any more.
    pub(in crate::running) fn settle_leases(&self) {
        if !self.leases.is_ready() {
            return;
        }
        self.bring_late();
        for (name, error) in self.leave_unwanted() {
            tracing::info!("{name} stays here for now although its virtual machine has gone: {error:#}");
        }
    }

    /// Gives up what no virtual machine sees. Returns what stays, and why; that is tried again.
    fn leave_unwanted(&self) -> Vec<(Name, anyhow::Error)> {
        let left = self
            .now()
            .unwanted()
            .into_iter()
            .filter_map(|name| self.give_up_alone(&name).err().map(|why| (name, why)));
        let left: Vec<_> = left.collect();
        if !left.is_empty() {
            self.leave_later();
        }
        left
    }

    /// Gives up after a while what no virtual machine sees by then: others who use it may have gone.
    fn leave_later(&self) {
        self.later(|leases| &leases.is_patient, Self::begin_to_leave);
    }

    /// Begins to give up what no virtual machine sees. One that takes its time holds up no other.
    pub(super) fn begin_to_leave(&self) {
        let unwanted = self.now().unwanted();
        for name in unwanted {
            self.begin(move |running| {
                if running.give_up_alone(&name).is_err() {
                    running.leave_later();
                }
            });
        }
    }

    /// Gives a unit up that no virtual machine sees. Nobody who sees it was told of anything else, so nothing goes along.
    fn give_up_alone(&self, name: &Name) -> Result<()> {
        let turn = self.leases.turns.at_once(&[name.clone()].into());
        let _turn = turn.context("it is just being taken, changed or given up")?;
        let (unit, leases) = {
            let now = self.now();
            let Some(unit) = now.units.get(name).filter(|_| now.is_unwanted(name)) else { return Ok(()) };
            let user = unit.unit.users().into_iter().find(|nexus| now.is_used(nexus));
            if let Some(nexus) = user {
                return Err(anyhow!("it is in use by {} at {}", nexus.initiator, nexus.port.name));
            }
            let exports = now.exports.values().chain(&now.adopted_exports);
            let idle = exports.filter(|export| !export.is_running());
            let leases: Vec<_> = idle.map(|export| export.lease.clone()).collect();
            (unit.unit.clone(), leases)
        };
        let leases: Vec<&ExportLease> = leases.iter().map(|lease| &**lease).collect();
        self.give_up(vec![(name.clone(), unit)], &leases, None)
    }

    /// Makes durable what was written, and what the next one is to know, and lets go of the units, unnoticed by virtual machines that
    /// stand `still`. If that cannot be, they stay, all of them. `with`: which machine leaves, and the state of its device.
    fn give_up(
        &self,
        units: Vec<Unit>,
        still: &[&ExportLease],
        with: Option<(&str, DeviceState)>,
    ) -> Result<()> {
        let (guest, device) = with.unzip();
        let guest = guest.unwrap_or_default();
        let post = self.reactors.poster();
        let go_on = || units.iter().for_each(|(_, unit)| unit.resume_commands(&*post));
        units.iter().try_for_each(|(_, unit)| self.quiesce(unit, CHANGE)).inspect_err(|_| go_on())?;
        let journey = random()?;
        let left = units.iter().enumerate().try_for_each(|(count, (_, unit))| {
            let left = self.leave_state(unit, Some((journey, guest.to_owned(), device.clone())));
            left.map_err(|error| (count, error))
        });
        if let Err((count, error)) = left {
            let begun = units.get(..=count).unwrap_or(&units);
            if self.forget_departures(begun) {
                go_on();
                return Err(error);
            }
            tracing::warn!(
                "units leave although what they left for the next one cannot be taken back: {error:#}"
            );
        }
        // From here on all of them leave: whoever has one in his hands keeps it locked, and no other.
        let names: Vec<(Name, Weak<LogicalUnit>)> =
            units.into_iter().map(|(name, unit)| (name, Arc::downgrade(&unit))).collect();
        names.iter().for_each(|(name, unit)| self.let_leave(name, unit, still));
        Ok(())
    }

    fn let_leave(&self, name: &Name, unit: &Weak<LogicalUnit>, still: &[&ExportLease]) {
        let (hidden, shown) = {
            let _still: Vec<_> = still.iter().map(|lease| Still::of(lease)).collect();
            self.hide_unit(name)
        };
        if let Err(error) = shown {
            tracing::error!("{name} is given up, but still shown: {error:#}");
        }
        let is_free = hidden.is_none_or(|unit| self.let_go_of(unit));
        match is_free && self.has_gone(name, unit) {
            true => tracing::info!("{name} is given up"),
            false => {
                tracing::warn!("{name} is given up, but stays locked until what still has it has ended");
            }
        }
        events::given(&self.events, name);
    }

    /// Whether a unit is in nobody's hands any more, and not locked: that ends last.
    fn has_gone(&self, name: &Name, unit: &Weak<LogicalUnit>) -> bool {
        let is_locked = || self.leases.naa(name).is_some_and(|naa| self.state.holds(naa));
        let deadline = Instant::now() + HANDS;
        while unit.strong_count() > 0 || is_locked() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(STEP);
        }
        true
    }

    /// Takes back what units have left, which would not be true any more when they go on. Whether nothing is left of it: if somebody
    /// found it later, reservations of now would be in force again then.
    fn forget_departures(&self, units: &[Unit]) -> bool {
        let tried = units.iter().map(|(_, unit)| self.leave_state(unit, None));
        let failed = tried.filter(Result::is_err).count();
        failed == 0 || units.iter().all(|(name, _)| self.has_left_nothing(name).unwrap_or(false))
    }

    fn has_left_nothing(&self, name: &Name) -> Result<bool> {
        let naa = self.leases.naa(name).context("its state file is not known")?;
        let saved = self.state.saved(naa)?.map(|bytes| Saved::parse(&bytes)).transpose()?.unwrap_or_default();
        Ok(saved.get::<Term>(SECTION)?.departure.is_none())
    }

    /// Saves what the next one is to know of a quiet unit; or that he is to know nothing.
    fn leave_state(
        &self,
        unit: &Arc<LogicalUnit>,
        with: Option<(u64, String, Option<DeviceState>)>,
    ) -> Result<()> {
        let (now, wall) = (self.reactors.clock()(), wall());
        self.ask_while(
            unit,
            CHANGE,
            || true,
            |unit, post, tell| {
                let term = move |unit: &LogicalUnit| {
                    // What is there was read, or written, before.
                    let Term { number, .. } = unit.saved().get(SECTION).unwrap_or_default();
                    let departure = with.map(|(journey, guest, device)| {
                        let unit = unit.hand_over(now, wall);
                        Departure { journey, guest, unit, device }
                    });
                    Term { number, departure }
                };
                unit.save_section(SECTION, term, post, tell)
            },
        )
    }
}
