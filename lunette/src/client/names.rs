//! Names of what a daemon has, for shells that complete them.

use super::connect;
use crate::cli::ControlSocket;
use crate::control::ABOUT;
use clap::Parser;
use clap_complete::engine::CompletionCandidate;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

/// How long a daemon has to answer: somebody waits who has pressed a key.
const PATIENCE: Duration = Duration::from_secs(1);

/// The names of all units.
pub(crate) fn units() -> Vec<CompletionCandidate> {
    named("unit.list", "name")
}

/// The names of all iSCSI targets.
pub(crate) fn targets() -> Vec<CompletionCandidate> {
    named("target.list", "name")
}

/// The addresses of all portals.
pub(crate) fn portals() -> Vec<CompletionCandidate> {
    named("portal.list", "address")
}

/// The names of all vhost-user exports.
pub(crate) fn exports() -> Vec<CompletionCandidate> {
    named("export.list", "name")
}

/// The names of all that shows units.
pub(crate) fn targets_and_exports() -> Vec<CompletionCandidate> {
    targets().into_iter().chain(exports()).collect()
}

/// The names of all units, targets and exports.
pub(crate) fn objects() -> Vec<CompletionCandidate> {
    units().into_iter().chain(targets_and_exports()).collect()
}

/// The kinds of events, and their types.
pub(crate) fn event_kinds() -> Vec<CompletionCandidate> {
    let kinds = ABOUT.all_kinds();
    let names = kinds.iter().flat_map(|kind| [kind.name, kind.of_type()]);
    BTreeSet::from_iter(names).into_iter().map(CompletionCandidate::new).collect()
}

/// The names of all throttles.
pub(crate) fn throttles() -> Vec<CompletionCandidate> {
    named("throttle.list", "name")
}

/// The numbers of all sessions.
pub(crate) fn sessions() -> Vec<CompletionCandidate> {
    named("session.list", "tsih")
}

/// The numbers of all jobs.
pub(crate) fn jobs() -> Vec<CompletionCandidate> {
    named("job.list", "job")
}

/// What is at `key` in everything that a method lists. Nothing, if there is no daemon.
fn named(method: &str, key: &str) -> Vec<CompletionCandidate> {
    let socket = said_socket(std::env::args_os().collect());
    let listed = connect(&socket).and_then(|mut daemon| {
        daemon.set_patience(Some(PATIENCE))?;
        Ok(daemon.call::<Vec<Value>>(method, &json!({}))?)
    });
    let candidate = |object: &Value| match &object[key] {
        Value::String(name) => Some(CompletionCandidate::new(name)),
        Value::Number(number) => Some(CompletionCandidate::new(number.to_string())),
        _ => None,
    };
    listed.unwrap_or_default().iter().filter_map(candidate).collect()
}

/// Which daemon is meant by a command line that is not complete.
fn said_socket(words: Vec<OsString>) -> ControlSocket {
    #[derive(Parser)]
    struct Said {
        #[command(flatten)]
        control: ControlSocket,
    }
    let mut said = vec![OsString::new()];
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if ["--control", "--state-dir"].iter().any(|option| word == *option) {
            said.push(word);
            said.extend(words.next());
        } else if word
            .to_str()
            .is_some_and(|word| word.starts_with("--control=") || word.starts_with("--state-dir="))
        {
            said.push(word);
        }
    }
    Said::try_parse_from(said).map(|said| said.control).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_daemon_is_the_one_that_is_meant() {
        let of = |words: &[&str]| said_socket(words.iter().map(OsString::from).collect()).places();
        assert_eq!(of(&["lunette", "--", "lunette", "lu", "--control", "/a", "sh"]), [Path::new("/a")]);
        assert_eq!(of(&["lunette", "lu", "--state-dir=/b", "delete", ""]), [Path::new("/b/control.sock")]);
        assert_eq!(of(&["lunette", "lu", "--control"]), ControlSocket::default().places());
    }
}
