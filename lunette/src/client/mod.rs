//! The command line's part of control: commands that speak to a daemon which runs.

mod config;
mod events;
mod export;
mod job;
mod lu;
pub(crate) mod names;
mod objects;
mod portal;
mod progress;
mod session;
mod table;
mod target;
mod throttle;
mod top;
mod upgrade;

use crate::cli::{ClientCall, ControlSocket, StatusCall};
use anyhow::{Context, Result, bail};
use lunette_control::{Connection, Error, Failure, Role, Status};
use serde_json::{Value, json};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use table::{Table, is_shown};

/// Carries out a command that speaks to a daemon.
pub(crate) fn run(call: &ClientCall) -> Result<()> {
    let done = match call {
        ClientCall::Status(call) => status(call),
        ClientCall::Show(call) => config::show(call),
        ClientCall::Apply(call) => config::apply(call),
        ClientCall::Reload(call) => config::reload(call),
        ClientCall::Save(call) => config::save(call),
        ClientCall::Upgrade(call) => upgrade::run(call),
        ClientCall::Lu(call) => lu::run(call),
        ClientCall::Target(call) => target::run(call),
        ClientCall::Portal(call) => portal::run(call),
        ClientCall::Export(call) => export::run(call),
        ClientCall::Throttle(call) => throttle::run(call),
        ClientCall::Session(call) => session::run(call),
        ClientCall::Job(call) => job::run(call),
        ClientCall::Events(call) => events::run(call),
        ClientCall::Top(call) => top::run(call),
    };
    match done {
        // Who reads what is printed has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        Err(error) => Err(advised(error)),
        Ok(()) => Ok(()),
    }
}

/// The same, with the option that allows what is refused.
fn advised(error: anyhow::Error) -> anyhow::Error {
    let Some(Error::Refused(failure)) = error.downcast_ref() else { return error };
    let Some(option) = failure.parameter().map(|parameter| parameter.replace('_', "-")) else { return error };
    let message = format!("{}; `--{option}` goes on all the same", failure.message);
    Error::Refused(Failure { message, ..failure.clone() }).into()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == ErrorKind::BrokenPipe)
}

/// Carries out `lunette status`.
fn status(call: &StatusCall) -> Result<()> {
    let status: Value = connect(&call.control)?.call("control.status", &json!({}))?;
    if call.json {
        return print_json(&status);
    }
    let Status { version, pid, generation, role, unsaved, .. } = serde_json::from_value(status)?;
    let role = match role {
        Role::Administrator => "administrator",
        Role::Reader => "reader",
    };
    let unsaved = if unsaved { ", with changes that are not saved" } else { "" };
    print_text(&format!(
        "lunette {version}, process {pid}, generation {generation}{unsaved}; you are {role}\n"
    ))
}

/// Connects to the daemon that is meant.
fn connect(control: &ControlSocket) -> Result<Connection> {
    let mut failed = None;
    for place in control.places() {
        match Connection::open(&place) {
            Ok(connection) => return Ok(connection),
            // Why one that is there does not answer says more than that others are not there.
            Err(error) if failed.is_none() || !is_missing(&error) => failed = Some((place, error)),
            Err(_) => {}
        }
    }
    let Some((place, error)) = failed else { bail!("no daemon is meant") };
    let advice = match control.is_said() {
        true => "",
        false => " (is one running? `--control` or `--state-dir` says where)",
    };
    Err(error).with_context(|| format!("{}{advice}", place.display()))
}

/// Whether there is no such socket.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Socket(error) if error.kind() == ErrorKind::NotFound)
}

fn print_text(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// As wide as the terminal is, if it is one.
fn print_table<const N: usize>(table: &Table<N>) -> Result<()> {
    print_text(&table.lines(columns(std::io::stdout())))
}

/// The columns of a terminal; nothing if it is none.
fn columns(terminal: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    Some(size.ws_col.into()).filter(|columns| *columns > 0)
}

/// The rows of a terminal; nothing if it is none.
fn rows(terminal: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    Some(size.ws_row.into()).filter(|rows| *rows > 0)
}

fn print_json(value: &Value) -> Result<()> {
    print_text(&pretty(value))
}

/// For people: three digits or so.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    match bytes as f64 / (1_u64 << (10 * unit)) as f64 {
        _ if unit == 0 => format!("{bytes} B"),
        number if number < 10.0 => format!("{number:.2} {}", units[unit]),
        number if number < 100.0 => format!("{number:.1} {}", units[unit]),
        number => format!("{number:.0} {}", units[unit]),
    }
}

/// JSON for people and programs.
fn pretty(value: &Value) -> String {
    clean(&format!("{value:#}\n"))
}

/// The same JSON, in which what others have chosen does not move the cursor of a terminal.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        // All others stand in strings.
        if c == '\n' || is_shown(c) {
            clean.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| clean += &format!("\\u{unit:04x}"));
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_allows_it_is_told_as_an_option() {
        let refused = |failure: Failure| advised(Error::Refused(failure).into()).to_string();
        let failure = Failure::failed("a needs a restart");
        assert_eq!(refused(failure.clone()), "a needs a restart");
        let expected = "a needs a restart; `--except-restart` goes on all the same";
        assert_eq!(refused(failure.allowed_by("except_restart")), expected);
        assert_eq!(advised(anyhow::anyhow!("other")).to_string(), "other");
    }

    #[test]
    fn amounts_are_short() {
        let amounts = [0, 1023, 1024, 15 << 10, 1 << 30, 300 << 40, u64::MAX].map(bytes);
        assert_eq!(amounts, ["0 B", "1023 B", "1.00 KiB", "15.0 KiB", "1.00 GiB", "300 TiB", "16.0 EiB"]);
    }

    #[test]
    fn json_says_the_same_without_what_moves_a_cursor() {
        let value = json!([{ "alias": "a\u{9b}2J\u{202e}b\u{1b}\u{e0041}ä" }]);
        let text = pretty(&value);
        assert!(text.chars().all(|c| c == '\n' || is_shown(c)) && text.contains('ä'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
