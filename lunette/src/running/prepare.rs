//! What can fail is done before anything is changed: stores are opened, secrets read, identities taken, users and groups
//! looked up.

use super::exports::Entry;
use super::units::open_again;
use super::{Running, exports};
use crate::config::diff::{Action, Effect, Plan, Step};
use crate::config::values::{Label, Name, StoreSpec, TargetName};
use crate::config::{self, Model};
use crate::iscsi;
use crate::state::{Key, Record};
use crate::units::{self, Opened, OtherSize};
use anyhow::{Context, Result};
use lunette_transport_iscsi::EntityOptions;
use std::collections::BTreeMap;

/// What the steps of a plan need. What none of them has used is given back.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) stores: BTreeMap<Name, Opened>,
    pub(super) units: BTreeMap<Name, Record>,
    pub(super) targets: BTreeMap<TargetName, iscsi::Target>,
    pub(super) exports: BTreeMap<Label, Entry>,
    pub(super) iscsi: Option<(EntityOptions, iscsi::Secrets)>,
}

impl Running {
    /// Prepares the steps from `now` on.
    pub(super) fn prepare(&self, plan: &Plan, now: &Model) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        let mut wanted = Vec::new();
        for step in &plan.steps {
            match &step.effect {
                Effect::Unit(unit)
                    if step.action == Action::Create && !unit.migratable && !is_used(unit, now) =>
                {
                    let opened = Opened::open(unit, OtherSize::Refuse)?;
                    prepared.stores.insert(unit.name.clone(), opened);
                    wanted.push((&unit.name, units::key(unit)?));
                }
                effect => self.prepare_other(effect, now, &mut prepared)?,
            }
        }
        let keys: Vec<Key> = wanted.iter().map(|(_, key)| key.clone()).collect();
        if !keys.is_empty() {
            let records = self.state.identities(&keys)?;
            prepared.units = wanted.into_iter().map(|(name, _)| name.clone()).zip(records).collect();
        }
        Ok(prepared)
    }

    /// Prepares a step that leads back to what there was before others. `former`: what targets were then.
    pub(super) fn prepare_again(
        &self,
        step: &Step,
        former: &BTreeMap<TargetName, iscsi::Target>,
    ) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        let is_new = step.action == Action::Create;
        let known = match &step.effect {
            Effect::Target(target) if is_new => former.get(&target.name),
            Effect::Rules(name, _) => former.get(name),
            _ => None,
        };
        match (&step.effect, known) {
            (Effect::Unit(unit), _) if is_new && !unit.migratable => {
                prepared.stores.insert(unit.name.clone(), open_again(unit)?);
            }
            (_, Some(_)) => prepared.targets.clone_from(former),
            (effect, None) => self.prepare_other(effect, &self.model(), &mut prepared)?,
        }
        Ok(prepared)
    }

    /// Prepares what is no new unit.
    fn prepare_other(&self, effect: &Effect, now: &Model, prepared: &mut Prepared) -> Result<()> {
        match effect {
            Effect::Target(target) => self.prepare_target(target, prepared),
            Effect::Rules(name, rules) => {
                let target = now.targets.get(name).with_context(|| format!("there is no target {name}"))?;
                self.prepare_target(&config::Target { access: rules.clone(), ..target.clone() }, prepared)
            }
            Effect::Export(export) => self.prepare_export(export, prepared),
            Effect::Iscsi(iscsi) => {
                prepared.iscsi = Some(self.read_options(iscsi)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn prepare_target(&self, target: &config::Target, prepared: &mut Prepared) -> Result<()> {
        prepared.targets.insert(target.name.clone(), self.read_target(target)?);
        Ok(())
    }

    fn prepare_export(&self, export: &config::VhostUser, prepared: &mut Prepared) -> Result<()> {
        let mut records = self.state.identities(&[exports::key(export)?])?;
        let record = records.pop().context("there is no identity")?;
        prepared.exports.insert(export.name.clone(), Entry::of(export, record)?);
        Ok(())
    }
}

/// Whether a unit that gives way first has the same store.
fn is_used(unit: &config::Unit, now: &Model) -> bool {
    let is_file = matches!(unit.store, StoreSpec::Path(_));
    is_file
        && now.units.values().any(|other| other.store == unit.store && !(other.read_only && unit.read_only))
}
