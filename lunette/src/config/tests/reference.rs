//! The tables of docs/configuration.md, which are made from the schema.

use super::*;
use crate::config::schema::schema;
use serde_json::Value;
use std::fmt::Write;

const BEGIN: &str = "<!-- The tables from here on are made from the schema by a test of lunette. -->\n";
const END: &str = "<!-- This is where they end. -->\n";

/// The headings, and what their tables are called in the schema; nothing: the file as a whole.
const TABLES: [(&str, &str); 15] = [
    ("The file", ""),
    ("`[[unit]]`", "Unit"),
    ("`[[vhost-user]]`", "VhostUser"),
    ("`[[throttle]]`", "Throttle"),
    ("`[[portal]]`", "Portal"),
    ("`[[target]]`", "Target"),
    ("`[[target.access]]`", "Access"),
    ("`[target.parameters]`", "Parameters"),
    ("`redirect`", "Redirect"),
    ("`chap`", "Chap"),
    ("`accounts` and `target` of `chap`", "Account"),
    ("`[discovery]`", "Discovery"),
    ("`[limits]`", "Limits"),
    ("`[times]`", "Times"),
    ("`[daemon]`", "Daemon"),
];

fn reference() -> String {
    let schema = schema();
    let mut out = String::new();
    for (heading, name) in TABLES {
        let table = if name.is_empty() { &schema } else { &schema["$defs"][name] };
        let _ = writeln!(out, "### {heading}\n\n| key | |\n|---|---|");
        let required = table["required"].as_array().map_or(&[][..], Vec::as_slice);
        for (key, value) in table["properties"].as_object().unwrap() {
            let star = if required.contains(&Value::from(key.as_str())) { " (required)" } else { "" };
            let _ = writeln!(out, "| `{key}`{star} | {} |", described(&schema, value));
        }
        out.push('\n');
    }
    out
}

/// The description of a key, or of what it holds, and the words that there are.
fn described(schema: &Value, value: &Value) -> String {
    let inner = [
        &value["$ref"],
        &value["anyOf"][0]["$ref"],
        &value["items"]["$ref"],
        &value["items"]["anyOf"][0]["$ref"],
    ];
    let of = inner.iter().find_map(|pointer| schema.pointer(pointer.as_str()?.trim_start_matches('#')));
    let text = [Some(value), of].into_iter().flatten().find_map(|value| value["description"].as_str());
    let mut text =
        text.unwrap_or_else(|| panic!("{value} has no description")).replace('\n', " ").replace("  ", " ");
    let words: Vec<String> = of
        .and_then(|of| of["oneOf"].as_array())
        .into_iter()
        .flatten()
        .filter_map(|word| {
            Some(format!("`\"{}\"`: {}", word["const"].as_str()?, word["description"].as_str()?))
        })
        .collect();
    if !words.is_empty() {
        let _ = write!(text, " {}", words.join(" "));
    }
    text.replace('\n', " ")
}

#[test]
fn the_reference_is_that_of_the_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (tables, after) = rest.split_once(END).unwrap();
    let expected = format!("\n{}", reference());
    if std::env::var_os("LUNETTE_TEST_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
    } else {
        assert_eq!(tables, expected, "run the test once more with LUNETTE_TEST_BLESS=1");
    }
}

#[test]
fn every_table_of_the_schema_is_in_the_reference() {
    let schema = schema();
    let tables = schema["$defs"].as_object().unwrap().iter();
    let with_keys =
        tables.filter(|(_, table)| table.get("properties").is_some()).map(|(name, _)| name.as_str());
    for name in with_keys {
        assert!(TABLES.iter().any(|(_, other)| *other == name), "{name}");
    }
}
