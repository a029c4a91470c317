//! What a command costs in instructions, which no other work on the machine disturbs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::report::{Bar, Section};
use crate::run::Settings;

/// What is counted, the words for the program, and the most instructions that it may take.
const CASES: [(&str, &[&str], f64); 10] = [
    ("4k READ(10), split ring", &["split", "indirect"], 1190.0),
    ("4k WRITE(10), split ring", &["split", "indirect", "write"], 1219.0),
    ("4k READ(10), packed ring", &["packed", "indirect"], 1217.0),
    ("4k WRITE(10), packed ring", &["packed", "indirect", "write"], 1246.0),
    (
        "4k READ(10), split ring, written pages marked in a dirty log",
        &["split", "indirect", "logged"],
        1400.0,
    ),
    (
        "4k READ(10), packed ring, written pages marked in a dirty log",
        &["packed", "indirect", "logged"],
        1440.0,
    ),
    ("4k READ(10), under a limit that allows more", &["split", "indirect", "limited"], 1225.0),
    ("4k WRITE(10), under a limit that allows more", &["split", "indirect", "write", "limited"], 1256.0),
    ("4k READ(10), split ring, noted while in flight", &["split", "indirect", "noted"], 1247.0),
    ("4k READ(10), packed ring, noted while in flight", &["packed", "indirect", "noted"], 1380.0),
];
/// The functions that take the commands from the ring, and end the turn.
const COUNTED: [&str; 2] = [
    "--toggle-collect=lunette_transport_vhost_user::queue::run::*::run",
    "--toggle-collect=lunette_engine::engine::Engine::end_turn",
];

pub(crate) fn measure(settings: &Settings) -> Result<Section> {
    let program = std::env::current_exe()?.with_file_name("examples").join("instructions");
    if !program.is_file() {
        bail!(
            "{} is missing: build it with `cargo build --release -p lunette-transport-vhost-user --example instructions`",
            program.display()
        );
    }
    let mut section = Section::without_rounds("Instructions of a command", settings)?;
    section.fact(
        "Counted by Valgrind's Callgrind: ring, engine and disk of lunette, from taking the request out of the ring to its \
         response there, with a store that answers at once and moves no data."
            .to_owned(),
    );
    for (name, words, most) in CASES.into_iter().filter(|(name, ..)| name.contains(&settings.filter)) {
        let each = count(&program, words).with_context(|| format!("{name} was not counted"))?;
        section.claim_value(format!("{name}: instructions at most {most}"), Some(each), Bar::AtMost(most))?;
    }
    Ok(section)
}

/// The instructions of one request.
fn count(program: &Path, words: &[&str]) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(COUNTED)
        .arg(program)
        .args(words);
    let output = valgrind.output().context("cannot run valgrind")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let requests = number_before(&String::from_utf8_lossy(&output.stdout), " requests")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected =
        said.lines().find_map(|line| line.split_once("Collected : ")).context("nothing collected")?;
    let collected: f64 = collected.1.trim().parse()?;
    ensure!(collected > 0.0, "Callgrind does not know the function by this name");
    Ok(collected / requests)
}

fn number_before(text: &str, word: &str) -> Result<f64> {
    let (number, _) = text.split_once(word).with_context(|| format!("no{word} in {text:?}"))?;
    Ok(number.trim().parse()?)
}
