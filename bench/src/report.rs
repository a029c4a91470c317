//! Tables for the terminal and for the results file, which are the same Markdown.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::system::uname;

use crate::load::Sample;
use crate::run::{QUIET, Row, Settings, Tally};

const PREAMBLE: &str = "# Benchmark results

Made by `cargo xtask bench`, which replaces the sections it runs. Both sides run on the same machine in the same run;
the ratios are what counts, not the absolute figures.
";

/// A part of the report.
pub(crate) struct Section {
    title: &'static str,
    /// Whether claims are judged: lunette is the first contender.
    judged: bool,
    /// Whether rows may be missing, because the user has filtered them.
    partial: bool,
    facts: Vec<String>,
    table: String,
    claims: Vec<Claim>,
}

struct Claim {
    text: String,
    value: f64,
    holds: bool,
}

/// What a claim is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Commands per second.
    Iops,
    /// CPU time of the daemon per command.
    Cpu,
}

impl Measure {
    fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Iops => sample.iops,
            Self::Cpu => sample.cpu.as_secs_f64(),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iops => "IOPS",
            Self::Cpu => "CPU per command",
        })
    }
}

/// When a claim holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(f, "at least {bar}"),
            Self::AtMost(bar) => write!(f, "at most {bar}"),
        }
    }
}

/// What the contenders after the first are to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// Peers: the table says how many times theirs the first one's figures are.
    Peers,
    /// Variants: the table says how many times the first one's theirs are.
    Variants,
}

impl Others {
    fn ratio(self, first: f64, other: f64) -> f64 {
        match self {
            Self::Peers => first / other,
            Self::Variants => other / first,
        }
    }
}

impl Section {
    pub(crate) fn new(title: &'static str, settings: &Settings) -> Result<Self> {
        Self::of_rounds(title, settings, settings.rounds)
    }

    pub(crate) fn of_rounds(title: &'static str, settings: &Settings, rounds: usize) -> Result<Self> {
        let pinning = match (settings.split, settings.pin) {
            (Some(_), true) => "the load generator pinned to the last CPU, the daemon to the others",
            _ => "nothing pinned to a CPU unless said so",
        };
        let mut section = Self::without_rounds(title, settings)?;
        section.fact(format!(
                "Medians of {rounds} interleaved rounds of {} s, each begun by another contender, a new daemon for each run; \
                 {pinning}. CPU: user and \
                 system time per command of the whole daemon, and of the load generator (\"guest\"). ±: half the range of \
                 the rounds. Latencies: median and 99 %.",
                settings.seconds
        ));
        Ok(section)
    }

    /// A section for a single measurement of its own kind.
    pub(crate) fn without_rounds(title: &'static str, settings: &Settings) -> Result<Self> {
        let judged = settings.lunette.is_some();
        let partial = !settings.filter.is_empty();
        Ok(Self { title, judged, partial, facts: vec![machine()?], table: String::new(), claims: Vec::new() })
    }

    /// Adds something the reader has to know.
    pub(crate) fn fact(&mut self, fact: String) {
        self.facts.push(fact);
    }

    /// Adds the figures.
    pub(crate) fn table(&mut self, tally: &Tally, others: Others) {
        let disturbance = tally.disturbance();
        let verdict = if disturbance > QUIET { "; **too much: run again on an idle machine**" } else { "" };
        self.fact(format!(
            "Other processes, the kernel's own and other virtual machines took up to {disturbance:.2} CPUs{verdict}. {} runs \
             during which they took more than {QUIET} were thrown away; where all tries are like that, the first one counts.",
            tally.repeated
        ));
        let first = tally.contenders.first().copied().unwrap_or_default();
        let ratio = match others {
            _ if tally.contenders.len() < 2 => None,
            Others::Peers => Some(format!("{first} ×")),
            Others::Variants => Some(format!("× {first}")),
        };
        let ratio = || ratio.clone().into_iter();
        let mut header = vec!["workload".to_owned(), "of".to_owned(), "IOPS".to_owned()];
        header.extend(ratio());
        header.push("CPU µs".to_owned());
        header.extend(ratio());
        header.extend(["guest µs", "p50 / p99 µs"].map(String::from));
        let mut lines = vec![header];
        lines.extend(tally.rows.iter().flat_map(|row| cells(tally, row, others)));
        self.table = align(&lines);
    }

    /// Claims that a figure of the first contender is so many times another one's.
    ///
    /// # Errors
    /// If one of the two has not run this row, and not because of the filter.
    pub(crate) fn claim(
        &mut self,
        tally: &Tally,
        row: &str,
        other: &str,
        measure: Measure,
        bar: Bar,
    ) -> Result<()> {
        let ours = tally.contenders.first().copied().unwrap_or_default();
        let text = format!("{row}: {measure} {bar} × {other}'s");
        let value = tally.median(row, ours).zip(tally.median(row, other));
        self.claim_value(text, value.map(|(ours, other)| measure.of(&ours) / measure.of(&other)), bar)
    }

