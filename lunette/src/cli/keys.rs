//! The keys of a table of the configuration as options, from its schema: each as it is written in the file, texts without
//! quotation marks.

use crate::config::{Portal, Target, Throttle, Unit, VhostUser};
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueHint};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::marker::PhantomData;

/// A table that is made or changed by keys.
pub(crate) trait Keyed: JsonSchema + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Keys that are no options: how it is called.
    const ARGUMENTS: &'static [&'static str];
    /// Keys whose values are paths.
    const PATHS: &'static [&'static str];

    /// One to which a key can be added to see whether its value can be used.
    fn probe() -> Map<String, Value>;
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

impl Keyed for Unit {
    const ARGUMENTS: &'static [&'static str] = &["name"];
    const PATHS: &'static [&'static str] = &["store"];

    fn probe() -> Map<String, Value> {
        object(json!({ "name": "probe", "store": "/probe" }))
    }
}

impl Keyed for Target {
    const ARGUMENTS: &'static [&'static str] = &["name"];
    const PATHS: &'static [&'static str] = &[];

    fn probe() -> Map<String, Value> {
        object(json!({ "name": "iqn.2026-11.dev.lunette:probe" }))
    }
}

impl Keyed for VhostUser {
    const ARGUMENTS: &'static [&'static str] = &["name"];
    const PATHS: &'static [&'static str] = &["socket"];

    fn probe() -> Map<String, Value> {
        object(json!({ "name": "probe", "socket": "/probe" }))
    }
}

impl Keyed for Throttle {
    const ARGUMENTS: &'static [&'static str] = &["name"];
    const PATHS: &'static [&'static str] = &[];

    fn probe() -> Map<String, Value> {
        object(json!({ "name": "probe" }))
    }
}

impl Keyed for Portal {
    const ARGUMENTS: &'static [&'static str] = &["listen"];
    const PATHS: &'static [&'static str] = &[];

    fn probe() -> Map<String, Value> {
        object(json!({ "listen": "127.0.0.1:0" }))
    }
}

/// What they stand under in the help.
const HEADING: &str = "Keys, as in a configuration";

/// The keys that were said, with their values.
#[derive(Clone, Debug)]
pub(crate) struct Keys<T> {
    pub(crate) said: Map<String, Value>,
    of: PhantomData<T>,
}

/// What is told of the keys, by their names.
fn told<T: Keyed>() -> Vec<(String, Value)> {
    let schema = schema::<T>();
    let is_option = |key: &String| !T::ARGUMENTS.contains(&key.as_str());
    object(schema["properties"].clone()).into_iter().filter(|(key, _)| is_option(key)).collect()
}

/// What a text means as the value of a key: the text itself, or what it is in TOML, or a list of one of these.
fn read<T: Keyed>(key: &str, text: &str) -> Result<Value, String> {
    let itself = Value::from(text);
    let in_toml = match text {
        "on" | "yes" => Some(Value::Bool(true)),
        "off" | "no" => Some(Value::Bool(false)),
        _ => format!("x = {text}").parse::<toml::Table>().ok().and_then(|table| {
            let value = table.get("x").filter(|_| table.len() == 1)?;
            serde_json::to_value(value).ok()
        }),
    };
    let mut why = None;
    let lists = [Some(&itself), in_toml.as_ref()].map(|value| value.map(|value| json!([value])));
    for value in [Some(itself.clone()), in_toml.clone()].into_iter().chain(lists).flatten() {
        let mut probe = T::probe();
        probe.insert(key.to_owned(), value.clone());
        match serde_json::from_value::<T>(probe.into()) {
            Ok(_) => return Ok(value),
            // What is told of a value of the right kind is of use.
            Err(error) if why.is_none() && !error.to_string().starts_with("invalid type") => {
                why = Some(error.to_string());
            }
            Err(_) => {}
        }
    }
    Err(why.unwrap_or_else(|| "it is another kind of value, which is written as in a configuration".into()))
}

