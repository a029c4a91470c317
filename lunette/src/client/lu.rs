//! `lunette lu`.

use super::objects::{Kind, as_configured, call_on, change, create, described, list, tell};
use super::progress::wait_for;
use super::table::Table;
use super::{bytes, connect, print_json, print_text};
use crate::cli::keys::absolute;
use crate::cli::objects::{LuCall, LuCommand, Shelf, Showing, UnitNamed};
use crate::config::Unit;
use crate::config::values::Name;
use crate::control::Resized;
use crate::size;
use anyhow::{Result, bail};
use lunette_control::{Begun, Connection};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Carries out `lunette lu`.
pub(super) fn run(what: &LuCall) -> Result<()> {
    let mut daemon = connect(&what.control)?;
    let daemon = &mut daemon;
    match &what.command {
        LuCommand::List(how) => list(daemon, "unit.list", how, table),
        LuCommand::Show(how) => show(daemon, how),
        LuCommand::Create { unit, to, keys } => {
            let (name, keys) = keys_of(unit, keys.said.clone())?;
            create(daemon, "unit.create", &format!("unit `{name}`"), keys)?;
            to.iter().try_for_each(|shelf| attach(daemon, shelf, &name, None))
        }
        LuCommand::Delete { units, detach } => units.iter().try_for_each(|unit| {
            let params = json!({ "name": unit, "detach": detach });
            tell(daemon, "unit.delete", &params, &[(Kind::Unit, unit)])
        }),
        LuCommand::Change { change: call, shrink } => {
            let unit = &call.of.unit;
            let permitted: &[&str] = if *shrink { &["shrink"] } else { &[] };
            change(daemon, "unit.change", (Kind::Unit, unit), call, permitted)
        }
        LuCommand::Move { unit: UnitNamed { unit }, from, to, at } => {
            let mut params = json!({ "unit": unit, "from": from.to_string(), "to": to.to_string() });
            if let Some(at) = at {
                params["at"] = json!(at);
            }
            let names: [(Kind, &dyn std::fmt::Display); 3] =
                [(Kind::Unit, unit), (Kind::of(from), from), (Kind::of(to), to)];
            let told: Value = call_on(daemon, "unit.move", &params, &names)?;
            print_text(&format!("unit `{unit}` is LUN {} of {to}\n", told["at"].as_str().unwrap_or("?")))
        }
        LuCommand::Resize { unit, size, shrink } => resize(daemon, unit, size, *shrink),
        LuCommand::Refresh(UnitNamed { unit }) => {
            let Resized { size } = long(daemon, "unit.refresh", &json!({ "name": unit }), unit)?;
            print_text(&format!("unit `{unit}` has {}\n", size::show(size)))
        }
        LuCommand::Quiesce(UnitNamed { unit }) => {
            long::<Value>(daemon, "unit.quiesce", &json!({ "name": unit }), unit).map(drop)
        }
        LuCommand::Resume(UnitNamed { unit }) => {
            tell(daemon, "unit.resume", &json!({ "name": unit }), &[(Kind::Unit, unit)])
        }
    }
}

/// What is told of a unit, as far as people want it.
#[derive(Deserialize)]
struct Shown {
    name: Name,
    state: String,
    why: Option<String>,
    size: Option<u64>,
    block: u32,
    read_only: bool,
    serial: Option<String>,
    wwn: Option<String>,
    store: String,
    shown: Vec<Place>,
    config: Value,
}

#[derive(Deserialize)]
struct Place {
    by: String,
    name: String,
    at: String,
    rule: Option<usize>,
}

impl Shown {
    fn state(&self) -> String {
        match &self.why {
            Some(why) => format!("{}: {why}", self.state.replace('_', " ")),
            None => self.state.replace('_', " "),
        }
    }
}

