//! From one running configuration to another: all of it, or nothing.

use super::Running;
use super::prepare::Prepared;
use super::units::{CHANGE, NotAsItWas, size_of, wanted_size};
use crate::config::check::{Issue, check};
use crate::config::diff::{Action, Effect, How, Object, Plan, Step, diff};
use crate::config::values::{Name, TargetName};
use crate::config::{Daemon, Document, Model, Severity, Unit};
use crate::iscsi;
use crate::reasons;
use crate::size;
use anyhow::Context;
use lunette_control::{Failure, Work};
use lunette_engine::LogicalUnit;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

/// What a change may do besides changing what can be changed while it is used.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Permit {
    /// Objects may go and come again.
    pub(crate) recreate: bool,
    /// What needs a restart is left out; otherwise it is refused.
    pub(crate) except_restart: bool,
    /// Units may become smaller.
    pub(crate) shrink: bool,
    /// It is a whole configuration, which also says what the daemon itself is to be after its next start.
    pub(crate) is_whole: bool,
    /// Secrets are read again.
    pub(crate) secrets: bool,
}

/// What was done.
#[derive(Default, Debug)]
pub(crate) struct Done {
    /// The steps.
    pub(crate) plan: Plan,
    /// What waits for a restart.
    pub(crate) waiting: Vec<Step>,
}

