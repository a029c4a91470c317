//! Logical units: made, changed, made anew and taken away.

use super::prepare::Prepared;
use super::{Running, lease};
use crate::access::GroupAccess;
use crate::config;
use crate::config::diff::How;
use crate::config::values::{Bytes, Name, Place, StoreSpec};
use crate::control::events;
use crate::reasons;
use crate::state::Record;
use crate::units::{self, Opened, OtherSize, Unit};
use anyhow::{Context, Result, anyhow, bail, ensure};
use lunette_engine::{ChangeError, ChangeRequest, LogicalUnit};
use lunette_store::{Post, ReactorId};
use lunette_store_file::OpenError;
use lunette_transport_vhost_user::reactor_of;
use std::collections::BTreeSet;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How often somebody who waits for a unit looks whether that is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// How long commands that are under way have to end before a unit is changed.
pub(super) const CHANGE: Duration = Duration::from_secs(60);
/// How long when somebody has asked for that alone, and can give it up.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);
/// How long they have before a unit is taken away, which happens in any case.
const QUIET: Duration = Duration::from_secs(5);
/// How long a unit that is taken away has until nobody has anything of it.
const RELEASE: Duration = Duration::from_secs(10);
/// How long what was let go of may take until the kernel knows.
const LOCK: Duration = Duration::from_secs(5);
const LOCK_STEP: Duration = Duration::from_millis(10);

/// Changes a part of a unit from one configuration to another, or nothing.
type Part = fn(&Running, &Arc<LogicalUnit>, &config::Unit, &config::Unit) -> Result<()>;

/// What changes while a unit is used. The size is last: what a smaller one cuts off does not come back.
const PARTS: [Part; 6] = [
    Running::change_protection,
    Running::change_access,
    Running::change_waiting,
    Running::change_patience,
    Running::change_place,
    Running::change_capacity,
];

/// Hands over the result of a change.
pub(super) type Tell<T> = Box<dyn FnOnce(Result<T, ChangeError>) + Send>;

impl Running {
    /// Serves a new unit, or has it stand by. It is shown where the running configuration says.
    pub(super) fn create_unit(&self, spec: &config::Unit, prepared: &mut Prepared) -> Result<()> {
        if spec.migratable {
            self.expect_unit(spec);
            return Ok(());
        }
        let opened = match prepared.stores.remove(&spec.name) {
            Some(opened) => opened,
            None => open_when_free(spec, OtherSize::Refuse)?,
        };
        self.make_unit(spec, opened, prepared.units.remove(&spec.name))
    }

    fn make_unit(&self, spec: &config::Unit, mut opened: Opened, record: Option<Record>) -> Result<()> {
        let record = record.map_or_else(|| self.record(spec), Ok)?;
        self.check_name(spec, &record)?;
        let keeper = units::keeper(spec, &record, &self.state)?;
        when_free(|| opened.succeed(&record))?;
        let unit = units::build(spec, opened, &record, keeper)?;
        match spec.migratable {
            true => lease::begin_first_term(&unit.unit)?,
            false => lease::forget_departure(&unit.unit)?,
        }
        self.serve_unit(&spec.name, unit);
        Ok(())
    }

    /// No unit that is served may have the world-wide name of another.
    pub(super) fn check_name(&self, spec: &config::Unit, record: &Record) -> Result<()> {
        let naa = units::naa(spec, record);
        let is_taken = self.now().units.values().any(|unit| unit.unit.identity.naa == naa);
        ensure!(!is_taken, "{}", units::taken(naa));
        Ok(())
    }

    /// Serves a unit that was made. It is shown where the running configuration says.
    pub(super) fn serve_unit(&self, name: &Name, unit: Unit) {
        self.bind(&unit);
        self.throttles.add_unit(&unit.unit, &*self.reactors.poster());
        events::watch_unit(name, &unit, &self.events);
        unit.unit.resume(&*self.reactors.poster());
        self.now_mut().units.insert(name.clone(), unit);
    }

    /// By what initiators know the unit.
    pub(super) fn record(&self, spec: &config::Unit) -> Result<Record> {
        let mut records = self.state.identities(&[units::key(spec)?])?;
        records.pop().context("there is no identity")
    }

    /// Lets a unit live on the reactors of its request queues.
    pub(super) fn bind(&self, unit: &Unit) {
        let all = self.all_reactors();
        let homes: BTreeSet<ReactorId> = unit.queues.iter().map(|queue| reactor_of(*queue, &all)).collect();
        if !homes.is_empty() {
            unit.unit.live_on(Vec::from_iter(homes));
        }
    }

