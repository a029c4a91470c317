//! Test programs of a package, several at a time: many of them wait for a guest or a clock most of their time, and
//! `cargo test` runs one after the other.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How many run at a time.
const AT_A_TIME: usize = 3;

/// A test program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    name: String,
    path: PathBuf,
    /// Where its package is, which is where it runs.
    folder: PathBuf,
}

impl Program {
    /// Runs it, and shows what it has said when it has ended. Whether its tests have passed.
    fn run(&self, environment: &[(String, String)]) -> bool {
        println!("==> {} begins", self.name);
        let start = Instant::now();
        let mut command = Command::new(&self.path);
        command.current_dir(&self.folder).envs(environment.iter().cloned());
        let (passed, said) = match command.output() {
            Ok(output) => (output.status.success(), [output.stdout, output.stderr].concat()),
            Err(error) => (false, format!("cannot run {}: {error}\n", self.path.display()).into_bytes()),
        };
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "==> {} took {:.1} s", self.name, start.elapsed().as_secs_f64());
        let _ = stdout.write_all(&said);
        passed
    }
}

/// The test programs that a `cargo test --no-run --message-format=json` has named.
pub(crate) fn named_in(messages: &[u8]) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for message in serde_json::Deserializer::from_slice(messages).into_iter::<Value>() {
        let message = message.context("cargo says what is not JSON")?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let is_test = message["profile"]["test"].as_bool().unwrap_or(false);
        let (path, manifest) = (text(&message["executable"]), text(&message["manifest_path"]));
        if let Some((path, manifest)) = path.zip(manifest).filter(|_| is_test) {
            let name = text(&message["target"]["name"]).unwrap_or_default();
            let folder = PathBuf::from(manifest).parent().map(PathBuf::from).unwrap_or_default();
            programs.push(Program { name, path: path.into(), folder });
        }
    }
    // Those with guests of their own take longest and come first, so that none of them runs alone at the end.
    programs.sort_by(|one, other| other.name.cmp(&one.name));
    Ok(programs)
}

/// Runs all of them, whatever becomes of each.
///
/// # Errors
/// Names those of which a test has failed.
pub(crate) fn run(programs: Vec<Program>, environment: &[(String, String)]) -> Result<()> {
    ensure!(!programs.is_empty(), "there are no test programs");
    let waiting = Mutex::new(VecDeque::from(programs));
    let failed = Mutex::new(Vec::new());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(program) = next() {
                    if !program.run(environment) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(program.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "tests failed in: {}", failed.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, path: &str) -> Program {
        Program { name: name.into(), path: path.into(), folder: "/".into() }
    }

    #[test]
    fn programs_are_found_among_what_cargo_says() {
        let messages = br#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"name":"lib"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"name":"tool"},"profile":{"test":false},"executable":"/t/tool"}
{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"name":"disks"},"profile":{"test":true},"executable":"/t/disks-1"}
{"reason":"build-finished","success":true}"#;
        let expected = Program { name: "disks".into(), path: "/t/disks-1".into(), folder: "/p".into() };
        assert_eq!(named_in(messages).unwrap(), [expected]);
        assert!(named_in(b"error").is_err());
    }

    #[test]
    fn one_failure_is_told_and_stops_no_other() {
        let programs = || {
            vec![program("good", "/bin/true"), program("bad", "/bin/false"), program("absent", "/no/such")]
        };
        let error = run(programs(), &[]).unwrap_err().to_string();
        assert!(error.contains("bad") && error.contains("absent") && !error.contains("good"), "{error}");
        run(vec![program("good", "/bin/true")], &[]).unwrap();
        assert!(run(Vec::new(), &[]).is_err());
    }
}
