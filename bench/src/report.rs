//! Tables for the terminal and for the results file, which are the same Markdown.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::system::uname;

use crate::load::Sample;
use crate::run::{Row, Settings, Tally};

const PREAMBLE: &str = "# Benchmark results

Made by `cargo xtask bench`, which replaces the sections it runs. Both sides run on the same machine in the same run;
the ratios are what counts, not the absolute figures.
";

/// CPUs that others may take before figures count as disturbed.
const QUIET: f64 = 0.15;

/// A part of the report.
pub(crate) struct Section {
    title: &'static str,
    facts: Vec<String>,
    table: String,
    claims: Vec<Claim>,
}

struct Claim {
    text: &'static str,
    ratio: f64,
    holds: bool,
}

/// The first contender's medians divided by the second's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    pub(crate) iops: f64,
    pub(crate) cpu: f64,
}

impl Ratio {
    fn of(row: &Row) -> Option<Self> {
        let [_, _] = row.samples[..] else { return None };
        let (ours, theirs) = (row.median(0), row.median(1));
        Some(Self { iops: ours.iops / theirs.iops, cpu: ours.cpu.as_secs_f64() / theirs.cpu.as_secs_f64() })
    }
}

impl Section {
    pub(crate) fn new(title: &'static str, settings: &Settings) -> Result<Self> {
        let pinning = match settings.split {
            Some(_) => "the load generator pinned to the last CPU, the daemon to the others",
            None => "nothing pinned to a CPU",
        };
        let facts = vec![
            machine()?,
            format!(
                "Medians of {} interleaved rounds of {} s, a new daemon for each run; {pinning}. CPU: user and system \
                 time of the whole daemon per command. ±: half the range of the rounds. Latencies: median and 99 %.",
                settings.rounds, settings.seconds
            ),
        ];
        Ok(Self { title, facts, table: String::new(), claims: Vec::new() })
    }

    /// Adds something the reader has to know.
    pub(crate) fn fact(&mut self, fact: String) {
        self.facts.push(fact);
    }

    /// Adds the figures.
    pub(crate) fn table(&mut self, tally: &Tally) {
        let others = tally.disturbance();
        let verdict = if others > QUIET { "; **too much: run again on an idle machine**" } else { "" };
        self.fact(format!(
            "Other processes, the kernel's own included, took up to {others:.2} CPUs{verdict}."
        ));
        let mut lines = vec![header(tally)];
        lines.extend(tally.rows.iter().map(cells));
        self.table = align(&lines);
    }

    /// Adds a claim about a row, if the row was run with both contenders. `judge` gives the ratio that counts and whether
    /// it is good enough.
    pub(crate) fn claim(
        &mut self,
        tally: &Tally,
        row: &str,
        text: &'static str,
        judge: impl Fn(Ratio) -> (f64, bool),
    ) {
        let row = tally.rows.iter().find(|candidate| candidate.name == row);
        if let Some(ratio) = row.and_then(Ratio::of) {
            let (ratio, holds) = judge(ratio);
            self.claims.push(Claim { text, ratio, holds });
        }
    }

    /// Whether all claims hold.
    pub(crate) fn holds(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }

    /// The section as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        for fact in &self.facts {
            let _ = writeln!(text, "- {fact}");
        }
        let _ = write!(text, "\n{}", self.table);
        for Claim { text: claim, ratio, holds } in &self.claims {
            let verdict = if *holds { "holds" } else { "does NOT hold" };
            let _ = write!(text, "\n{claim}: measured {ratio:.2}, {verdict}.\n");
        }
        text
    }
}

fn header(tally: &Tally) -> Vec<String> {
    let mut header = vec!["workload".to_owned()];
    for measure in ["IOPS", "CPU µs", "p50 / p99 µs"] {
        header.extend(tally.contenders.iter().map(|name| format!("{name} {measure}")));
        if let ([_, _], false) = (&tally.contenders[..], measure.starts_with("p50")) {
            header.push("ratio".to_owned());
        }
    }
    header
}

