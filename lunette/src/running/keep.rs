//! What runs, and what the files say from which it was started.

use super::Running;
use super::change::failure;
use crate::config::diff::{Effect, Plan, Step};
use crate::config::origin::{Draft, Origin};
use crate::config::{Daemon, Model, to_toml};
use lunette_control::Failure;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Knows what is saved.
pub(crate) struct Keeper {
    pub(crate) origin: Origin,
    kept: Mutex<Kept>,
    /// Whether something is not saved, when that was looked at last.
    is_unsaved: AtomicBool,
}

struct Kept {
    /// What the next start would begin with.
    model: Model,
    /// What the daemon itself will be then, if that is something else than what it is.
    next: Option<Daemon>,
}

impl Keeper {
    /// That of a daemon which begins with `model`, read from `origin`.
    pub(crate) fn new(origin: Origin, model: Model) -> Self {
        Self { origin, kept: Mutex::new(Kept { model, next: None }), is_unsaved: AtomicBool::new(false) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be saved of a running configuration.
    fn to_keep(&self, mut model: Model) -> Model {
        if let Some(next) = &self.kept().next {
            model.daemon.clone_from(next);
        }
        model
    }
}

impl Running {
    /// Whether the next start would begin with what runs now.
    pub(crate) fn is_saved(&self) -> bool {
        let Some(keeper) = &self.keeper else { return true };
        self.settle_sizes();
        let now = self.now();
        let kept = keeper.kept();
        let is_saved = match &kept.next {
            None => kept.model == now.model,
            Some(next) => kept.model == Model { daemon: next.clone(), ..now.model.clone() },
        };
        keeper.is_unsaved.store(!is_saved, Ordering::Relaxed);
        is_saved
    }

    /// Whether something is not saved, by the last change.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.is_unsaved.load(Ordering::Relaxed))
    }

    /// The next start will begin with what the files say by now, if that is what runs.
    pub(crate) fn look_at_files(&self) {
        let Some(keeper) = &self.keeper else { return };
        let model = keeper.to_keep(self.model());
        if keeper.origin.says(&model) {
            keeper.kept().model = model;
        }
        self.is_saved();
    }

    /// What the daemon itself will be after the next start, as far as is known.
    pub(crate) fn next_daemon(&self) -> Daemon {
        let next = self.keeper.as_ref().and_then(|keeper| keeper.kept().next.clone());
        next.unwrap_or_else(|| self.model().daemon)
    }

    /// What the daemon itself will be after the next start.
    pub(super) fn set_next(&self, next: Option<Daemon>) {
        if let Some(keeper) = &self.keeper {
            keeper.kept().next = next;
        }
    }

    /// Prepares that what a plan leads to from `before` is saved, if every change is to be.
    pub(super) fn draft_change(&self, plan: &Plan, before: &Model) -> Result<Option<Saving<'_>>, Failure> {
        let Some(keeper) = &self.keeper else { return Ok(None) };
        let says = |step: &Step| match &step.effect {
            Effect::Daemon(daemon) => Some(daemon.save_changes),
            _ => None,
        };
        if !plan.steps.iter().rev().find_map(says).unwrap_or(before.daemon.save_changes) {
            return Ok(None);
        }
        let mut model = before.clone();
        plan.steps.iter().for_each(|step| step.effect.apply(&mut model));
        let model = keeper.to_keep(model);
        let draft = keeper.origin.draft(None, &text(&model)?, false);
        let draft = draft.map_err(|why| Failure::failed(format!("changes are to be saved: {why}")))?;
        Ok(Some(Saving { keeper, model, draft }))
    }

    /// Saves what runs, if every change is to be saved.
    pub(crate) fn save_change(&self) -> Result<(), Failure> {
        let saving = self.draft_change(&Plan::default(), &self.model())?;
        let saved = saving.map_or(Ok(()), |saving| saving.put().map(drop));
        self.is_saved();
        saved
    }

    /// Saves what runs to the one file that it was read from, or to another. `overwrite`: also if others have written to it.
    pub(crate) fn save(&self, path: Option<&Path>, overwrite: bool) -> Result<PathBuf, Failure> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = self.keeper.as_ref().ok_or_else(|| Failure::failed("nothing is saved here"))?;
        let model = keeper.to_keep(self.model());
        let draft = keeper.origin.draft(path, &text(&model)?, overwrite).map_err(Failure::failed)?;
        let saved = Saving { keeper, model, draft }.put();
        self.is_saved();
        saved
    }
}

/// Something that is about to be saved.
pub(super) struct Saving<'a> {
    keeper: &'a Keeper,
    model: Model,
    draft: Draft<'a>,
}

impl Saving<'_> {
    /// Saves it. Returns where.
    pub(super) fn put(self) -> Result<PathBuf, Failure> {
        let is_own = self.draft.is_own();
        let path = self.draft.put().map_err(failure)?;
        if is_own {
            self.keeper.kept().model = self.model;
        }
        Ok(path)
    }
}

fn text(model: &Model) -> Result<String, Failure> {
    to_toml(model).map_err(|error| Failure::new(Failure::INTERNAL, error))
}
