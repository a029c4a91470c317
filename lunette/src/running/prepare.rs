//! What can fail is done before anything is changed: stores are opened, secrets read, identities taken, users and groups
//! looked up.

use super::exports::Entry;
use super::{Running, exports};
use crate::config::diff::{Action, Effect, Plan};
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
    pub(super) iscsi: Option<EntityOptions>,
}

impl Running {
    /// Prepares the steps from `now` on.
    pub(super) fn prepare(&self, plan: &Plan, now: &Model) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        let mut wanted = Vec::new();
        for step in &plan.steps {
            match &step.effect {
                Effect::Unit(unit) if step.action == Action::Create && !is_used(unit, now) => {
                    let opened = Opened::open(unit, OtherSize::Refuse)?;
                    prepared.stores.insert(unit.name.clone(), opened);
                    wanted.push((&unit.name, units::key(unit)?));
                }
                Effect::Target(target) => prepared.target(target)?,
                Effect::Rules(name, rules) => {
                    let target =
                        now.targets.get(name).with_context(|| format!("there is no target {name}"))?;
                    prepared.target(&config::Target { access: rules.clone(), ..target.clone() })?;
                }
                Effect::Export(export) => self.prepare_export(export, &mut prepared)?,
                Effect::Iscsi(iscsi) => prepared.iscsi = Some(iscsi::options(iscsi)?),
                _ => {}
            }
        }
        let keys: Vec<Key> = wanted.iter().map(|(_, key)| key.clone()).collect();
        if !keys.is_empty() {
            let records = self.state.identities(&keys)?;
            prepared.units = wanted.into_iter().map(|(name, _)| name.clone()).zip(records).collect();
        }
        Ok(prepared)
    }

    fn prepare_export(&self, export: &config::VhostUser, prepared: &mut Prepared) -> Result<()> {
        let mut records = self.state.identities(&[exports::key(export)?])?;
        let record = records.pop().context("there is no identity")?;
        prepared.exports.insert(export.name.clone(), Entry::of(export, record)?);
        Ok(())
    }
}

impl Prepared {
    fn target(&mut self, target: &config::Target) -> Result<()> {
        self.targets.insert(target.name.clone(), iscsi::target(target)?);
        Ok(())
    }
}

/// Whether a unit that gives way first has the same store.
fn is_used(unit: &config::Unit, now: &Model) -> bool {
    let is_file = matches!(unit.store, StoreSpec::Path(_));
    is_file
        && now.units.values().any(|other| other.store == unit.store && !(other.read_only && unit.read_only))
}
