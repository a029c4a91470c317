//! Running commands one after the other, saying what runs and how long it took.

use crate::programs;
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Steps {
    environment: Vec<(String, String)>,
    times: Vec<(String, Duration)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { environment: Vec::new(), times: Vec::new() }
    }

    /// Sets a variable for all later steps.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    pub(crate) fn cargo(&mut self, what: &str, arguments: &[&str]) -> Result<()> {
        self.cargo_with(what, arguments, &[])
    }

    pub(crate) fn cargo_with(
        &mut self,
        what: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<()> {
        println!("==> {what}");
        let start = Instant::now();
        let mut command = Command::new(cargo());
        command.args(arguments).envs(self.environment.clone()).envs(variables.iter().copied());
        let status = command.status().with_context(|| format!("cannot run cargo for: {what}"))?;
        self.times.push((what.into(), start.elapsed()));
        ensure!(status.success(), "{what}: failed (cargo {})", arguments.join(" "));
        Ok(())
    }

    /// Builds and runs the tests of a package, those of its documentation first.
    pub(crate) fn test_programs(&mut self, what: &str, package: &str) -> Result<()> {
        println!("==> {what}");
        let start = Instant::now();
        let test = |more: &[&str]| {
            let mut command = Command::new(cargo());
            command.args(["test", "--quiet", "--package", package]).args(more).envs(self.environment.clone());
            command
        };
        let status = test(&["--doc"]).status().context("cannot run cargo")?;
        ensure!(status.success(), "{what}: failed (cargo test --doc --package {package})");
        let built = test(&["--all-targets", "--no-run", "--message-format=json-render-diagnostics"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        ensure!(built.status.success(), "{what}: cannot be built");
        programs::run(programs::named_in(&built.stdout)?, &self.environment)?;
        self.times.push((what.into(), start.elapsed()));
        Ok(())
    }

    /// Whether cargo has the subcommand.
    pub(crate) fn has_cargo(&self, subcommand: &str) -> bool {
        let mut command = Command::new(cargo());
        command.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Says how long each step took.
    pub(crate) fn finish(self) {
        println!("==> all passed");
        for (what, time) in self.times {
            println!("{:6.1} s  {what}", time.as_secs_f64());
        }
    }
}

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}