fn schema<T: Keyed>() -> Value {
    SchemaGenerator::default().into_root_schema_for::<T>().to_value()
}

/// The values that a key can have, if they are words or numbers of a list.
fn choices(of: &Value, whole: &Value) -> Vec<String> {
    let written = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let inner = match of["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        Some(path) => whole.pointer(path).unwrap_or(of),
        None => of,
    };
    if let Some(values) = inner["enum"].as_array() {
        return values.iter().map(written).collect();
    }
    let values = inner["oneOf"].as_array().into_iter().flatten();
    let values: Option<Vec<String>> = values.map(|one| one.get("const").map(written)).collect();
    let others = inner["anyOf"].as_array().into_iter().flatten();
    values.unwrap_or_default().into_iter().chain(others.flat_map(|one| choices(one, whole))).collect()
}

fn is_switch(schema: &Value) -> bool {
    match &schema["type"] {
        Value::Array(types) => types.iter().any(|name| name == "boolean"),
        name => name == "boolean",
    }
}

/// What stands for the value in the usage.
fn value_name(key: &str) -> String {
    key.to_uppercase().replace('-', "_")
}

impl<T: Keyed> Args for Keys<T> {
    fn augment_args(command: Command) -> Command {
        let whole = schema::<T>();
        let arg = |(key, schema): (String, Value)| {
            let named = key.clone();
            let read = move |text: &str| read::<T>(&named, text);
            let arg = Arg::new(key.clone()).long(key.clone()).value_parser(read).hide(key == "fault");
            let arg = match schema["description"].as_str() {
                // There are no files that paths could begin at.
                Some(help) => arg.help(help.split(" A relative").next().unwrap_or(help).to_owned()),
                None => arg,
            };
            let arg = if T::PATHS.contains(&key.as_str()) { arg.value_hint(ValueHint::AnyPath) } else { arg };
            if is_switch(&schema) {
                let candidates = || ["off", "on"].map(CompletionCandidate::new).into();
                return arg
                    .add(ArgValueCandidates::new(candidates))
                    .value_name("on|off")
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("on");
            }
            let choices = choices(&schema, &whole);
            let arg = arg.allow_hyphen_values(true);
            if choices.is_empty() {
                return arg.value_name(value_name(&key));
            }
            let name = choices.join("|");
            let candidates = move || choices.iter().map(CompletionCandidate::new).collect();
            arg.value_name(name).add(ArgValueCandidates::new(candidates))
        };
        command.next_help_heading(HEADING).args(told::<T>().into_iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Keyed> FromArgMatches for Keys<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut keys = Self { said: Map::new(), of: PhantomData };
        keys.update_from_arg_matches(matches)?;
        Ok(keys)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (key, _) in told::<T>() {
            let Some(value) = matches.get_one::<Value>(&key) else { continue };
            let mut value = value.clone();
            match value.as_str().filter(|_| T::PATHS.contains(&key.as_str())) {
                Some(path) => value = absolute(path)?.into(),
                None => find_secrets(&mut value)?,
            }
            self.said.insert(key, value);
        }
        Ok(())
    }
}

/// The path as the daemon has to be told, which is elsewhere. Memory has none.
pub(crate) fn absolute(path: &str) -> Result<String, clap::Error> {
    if path.starts_with("ram:") {
        return Ok(path.to_owned());
    }
    let why = |why: String| clap::Error::raw(ErrorKind::ValueValidation, format!("{path}: {why}\n"));
    let absolute = std::path::absolute(path).map_err(|error| why(error.to_string()))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| why("its directory has a name that is no UTF-8".into()))
}

/// Makes the paths of secrets absolute, wherever in a value they are.
fn find_secrets(value: &mut Value) -> Result<(), clap::Error> {
    match value {
        Value::Array(values) => values.iter_mut().try_for_each(find_secrets),
        Value::Object(table) => {
            if let Some(Value::String(path)) =
                table.get_mut("secret").and_then(|secret| secret.get_mut("file"))
            {
                *path = absolute(path)?;
            }
            table.values_mut().try_for_each(find_secrets)
        }
        _ => Ok(()),
    }
}