fn table(units: Vec<Shown>) -> Table<6> {
    let mut table = Table::new(["UNIT", "SIZE", "ACCESS", "STATE", "STORE", "SHOWN"]).sparing(&[2]);
    for unit in units {
        let shown = match &unit.shown[..] {
            [] => "-".into(),
            [Place { name, at, .. }] => format!("{name}/{at}"),
            [Place { name, at, .. }, others @ ..] => format!("{name}/{at} +{}", others.len()),
        };
        table.row([
            unit.name.to_string(),
            unit.size.map_or_else(|| "-".into(), bytes),
            if unit.read_only { "read-only" } else { "read-write" }.into(),
            unit.state(),
            unit.config["store"].as_str().map_or(unit.store, str::to_owned),
            shown,
        ]);
    }
    table
}

fn show(
    daemon: &mut Connection,
    Showing { of: UnitNamed { unit }, json }: &Showing<UnitNamed>,
) -> Result<()> {
    let told: Value = call_on(daemon, "unit.show", &json!({ "name": unit }), &[(Kind::Unit, unit)])?;
    if *json {
        return print_json(&told);
    }
    let told: Shown = serde_json::from_value(told)?;
    print_text(
        &(description(&told) + &as_configured(&told.config, |unit: Unit, all| all.units.push(unit.into()))),
    )
}

fn description(unit: &Shown) -> String {
    let access = if unit.read_only { "read-only" } else { "read-write" };
    let size = unit.size.map_or_else(|| "not known here,".to_owned(), size::show);
    let mut lines = vec![
        ("unit", unit.name.to_string()),
        ("state", unit.state()),
        ("size", format!("{size} in blocks of {} bytes, {access}", unit.block)),
    ];
    let identity = [("serial number", &unit.serial), ("world-wide name", &unit.wwn)];
    lines.extend(identity.into_iter().filter_map(|(what, text)| Some((what, text.clone()?))));
    lines.push(("store", unit.store.clone()));
    lines.extend(unit.shown.iter().map(|Place { by, name, at, rule }| {
        let rule = rule.map_or_else(String::new, |rule| format!(", to those of rule {}", rule + 1));
        ("seen at", format!("{at} of {by} {name}{rule}"))
    }));
    described(&lines)
}

/// What a unit is to be: a name and keys, or a notation that keys add to.
fn keys_of(unit: &str, said: Map<String, Value>) -> Result<(Name, Map<String, Value>)> {
    let mut keys = match unit.starts_with("disk:") {
        false => Map::from_iter([("name".to_owned(), Value::from(unit))]),
        true => {
            let unit: Unit = unit.parse()?;
            if unit.name == Name::default() {
                bail!("say what the unit is called: `name=…`");
            }
            let mut keys = serde_json::to_value(&unit)?.as_object().cloned().unwrap_or_default();
            if let Some(store) = keys.get_mut("store") {
                *store = absolute(store.as_str().unwrap_or_default())?.into();
            }
            keys
        }
    };
    keys.extend(said);
    if !keys.contains_key("store") {
        bail!("say where its bytes are: `--store PATH`, or `--store ram:SIZE`");
    }
    let unit: Unit = serde_json::from_value(keys.clone().into())?;
    unit.check().map_err(|(key, why)| anyhow::anyhow!("{key}: {why}"))?;
    Ok((unit.name, keys))
}

/// Has a target or an export show a unit, and says where.
pub(super) fn attach(daemon: &mut Connection, to: &Shelf, unit: &Name, at: Option<Value>) -> Result<()> {
    let (method, key) = match to {
        Shelf::Target(_) => ("target.attach", "lun"),
        Shelf::Export(_) => ("export.attach", "at"),
    };
    let mut params = json!({ "name": to.to_string(), "unit": unit });
    if let Some(at) = at {
        params[key] = at;
    }
    let told: Value = call_on(daemon, method, &params, &[(Kind::of(to), to), (Kind::Unit, unit)])?;
    let at = told[key].as_str().map_or_else(|| told[key].to_string(), str::to_owned);
    let already = if told["attached"] == false { " already" } else { "" };
    print_text(&format!("unit `{unit}` is LUN {at} of {to}{already}\n"))
}

