//! What runs, and what the files say from which it was started.

use super::Running;
use super::change::failure;
use crate::config::diff::{Effect, Plan, Step};
use crate::config::origin::{Draft, Origin, Seen, WrittenByOthers};
use crate::config::values::{Name, Size, StoreSpec};
use crate::config::{Daemon, Document, Model, Unit, to_toml};
use crate::reasons;
use anyhow::{Error, Result as AnyResult, ensure};
use lunette_control::Failure;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    found: Found,
}

/// Units that the start has found with another size than the file says. As long as it says the same, that size is meant.
type Found = BTreeMap<Name, OtherSize>;

#[derive(Clone)]
struct OtherSize {
    store: StoreSpec,
    said: Option<Size>,
    is: Option<Size>,
}

/// What the file says.
pub(crate) struct Said {
    pub(crate) model: Model,
    seen: Seen,
    found: Found,
}

impl Keeper {
    /// That of a daemon which begins with `model`, read from `origin`.
    pub(crate) fn new(origin: Origin, model: Model) -> Self {
        let kept = Kept { model, next: None, found: Found::new() };
        Self { origin, kept: Mutex::new(kept), is_unsaved: AtomicBool::new(false) }
    }

    /// Has begun with this: what was read, with the sizes that there are.
    pub(super) fn begin(&self, model: &Model) {
        let mut kept = self.kept();
        let other = |(name, unit): (&Name, &Arc<Unit>)| {
            let said = kept.model.units.get(name)?.size;
            let size = OtherSize { store: unit.store.clone(), said, is: unit.size };
            (said != unit.size).then(|| (name.clone(), size))
        };
        kept.found = model.units.iter().filter_map(other).collect();
        kept.model.clone_from(model);
    }

    /// What the file means.
    fn mean(&self, (mut model, seen): (Model, Seen)) -> Said {
        let mut found = self.kept().found.clone();
        found.retain(|name, size| match model.units.get_mut(name) {
            Some(unit) if unit.store == size.store && unit.size == size.said => {
                Arc::make_mut(unit).size = size.is;
                true
            }
            _ => false,
        });
        Said { model, seen, found }
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn read(&self) -> AnyResult<Said> {
        self.origin.read().map(|read| self.mean(read))
    }

    /// The file, if this is what it says by now.
    fn says(&self, model: &Model) -> Option<Said> {
        // As files: of several portals with port 0, those that are left keep their numbers while the daemon runs.
        let is_it = |said: &Said| Document::from(&said.model) == Document::from(model);
        self.origin.peek().map(|read| self.mean(read)).filter(is_it)
    }

    /// What the file says is what the next start is to begin with.
    pub(crate) fn take_over(&self, said: Said) {
        self.origin.see(said.seen);
        self.kept().found = said.found;
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
        if let Some(said) = keeper.says(&model) {
            keeper.take_over(said);
            keeper.kept().model = model;
        }
        self.is_saved();
    }

    /// What the daemon itself will be after the next start, as far as is known.
    pub(crate) fn next_daemon(&self) -> Daemon {
        self.next().unwrap_or_else(|| self.model().daemon)
    }

    /// What the daemon itself will be after the next start, if that is something else than what it is.
    pub(super) fn next(&self) -> Option<Daemon> {
        self.keeper.as_ref().and_then(|keeper| keeper.kept().next.clone())
    }

    /// It will be something else. Returns what it would have been.
    pub(super) fn set_next(&self, next: Option<Daemon>) -> Option<Daemon> {
        self.keeper.as_ref().and_then(|keeper| std::mem::replace(&mut keeper.kept().next, next))
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
        // What others have written there stays if it says just that.
        let said = if keeper.origin.is_as_seen() { None } else { keeper.says(&model) };
        let to = match said {
            Some(said) => To::Said(Box::new(said)),
            None => {
                let draft = keeper.origin.draft(None, &text(&model)?, false);
                let told = |why| Failure::failed(format!("changes are to be saved: {}", reasons(&why)));
                To::File(draft.map_err(told)?)
            }
        };
        Ok(Some(Saving { keeper, model, to }))
    }

    /// Saves what runs to the one file that it was read from, or to another. `overwrite`: also if others have written to it.
    pub(crate) fn save(&self, path: Option<&Path>, overwrite: bool) -> Result<PathBuf, Failure> {
        let told = |error: Error| match error.is::<WrittenByOthers>() {
            true => failure(error).allowed_by("overwrite"),
            false => failure(error),
        };
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = self.keeper.as_ref().ok_or_else(|| Failure::failed("nothing is saved here"))?;
        let model = keeper.to_keep(self.model());
        let draft = keeper.origin.draft(path, &text(&model)?, overwrite).map_err(told)?;
        let saved = Saving { keeper, model, to: To::File(draft) }.put();
        self.is_saved();
        saved.map_err(told)
    }
}

/// Something that is about to be saved.
pub(super) struct Saving<'a> {
    keeper: &'a Keeper,
    model: Model,
    to: To<'a>,
}

enum To<'a> {
    File(Draft<'a>),
    /// The file says it already.
    Said(Box<Said>),
}

impl Saving<'_> {
    /// Saves it. Returns where.
    pub(super) fn put(self) -> AnyResult<PathBuf> {
        let Self { keeper, model, to } = self;
        match to {
            To::File(draft) => {
                let is_own = draft.is_own();
                let put = draft.put()?;
                if is_own {
                    let mut kept = keeper.kept();
                    (kept.model, kept.found) = (model, Found::new());
                }
                put.sync()
            }
            To::Said(said) => {
                let path = keeper.origin.file().map_err(Error::msg)?;
                let is_as_said = keeper.origin.says() == said.seen;
                ensure!(is_as_said, "{} has been changed meanwhile: apply it again", path.display());
                keeper.take_over(*said);
                keeper.kept().model = model;
                Ok(path)
            }
        }
    }
}

fn text(model: &Model) -> Result<String, Failure> {
    to_toml(model).map_err(|error| Failure::new(Failure::INTERNAL, error))
}
