//! What the commands about units, targets, portals, exports and throttles have in common.

use super::table::Table;
use super::{pretty, print_json, print_table, print_text};
use crate::cli::keys::Keyed;
use crate::cli::objects::{Changing, Listing, Shelf};
use crate::config::{Document, document_to_toml};
use anyhow::Result;
use clap::Args;
use lunette_control::{Connection, Error, Failure, did_you_mean};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::fmt::Display;

/// What there is several of, and how it is called.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Unit,
    Target,
    Portal,
    Export,
    Throttle,
}

impl Kind {
    /// That of something that shows units.
    pub(super) fn of(shelf: &Shelf) -> Self {
        match shelf {
            Shelf::Target(_) => Self::Target,
            Shelf::Export(_) => Self::Export,
        }
    }

    /// The method that lists them, and where a name is in what it tells.
    fn listed(self) -> (&'static str, &'static str) {
        match self {
            Self::Unit => ("unit.list", "name"),
            Self::Target => ("target.list", "name"),
            Self::Portal => ("portal.list", "address"),
            Self::Export => ("export.list", "name"),
            Self::Throttle => ("throttle.list", "name"),
        }
    }

    /// The name most like one that there is not.
    fn suggestion(self, daemon: &mut Connection, name: &str) -> Option<String> {
        let (method, key) = self.listed();
        let known: Vec<Value> = daemon.call(method, &json!({})).ok()?;
        let mut names = known.iter().filter_map(|object| object[key].as_str());
        match names.clone().any(|known| known == name) {
            true => None,
            false => did_you_mean(name, &mut names),
        }
    }
}

/// Has a method carried out on something that has these names. If it is not there, what may have been meant is told.
pub(super) fn call_on<T: DeserializeOwned>(
    daemon: &mut Connection,
    method: &str,
    params: &Value,
    names: &[(Kind, &dyn Display)],
) -> Result<T> {
    match daemon.call(method, params) {
        Err(Error::Refused(failure)) if failure.code == Failure::NOT_FOUND => {
            let mut suggestions =
                names.iter().filter_map(|(kind, name)| kind.suggestion(daemon, &name.to_string()));
            let message = match suggestions.next() {
                Some(suggestion) => format!("{}; {suggestion}", failure.message),
                None => failure.message,
            };
            Err(Error::Refused(Failure { message, ..failure }).into())
        }
        other => Ok(other?),
    }
}

/// The same, if nothing is to be told of it.
pub(super) fn tell(
    daemon: &mut Connection,
    method: &str,
    params: &Value,
    names: &[(Kind, &dyn Display)],
) -> Result<()> {
    call_on::<Value>(daemon, method, params, names).map(drop)
}

/// Shows what a method lists.
pub(super) fn list<T: DeserializeOwned, const N: usize>(
    daemon: &mut Connection,
    method: &str,
    how: &Listing,
    table: impl FnOnce(Vec<T>) -> Table<N>,
) -> Result<()> {
    let listed: Value = daemon.call(method, &json!({}))?;
    match how.json {
        true => print_json(&listed),
        false => print_table(&table(serde_json::from_value(listed)?)),
    }
}

/// What was made, as far as everything that is made tells it.
#[derive(Deserialize)]
struct Created {
    created: bool,
}

/// Has something made, unless there is the same, and says which of these it was.
pub(super) fn create(
    daemon: &mut Connection,
    method: &str,
    what: &str,
    keys: Map<String, Value>,
) -> Result<()> {
    let Created { created } = daemon.call(method, &keys.into())?;
    let done = if created { "is served" } else { "is there already" };
    print_text(&format!("{what} {done}\n"))
}

/// Changes keys of an object.
pub(super) fn change<N: Args, T: Keyed>(
    daemon: &mut Connection,
    method: &str,
    (kind, name): (Kind, &dyn Display),
    call: &Changing<N, T>,
    permitted: &[&str],
) -> Result<()> {
    let mut keys = call.keys.said.clone();
    for key in &call.unset.keys {
        keys.insert(key.clone(), Value::Null);
    }
    keys.insert("name".into(), name.to_string().into());
    if call.recreate {
        keys.insert("recreate".into(), true.into());
    }
    keys.extend(permitted.iter().map(|what| ((*what).to_owned(), true.into())));
    tell(daemon, method, &keys.into(), &[(kind, name)])
}

/// Places and the units there, as a cell: those that fit into a few words.
pub(super) fn places(shown: &std::collections::BTreeMap<String, String>) -> String {
    const MOST: usize = 4;
    // As numbers, not as texts.
    let mut places: Vec<(Vec<u32>, String)> = shown
        .iter()
        .map(|(at, unit)| {
            (at.split(':').filter_map(|part| part.parse().ok()).collect(), format!("{at}={unit}"))
        })
        .collect();
    places.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
    let first: Vec<&str> = places.iter().take(MOST).map(|(_, text)| text.as_str()).collect();
    match places.len().saturating_sub(MOST) {
        0 if first.is_empty() => "-".into(),
        0 => first.join(" "),
        more => format!("{} +{more}", first.join(" ")),
    }
}

/// Lines of a name and what it is.
pub(super) fn described(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    let text: String = lines.map(|(name, value)| format!("{name:width$}  {value}\n")).collect();
    text.replace(|c| c != '\n' && !super::is_shown(c), "\u{fffd}")
}

/// The keys of one object, as a file has them. A newer daemon may have some that are not known here.
pub(super) fn as_configured<T: DeserializeOwned>(
    config: &Value,
    put: impl FnOnce(T, &mut Document),
) -> String {
    let written = serde_json::from_value(config.clone()).ok().and_then(|object| {
        let mut document = Document::default();
        put(object, &mut document);
        document_to_toml(&document).ok()
    });
    format!("\n{}", written.unwrap_or_else(|| pretty(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_the_order_of_their_numbers() {
        let shown = |places: &[&str]| places.iter().map(|at| ((*at).to_owned(), "u".to_owned())).collect();
        assert_eq!(places(&shown(&[])), "-");
        assert_eq!(places(&shown(&["10", "2", "1:0"])), "2=u 10=u 1:0=u");
        assert_eq!(places(&shown(&["0", "1", "2", "3", "4", "5"])), "0=u 1=u 2=u 3=u +2");
    }

    #[test]
    fn descriptions_leave_out_what_is_not_there() {
        let text = described(&[("a", "x\u{1b}".into()), ("none", String::new()), ("lines", "y".into())]);
        assert_eq!(text, "a      x\u{fffd}\nlines  y\n");
    }
}
