//! Chores of the project: `cargo xtask test`, `cargo xtask bench`, `cargo xtask fuzz`, `cargo xtask reference`.

mod packages;
mod programs;
mod reference;
mod steps;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use steps::Steps;

/// Chores of the lunette project.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs every check and test, installing the Debian packages they need
    Test {
        /// Run long and random tests with their full counts
        #[arg(long)]
        full: bool,
        /// Do not look for missing Debian packages
        #[arg(long)]
        no_install: bool,
        /// Stop before the end-to-end tests
        #[arg(long)]
        no_e2e: bool,
    },
    /// Measures against peers and writes bench/results.md
    Bench {
        /// Options of the benchmark program (`cargo xtask bench -- --help`)
        #[arg(last = true)]
        options: Vec<String>,
    },
    /// Writes docs/reference.md from the tables
    Reference,
    /// Runs a fuzz target with AddressSanitizer (needs cargo-fuzz)
    Fuzz {
        /// One of the targets in fuzz/targets/fuzz_targets
        target: String,
        /// How long, in seconds
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    let result = std::env::set_current_dir(root()).context("cannot enter the workspace").and_then(|()| run());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Cli::parse().chore {
        Chore::Test { full, no_install, no_e2e } => test(full, no_install, no_e2e),
        Chore::Bench { options } => bench(&options),
        Chore::Reference => reference::write(),
        Chore::Fuzz { target, seconds } => fuzz(&target, seconds),
    }
}

/// Fast checks first; everything that a change can break.
fn test(full: bool, no_install: bool, no_e2e: bool) -> Result<()> {
    if !no_install {
        packages::install(packages::FOR_TESTS)?;
    }
    let mut steps = Steps::new();
    // One run builds nearly everything once: what a second build would use doubles the room that it takes.
    steps.set("CARGO_INCREMENTAL", "0");
    if full {
        steps.set("LUNETTE_TEST_FULL", "1");
    }
    steps.cargo("format", &["fmt", "--all", "--check"])?;
    if steps.has_cargo("deny") {
        steps.cargo(
            "licences and sources",
            &["deny", "--log-level", "error", "check", "licenses", "bans", "sources"],
        )?;
    } else {
        println!("xtask: cargo-deny is not installed; the tests check licences by themselves");
    }
    steps.cargo("lints", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    steps.cargo_with(
        "documentation",
        &["doc", "--workspace", "--no-deps", "--quiet"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    steps
        .cargo("unit and property tests", &["test", "--workspace", "--exclude", "lunette-e2e", "--quiet"])?;
    if !no_e2e {
        steps.cargo("build for the end-to-end tests", &["build", "--quiet", "--package", "lunette"])?;
        steps.test_programs("end-to-end tests", "lunette-e2e")?;
    }
    steps.finish();
    Ok(())
}

fn bench(options: &[String]) -> Result<()> {
    packages::install(packages::FOR_BENCHMARKS)?;
    let mut steps = Steps::new();
    for what in [
        &["--package", "lunette", "--package", "lunette-bench"][..],
        &["--package", "lunette-transport-vhost-user", "--example", "instructions"],
    ] {
        steps.cargo("build", &[&["build", "--release", "--quiet"], what].concat())?;
    }
    let mut arguments = vec!["run", "--release", "--quiet", "--package", "lunette-bench", "--"];
    arguments.extend(options.iter().map(String::as_str));
    steps.cargo("benchmarks", &arguments)
}

fn fuzz(target: &str, seconds: u32) -> Result<()> {
    let mut steps = Steps::new();
    anyhow::ensure!(
        steps.has_cargo("fuzz"),
        "cargo-fuzz is not installed: cargo install cargo-fuzz --locked"
    );
    // cargo-fuzz asks for unstable flags of the compiler; the stable one takes them when told to.
    let environment = [("RUSTC_BOOTSTRAP", "1")];
    let time = format!("-max_total_time={seconds}");
    // What is found goes to the first; the second is what the tests replay.
    let [found, kept] = [format!("fuzz/targets/corpus/{target}"), format!("fuzz/corpus/{target}")];
    std::fs::create_dir_all(&found)?;
    let mut arguments = vec!["fuzz", "run", "--fuzz-dir", "fuzz/targets", target, &found];
    arguments.extend(Path::new(&kept).exists().then_some(kept.as_str()));
    arguments.extend(["--", "-max_len=4096", &time]);
    steps.cargo_with("fuzz", &arguments, &environment)
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