fn cells(row: &Row) -> Vec<String> {
    let medians: Vec<Sample> = (0..row.samples.len()).map(|contender| row.median(contender)).collect();
    let ratio = Ratio::of(row);
    let mut cells = vec![row.name.clone()];
    cells.extend(medians.iter().zip(&row.samples).map(|(median, samples)| {
        let (low, high) =
            samples.iter().fold((f64::MAX, 0f64), |(low, high), s| (low.min(s.iops), high.max(s.iops)));
        format!("{:.0} ±{:.0}%", median.iops, (high - low) / 2.0 / median.iops * 100.0)
    }));
    cells.extend(ratio.map(|ratio| format!("**{:.2}**", ratio.iops)));
    cells.extend(medians.iter().map(|median| format!("{:.2}", micros(median.cpu))));
    cells.extend(ratio.map(|ratio| format!("**{:.2}**", ratio.cpu)));
    cells.extend(medians.iter().map(|median| match median.p99 {
        Duration::ZERO => "–".to_owned(),
        _ => format!("{:.0} / {:.0}", micros(median.p50), micros(median.p99)),
    }));
    cells
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A Markdown table with columns of even width; the first line is the header.
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, &width) in widths.iter().enumerate() {
                let (dashes, colon) = ("-".repeat(width + 1), if column == 0 { "-" } else { ":" });
                let _ = write!(text, "|{dashes}{colon}");
            }
            text.push_str("|\n");
        }
    }
    text
}

/// What kind of machine this is, without its name.
fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown CPU");
    let memory = fs::read_to_string("/proc/meminfo")?;
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let gigabytes = total.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).context("no MemTotal")? >> 20;
    let release = uname().release().to_string_lossy().into_owned();
    let release = release.split('-').next().unwrap_or_default().to_owned();
    let virtual_machine = if cpus.contains("hypervisor") { ", a virtual machine" } else { "" };
    Ok(format!(
        "{} × {}, {gigabytes} GiB, Linux {release}{virtual_machine}",
        cpus.lines().filter(|line| line.starts_with("processor")).count(),
        model.trim_start_matches([' ', '\t', ':']),
    ))
}

/// Puts sections into a results file, each in place of the one with its title.
pub(crate) fn save(path: &Path, sections: &[Section]) -> Result<()> {
    let old = fs::read_to_string(path).unwrap_or_default();
    let new = sections.iter().fold(old, |text, section| merge(&text, &section.markdown()));
    fs::write(path, new).with_context(|| format!("cannot write {}", path.display()))
}

fn merge(old: &str, section: &str) -> String {
    let title = section.lines().next().unwrap_or_default();
    let start = if old.starts_with("## ") { Some(0) } else { old.find("\n## ").map(|at| at + 1) };
    let mut parts = start.map_or(Vec::new(), |start| split(&old[start..]));
    match parts.iter_mut().find(|part| part.lines().next() == Some(title)) {
        Some(part) => *part = section,
        None => parts.push(section),
    }
    let parts: Vec<_> = parts.iter().map(|part| part.trim_end()).collect();
    format!("{PREAMBLE}\n{}\n", parts.join("\n\n"))
}

/// Splits a text that begins with a section into its sections.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("\n## ") {
        parts.push(&rest[..at]);
        rest = &rest[at + 1..];
    }
    parts.push(rest);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_its_predecessor() {
        let first = merge("", "## a\n\n1\n");
        assert_eq!(first, format!("{PREAMBLE}\n## a\n\n1\n"));
        let both = merge(&first, "## b\n\n2\n");
        assert_eq!(both, format!("{PREAMBLE}\n## a\n\n1\n\n## b\n\n2\n"));
        assert_eq!(merge(&both, "## a\n\n3\n"), format!("{PREAMBLE}\n## a\n\n3\n\n## b\n\n2\n"));
    }

    #[test]
    fn columns_are_aligned() {
        let lines = [["name", "µs"], ["x", "1.25"]].map(|line| line.map(String::from).to_vec());
        assert_eq!(align(&lines), "| name |   µs |\n|------|-----:|\n| x    | 1.25 |\n");
    }

    #[test]
    fn a_claim_is_judged_by_the_ratio_of_medians() {
        let sample = |iops, nanos| Sample {
            iops,
            cpu: Duration::from_nanos(nanos),
            others: 0.0,
            p50: Duration::ZERO,
            p99: Duration::ZERO,
        };
        let row = Row { name: "r".into(), samples: vec![vec![sample(30.0, 100)], vec![sample(10.0, 400)]] };
        let tally = Tally { contenders: vec!["we", "they"], rows: vec![row] };
        let mut section = Section { title: "t", facts: vec![], table: String::new(), claims: vec![] };
        section.claim(&tally, "r", "faster", |ratio| (ratio.iops, ratio.iops >= 3.0));
        assert!(section.holds());
        section.claim(&tally, "absent", "not judged", |_| unreachable!());
        section.claim(&tally, "r", "lighter", |ratio| (ratio.cpu, ratio.cpu < 0.25));
        assert!(!section.holds());
        assert!(section.markdown().contains("lighter: measured 0.25, does NOT hold."));
    }
}
