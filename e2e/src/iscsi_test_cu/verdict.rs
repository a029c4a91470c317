//! How a test ended, read from what the suite says.

use std::fmt;

use anyhow::{Context, Result};

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It asserted something, all of it held, and nothing was left out.
    Pass,
    /// It passed and left nothing out, but asserts only what is wrong: there was nothing to assert, nor to warn of.
    Silent,
    /// It left out something, or everything; why.
    Skip(String),
    /// It failed, hung or crashed; why.
    Fail(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Pass => write!(f, "pass"),
            Verdict::Silent => write!(f, "silent"),
            Verdict::Skip(why) => write!(f, "skip  {why}"),
            Verdict::Fail(why) => write!(f, "fail  {why}"),
        }
    }
}

impl Verdict {
    /// Reads what the suite said of its only test, and its exit status.
    pub(super) fn read(status: i32, said: &str) -> Verdict {
        let Some((_, said_by_test)) = said.split_once("  Test: ") else {
            let last = said.lines().rfind(|line| !line.trim().is_empty());
            let last = last.unwrap_or_default().trim();
            return Verdict::Fail(format!("status {status}, did not run: {last}"));
        };
        let (body, summary) = said_by_test.split_once("Run Summary:").unwrap_or((said_by_test, ""));
        if status >= 128 {
            return Verdict::Fail(format!("iscsi-test-cu died of signal {}", status - 128));
        }
        let Some((at, passed)) = find_end(body) else {
            return Verdict::Fail(format!("status {status}, no verdict"));
        };
        // What follows the verdict is the clean-up's, or the list of failures.
        let (before, after) = body.split_at(at);
        if !passed {
            let why = tagged(before, "[FAILED]").or_else(|| tagged(after, "1. "));
            return Verdict::Fail(why.unwrap_or_else(|| format!("status {status}")));
        }
        if let Some(line) = before.lines().find(|line| line.to_ascii_lowercase().contains("skip")) {
            let why = ["[SKIPPED]", "[SKIPPING]"].iter().find_map(|tag| tagged(line, tag));
            return Verdict::Skip(why.unwrap_or_else(|| line.trim().to_owned()));
        }
        match (asserts_run(summary), tagged(before, "[WARNING]")) {
            (Ok(0), None) => Verdict::Silent,
            (Ok(0), Some(warning)) => Verdict::Fail(warning),
            (Ok(_), _) => Verdict::Pass,
            (Err(error), _) => Verdict::Fail(error.to_string()),
        }
    }
}

/// What follows `tag` in the first line that has it. An assertion's text comes as C source, so its end may be left.
fn tagged(text: &str, tag: &str) -> Option<String> {
    let (_, what) = text.lines().find_map(|line| line.split_once(tag))?;
    Some(what.trim().trim_end_matches("\")").to_owned())
}

/// Where the verdict stands, and whether it is "passed": after the test's name, or, when the test
/// printed something, at the beginning of a line.
fn find_end(body: &str) -> Option<(usize, bool)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str, asserts: u32) -> String {
        format!(
            "Suite: Read10\n  Test: Simple ...{body}\nRun Summary:    Type  Total    Ran Passed\n\
             \x20            asserts    {asserts}    {asserts}    {asserts}      0      n/a\n"
        )
    }

    fn read(body: &str, asserts: u32) -> Verdict {
        let failed = i32::from(body.contains("FAILED"));
        Verdict::read(failed, &said(body, asserts))
    }

    #[test]
    fn verdicts_are_told_apart() {
        assert_eq!(read("passed\n", 3), Verdict::Pass);
        assert_eq!(read("\n    Read one block\npassed\n", 0), Verdict::Silent);
        assert_eq!(read("\n    [WARNING] too old\npassed\n", 0), Verdict::Fail("too old".to_owned()));
        assert_eq!(
            read("    [FAILED] bad sense\nFAILED\n    1. x.c:3 - y\n", 3),
            Verdict::Fail("bad sense".to_owned())
        );
        assert_eq!(read("FAILED\n    1. x.c:3 - y\n", 3), Verdict::Fail("x.c:3 - y".to_owned()));
    }

    #[test]
    fn what_is_left_out_is_seen_however_it_is_said() {
        let skip = |why: &str| Verdict::Skip(why.to_owned());
        assert_eq!(read("    [SKIPPED] no such command.\npassed\n", 3), skip("no such command."));
        assert_eq!(read("\nCU_PASS(\"[SKIPPED] too small\")\npassed\n", 1), skip("too small"));
        assert_eq!(
            read("\n    LBPRZ is clear. Skip the read\npassed\n", 7),
            skip("LBPRZ is clear. Skip the read")
        );
        assert_eq!(read("passed\n    [SKIPPED] cleaning up\n", 3), Verdict::Pass);
    }

    #[test]
    fn no_verdict_is_a_failure() {
        let crashed = Verdict::read(139, "  Test: Simple ...");
        assert_eq!(crashed, Verdict::Fail("iscsi-test-cu died of signal 11".to_owned()));
        assert!(matches!(Verdict::read(10, "Failed to login\n"), Verdict::Fail(_)));
        assert!(matches!(Verdict::read(0, "  Test: Simple ..."), Verdict::Fail(_)));
    }
}
