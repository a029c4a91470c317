//! `lunette export`.

use super::lu::attach;
use super::objects::{Kind, as_configured, call_on, change, create, described, list, places, tell};
use super::table::Table;
use super::{connect, print_json, print_text};
use crate::cli::objects::{ExportCall, ExportCommand, ExportNamed, Shelf, Showing, UnitNamed};
use crate::config::VhostUser;
use crate::running::LinkState;
use anyhow::{Result, bail};
use lunette_control::Connection;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Carries out `lunette export`.
pub(super) fn run(what: &ExportCall) -> Result<()> {
    let mut daemon = connect(&what.control)?;
    let daemon = &mut daemon;
    match &what.command {
        ExportCommand::List(how) => list(daemon, "export.list", how, table),
        ExportCommand::Show(how) => show(daemon, how),
        ExportCommand::Create { name, keys } => {
            let mut keys = keys.said.clone();
            keys.insert("name".into(), name.to_string().into());
            if !keys.contains_key("socket") {
                bail!(
                    "say where virtual machines connect, or with `--client` are connected to: `--socket PATH`"
                );
            }
            create(daemon, "export.create", &format!("export `{name}`"), keys)
        }
        ExportCommand::Delete(ExportNamed { export }) => {
            tell(daemon, "export.delete", &json!({ "name": export }), &[(Kind::Export, export)])
        }
        ExportCommand::Change(call) => {
            let name = &call.of.export;
            change(daemon, "export.change", (Kind::Export, name), call, &[])
        }
        ExportCommand::Rename { export: ExportNamed { export }, to } => {
            let params = json!({ "name": export, "to": to });
            tell(daemon, "export.rename", &params, &[(Kind::Export, export)])
        }
        ExportCommand::Attach { export: ExportNamed { export }, unit: UnitNamed { unit }, at } => {
            attach(daemon, &Shelf::Export(export.clone()), unit, at.map(|at| json!(at)))
        }
        ExportCommand::Detach { export: ExportNamed { export }, unit, at } => {
            let mut params = json!({ "name": export });
            if let Some(unit) = unit {
                params["unit"] = json!(unit);
            }
            if let Some(at) = at {
                params["at"] = json!(at);
            }
            let unit = unit.clone().unwrap_or_default();
            tell(daemon, "export.detach", &params, &[(Kind::Export, export), (Kind::Unit, &unit)])
        }
    }
}

/// What is told of an export, as far as people want it.
#[derive(Deserialize)]
struct Shown {
    name: String,
    state: LinkState,
    error: Option<String>,
    shown: BTreeMap<String, String>,
    #[serde(default)]
    standby: BTreeSet<String>,
    config: Value,
}

impl Shown {
    fn state(&self) -> &'static str {
        match self.state {
            LinkState::Listening => "listening",
            LinkState::Connecting => "connecting",
            LinkState::Waiting => "waiting",
            LinkState::Connected => "connected",
        }
    }
}

fn table(exports: Vec<Shown>) -> Table<4> {
    let mut table = Table::new(["EXPORT", "STATE", "SOCKET", "UNITS"]);
    for export in exports {
        let socket = export.config["socket"].as_str().unwrap_or("-").to_owned();
        table.row([export.name.clone(), export.state().into(), socket, places(&export.shown)]);
    }
    table
}

fn show(daemon: &mut Connection, Showing { of, json }: &Showing<ExportNamed>) -> Result<()> {
    let name = &of.export;
    let told: Value = call_on(daemon, "export.show", &json!({ "name": name }), &[(Kind::Export, name)])?;
    if *json {
        return print_json(&told);
    }
    let told: Shown = serde_json::from_value(told)?;
    let state = ("state", told.state().to_owned());
    let error = told.error.as_ref().map(|why| ("error", why.clone()));
    let units = told.shown.iter().map(|(at, unit)| {
        let state = if told.standby.contains(unit) { " (standby)" } else { "" };
        ("LUN", format!("{at}  {unit}{state}"))
    });
    let lines: Vec<_> =
        [("export", told.name.clone()), state].into_iter().chain(error).chain(units).collect();
    print_text(
        &(described(&lines) + &as_configured(&told.config, |one: VhostUser, all| all.vhost_user.push(one))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_shown_a_line_each() {
        let exports = json!([{
            "name": "vm", "state": "connected", "error": null, "shown": { "0": "a", "1:0": "b" }, "config": { "socket": "/run/vm.sock" }
        }]);
        let text = table(serde_json::from_value(exports).unwrap()).lines(None);
        assert_eq!(
            text,
            "EXPORT  STATE      SOCKET        UNITS\nvm      connected  /run/vm.sock  0=a 1:0=b\n"
        );
    }
}