    /// Has everything that shows a unit, or should, do what the running configuration says.
    pub(super) fn show_unit(&self, name: &Name, places: [Option<Place>; 2]) -> Result<()> {
        let has_place = places.iter().any(Option::is_some);
        let is_in_target_0 = places.iter().flatten().any(|place| place.target == 0);
        let (targets, exports) = {
            let now = self.now();
            (now.targets_with(name, is_in_target_0), now.exports_with(name, has_place))
        };
        // First, so that a virtual machine that is to see a unit no more is not told what becomes of other ways to it.
        exports.iter().try_for_each(|export| self.show_export(export))?;
        if has_place {
            self.show_adopted()?;
        }
        for (target, in_rule) in targets {
            match in_rule {
                true => self.arrange_target(&target, None)?,
                false => self.show_target(&target),
            }
        }
        Ok(())
    }

    /// Changes a unit while it is used. What was changed when something cannot be is changed back.
    pub(super) fn change_unit(&self, old: &config::Unit, new: &config::Unit) -> Result<()> {
        let unit = self.unit(new.name.as_str());
        let unit = unit.with_context(|| format!("the unit {} is not served", new.name))?;
        for (count, part) in PARTS.iter().enumerate() {
            let Err(error) = part(self, &unit, old, new) else { continue };
            let back = PARTS.iter().take(count).rev().map(|part| part(self, &unit, new, old));
            return Err(with_others(error, back));
        }
        Ok(())
    }

    fn change_protection(
        &self,
        unit: &Arc<LogicalUnit>,
        old: &config::Unit,
        new: &config::Unit,
    ) -> Result<()> {
        match old.read_only == new.read_only {
            true => Ok(()),
            false => self.ask(unit, CHANGE, |unit, post, tell| unit.set_read_only(new.read_only, post, tell)),
        }
    }

    fn change_access(&self, unit: &Arc<LogicalUnit>, old: &config::Unit, new: &config::Unit) -> Result<()> {
        if old.access == new.access {
            return Ok(());
        }
        let groups = new.access.iter().flat_map(|access| &access.0);
        let groups: Vec<_> =
            groups.map(|&GroupAccess { group, state, preferred }| (group, state, preferred)).collect();
        Ok(unit.reconfigure_access(&groups)?)
    }

    fn change_waiting(&self, unit: &Arc<LogicalUnit>, old: &config::Unit, new: &config::Unit) -> Result<()> {
        if old.waiting != new.waiting {
            unit.limit_waiting(new.waiting.map_or(LogicalUnit::WAITING, usize::from));
        }
        Ok(())
    }

    fn change_patience(&self, unit: &Arc<LogicalUnit>, old: &config::Unit, new: &config::Unit) -> Result<()> {
        if old.stuck_after != new.stuck_after {
            unit.set_stuck_after(units::patience(new));
            unit.look_after_store(&*self.reactors.poster());
        }
        Ok(())
    }

    fn change_place(&self, _: &Arc<LogicalUnit>, old: &config::Unit, new: &config::Unit) -> Result<()> {
        let (before, after) = (units::place(old), units::place(new));
        let put = |place| {
            if let Some(unit) = self.now_mut().units.get_mut(&new.name) {
                unit.place = place;
            }
            self.show_unit(&new.name, [before, after])
        };
        match before == after {
            true => Ok(()),
            false => put(after).map_err(|error| with_others(error, [put(before)])),
        }
    }

    fn change_capacity(&self, unit: &Arc<LogicalUnit>, _: &config::Unit, new: &config::Unit) -> Result<()> {
        wanted_size(new).map_or(Ok(()), |size| self.resize(unit, size))
    }

    /// Gives a unit another size, if it has not this one.
    pub(super) fn resize(&self, unit: &Arc<LogicalUnit>, size: u64) -> Result<()> {
        match size_of(unit) == Some(size) {
            true => Ok(()),
            false => self.ask(unit, CHANGE, |unit, post, tell| unit.resize(size, post, tell)).map(drop),
        }
    }

