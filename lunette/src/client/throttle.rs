//! `lunette throttle`.

use super::objects::{Kind, as_configured, call_on, change, create, described, list, tell};
use super::table::Table;
use super::{connect, print_json, print_text};
use crate::cli::objects::{Showing, ThrottleCall, ThrottleCommand, ThrottleNamed};
use crate::config::Throttle;
use anyhow::Result;
use lunette_control::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

/// Carries out `lunette throttle`.
pub(super) fn run(what: &ThrottleCall) -> Result<()> {
    let mut daemon = connect(&what.control)?;
    let daemon = &mut daemon;
    match &what.command {
        ThrottleCommand::List(how) => list(daemon, "throttle.list", how, table),
        ThrottleCommand::Show(how) => show(daemon, how),
        ThrottleCommand::Create { name, keys } => {
            let mut keys = keys.said.clone();
            keys.insert("name".into(), name.to_string().into());
            create(daemon, "throttle.create", &format!("throttle `{name}`"), keys)
        }
        ThrottleCommand::Delete(ThrottleNamed { throttle }) => {
            tell(daemon, "throttle.delete", &json!({ "name": throttle }), &[(Kind::Throttle, throttle)])
        }
        ThrottleCommand::Change(call) => {
            let name = &call.of.throttle;
            change(daemon, "throttle.change", (Kind::Throttle, name), call, &[])
        }
    }
}

/// What is told of a throttle, as far as people want it.
#[derive(Deserialize)]
struct Shown {
    name: String,
    waiting: u64,
    waits: u64,
    config: Value,
}

/// The value of a key, or what holds without it.
fn said(config: &Value, key: &str, otherwise: &str) -> String {
    match &config[key] {
        Value::Null => otherwise.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// For whom it counts.
fn about(config: &Value) -> String {
    let both = ["initiators", "exports"].map(|key| said(config, key, ""));
    let both: Vec<_> = both.into_iter().filter(|names| !names.is_empty()).collect();
    if both.is_empty() { "all".to_owned() } else { both.join(" ") }
}

fn table(throttles: Vec<Shown>) -> Table<7> {
    let header = ["THROTTLE", "IOPS", "BANDWIDTH", "EACH", "WAITING", "UNITS", "INITIATORS AND EXPORTS"];
    let mut table = Table::new(header).sparing(&[6, 5]);
    for Shown { name, waiting, config, .. } in throttles {
        table.row([
            name,
            said(&config, "iops", "-"),
            said(&config, "bandwidth", "-"),
            said(&config, "each", "-"),
            waiting.to_string(),
            said(&config, "units", "all"),
            about(&config),
        ]);
    }
    table
}

fn show(daemon: &mut Connection, Showing { of, json }: &Showing<ThrottleNamed>) -> Result<()> {
    let name = &of.throttle;
    let told: Value = call_on(daemon, "throttle.show", &json!({ "name": name }), &[(Kind::Throttle, name)])?;
    if *json {
        return print_json(&told);
    }
    let Shown { name, waiting, waits, config } = serde_json::from_value(told)?;
    let lines = [
        ("throttle", name),
        ("units", said(&config, "units", "all")),
        ("for", about(&config)),
        ("waiting", format!("{waiting} commands, {waits} have begun to wait so far")),
    ];
    let config = as_configured(&config, |throttle: Throttle, all| all.throttles.push(throttle));
    print_text(&(described(&lines) + &config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttles_are_shown_a_line_each() {
        let throttles = json!([
            { "name": "a", "waiting": 12, "waits": 3456, "config": { "name": "a", "iops": 500, "units": ["x", "y"] } },
            { "name": "b", "waiting": 0, "waits": 0, "config": { "bandwidth": "4M", "each": "initiator", "initiators": ["iqn.*"], "exports": ["vm"] } }
        ]);
        let text = table(serde_json::from_value(throttles).unwrap()).lines(None);
        let expected = "THROTTLE  IOPS  BANDWIDTH  EACH       WAITING  UNITS  INITIATORS AND EXPORTS\na         500   -          -          12       x y    all\nb         -     4M         initiator  0        all    iqn.* vm\n";
        assert_eq!(text, expected);
    }
}
