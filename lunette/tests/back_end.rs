//! The program as QEMU's back-end program conventions expect it.

use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the program under the name `name`.
fn run_as(name: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join(name);
    symlink(env!("CARGO_BIN_EXE_lunette"), &program).unwrap();
    Command::new(program).args(arguments).env("LUNETTE_STATE_DIR", folder.path()).output().unwrap()
}

fn descriptor() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/qemu/50-lunette.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_descriptor_names_a_back_end_that_says_what_it_is() {
    let descriptor = descriptor();
    let binary = Path::new(descriptor["binary"].as_str().unwrap());
    assert!(binary.is_absolute());
    let said =
        run_as(binary.file_name().unwrap().to_str().unwrap(), &["--lu", "nonsense", "--print-capabilities"]);
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    let capabilities: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(capabilities, json!({ "type": "scsi" }));
    assert_eq!(descriptor["type"], capabilities["type"]);
    // What the schema allows, and no more.
    let keys: Vec<_> = descriptor.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["binary", "description", "tags", "type"]);
}

#[test]
fn the_name_decides_what_the_arguments_are() {
    let plain = run_as("lunette", &["--fd=3"]);
    assert_eq!(plain.status.code(), Some(2));
    let back_end = run_as("lunette-vhost-user-scsi", &["--help"]);
    let help = String::from_utf8(back_end.stdout).unwrap();
    for option in ["--socket-path", "--fd", "--print-capabilities", "--lu"] {
        assert!(help.contains(option), "{option}: {help}");
    }
}