impl Running {
    /// Changes what is served as `edit` changes the configuration. Nothing has changed when that is not possible. `work` is
    /// told of each step, and may end it in between.
    pub(crate) fn change<T>(
        &self,
        permit: Permit,
        work: &Work,
        edit: impl FnOnce(&mut Model) -> Result<T, Failure>,
    ) -> Result<(T, Done), Failure> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = self.model();
        let mut wanted = before.clone();
        let answer = edit(&mut wanted)?;
        let turn = self.turn_to_change(&mut before, &mut wanted, work, CHANGE)?;
        let next = (wanted.daemon != before.daemon).then(|| wanted.daemon.clone());
        let done = self.plan(&before, wanted, permit)?;
        let next = match permit.is_whole {
            true => next.filter(|_| !done.waiting.is_empty()),
            false => self.next(),
        };
        let former = self.set_next(next.clone());
        if done.plan.is_empty() && former == next {
            work.changes_nothing();
        } else {
            let carried_out = self.carry_out_all(&done.plan, &before, work);
            drop(turn);
            self.settle_leases();
            if carried_out.is_err() {
                self.set_next(former);
            }
            self.is_saved();
            carried_out?;
        }
        Ok((answer, done))
    }

    /// What would be done to get to `wanted` from `before`, the running configuration; that is refused which cannot be.
    pub(crate) fn plan(&self, before: &Model, mut wanted: Model, permit: Permit) -> Result<Done, Failure> {
        self.hold_together(&wanted)?;
        if permit.is_whole {
            number_alike(before, &mut wanted);
        }
        let waiting =
            if before.daemon == wanted.daemon { Vec::new() } else { restarts(&diff(before, &wanted)) };
        if permit.except_restart {
            wanted.daemon = Daemon { save_changes: wanted.daemon.save_changes, ..before.daemon.clone() };
        } else if !waiting.is_empty() {
            return Err(listed("needs a restart of the daemon", &waiting).allowed_by("except_restart"));
        }
        // What could not be made again before is, if a whole configuration wants it.
        let mut plan = match permit.is_whole {
            true => diff(&self.served(before.clone()), &wanted),
            false => diff(before, &wanted),
        };
        plan.steps.iter_mut().for_each(|step| self.look_at_store(step));
        if permit.secrets {
            self.add_other_secrets(&mut plan, &wanted).map_err(failure)?;
        }
        let recreated: Vec<_> =
            plan.steps.iter().filter(|step| step.how == How::Recreate && !permit.recreate).collect();
        if !recreated.is_empty() {
            let why = "cannot be changed while it is used: it would go and come again";
            return Err(listed(why, recreated).allowed_by("recreate"));
        }
        if !permit.shrink {
            plan.steps.iter().filter_map(|step| self.shrinks(step)).try_for_each(|cut| cut.refused())?;
        }
        // What is cut off does not come back, so it is what is done last.
        plan.steps.sort_by_key(|step| self.shrinks(step).is_some());
        Ok(Done { plan, waiting })
    }

    fn hold_together(&self, wanted: &Model) -> Result<(), Failure> {
        let issues = check(&Document::from(wanted), self.setting);
        let errors: Vec<&Issue> = issues.iter().filter(|issue| issue.severity == Severity::Error).collect();
        let Some(first) = errors.first() else { return Ok(()) };
        let help = first.help.as_ref().map_or_else(String::new, |help| format!(" ({help})"));
        let others =
            if errors.len() > 1 { format!("; and {} more", errors.len() - 1) } else { String::new() };
        let mistakes: Vec<&str> = errors.iter().map(|issue| issue.what.as_str()).collect();
        Err(Failure::failed(format!("{}{help}{others}", first.what))
            .with_data(json!({ "mistakes": mistakes })))
    }

    /// A store that was opened to be read only is opened anew to be written.
    fn look_at_store(&self, step: &mut Step) {
        let Effect::Unit(new) = &step.effect else { return };
        if step.action != Action::Change || new.read_only {
            return;
        }
        let unit = self.unit(new.name.as_str());
        if !unit.is_some_and(|unit| unit.backing().is_some_and(|backing| backing.caps().read_only)) {
            return;
        }
        for change in step.changes.iter_mut().filter(|change| change.key == "read-only") {
            change.how = How::Recreate;
            step.how = step.how.max(How::Recreate);
        }
    }

    /// What a unit loses by a step.
    fn shrinks(&self, step: &Step) -> Option<Cut> {
        let Effect::Unit(new) = &step.effect else { return None };
        let Unit { name, .. } = &**new;
        let is_changed = |key: &str| step.changes.iter().any(|change| change.key == key);
        if !is_changed("size") && !is_changed("store") {
            return None;
        }
        let now = self.now();
        let same_store = now.model.units.get(name).is_some_and(|old| {
            std::mem::discriminant(&old.store) == std::mem::discriminant(&new.store)
                && (old.store == new.store || new.size.is_none())
        });
        let (unit, wanted) = now.units.get(name).zip(wanted_size(new)).filter(|_| same_store)?;
        Cut::of(name, &unit.unit, wanted)
    }

    fn carry_out_all(&self, plan: &Plan, before: &Model, work: &Work) -> Result<(), Failure> {
        let mut prepared = self.prepare(plan, &self.served(before.clone())).map_err(failure)?;
        let saving = self.draft_change(plan, before)?;
        let cuts: Vec<Cut> = plan.steps.iter().filter_map(|step| self.shrinks(step)).collect();
        let former = self.terms_in(plan);
        let done = self.carry_out_each(plan, &mut prepared, work);
        let done =
            done.and_then(|()| saving.map_or(Ok(()), |saving| saving.put().map(drop).map_err(failure)));
        drop(prepared);
        done.map_err(|failure| {
            let mut left: Vec<String> = cuts.iter().filter_map(|cut| self.lost(cut)).collect();
            left.extend(self.undo(plan, before, &former));
            if left.is_empty() {
                return failure;
            }
            let message = format!("{failure}. Not everything could be changed back: {}", left.join("; "));
            tracing::error!("{message}");
            Failure { code: Failure::PARTLY, message, ..failure }
        })
    }

    /// What a unit has lost that has become smaller.
    fn lost(&self, Cut { name, wanted, .. }: &Cut) -> Option<String> {
        let size = self.unit(name.as_str()).and_then(|unit| size_of(&unit));
        let is_done = size == Some(*wanted);
        is_done.then(|| format!("unit {name} has lost what was beyond {}", size::exact(*wanted)))
    }

    fn carry_out_each(&self, plan: &Plan, prepared: &mut Prepared, work: &Work) -> Result<(), Failure> {
        let count = plan.steps.len();
        for (number, step) in plan.steps.iter().enumerate() {
            work.progress(number as f64 / count as f64, &step.object.to_string());
            work.go_on()?;
            self.carry_out(step, prepared).map_err(failure)?;
        }
        Ok(())
    }

    /// Goes back to what there was before `done`, each step by itself. Returns what could not be done.
    fn undo(&self, done: &Plan, before: &Model, former: &BTreeMap<TargetName, iscsi::Target>) -> Vec<String> {
        let (now, mut before) = (self.model(), before.clone());
        // Meanwhile others may have come here, and have another size than was known.
        let is_changed = |name: &Name| {
            done.steps.iter().any(|step| matches!(&step.object, Object::Unit { name: of } if of == name))
        };
        for (name, spec) in before.units.iter_mut().filter(|(name, _)| !is_changed(name)) {
            now.units.get(name).into_iter().for_each(|now| spec.clone_from(now));
        }
        let mut plan = diff(&self.served(now), &before);
        plan.steps.iter_mut().for_each(|step| self.look_at_store(step));
        let mut left = Vec::new();
        for step in &plan.steps {
            let prepared = self.prepare_again(step, former).with_context(|| step.object.to_string());
            if let Err(error) = prepared.and_then(|mut prepared| self.carry_out(step, &mut prepared)) {
                left.push(reasons(&error));
                if step.action == Action::Create {
                    // It is still configured, and comes when the whole configuration is applied again.
                    step.effect.apply(&mut self.now_mut().model);
                }
            }
        }
        left
    }
}

