//! The schema, and the examples of the documentation against it.

use super::*;
use crate::config::document::SECTIONS;
use crate::config::schema::schema;
use regex_lite::Regex;
use serde_json::{Value, json};

/// Why a value does not fit a schema, of which the keywords are known that ours has.
fn misfit(schema: &Value, root: &Value, value: &Value, at: &str) -> Result<(), String> {
    let Some(rules) = schema.as_object() else { return Ok(()) };
    for (keyword, rule) in rules {
        let fits = match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().unwrap().trim_start_matches('#');
                misfit(root.pointer(pointer).unwrap(), root, value, at)?;
                true
            }
            "type" => match rule {
                Value::String(name) => is_a(value, name),
                Value::Array(names) => names.iter().any(|name| is_a(value, name.as_str().unwrap())),
                _ => false,
            },
            "anyOf" | "oneOf" => {
                let fit = |one: &&Value| misfit(one, root, value, at).is_ok();
                let count = rule.as_array().unwrap().iter().filter(fit).count();
                if keyword == "anyOf" { count > 0 } else { count == 1 }
            }
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "pattern" => {
                value.as_str().is_none_or(|text| Regex::new(rule.as_str().unwrap()).unwrap().is_match(text))
            }
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "minLength" => {
                value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap())
            }
            "maxLength" => {
                value.as_str().is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().unwrap())
            }
            "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().unwrap()),
            "uniqueItems" => value
                .as_array()
                .is_none_or(|list| list.iter().enumerate().all(|(index, one)| !list[..index].contains(one))),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    misfit(rule, root, item, &format!("{at}/{index}"))?;
                }
                true
            }
            "required" => {
                let missing = |key: &&Value| value.get(key.as_str().unwrap()).is_none();
                !value.is_object() || !rule.as_array().unwrap().iter().any(|key| missing(&key))
            }
            "properties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rule.get(key) {
                        misfit(rule, root, inner, &format!("{at}/{key}"))?;
                    }
                }
                true
            }
            "patternProperties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    for (pattern, rule) in rule.as_object().unwrap() {
                        if Regex::new(pattern).unwrap().is_match(key) {
                            misfit(rule, root, inner, &format!("{at}/{key}"))?;
                        }
                    }
                }
                true
            }
            "additionalProperties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    let known = |of: &str| rules.get(of).and_then(|rules| rules.get(key)).is_some();
                    let pattern = |pattern: &String| Regex::new(pattern).unwrap().is_match(key);
                    let patterns = rules.get("patternProperties").and_then(Value::as_object);
                    if known("properties") || patterns.is_some_and(|all| all.keys().any(pattern)) {
                        continue;
                    }
                    if *rule == json!(false) {
                        return Err(format!("{at}: there should be no `{key}`"));
                    }
                    misfit(rule, root, inner, &format!("{at}/{key}"))?;
                }
                true
            }
            "$schema" | "$defs" | "title" | "description" | "default" | "format" => true,
            other => panic!("the keyword {other} is not known here"),
        };
        if !fits {
            return Err(format!("{at}: {value} does not fit {keyword} {rule}"));
        }
    }
    Ok(())
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        _ => false,
    }
}

fn fits(text: &str) -> Result<(), String> {
    let value: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
    let schema = schema();
    misfit(&schema, &schema, &value, "")
}

/// The blocks of TOML in the documentation.
fn examples() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let documents = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut examples = Vec::new();
    for path in documents.chain([root.join("README.md")]) {
        let text = std::fs::read_to_string(&path).unwrap();
        for block in text.split("```toml\n").skip(1) {
            examples.push((path.clone(), block.split("```").next().unwrap().to_owned()));
        }
    }
    examples
}

#[test]
fn the_examples_of_the_documentation_fit_the_schema_and_can_be_used() {
    let examples = examples();
    assert!(examples.len() >= 3);
    for (path, text) in examples {
        fits(&text).unwrap_or_else(|misfit| panic!("{}: {misfit}\n{text}", path.display()));
        if let Err(report) = from_text(&path, text, UNKNOWN) {
            panic!("{report}");
        }
    }
}

#[test]
fn what_the_schema_refuses_is_refused() {
    for text in [
        "[daemon]\nreactor = 1\n",
        "[daemon]\nreactors = 70000\n",
        "[daemon]\npoll = \"sometimes\"\n",
        "[[unit]]\nname = \"a\"\n",
        "[[unit]]\nname = \"a\"\nstore = \"/a\"\nblock = 520\n",
        "[[unit]]\nlu = \"disk:/a,name=a\"\nname = \"a\"\n",
        "[[vhost-user]]\nname = \"a\"\nsocket = \"/a\"\nmode = \"rw\"\n",
        "[[vhost-user]]\nname = \"a\"\nsocket = \"/a\"\nunits = { \"0-1\" = \"a\" }\n",
        "[discovery]\nchap = { accounts = [{ name = \"x\", secret = \"y\" }] }\n",
        "addresses = []\n",
    ] {
        assert!(fits(text).is_err(), "{text}");
        assert!(from_text(Path::new("x"), text.into(), UNKNOWN).is_err(), "{text}");
    }
}

#[test]
fn every_section_and_no_other_is_in_the_schema() {
    let schema = schema();
    let mut sections: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = SECTIONS.to_vec();
    sections.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sections, expected);
}
