//! `lunette portal`.

use super::connect;
use super::objects::{Kind, create, list, tell};
use super::table::Table;
use crate::cli::objects::{PortalCall, PortalCommand};
use anyhow::Result;
use serde::Deserialize;
use serde_json::json;

/// Carries out `lunette portal`.
pub(super) fn run(what: &PortalCall) -> Result<()> {
    let mut daemon = connect(&what.control)?;
    match &what.command {
        PortalCommand::List(how) => list(&mut daemon, "portal.list", how, table),
        PortalCommand::Create { listen, keys } => {
            let mut keys = keys.said.clone();
            keys.insert("listen".into(), listen.to_string().into());
            create(&mut daemon, "portal.create", &format!("portal {listen}"), keys)
        }
        PortalCommand::Delete { listen } => {
            tell(&mut daemon, "portal.delete", &json!({ "listen": listen }), &[(Kind::Portal, listen)])
        }
    }
}

/// What is told of a portal, as far as people want it.
#[derive(Deserialize)]
struct Shown {
    address: String,
    connections: usize,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default = "one")]
    group: u16,
    #[serde(default)]
    advertise: Vec<String>,
}

/// The group of portals that name none.
fn one() -> u16 {
    1
}

fn table(portals: Vec<Shown>) -> Table<4> {
    let mut table = Table::new(["PORTAL", "GROUP", "CONNECTIONS", "ADVERTISED AS"]);
    for Shown { address, connections, config } in portals {
        let advertised = if config.advertise.is_empty() { "-".into() } else { config.advertise.join(" ") };
        table.row([address, config.group.to_string(), connections.to_string(), advertised]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portals_are_shown_a_line_each() {
        let portals = json!([
            { "address": "192.0.2.1:3260", "connections": 3, "config": { "listen": "192.0.2.1:3260" } },
            { "address": "[::1]:9", "connections": 0, "config": { "group": 2, "advertise": ["192.0.2.9:3260"] } }
        ]);
        let text = table(serde_json::from_value(portals).unwrap()).lines(None);
        let expected = "PORTAL          GROUP  CONNECTIONS  ADVERTISED AS\n192.0.2.1:3260  1      3            -\n[::1]:9         2      0            192.0.2.9:3260\n";
        assert_eq!(text, expected);
    }
}
