//! Sizes of units that are changed by themselves, which may take long.

use super::units::{CHANGE, LONGEST, size_of};
use super::{Cut, Running, failure, say_size};
use crate::config::diff::{Action, Change, Effect, How, Object, Plan, Step, diff};
use crate::config::values::Name;
use crate::control::events;
use crate::size;
use lunette_control::{Failure, Work};
use lunette_engine::LogicalUnit;
use serde_json::json;
use std::sync::{Arc, PoisonError};

/// Which size a unit is to have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// So many bytes. `shrink`: also if they are fewer.
    Size { bytes: u64, shrink: bool },
    /// That of its store.
    OfStore,
}

impl Running {
    /// Gives a unit another size, which it returns, unless `work` is cancelled before that takes effect. Where every change is
    /// saved, one that cannot be is not made, as far as that is known before.
    pub(crate) fn change_size(
        &self,
        name: &Name,
        unit: &Arc<LogicalUnit>,
        wanted: Wanted,
        work: &Work,
    ) -> Result<u64, Failure> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let _turn = self.turn_while([name.clone()].into(), work, CHANGE)?;
        let (before, old) = (self.model(), size_of(unit));
        let mut later = before.clone();
        if let Wanted::Size { bytes, shrink } = wanted {
            if let Some(cut) = Cut::of(name, unit, bytes).filter(|_| !shrink) {
                cut.refused()?;
            }
            later.units.get_mut(name).into_iter().for_each(|spec| say_size(spec, bytes));
        }
        let saving = self.draft_change(&diff(&before, &later), &before)?;
        let size = self.ask_while(
            unit,
            LONGEST,
            || work.go_on().is_ok(),
            |unit, post, tell| match wanted {
                Wanted::Size { bytes, .. } => unit.resize(bytes, post, tell),
                Wanted::OfStore => unit.refresh(post, tell),
            },
        );
        // Whatever has come of it, the configuration says the size that there is.
        let after = self.model();
        let size = size.map_err(|error| work.go_on().err().unwrap_or_else(|| failure(error)))?;
        if Some(size) == old {
            work.changes_nothing();
            return Ok(size);
        }
        if let Some(spec) = after.units.get(name) {
            let text = |size: u64| json!(size::exact(size));
            let change =
                Change { key: "size".into(), old: old.map(text), new: Some(text(size)), how: How::Live };
            let (object, effect) = (Object::Unit { name: name.clone() }, Effect::Unit(spec.clone()));
            let step = Step { action: Action::Change, object, how: How::Live, changes: vec![change], effect };
            events::step(&self.events, &step);
        }
        let saved = match saving {
            Some(saving) if matches!(wanted, Wanted::Size { .. }) => saving.put().map(drop).map_err(failure),
            Some(saving) => {
                // It has the size that was not known before.
                drop(saving);
                let saving = self.draft_change(&Plan::default(), &after);
                saving.and_then(|saving| {
                    saving.map_or(Ok(()), |saving| saving.put().map(drop).map_err(failure))
                })
            }
            None => Ok(()),
        };
        self.is_saved();
        saved.map(|()| size).map_err(|why| {
            let size = size::exact(size);
            Failure::new(
                Failure::PARTLY,
                format!("the unit `{name}` has {size}, but that is not saved: {why}"),
            )
        })
    }
}
