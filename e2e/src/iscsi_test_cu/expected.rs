//! The list of tests that are known not to pass like the others, kept honest in both directions.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail};

use super::{Outcome, Verdict};

/// What does not plainly pass: lines of `Suite.Test  fail|skip|silent  reason`, `#` begins a comment.
#[derive(Debug)]
pub struct Expected(BTreeMap<String, Kind>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pass,
    Silent,
    Skip,
    Fail,
}

impl Kind {
    fn of(verdict: &Verdict) -> Kind {
        match verdict {
            Verdict::Pass => Kind::Pass,
            Verdict::Silent => Kind::Silent,
            Verdict::Skip(_) => Kind::Skip,
            Verdict::Fail(_) => Kind::Fail,
        }
    }
}

impl Expected {
    /// Reads the list. Every entry must give a reason.
    pub fn parse(text: &str) -> Result<Expected> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let entries = lines.filter(|line| !line.is_empty()).map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or_default();
            let kind = match words.next() {
                Some("fail") => Kind::Fail,
                Some("skip") => Kind::Skip,
                Some("silent") => Kind::Silent,
                _ => bail!("{line:?}: expected `Suite.Test  fail|skip|silent  reason`"),
            };
            words.next().with_context(|| format!("{line:?} has no reason"))?;
            Ok((name.to_owned(), kind))
        });
        Ok(Expected(entries.collect::<Result<_>>()?))
    }

    /// What it says about tests whose names begin like this.
    pub fn only(mut self, beginning: &str) -> Expected {
        self.0.retain(|name, _| name.starts_with(beginning));
        self
    }

    /// Fails unless every test ended as the list says, and every test of the list was run. The
    /// error has the lines to change.
    pub fn compare(&self, outcomes: &[Outcome]) -> Result<()> {
        let mut wrong = String::new();
        for Outcome { name, setup, verdict } in outcomes {
            let listed = self.0.get(name).copied().unwrap_or(Kind::Pass);
            if Kind::of(verdict) != listed {
                let _ = writeln!(wrong, "{name}  {verdict}    # listed as {listed:?}; the disk was {setup}");
            }
        }
        for name in self.0.keys() {
            if !outcomes.iter().any(|outcome| outcome.name == *name) {
                let _ = writeln!(wrong, "{name}  is listed, but there is no such test");
            }
        }
        if !wrong.is_empty() {
            bail!("tests did not end as listed:\n{wrong}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, verdict: Verdict) -> Outcome {
        Outcome { name: name.to_owned(), setup: "ordinary", verdict }
    }

    #[test]
    fn both_directions_count() {
        let list = Expected::parse("# known\nA.B  fail  not there yet\n").unwrap();
        let fail = || Verdict::Fail("why".to_owned());
        assert!(list.compare(&[outcome("A.B", fail())]).is_ok());
        assert!(list.compare(&[outcome("A.B", Verdict::Pass)]).is_err());
        assert!(list.compare(&[outcome("A.B", fail()), outcome("A.C", Verdict::Pass)]).is_ok());
        let error = list.compare(&[outcome("A.B", fail()), outcome("A.C", fail())]).unwrap_err();
        assert!(error.to_string().contains("A.C  fail  why"), "{error}");
        assert!(list.compare(&[]).is_err(), "a listed test that is not run is forgotten");
        let skip = Verdict::Skip("why".to_owned());
        assert!(list.compare(&[outcome("A.B", skip)]).is_err());
        assert!(Expected::parse("").unwrap().compare(&[outcome("A.B", Verdict::Silent)]).is_err());
    }

    #[test]
    fn an_entry_needs_its_parts() {
        assert!(Expected::parse("A.B  fail").is_err());
        assert!(Expected::parse("A.B  never  reason").is_err());
    }
}
