//! `lunette session`.

use super::table::Table;
use super::{bytes, connect, print_json, print_table};
use crate::cli::{SessionCall, SessionCommand};
use crate::control::End;
use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};

/// Carries out `lunette session`.
pub(crate) fn run(what: &SessionCall) -> Result<()> {
    let mut daemon = connect(&what.control)?;
    match what.command {
        SessionCommand::List { json } => {
            let sessions: Value = daemon.call("session.list", &json!({}))?;
            match json {
                true => print_json(&sessions),
                false => print_table(&table(serde_json::from_value(sessions)?)),
            }
        }
        SessionCommand::End { session, now, within } => {
            let end = End { tsih: session, within: (!now).then_some(within) };
            Ok(daemon.call("session.end", &json!(end))?)
        }
    }
}

/// What a line of the table shows of a session.
#[derive(Deserialize)]
struct Shown {
    tsih: u16,
    initiator: String,
    address: String,
    account: Option<String>,
    target: Option<String>,
    group_tag: u16,
    parameters: Parameters,
    age: f64,
    commands: u64,
    open_tasks: u64,
    bytes_read: u64,
    bytes_written: u64,
}

#[derive(Deserialize)]
struct Parameters {
    header_digest: bool,
    data_digest: bool,
}

fn table(sessions: Vec<Shown>) -> Table<12> {
    let mut table = Table::new([
        "SESSION",
        "INITIATOR",
        "ACCOUNT",
        "ADDRESS",
        "TARGET",
        "GROUP",
        "DIGESTS",
        "AGE",
        "COMMANDS",
        "OPEN",
        "READ",
        "WRITTEN",
    ])
    .sparing(&[6, 5, 2, 9, 7]);
    for session in sessions {
        let digests = match session.parameters {
            Parameters { header_digest: true, data_digest: true } => "both",
            Parameters { header_digest: true, .. } => "header",
            Parameters { data_digest: true, .. } => "data",
            _ => "none",
        };
        table.row([
            session.tsih.to_string(),
            session.initiator,
            session.account.unwrap_or_else(|| "-".into()),
            session.address,
            session.target.unwrap_or_else(|| "(discovery)".into()),
            session.group_tag.to_string(),
            digests.into(),
            age(session.age),
            session.commands.to_string(),
            session.open_tasks.to_string(),
            bytes(session.bytes_read),
            bytes(session.bytes_written),
        ]);
    }
    table
}

/// For people: `7s`, `12m`, `3h05m`, `2d07h`.
pub(super) fn age(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3600 => format!("{}m", seconds / 60),
        seconds @ ..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let ages = [0.9, 59.0, 61.0, 3599.0, 11_100.0, 200_000.0].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "3h05m", "2d07h"]);
    }

    #[test]
    fn sessions_are_shown_a_line_each() {
        let sessions = json!([{
            "tsih": 3, "initiator": "iqn.a", "address": "192.0.2.1:5", "account": null, "target": "iqn.b", "group_tag": 1,
            "parameters": { "header_digest": true, "data_digest": false, "more": 1 }, "age": 61.5, "commands": 7,
            "open_tasks": 0, "bytes_read": 4096, "bytes_written": 0, "errors": 0
        }]);
        let text = table(serde_json::from_value(sessions).unwrap()).lines(None);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][0], "SESSION");
        let expected = "3 iqn.a - 192.0.2.1:5 iqn.b 1 header 1m 7 0 4.00 KiB 0 B";
        assert_eq!(lines[1], expected.split(' ').collect::<Vec<_>>());
    }
}