/// The keys of a table that can be unset.
pub(crate) fn names<T: Keyed>() -> Vec<String> {
    told::<T>().into_iter().map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys<T: Keyed>(words: &[&str]) -> Result<Value, String> {
        let command = Keys::<T>::augment_args(Command::new("x"));
        let matches =
            command.try_get_matches_from([&["x"], words].concat()).map_err(|error| error.to_string())?;
        Ok(Keys::<T>::from_arg_matches(&matches).map_err(|error| error.to_string())?.said.into())
    }

    #[test]
    fn keys_are_written_as_in_a_file() {
        let unit = keys::<Unit>(&[
            "--store=/a,b",
            "--read-only",
            "--size",
            "2G",
            "--lun=3",
            "--serial",
            "123",
            "--inline=off",
            "--pace",
            "off",
        ]);
        let expected = json!({ "store": "/a,b", "read-only": true, "size": "2G", "lun": 3, "serial": "123", "inline": false, "pace": "off" });
        assert_eq!(unit.unwrap(), expected);
        let target = keys::<Target>(&[
            "--groups",
            "2",
            "--units",
            "{ 0 = \"a\", 7 = \"b\" }",
            "--access",
            "[{ initiators = [\"iqn.2026-11.x:a\"] }]",
        ]);
        let expected = json!({ "groups": [2], "units": { "0": "a", "7": "b" }, "access": [{ "initiators": ["iqn.2026-11.x:a"] }] });
        assert_eq!(target.unwrap(), expected);
        let throttle =
            keys::<Throttle>(&["--iops", "100", "--bandwidth", "4M", "--units", "a", "--each", "unit"]);
        let expected = json!({ "iops": 100, "bandwidth": "4M", "units": ["a"], "each": "unit" });
        assert_eq!(throttle.unwrap(), expected);
        let accounts = "accounts = [{ name = \"a\", secret = { file = \"chap/a\" } }]";
        let own = "target = { name = \"b\", secret = { credential = \"b\" } }";
        let rules =
            keys::<Target>(&["--access", &format!("[{{ chap = {{ {accounts}, {own} }} }}]")]).unwrap();
        let chap = &rules["access"][0]["chap"];
        let here = std::env::current_dir().unwrap();
        assert_eq!(chap["accounts"][0]["secret"], json!({ "file": here.join("chap/a") }));
        assert_eq!(chap["target"]["secret"], json!({ "credential": "b" }));
        let here = here.join("vm.sock");
        assert_eq!(keys::<VhostUser>(&["--socket", "vm.sock"]).unwrap(), json!({ "socket": here }));
        assert_eq!(keys::<Unit>(&["--store", "ram:1M"]).unwrap(), json!({ "store": "ram:1M" }));
        assert_eq!(
            keys::<Portal>(&["--advertise", "192.0.2.1:3260"]).unwrap(),
            json!({ "advertise": ["192.0.2.1:3260"] })
        );
    }

    #[test]
    fn choices_are_told() {
        let help = Keys::<Unit>::augment_args(Command::new("x")).render_help().to_string();
        for part in ["--known-by <name|file>", "--block <512|4096>", "--direct[=<on|off>]", "--size <SIZE>"] {
            assert!(help.contains(part), "{part}: {help}");
        }
    }

    #[test]
    fn values_that_cannot_be_used_are_told_with_their_keys() {
        for (words, parts) in [
            (&["--size", "5X"][..], &["--size", "`5X` is not a size"][..]),
            (&["--block", "520"], &["--block", "512 or 4096"]),
            (&["--lun", "-1"], &["--lun"]),
            (&["--lun", "1\ny = 2"], &["--lun"]),
            (&["--read-only=maybe"], &["--read-only"]),
            (&["--siz", "5G"], &["--siz", "--size"]),
            (&["--name", "x"], &["--name"]),
        ] {
            let error = keys::<Unit>(words).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{words:?}: {error}");
        }
    }
}
