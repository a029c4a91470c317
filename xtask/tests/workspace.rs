//! The shape of the workspace: who may depend on whom, and under which licences.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// For each package what it may depend on within the workspace. The packages not named here (the program, tests, chores)
/// may know everything. ARCHITECTURE.md says why.
const ALLOWED: &[(&str, &[&str])] = &[
    ("scsi", &[]),
    ("confine", &[]),
    ("control", &[]),
    ("store", &[]),
    ("engine", &["scsi", "store"]),
    ("device-disk", &["engine", "scsi", "store"]),
    ("reactor", &["store"]),
    ("store-file", &["store", "reactor"]),
    ("iscsi", &["scsi"]),
    ("vhost-user", &["scsi"]),
    ("guest", &["vhost-user"]),
    ("transport-iscsi", &["engine", "scsi", "store", "iscsi", "reactor"]),
    ("transport-vhost-user", &["engine", "scsi", "store", "vhost-user", "reactor"]),
];

/// What knows everything, but for the program, which holds nothing that is only for tests.
const FREE: &[&str] = &["lunette", "bench", "e2e", "fuzz", "xtask"];

/// What only tests and measurements use.
const FOR_TESTS: &[&str] = &["guest"];

/// Licences that everything we link may have.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "0BSD",
    "Apache-2.0 WITH LLVM-exception",
    "CC0-1.0",
    "BSL-1.0",
    "MIT-0",
];

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn folder(package: &str) -> &str {
    package.strip_prefix("lunette-").unwrap_or(package)
}

#[test]
fn dependencies_point_only_the_allowed_way() {
    let metadata = metadata();
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let packages: Vec<&Value> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| members.contains(package["id"].as_str().unwrap()))
        .collect();
    let names: BTreeSet<&str> =
        packages.iter().map(|package| folder(package["name"].as_str().unwrap())).collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = folder(package["name"].as_str().unwrap());
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let in_tests = |dependency: &&Value| dependency["kind"].as_str() == Some("dev");
        if name == "lunette" {
            let built_in = dependencies.filter(|dependency| !in_tests(dependency));
            let others = built_in.map(|dependency| folder(dependency["name"].as_str().unwrap()));
            let odd = others.filter(|other| FOR_TESTS.contains(other));
            wrong.extend(odd.map(|other| format!("{name} must use {other} in tests only")));
            continue;
        }
        if FREE.contains(&name) {
            continue;
        }
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("{name} stands in no row of ALLOWED"));
            continue;
        };
        for dependency in dependencies {
            let other = folder(dependency["name"].as_str().unwrap());
            // Tests may use more: a real reactor, a device to serve.
            if names.contains(other) && !may.contains(&other) && !in_tests(&dependency) {
                wrong.push(format!("{name} must not depend on {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let gone: Vec<_> = allowed.keys().filter(|name| !names.contains(*name)).collect();
    assert!(gone.is_empty(), "ALLOWED names packages that are not there: {gone:?}");
}

#[test]
fn everything_linked_has_an_allowed_licence() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none");
        let one_of = |text: &str| {
            text.split(" OR ").any(|part| LICENCES.contains(&part.trim_matches(['(', ')', ' '])))
        };
        let fine = licence.replace('/', " OR ").split(" AND ").all(one_of);
        if !fine {
            wrong.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
