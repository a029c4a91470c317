//! libiscsi's conformance suite, test by test, against a list of what is known not to pass.

mod expected;

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use expected::Expected;

use crate::tools;

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It asserted something, and all of it held.
    Pass,
    /// It failed, hung or crashed; why.
    Fail(String),
    /// It found that it does not apply, or asserted nothing; why.
    Skip(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Pass => write!(f, "pass"),
            Verdict::Fail(why) => write!(f, "fail  {why}"),
            Verdict::Skip(why) => write!(f, "skip  {why}"),
        }
    }
}

/// One test's name and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `Suite.Test`.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
}

/// The suite, and the logical units to run it against. **It writes to them.**
pub struct Suite {
    urls: Vec<String>,
    limit: Duration,
    only: fn(&str) -> bool,
}

impl Suite {
    /// Runs as many tests at a time as there are URLs, each on a logical unit of its own.
    pub fn new(urls: impl IntoIterator<Item = String>) -> Suite {
        Suite { urls: urls.into_iter().collect(), limit: Duration::from_secs(180), only: |_| true }
    }

    /// The time limit of one test: 180 s unless set. A test that hangs costs this long.
    pub fn limit(mut self, limit: Duration) -> Suite {
        self.limit = limit;
        self
    }

    /// Only the tests whose names, as in `Read10.Simple`, are wanted.
    pub fn only(mut self, wanted: fn(&str) -> bool) -> Suite {
        self.only = wanted;
        self
    }

