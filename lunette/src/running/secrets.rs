//! Secrets that are read again, and are others by now.

use super::Running;
use crate::config::diff::{Action, Change, Effect, How, Object, Plan, Step};
use crate::config::{Chap, Iscsi, Model, Target};
use crate::iscsi::{self, SecretReader, Secrets};
use anyhow::Result;
use lunette_transport_iscsi::{ChapPolicy, EntityOptions};

impl Running {
    /// What a target is to be.
    pub(super) fn read_target(&self, wanted: &Target) -> Result<iscsi::Target> {
        let known = self.now().targets.get(&wanted.name).map(|target| target.secrets().clone());
        iscsi::target(wanted, SecretReader::again(known.unwrap_or_default()))
    }

    /// What all of iSCSI is to be.
    pub(super) fn read_options(&self, wanted: &Iscsi) -> Result<(EntityOptions, Secrets)> {
        let known = self.now().secrets.clone();
        iscsi::options(wanted, SecretReader::again(known))
    }

    /// Adds the steps by which others count, for those that no other step reads.
    pub(super) fn add_other_secrets(&self, plan: &mut Plan, wanted: &Model) -> Result<()> {
        let is_read =
            |plan: &Plan, is_it: &dyn Fn(&Effect) -> bool| plan.steps.iter().any(|step| is_it(&step.effect));
        if !is_read(plan, &|effect| matches!(effect, Effect::Iscsi(_))) && self.has_other_discovery(wanted)? {
            plan.steps.push(step(Object::Iscsi, Effect::Iscsi(Box::new(wanted.iscsi.clone()))));
        }
        for (name, target) in &wanted.targets {
            let is_of_it = |effect: &Effect| match effect {
                Effect::Target(target) => target.name == *name,
                Effect::Rules(target, _) => target == name,
                _ => false,
            };
            if !is_read(plan, &is_of_it) && self.has_other_secrets(target)? {
                let effect = Effect::Rules(name.clone(), target.access.clone());
                plan.steps.push(step(Object::Rules { target: name.clone() }, effect));
            }
        }
        Ok(())
    }

    fn has_other_discovery(&self, wanted: &Model) -> Result<bool> {
        let Some(policy) = &wanted.iscsi.discovery.chap else { return Ok(false) };
        let (read, _) = self.read_options(&wanted.iscsi)?;
        Ok(differ(policy, self.entity.options().discovery.chap.as_ref(), read.discovery.chap.as_ref()))
    }

    fn has_other_secrets(&self, wanted: &Target) -> Result<bool> {
        if wanted.access.iter().all(|rule| rule.chap.is_none()) {
            return Ok(false);
        }
        let read = self.read_target(wanted)?;
        let now = self.now();
        let in_force = now.targets.get(&wanted.name).map(|target| target.rules()).unwrap_or_default();
        let mut rules = wanted.access.iter().zip(in_force).zip(&read.access);
        Ok(rules.any(|((wanted, in_force), read)| {
            let policy = wanted.chap.as_ref();
            policy.is_some_and(|policy| differ(policy, in_force.chap.as_ref(), read.chap.as_ref()))
        }))
    }
}

fn differ(wanted: &Chap, in_force: Option<&ChapPolicy>, read: Option<&ChapPolicy>) -> bool {
    in_force.zip(read).is_some_and(|(in_force, read)| !iscsi::has_same_secrets(wanted, in_force, read))
}

/// Tells that there are others, and nothing of them.
fn step(object: Object, effect: Effect) -> Step {
    let change = Change { key: "secrets".into(), old: None, new: Some("changed".into()), how: How::Live };
    Step { action: Action::Change, object, how: How::Live, changes: vec![change], effect }
}
