//! One step: it is what the running configuration says from then on, and the objects follow.

use super::prepare::Prepared;
use super::units::{size_of, wanted_size, with_others};
use super::{Now, Running, exports};
use crate::config;
use crate::config::diff::{Effect, How, Step};
use crate::config::{PortalKey, Unit};
use crate::control::events;
use crate::units;
use anyhow::{Context, Result};

impl Running {
    /// Does a step, and tells of it. If it cannot be done, everything is as before it, or the error says what is not.
    pub(super) fn carry_out(&self, step: &Step, prepared: &mut Prepared) -> Result<()> {
        let (back, served) = {
            let now = &mut *self.now_mut();
            let back = step.effect.inverse(&now.model);
            let served = now.as_served(back.clone());
            step.effect.apply(&mut now.model);
            (back, served)
        };
        let done = self.follow(step, &served, prepared);
        match done {
            Ok(()) => {
                events::step(&self.events, step);
                Ok(())
            }
            Err(error) => {
                back.apply(&mut self.now_mut().model);
                let error = with_others(error, [self.follow_back(&served)]);
                Err(error.context(step.object.to_string()))
            }
        }
    }

    /// Makes the objects what the running configuration says by now; `back` leads to what it said before.
    fn follow(&self, step: &Step, back: &Effect, prepared: &mut Prepared) -> Result<()> {
        match &step.effect {
            Effect::Daemon(_) => Ok(()),
            Effect::Iscsi(_) => {
                let (options, secrets) = prepared.iscsi.take().context("nothing is prepared")?;
                self.entity.configure(options);
                self.now_mut().secrets = secrets;
                Ok(())
            }
            Effect::Unit(unit) => match back {
                Effect::Unit(old) => self.make_other(old, unit, step.how, prepared),
                _ => {
                    self.create_unit(unit, prepared)?;
                    self.show_unit(&unit.name, [units::place(unit), None])
                }
            },
            Effect::NoUnit(name) => {
                self.delete_unit(name, step.how)?;
                match back {
                    Effect::Unit(old) if old.migratable => self.show_unit(name, [units::place(old), None]),
                    _ => Ok(()),
                }
            }
            Effect::Portal(key, portal) => self.set_portal(*key, portal, back),
            Effect::NoPortal(key) => {
                self.stop_portal(key);
                self.arrange_groups()
            }
            Effect::Target(target) => {
                self.arrange_target(&target.name, prepared.targets.get(&target.name).cloned())
            }
            Effect::NoTarget(name) => {
                self.remove_target(name);
                Ok(())
            }
            Effect::Rules(name, _) => self.arrange_target(name, prepared.targets.get(name).cloned()),
            Effect::AtTarget(name, ..) => {
                self.show_target(name);
                Ok(())
            }
            Effect::AtRule(name, ..) => self.arrange_target(name, None),
            Effect::Export(export) => self.set_export(export, back, step, prepared),
            Effect::Renamed(from, to) => {
                self.rename_export(from, to);
                Ok(())
            }
            Effect::NoExport(name) => {
                self.stop_export(name);
                Ok(())
            }
            Effect::AtExport(name, ..) => self.show_export(name),
            Effect::Throttle(_) | Effect::NoThrottle(_) => {
                self.throttle();
                Ok(())
            }
        }
    }

    /// Shows again what was shown before a step that could not be done.
    fn follow_back(&self, back: &Effect) -> Result<()> {
        match back {
            Effect::Target(target) => self.arrange_target(&target.name, None),
            Effect::Rules(name, _) | Effect::AtRule(name, ..) => self.arrange_target(name, None),
            Effect::NoPortal(_) | Effect::Portal(..) => self.arrange_groups(),
            Effect::Export(export) => self.show_export(&export.name),
            Effect::AtExport(name, ..) => self.show_export(name),
            Effect::NoUnit(name) => self.delete_unit(name, How::Live),
            _ => Ok(()),
        }
    }

    fn make_other(&self, old: &Unit, new: &Unit, how: How, prepared: &mut Prepared) -> Result<()> {
        if new.migratable {
            self.expect_unit(new);
        }
        if old.migratable && self.unit(new.name.as_str()).is_none() {
            if !new.migratable {
                self.create_unit(new, prepared)?;
            }
            return self.show_unit(&new.name, [units::place(old), units::place(new)]);
        }
        if how != How::Recreate {
            return self.change_unit(old, new);
        }
        let resize = |is_smaller: bool| {
            let unit = self.unit(new.name.as_str()).filter(|_| old.store == new.store);
            let Some((unit, size)) = unit.zip(wanted_size(new)) else { return Ok(()) };
            let is_due = size_of(&unit).is_some_and(|now| (size < now) == is_smaller);
            if is_due { self.resize(&unit, size) } else { Ok(()) }
        };
        // What is cut off does not come back, so that is done last.
        resize(false)?;
        self.recreate_unit(old, new)?;
        resize(true).map_err(|error| with_others(error, [self.recreate_unit(new, old)]))
    }

    fn set_portal(&self, key: PortalKey, portal: &config::Portal, back: &Effect) -> Result<()> {
        let Effect::Portal(_, old) = back else {
            self.arrange_groups()?;
            return self.start_portal(key, portal, None);
        };
        if old.group == portal.group {
            self.advertise(&key, portal);
            return Ok(());
        }
        self.stop_portal(&key);
        let started = self.arrange_groups().and_then(|()| self.start_portal(key, portal, None));
        started.map_err(|error| with_others(error, [self.start_portal(key, old, None)]))
    }

    fn set_export(
        &self,
        export: &config::VhostUser,
        back: &Effect,
        step: &Step,
        prepared: &mut Prepared,
    ) -> Result<()> {
        let mut entry = || prepared.exports.remove(&export.name).context("nothing is prepared");
        let Effect::Export(old) = back else { return self.start_export(export, entry()?) };
        if step.how != How::Recreate {
            self.let_connect(old, export)?;
            let shown = self.show_export(&export.name);
            return shown.map_err(|error| with_others(error, [self.let_connect(export, old)]));
        }
        let entry = entry()?;
        let record = self.stop_export(&old.name);
        self.start_export(export, entry).map_err(|error| {
            let again = |record| self.start_export(old, exports::Entry::of(old, record)?);
            with_others(error, record.map(again))
        })
    }
}

impl Now {
    /// The effect that leads to what is served, of one that leads to what is configured.
    fn as_served(&self, effect: Effect) -> Effect {
        match effect {
            Effect::Unit(unit) if !unit.migratable && !self.units.contains_key(&unit.name) => {
                Effect::NoUnit(unit.name.clone())
            }
            Effect::Portal(key, _) if !self.portals.contains_key(&key) => Effect::NoPortal(key),
            Effect::Target(target) if !self.targets.contains_key(&target.name) => {
                Effect::NoTarget(target.name)
            }
            Effect::Export(export) if !self.exports.contains_key(&export.name) => {
                Effect::NoExport(export.name)
            }
            effect => effect,
        }
    }
}