/// A unit that becomes smaller, and loses what is beyond.
pub(crate) struct Cut {
    name: Name,
    size: u64,
    wanted: u64,
}

impl Cut {
    /// What a unit loses that gets the size `wanted`.
    pub(crate) fn of(name: &Name, unit: &LogicalUnit, wanted: u64) -> Option<Self> {
        let size = size_of(unit).filter(|size| wanted < *size)?;
        Some(Self { name: name.clone(), size, wanted })
    }

    /// Nobody has said that this is meant.
    pub(crate) fn refused(&self) -> Result<(), Failure> {
        let Self { name, size, wanted } = self;
        let (shown, told) = (size::exact(*size), size::exact(*wanted));
        let what = format!(
            "the unit `{name}` would become smaller, {told} instead of {shown}, and lose what is beyond"
        );
        let data = json!({ "shrink": { "name": name, "size": size, "wanted": wanted } });
        Err(Failure::failed(what).with_data(data).allowed_by("shrink"))
    }
}

/// Portals with port 0 that go on have the numbers in `wanted` that they have in `before`.
fn number_alike(before: &Model, wanted: &mut Model) {
    let addresses: BTreeSet<_> = wanted.portals.keys().map(|(address, _)| *address).collect();
    for address in addresses.into_iter().filter(|address| address.port() == 0) {
        let range = (address, 0)..=(address, usize::MAX);
        let mut left: Vec<_> =
            wanted.portals.extract_if(range.clone(), |_, _| true).map(|(_, it)| it).collect();
        for (key, portal) in before.portals.range(range) {
            if let Some(at) = left.iter().position(|other| other == portal) {
                wanted.portals.insert(*key, left.remove(at));
            }
        }
        for portal in left {
            let is_free = |number: &usize| !wanted.portals.contains_key(&(address, *number));
            let number = (0..).find(is_free).unwrap_or_default();
            wanted.portals.insert((address, number), portal);
        }
    }
}

/// An error as the answer to a request.
pub(crate) fn failure(error: anyhow::Error) -> Failure {
    let is_as_before = !error.is::<NotAsItWas>();
    Failure::new(if is_as_before { Failure::FAILED } else { Failure::PARTLY }, reasons(&error))
}

fn restarts(plan: &Plan) -> Vec<Step> {
    plan.steps.iter().filter(|step| step.how == How::Restart).cloned().collect()
}

/// Refuses steps, with the keys that are the reason.
fn listed<'a>(why: &str, steps: impl IntoIterator<Item = &'a Step>) -> Failure {
    let mut told = Vec::new();
    let mut data = Vec::new();
    for step in steps {
        let keys = step.changes.iter().filter(|change| change.how == step.how);
        let keys: Vec<&str> = keys.map(|change| change.key.as_str()).collect();
        told.push(match keys.is_empty() {
            true => step.object.to_string(),
            false => format!("{} ({})", step.object, keys.join(", ")),
        });
        data.push(json!(step));
    }
    Failure::failed(format!("{} {why}", told.join(", "))).with_data(json!({ "steps": data }))
}
