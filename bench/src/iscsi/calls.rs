//! How many system calls a target makes for each READ.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{IscsiCell, LUNETTE, SIZE, Served, TGT, Targets};
use crate::daemon::Daemon;
use crate::load;
use crate::load::pattern::BLOCK;
use crate::load::workload::{Direction, Workload};
use crate::peers::installed;
use crate::report::{Bar, Section};
use crate::run::{Cell, Settings};

/// READs that are counted.
const READS: usize = 20_000;

/// A system call and how often it was made, the most frequent first.
type Calls = Vec<(String, u64)>;

/// Counts those of lunette and of tgt.
pub(crate) fn count(settings: &Settings) -> Result<Section> {
    let targets = Targets::find(settings)?;
    let mut section = Section::without_rounds("iSCSI: system calls of a read", settings)?;
    section.fact(format!(
        "`strace -f -c` on the running target while {READS} READs are sent and answered, no more and no fewer, over one \
         connection without digests. It slows down what it watches, so the load generator is relatively faster here; and a reactor that \
         is watched does not spin, which without strace takes some calls of sched_yield between two READs at depth 1."
    ));
    for (depth, most) in [(1, 3.0), (32, 0.5)] {
        let cell = IscsiCell::new(Workload::random(Direction::Read, 4 << 10, depth));
        let name = cell.name();
        if !name.contains(&settings.filter) {
            continue;
        }
        let calls = calls_of(&targets.serve_tgt()?, &cell, settings)?;
        section.fact(format!("{name}, {TGT}: {}", shown(&calls)));
        let Some(lunette) = &targets.lunette else { continue };
        let calls = calls_of(&targets.serve_lunette(lunette)?, &cell, settings)?;
        section.fact(format!("{name}, {LUNETTE}: {}", shown(&calls)));
        let (text, bar) = (format!("{name}: system calls for each at most {most}"), Bar::AtMost(most));
        section.claim_value(text, Some(per_read(all(&calls))), bar)?;
    }
    Ok(section)
}

fn calls_of(served: &Served, cell: &IscsiCell, settings: &Settings) -> Result<Calls> {
    let mut session = served.log_in(cell, settings)?;
    let mut read = |count| load::read(&mut session, SIZE / BLOCK as u64, &cell.workload, count);
    // What is only done once is done now.
    read(READS / 10)?;
    let strace = Strace::attach(&served.daemon)?;
    read(READS)?;
    strace.detach()
}

fn all(calls: &Calls) -> u64 {
    calls.iter().map(|(_, count)| count).sum()
}

/// In hundredths: a few calls happen once, whatever is read.
fn per_read(calls: u64) -> f64 {
    (calls as f64 / READS as f64 * 100.0).round() / 100.0
}

fn shown(calls: &Calls) -> String {
    let each: Vec<_> =
        calls.iter().take(5).map(|(name, count)| format!("{name} {:.2}", per_read(*count))).collect();
    format!("{:.2} for each read ({})", per_read(all(calls)), each.join(", "))
}

/// strace, while it watches a daemon.
struct Strace<'a> {
    child: Child,
    daemon: &'a Daemon,
}

impl<'a> Strace<'a> {
    const OUTPUT: &'static str = "calls";

    fn attach(daemon: &'a Daemon) -> Result<Self> {
        let mut child = Command::new(installed("strace", "strace")?)
            .args(["-f", "-c", "-p", &daemon.pid().to_string(), "-o"])
            .arg(daemon.path(Self::OUTPUT))
            .stderr(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(child.stderr.as_mut().context("standard error is piped")?);
        for line in said.lines() {
            let line = line?;
            if line.contains("attached") {
                return Ok(Self { child, daemon });
            }
            eprintln!("{line}");
        }
        let status = child.wait()?;
        bail!("strace cannot attach: {status}")
    }

    fn detach(mut self) -> Result<Calls> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        self.child.wait()?;
        let calls = parse(&fs::read_to_string(self.daemon.path(Self::OUTPUT))?)?;
        ensure!(all(&calls) > 0, "strace has seen no system call");
        Ok(calls)
    }
}

/// Reads strace's summary.
fn parse(summary: &str) -> Result<Calls> {
    let lines = summary.lines().skip_while(|line| !line.starts_with("---")).skip(1);
    let mut calls = Vec::new();
    for line in lines.take_while(|line| !line.starts_with("---")) {
        // % time, seconds, usecs/call, calls, errors if there were any, syscall
        let words: Vec<_> = line.split_whitespace().collect();
        let (Some(count), Some(name)) = (words.get(3), words.last()) else {
            bail!("strace says {line:?}");
        };
        calls.push((name.to_string(), count.parse().with_context(|| format!("strace says {line:?}"))?));
    }
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_strace_is_read() {
        let summary = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000000           0         1         1 access
 40.00    0.000000           0         8           mmap
------ ----------- ----------- --------- --------- ----------------
100.00    0.000000           0        29         1 total
";
        assert_eq!(parse(summary).unwrap(), [("mmap".to_owned(), 8), ("access".to_owned(), 1)]);
        assert!(parse("---\nnonsense\n").is_err());
    }
}