/// Has something carried out that takes its time, and shows how far it is. Ctrl-C cancels it.
fn long<T: serde::de::DeserializeOwned>(
    daemon: &mut Connection,
    method: &str,
    params: &Value,
    unit: &Name,
) -> Result<T> {
    let Begun { job } = call_on(daemon, method, params, &[(Kind::Unit, unit)])?;
    Ok(serde_json::from_value(wait_for(daemon, job, true)?)?)
}

fn resize(daemon: &mut Connection, UnitNamed { unit }: &UnitNamed, size: &str, shrink: bool) -> Result<()> {
    let wanted = size::parse(size).map_err(anyhow::Error::msg)?;
    let params = json!({ "name": unit, "size": wanted, "shrink": shrink });
    let Resized { size } = long(daemon, "unit.resize", &params, unit)?;
    print_text(&format!("unit `{unit}` has {}\n", size::show(size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Value {
        json!({
            "name": "db", "state": "not_ready", "why": "medium not present", "size": 1 << 30, "block": 512,
            "read_only": true, "serial": "s1", "wwn": "naa.6000000000000001", "store": "/srv/db.img (page cache)",
            "shown": [
                { "by": "target", "name": "iqn.2026-11.x:a", "at": "3" },
                { "by": "export", "name": "vm", "at": "1:0", "rule": 1 }
            ],
            "config": { "name": "db", "store": "/srv/db.img", "read-only": true }
        })
    }

    #[test]
    fn units_are_shown_a_line_each() {
        let text = table(serde_json::from_value(json!([told()])).unwrap()).lines(None);
        let expected =
            "db    1.00 GiB  read-only  not ready: medium not present  /srv/db.img  iqn.2026-11.x:a/3 +1";
        assert_eq!(text.lines().nth(1), Some(expected), "{text}");
    }

    #[test]
    fn one_unit_is_shown_with_all_its_places() {
        let unit: Shown = serde_json::from_value(told()).unwrap();
        let text =
            description(&unit) + &as_configured(&unit.config, |unit: Unit, all| all.units.push(unit.into()));
        let expected = "\
unit             db
state            not ready: medium not present
size             1 GiB in blocks of 512 bytes, read-only
serial number    s1
world-wide name  naa.6000000000000001
store            /srv/db.img (page cache)
seen at          3 of target iqn.2026-11.x:a
seen at          1:0 of export vm, to those of rule 2

[[unit]]
name = \"db\"
store = \"/srv/db.img\"
read-only = true
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_unit_is_described_by_a_name_or_by_a_notation() {
        let keys = |unit: &str, said: Value| {
            let said = said.as_object().cloned().unwrap_or_default();
            keys_of(unit, said)
                .map(|(name, keys)| (name.to_string(), Value::from(keys)))
                .map_err(|error| error.to_string())
        };
        let expected = json!({ "name": "a", "store": "/a", "size": "1G" });
        assert_eq!(keys("a", json!({ "store": "/a", "size": "1G" })), Ok(("a".into(), expected)));
        let (name, of_notation) = keys("disk:b.img,w,name=b", json!({ "waiting": 3 })).unwrap();
        let here = std::env::current_dir().unwrap().join("b.img");
        assert_eq!((&*name, &of_notation), ("b", &json!({ "name": "b", "store": here, "waiting": 3 })));
        for (unit, said, part) in [
            ("a", json!({}), "--store"),
            ("disk:/a", json!({}), "`name=…`"),
            ("disk:/a,colour=red,name=a", json!({}), "colour"),
            ("a", json!({ "store": "ram:1M", "size": "1M" }), "ram:SIZE"),
            ("", json!({ "store": "ram:1M" }), "printable"),
        ] {
            let error = keys(unit, said).unwrap_err();
            assert!(error.contains(part), "{unit}: {error}");
        }
    }
}