    /// Claims something about a single value.
    ///
    /// # Errors
    /// If there is none, and not because of the filter.
    pub(crate) fn claim_value(&mut self, text: String, value: Option<f64>, bar: Bar) -> Result<()> {
        match value {
            _ if !self.judged => {}
            Some(value) => self.claims.push(Claim { text, value, holds: bar.holds(value) }),
            None if self.partial => {}
            None => bail!("{}: a claim was not measured: {text}", self.title),
        }
        Ok(())
    }

    /// Whether nothing was measured.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.lines().count() <= 2 && self.claims.is_empty()
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
        if !self.table.is_empty() {
            let _ = write!(text, "\n{}", self.table);
        }
        if !self.claims.is_empty() {
            text.push('\n');
        }
        for Claim { text: claim, value, holds } in &self.claims {
            let verdict = if *holds { "holds" } else { "**missed**" };
            let _ = writeln!(text, "- {claim}: measured {value:.2}, {verdict}.");
        }
        text
    }
}

/// A line for each contender that has run the row.
fn cells(tally: &Tally, row: &Row, others: Others) -> Vec<Vec<String>> {
    let medians: Vec<_> = (0..row.samples.len()).map(|contender| row.median(contender)).collect();
    let first = medians.first().copied().flatten();
    let mut lines: Vec<Vec<String>> = Vec::new();
    for (contender, median) in medians.iter().enumerate() {
        let Some(median) = median else { continue };
        let ratio = |measure: Measure| {
            let text = match (contender, &first) {
                (1.., Some(first)) => {
                    format!("**{:.2}**", others.ratio(measure.of(first), measure.of(median)))
                }
                _ => String::new(),
            };
            (tally.contenders.len() > 1).then_some(text)
        };
        let name = if lines.is_empty() { row.name.clone() } else { String::new() };
        let mut cells = vec![name, tally.contenders[contender].to_owned()];
        let samples = &row.samples[contender];
        let (low, high) =
            samples.iter().fold((f64::MAX, 0f64), |(low, high), s| (low.min(s.iops), high.max(s.iops)));
        cells.push(format!("{:.0} ±{:.0}%", median.iops, (high - low) / 2.0 / median.iops * 100.0));
        cells.extend(ratio(Measure::Iops));
        cells.push(format!("{:.2}", micros(median.cpu)));
        cells.extend(ratio(Measure::Cpu));
        cells.push(match median.guest {
            Duration::ZERO => "–".to_owned(),
            guest => format!("{:.2}", micros(guest)),
        });
        cells.push(match median.p99 {
            Duration::ZERO => "–".to_owned(),
            _ => format!("{:.0} / {:.0}", micros(median.p50), micros(median.p99)),
        });
        lines.push(cells);
    }
    lines
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

    fn tally() -> Tally {
        let sample = |iops, nanos| Sample {
            iops,
            cpu: Duration::from_nanos(nanos),
            guest: Duration::ZERO,
            others: 0.0,
            p50: Duration::ZERO,
            p99: Duration::ZERO,
        };
        let samples = vec![vec![sample(30.0, 100)], vec![sample(10.0, 400)], vec![]];
        Tally {
            contenders: vec!["we", "they", "nobody"],
            rows: vec![Row { name: "r".into(), samples }],
            repeated: 0,
        }
    }

    fn section() -> Section {
        let (facts, claims) = (vec![], vec![]);
        Section { title: "t", judged: true, partial: false, facts, table: String::new(), claims }
    }

    #[test]
    fn a_claim_is_judged_by_the_ratio_of_medians() {
        let (tally, mut section) = (tally(), section());
        section.claim(&tally, "r", "they", Measure::Iops, Bar::AtLeast(3.0)).unwrap();
        assert!(section.holds());
        section.claim(&tally, "r", "they", Measure::Cpu, Bar::AtMost(0.24)).unwrap();
        assert!(!section.holds());
        let text = "r: CPU per command at most 0.24 × they's: measured 0.25, **missed**.";
        assert!(section.markdown().contains(text), "{}", section.markdown());
    }

    #[test]
    fn a_claim_that_was_not_measured_is_an_error_unless_rows_were_filtered() {
        for (row, other) in [("absent", "they"), ("r", "nobody"), ("r", "unknown")] {
            let claim = |mut section: Section| {
                section
                    .claim(&tally(), row, other, Measure::Iops, Bar::AtLeast(9.0))
                    .map(|()| section.claims.len())
            };
            let error = claim(section()).unwrap_err().to_string();
            assert!(error.contains(other), "{error}");
            assert_eq!(claim(Section { partial: true, ..section() }).unwrap(), 0);
        }
    }

    #[test]
    fn peers_alone_are_not_judged() {
        let mut section = Section { judged: false, ..section() };
        section.claim(&tally(), "r", "they", Measure::Iops, Bar::AtLeast(99.0)).unwrap();
        assert!(section.claims.is_empty());
    }

    #[test]
    fn a_row_has_a_line_for_each_who_ran_it() {
        let (tally, mut section) = (tally(), section());
        section.table(&tally, Others::Peers);
        let words: Vec<Vec<_>> =
            section.table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(words.len(), 4);
        assert_eq!(words[2][1..8], ["r", "we", "30 ±0%", "", "0.10", "", "–"]);
        assert_eq!(words[3][1..8], ["", "they", "10 ±0%", "**3.00**", "0.40", "**0.25**", "–"]);
    }
}