    /// Runs every test and gives the outcomes in the order of the suite's own list. Each test is a
    /// process of its own, so a hang or a crash costs one test.
    pub fn run(&self) -> Result<Vec<Outcome>> {
        let mut tests = list()?;
        tests.retain(|test| (self.only)(&test.name));
        let shim = include_str!("show_skips.c");
        let shim = tools::preload_library("show_skips", shim)?;
        let queue = Mutex::new(tests.iter().enumerate());
        let next = || queue.lock().map_or(None, |mut queue| queue.next());
        let work = |url: &str| -> Result<Vec<(usize, Outcome)>> {
            let mut outcomes = Vec::new();
            while let Some((number, test)) = next() {
                let verdict = self.run_one(&shim, test, url)?;
                let name = test.name.clone();
                outcomes.push((number, Outcome { name, verdict }));
            }
            Ok(outcomes)
        };
        let mut outcomes = std::thread::scope(|scope| {
            let workers: Vec<_> = self.urls.iter().map(|url| scope.spawn(|| work(url))).collect();
            let mut all = Vec::new();
            for worker in workers {
                all.extend(worker.join().expect("a worker returns its errors")?);
            }
            anyhow::Ok(all)
        })?;
        outcomes.sort_by_key(|(number, _)| *number);
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    fn run_one(&self, shim: &std::path::Path, test: &Test, url: &str) -> Result<Verdict> {
        let mut command = tools::command("iscsi-test-cu")?;
        let selection = format!("{}.{}", test.family, test.name);
        // The second URL is another session to the same logical unit.
        command.args(["--dataloss", "--verbose", "--test", &selection, url, url]).env("LD_PRELOAD", shim);
        match tools::run(&mut command, self.limit) {
            Ok(output) => Ok(judge(output.status, &output.text())),
            Err(hang) => Ok(Verdict::Fail(first_line(&hang.to_string()))),
        }
    }
}

struct Test {
    family: String,
    name: String,
}

/// Every test once. The list also has them by other families, such as `ALL`.
fn list() -> Result<Vec<Test>> {
    let listed = tools::output("iscsi-test-cu", ["--list"])?;
    let tests: Vec<Test> = listed
        .stdout
        .lines()
        .filter_map(|line| line.split_once('.'))
        .filter(|(family, name)| matches!(*family, "SCSI" | "iSCSI") && name.contains('.'))
        .map(|(family, name)| Test { family: family.to_owned(), name: name.to_owned() })
        .collect();
    if tests.is_empty() {
        bail!("iscsi-test-cu lists no tests: {listed}");
    }
    Ok(tests)
}

/// Reads what one test said.
fn judge(status: i32, said: &str) -> Verdict {
    let Some((_, said_by_test)) = said.split_once("  Test: ") else {
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        return Verdict::Fail(format!("status {status}, did not run: {}", last.unwrap_or_default().trim()));
    };
    let (body, summary) = said_by_test.split_once("Run Summary:").unwrap_or((said_by_test, ""));
    if status >= 128 {
        return Verdict::Fail(format!("iscsi-test-cu died of signal {}", status - 128));
    }
    let Some((at, passed)) = find_verdict(body) else {
        return Verdict::Fail(format!("status {status}, no verdict"));
    };
    // What follows the verdict is the clean-up's, or the list of failures.
    let (before, after) = body.split_at(at);
    let tagged = |text: &str, tag: &str| {
        let line = text.lines().find_map(|line| line.split_once(tag));
        // An assertion's text comes as C source, so its end may be left.
        line.map(|(_, why)| why.trim().trim_end_matches("\")").to_owned())
    };
    if !passed {
        let why = tagged(before, "[FAILED]").or_else(|| tagged(after, "1. "));
        return Verdict::Fail(why.unwrap_or_else(|| format!("status {status}")));
    }
    if let Some(why) = tagged(before, "[SKIPPED]") {
        return Verdict::Skip(why);
    }
    match asserts_run(summary) {
        Ok(0) => Verdict::Skip("asserts nothing".to_owned()),
        Ok(_) => Verdict::Pass,
        Err(error) => Verdict::Fail(error.to_string()),
    }
}

/// Where the verdict stands, and whether it is "passed": after the test's name, or, when the test
/// printed something, at the beginning of a line.
fn find_verdict(body: &str) -> Option<(usize, bool)> {
    let places = ["...passed", "\npassed", "...FAILED", "\nFAILED"];
    let found = places.iter().filter_map(|place| Some((body.find(place)?, place.ends_with("passed"))));
    found.min()
}

/// How many assertions the summary counts: `asserts TOTAL RAN PASSED FAILED n/a`.
fn asserts_run(summary: &str) -> Result<u64> {
    let ran = summary
        .lines()
        .find_map(|line| line.trim().strip_prefix("asserts"))
        .and_then(|line| line.split_whitespace().nth(1));
    let ran = ran.context("the summary counts no assertions")?;
    Ok(ran.parse()?)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str, asserts: u32) -> String {
        format!(
            "Suite: Read10\n  Test: Simple ...{body}\nRun Summary:    Type  Total    Ran Passed\n\
             \x20            asserts    {asserts}    {asserts}    {asserts}      0      n/a\n"
        )
    }

    #[test]
    fn verdicts_are_told_apart() {
        assert_eq!(judge(0, &said("passed\n", 3)), Verdict::Pass);
        assert_eq!(
            judge(0, &said("    [SKIPPED] no such command.\npassed\n", 3)),
            Verdict::Skip("no such command.".to_owned())
        );
        assert_eq!(judge(0, &said("passed\n", 0)), Verdict::Skip("asserts nothing".to_owned()));
        assert_eq!(
            judge(1, &said("    [FAILED] bad sense\nFAILED\n    1. x.c:3 - y\n", 3)),
            Verdict::Fail("bad sense".to_owned())
        );
        assert_eq!(judge(1, &said("FAILED\n    1. x.c:3 - y\n", 3)), Verdict::Fail("x.c:3 - y".to_owned()));
    }

    #[test]
    fn no_verdict_is_a_failure() {
        let crashed = judge(139, "  Test: Simple ...");
        assert_eq!(crashed, Verdict::Fail("iscsi-test-cu died of signal 11".to_owned()));
        assert!(matches!(judge(10, "Failed to login\n"), Verdict::Fail(_)));
        assert!(matches!(judge(0, "  Test: Simple ..."), Verdict::Fail(_)));
    }
}