    /// Takes a unit out of service and serves another in its place. When that cannot be opened, the former is served anew.
    pub(super) fn recreate_unit(&self, old: &config::Unit, new: &config::Unit) -> Result<()> {
        let name = &new.name;
        // If it cannot be left, nothing has happened. One that is not there could not be opened again before.
        if let Some(unit) = self.unit(name.as_str()) {
            self.quiesce(&unit, CHANGE)?;
        }
        let open = || match old.store == new.store {
            true => open_again(new),
            false => open_when_free(new, OtherSize::Refuse),
        };
        let released = self.release_unit(name).and_then(|is_free| {
            ensure!(is_free, "{name}: its store has not let go of a command");
            Ok(())
        });
        let made = released.and_then(|()| open()).and_then(|opened| self.make_unit(new, opened, None));
        let made = made.map_err(|error| {
            let again = open_again(old).and_then(|opened| self.make_unit(old, opened, None));
            with_others(error, [again.context("it cannot be served again")])
        });
        let shown = self.show_unit(name, [units::place(old), units::place(new)]);
        match (made, shown) {
            // It is another one than the configuration goes back to.
            (Ok(()), Err(error)) => Err(with_others(error, [self.release_unit(name).map(drop)])),
            (Err(error), shown) => Err(with_others(error, [shown])),
            (Ok(()), Ok(())) => Ok(()),
        }
    }

    /// Takes a unit out of service. What is under way has a moment to end; one that comes again stays if that has not ended.
    pub(super) fn delete_unit(&self, name: &Name, how: How) -> Result<()> {
        match self.unit(name.as_str()) {
            Some(unit) if how == How::Recreate => self.quiesce(&unit, CHANGE)?,
            Some(unit) => {
                if let Err(error) = self.quiesce(&unit, QUIET) {
                    tracing::warn!("{name} is taken away all the same: {error:#}");
                }
            }
            None => {}
        }
        if !self.release_unit(name)? {
            tracing::warn!(
                "{name} is gone, but its store has not let go of a command yet, so it stays locked"
            );
        }
        Ok(())
    }

    /// Has nobody see the unit any more, and ends it. Returns whether its store is free by now.
    pub(super) fn release_unit(&self, name: &Name) -> Result<bool> {
        let (unit, shown) = self.hide_unit(name);
        let is_free = unit.is_none_or(|unit| self.let_go_of(unit));
        shown.map(|()| is_free)
    }

    /// Has nobody see the unit any more, if it is there.
    pub(super) fn hide_unit(&self, name: &Name) -> (Option<Unit>, Result<()>) {
        let unit = self.now_mut().units.remove(name);
        let shown = unit.as_ref().map_or(Ok(()), |unit| self.show_unit(name, [unit.place, None]));
        (unit, shown)
    }

    /// Ends a unit that nobody sees any more. Returns whether its store is free by now.
    pub(super) fn let_go_of(&self, unit: Unit) -> bool {
        let (tell, told) = mpsc::channel();
        unit.unit.retire(&*self.reactors.poster(), move || _ = tell.send(()));
        let deadline = Instant::now() + RELEASE;
        let has_ended = told.recv_timeout(RELEASE).is_ok();
        if has_ended {
            self.forget_failure(&unit);
        }
        let store = unit.unit.backing().map(Arc::downgrade);
        drop(unit);
        // Handles of the store are let go of by the next turns.
        self.reactors.call_all_within(RELEASE, || |_: &mut dyn lunette_store::Cx| ());
        while has_ended && store.as_ref().is_some_and(|store| store.strong_count() > 0) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        has_ended
    }

    /// The unit ends in order: who opens its store again begins anew.
    fn forget_failure(&self, unit: &Unit) {
        if unit.unit.backing().is_some_and(|backing| backing.has_failed()) {
            self.state.forget_failure(unit.record.naa);
        }
    }

    /// The same of all units, when the process ends.
    pub(crate) fn forget_failures(&self) {
        self.units().values().for_each(|unit| self.forget_failure(unit));
    }

    /// The same when the next process knows it. Units that others could serve may be with somebody else before.
    pub(crate) fn forget_failures_known(&self) {
        let model = self.model();
        let is_ours = |name: &Name| model.units.get(name).is_none_or(|spec| !spec.migratable);
        let units = self.units();
        units.iter().filter(|(name, _)| is_ours(name)).for_each(|(_, unit)| self.forget_failure(unit));
    }

    /// Has a unit be quiet; it goes on if it does not become so within `time`.
    pub(crate) fn quiesce(&self, unit: &Arc<LogicalUnit>, time: Duration) -> Result<()> {
        self.quiesce_while(unit, time, || true)
    }

