//! How many tests ended how.

use std::fmt;

use super::{Outcome, Verdict};

/// The numbers of a run, by set-up and for all; they are printed as a table.
#[derive(Debug)]
pub struct Totals(Vec<(&'static str, Counts)>);

/// How many passed, passed without an assertion, were skipped and failed.
type Counts = [usize; 4];

impl Totals {
    /// Counts what became of a run's tests.
    pub fn of(outcomes: &[Outcome]) -> Totals {
        let mut rows: Vec<(&'static str, Counts)> = Vec::new();
        for outcome in outcomes {
            let column = match outcome.verdict {
                Verdict::Pass => 0,
                Verdict::Silent => 1,
                Verdict::Skip(_) => 2,
                Verdict::Fail(_) => 3,
            };
            for name in [outcome.setup, "all"] {
                match rows.iter_mut().find(|(row, _)| *row == name) {
                    Some((_, counts)) => counts[column] += 1,
                    None => {
                        let mut counts = Counts::default();
                        counts[column] = 1;
                        rows.push((name, counts));
                    }
                }
            }
        }
        // All of them come last.
        rows.sort_by_key(|(_, counts)| counts.iter().sum::<usize>());
        Totals(rows)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20}{:>6}{:>8}{:>6}{:>6}", "iscsi-test-cu on", "PASS", "silent", "SKIP", "FAIL")?;
        for (name, [pass, silent, skip, fail]) in &self.0 {
            write!(f, "\n{name:<20}{pass:>6}{silent:>8}{skip:>6}{fail:>6}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_is_counted_once_and_in_all() {
        let outcome = |setup, verdict| Outcome { name: "A.B".to_owned(), setup, verdict };
        let totals = Totals::of(&[
            outcome("small", Verdict::Silent),
            outcome("ordinary", Verdict::Pass),
            outcome("ordinary", Verdict::Fail("why".to_owned())),
            outcome("ordinary", Verdict::Skip("why".to_owned())),
        ]);
        let printed = totals.to_string();
        let rows: Vec<Vec<&str>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows[1..],
            [
                vec!["small", "0", "1", "0", "0"],
                vec!["ordinary", "1", "0", "1", "1"],
                vec!["all", "1", "1", "1", "1"],
            ]
        );
    }
}
