//! `lunette target`.

use super::lu::attach;
use super::objects::{Kind, as_configured, call_on, change, create, described, list, places, tell};
use super::table::Table;
use super::{connect, print_json, print_text};
use crate::cli::objects::{Shelf, Showing, TargetCall, TargetCommand, TargetNamed, UnitNamed};
use crate::config::Target;
use anyhow::Result;
use lunette_control::Connection;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Carries out `lunette target`.
pub(super) fn run(what: &TargetCall) -> Result<()> {
    let mut daemon = connect(&what.control)?;
    let daemon = &mut daemon;
    match &what.command {
        TargetCommand::List(how) => list(daemon, "target.list", how, table),
        TargetCommand::Show(how) => show(daemon, how),
        TargetCommand::Create { name, keys } => {
            let mut keys = keys.said.clone();
            keys.insert("name".into(), name.to_string().into());
            create(daemon, "target.create", &format!("target {name}"), keys)
        }
        TargetCommand::Delete(TargetNamed { target }) => {
            tell(daemon, "target.delete", &json!({ "name": target }), &[(Kind::Target, target)])
        }
        TargetCommand::Change(call) => {
            let name = &call.of.target;
            change(daemon, "target.change", (Kind::Target, name), call, &[])
        }
        TargetCommand::Attach { target: TargetNamed { target }, unit: UnitNamed { unit }, lun } => {
            attach(daemon, &Shelf::Target(target.clone()), unit, lun.map(Value::from))
        }
        TargetCommand::Detach { target: TargetNamed { target }, unit, lun } => {
            let mut params = json!({ "name": target });
            if let Some(unit) = unit {
                params["unit"] = json!(unit);
            }
            if let Some(lun) = lun {
                params["lun"] = json!(lun);
            }
            let unit = unit.clone().unwrap_or_default();
            tell(daemon, "target.detach", &params, &[(Kind::Target, target), (Kind::Unit, &unit)])
        }
    }
}

/// What is told of a target, as far as people want it.
#[derive(Deserialize)]
struct Shown {
    name: String,
    sessions: usize,
    shown: BTreeMap<String, String>,
    config: Value,
}

fn table(targets: Vec<Shown>) -> Table<5> {
    let mut table = Table::new(["TARGET", "SESSIONS", "RULES", "GROUPS", "UNITS"]).sparing(&[3, 2]);
    for target in targets {
        let groups: Vec<String> =
            target.config["groups"].as_array().into_iter().flatten().map(Value::to_string).collect();
        table.row([
            target.name,
            target.sessions.to_string(),
            target.config["access"].as_array().map_or(0, Vec::len).to_string(),
            if groups.is_empty() { "all".into() } else { groups.join(",") },
            places(&target.shown),
        ]);
    }
    table
}

fn show(daemon: &mut Connection, Showing { of, json }: &Showing<TargetNamed>) -> Result<()> {
    let name = &of.target;
    let told: Value = call_on(daemon, "target.show", &json!({ "name": name }), &[(Kind::Target, name)])?;
    if *json {
        return print_json(&told);
    }
    let Shown { name, sessions, shown, config } = serde_json::from_value(told)?;
    let units = shown.iter().map(|(at, unit)| ("LUN", format!("{at}  {unit}")));
    let lines: Vec<_> =
        [("target", name), ("sessions", sessions.to_string())].into_iter().chain(units).collect();
    print_text(&(described(&lines) + &as_configured(&config, |target: Target, all| all.targets.push(target))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shown_a_line_each() {
        let targets = json!([
            { "name": "iqn.a", "sessions": 2, "shown": { "0": "a", "10": "b" }, "config": { "name": "iqn.a" } },
            { "name": "iqn.b", "sessions": 0, "shown": {}, "config": { "groups": [1, 2], "access": [{}] } }
        ]);
        let text = table(serde_json::from_value(targets).unwrap()).lines(None);
        let expected = "TARGET  SESSIONS  RULES  GROUPS  UNITS\niqn.a   2         0      all     0=a 10=b\niqn.b   0         1      1,2     -\n";
        assert_eq!(text, expected);
    }
}
