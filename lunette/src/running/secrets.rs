//! Secrets that are others by now, in the files that the configuration names as before.

use super::Running;
use crate::config::diff::{Action, Change, Effect, How, Object, Plan, Step};
use crate::config::{Chap, Model, Target, is_for_others};
use crate::iscsi;
use anyhow::Result;
use lunette_transport_iscsi::ChapPolicy;

impl Running {
    /// Adds the steps by which they count, for those that no other step reads. A secret that only others can read by now, as
    /// a file of root's after the daemon has become somebody else, stays what it was.
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
        let read = readable(iscsi::options(&wanted.iscsi, None))?.and_then(|read| read.discovery.chap);
        Ok(differ(policy, self.entity.options().discovery.chap.as_ref(), read.as_ref()))
    }

    fn has_other_secrets(&self, wanted: &Target) -> Result<bool> {
        if wanted.access.iter().all(|rule| rule.chap.is_none()) {
            return Ok(false);
        }
        let Some(read) = readable(iscsi::target(wanted, None))? else { return Ok(false) };
        let now = self.now();
        let in_force = now.targets.get(&wanted.name).map(|target| target.rules()).unwrap_or_default();
        let mut rules = wanted.access.iter().zip(in_force).zip(&read.access);
        Ok(rules.any(|((wanted, in_force), read)| {
            let policy = wanted.chap.as_ref();
            policy.is_some_and(|policy| differ(policy, in_force.chap.as_ref(), read.chap.as_ref()))
        }))
    }
}

/// What was read, unless others have to.
fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if is_for_others(&error) => {
            tracing::warn!("secrets stay what they were: {error:#}");
            Ok(None)
        }
        read => read.map(Some),
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