    /// The same; it goes on as well when `is_wanted` has become false.
    pub(crate) fn quiesce_while(
        &self,
        unit: &Arc<LogicalUnit>,
        time: Duration,
        is_wanted: impl Fn() -> bool,
    ) -> Result<()> {
        self.ask_while(unit, time, is_wanted, |unit, post, tell| unit.quiesce(post, tell))
    }

    fn ask<T: Send + 'static>(
        &self,
        unit: &Arc<LogicalUnit>,
        time: Duration,
        begin: impl FnOnce(&Arc<LogicalUnit>, &dyn Post, Tell<T>) -> ChangeRequest,
    ) -> Result<T> {
        self.ask_while(unit, time, || true, begin)
    }

    /// Asks a unit for a change, and waits for it, but withdraws it when `time` has passed or `is_wanted` has become false, and
    /// is wrong only if it takes effect just then.
    pub(super) fn ask_while<T: Send + 'static>(
        &self,
        unit: &Arc<LogicalUnit>,
        time: Duration,
        is_wanted: impl Fn() -> bool,
        begin: impl FnOnce(&Arc<LogicalUnit>, &dyn Post, Tell<T>) -> ChangeRequest,
    ) -> Result<T> {
        let (tell, told) = mpsc::channel();
        let (post, tell) = (self.reactors.poster(), move |result| drop(tell.send(result)));
        let request = begin(unit, &*post, Box::new(tell));
        let deadline = Instant::now() + time;
        let ended = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match told.recv_timeout(left.min(LOOK)) {
                Ok(result) => break Ok(result),
                Err(_) if !is_wanted() => break Err("it is no longer wanted".to_owned()),
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(_) => break Err(format!("commands that are under way have not ended within {time:?}")),
            }
        };
        let result = match ended {
            Ok(result) => result,
            Err(why) if request.withdraw(&*post) => bail!("{}: {why}", unit.name),
            // It takes effect at this moment: what comes of it is soon known, unless the store is stuck.
            Err(_) => told.recv_timeout(CHANGE).with_context(|| {
                format!("{}: its store has begun the change, and not ended it within {CHANGE:?}", unit.name)
            })?,
        };
        result.map_err(|error| anyhow!("{}: {error}", unit.name))
    }
}

/// The size that the configuration wants, if it says one.
pub(super) fn wanted_size(spec: &config::Unit) -> Option<u64> {
    match spec.store {
        StoreSpec::Ram(size) => Some(size),
        StoreSpec::Path(_) => spec.size.map(|Bytes(size)| size),
    }
}

/// The size that a unit has, in bytes.
pub(super) fn size_of(unit: &LogicalUnit) -> Option<u64> {
    unit.backing().map(|backing| backing.caps().size.get())
}

/// An error, and those that followed when what was done before it was to be undone.
pub(super) fn with_others(
    first: anyhow::Error,
    others: impl IntoIterator<Item = Result<()>>,
) -> anyhow::Error {
    let others: Vec<String> = others.into_iter().filter_map(|other| Some(reasons(&other.err()?))).collect();
    match others.is_empty() {
        true => first,
        false => {
            NotAsItWas(format!("{}, and it is not as it was: {}", reasons(&first), others.join("; "))).into()
        }
    }
}

/// What could not be done, and has left something else than there was before.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct NotAsItWas(String);

/// Opens the store of a unit that was served before. A file that has gone meanwhile is not made anew: it would be empty.
pub(super) fn open_again(spec: &config::Unit) -> Result<Opened> {
    match spec.store {
        StoreSpec::Ram(_) => open_when_free(spec, OtherSize::Take),
        StoreSpec::Path(_) => open_when_free(&config::Unit { size: None, ..spec.clone() }, OtherSize::Take),
    }
}

/// Opens a store that this process may just have let go of.
fn open_when_free(spec: &config::Unit, other: OtherSize) -> Result<Opened> {
    when_free(|| Opened::open(spec, other))
}

/// Does something with a store that this process may just have let go of.
fn when_free<T>(mut act: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + LOCK;
    loop {
        let done = act();
        let is_ours = done.as_ref().is_err_and(|error| {
            matches!(error.downcast_ref(), Some(OpenError::InUse { pid: Some(pid), .. }) if *pid == std::process::id())
        });
        if !is_ours || Instant::now() > deadline {
            return done;
        }
        std::thread::sleep(LOCK_STEP);
    }
}
