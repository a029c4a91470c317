//! Runs cells round by round, each contender in turn and first in its turn, and keeps what they show.

use std::cell::Cell as Counter;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cpu::Split;
use crate::load::{Sample, Span};
use crate::lunette::Lunette;

/// What the command line says.
pub(crate) struct Settings {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    /// Part of the names of the cells to run.
    pub(crate) filter: String,
    /// The daemon, unless only peers are to run.
    pub(crate) lunette: Option<PathBuf>,
    /// How lunette's reactors wait.
    pub(crate) poll: String,
    /// How CPUs are divided where threads are pinned, if there are enough.
    pub(crate) split: Option<Split>,
    /// Whether all threads are pinned.
    pub(crate) pin: bool,
    /// How long an idle daemon is watched.
    pub(crate) idle: Duration,
    /// Counts data generations.
    pub(crate) generations: Counter<u8>,
}

impl Settings {
    pub(crate) fn span(&self) -> Span {
        Span { warm_up: Duration::from_millis(300), measured: Duration::from_secs_f64(self.seconds) }
    }

    /// Runs `start`, so that what it starts runs on its own CPUs if it is to be pinned.
    pub(crate) fn place<T>(&self, pinned: bool, start: impl FnOnce() -> T) -> Result<T> {
        match self.split {
            Some(split) => split.place(pinned || self.pin, start),
            None => Ok(start()),
        }
    }

    pub(crate) fn lunette(&self) -> Option<Lunette> {
        self.lunette.clone().map(Lunette::new)
    }

    /// A data generation; it and the next one have not been used lately.
    pub(crate) fn generation(&self) -> u8 {
        let generation = self.generations.get();
        self.generations.set(generation.wrapping_add(2));
        generation
    }
}

/// A row of a table.
pub(crate) trait Cell {
    fn name(&self) -> String;
}

/// CPUs that others may take before a run counts as disturbed: other processes, the kernel's own, and other virtual machines.
pub(crate) const QUIET: f64 = 0.15;

/// How often a disturbed run is repeated at most.
const REPEATS: usize = 5;

type Run<'a, C> = Box<dyn FnMut(&C) -> Result<Sample> + 'a>;

/// A daemon, as something that turns a cell into a sample. Each run starts it anew.
pub(crate) struct Contender<'a, C> {
    name: &'static str,
    run: Run<'a, C>,
    takes: fn(&C) -> bool,
}

impl<'a, C> Contender<'a, C> {
    pub(crate) fn new(name: &'static str, run: impl FnMut(&C) -> Result<Sample> + 'a) -> Self {
        Self { name, run: Box::new(run), takes: |_| true }
    }

    /// The same for some cells only.
    pub(crate) fn only(self, takes: fn(&C) -> bool) -> Self {
        Self { takes, ..self }
    }
}

/// The samples of all rounds.
pub(crate) struct Tally {
    pub(crate) contenders: Vec<&'static str>,
    pub(crate) rows: Vec<Row>,
    /// Runs that were thrown away because they were disturbed.
    pub(crate) repeated: usize,
}

/// The samples of a cell, by contender.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) samples: Vec<Vec<Sample>>,
}

impl Tally {
    /// Runs all cells that the filter lets through.
    pub(crate) fn of<C: Cell>(
        settings: &Settings,
        cells: &[C],
        contenders: &mut [Contender<'_, C>],
    ) -> Result<Self> {
        Self::of_rounds(settings, settings.rounds, cells, contenders)
    }

    /// The same with another number of rounds.
    pub(crate) fn of_rounds<C: Cell>(
        settings: &Settings,
        rounds: usize,
        cells: &[C],
        contenders: &mut [Contender<'_, C>],
    ) -> Result<Self> {
        let chosen: Vec<_> = cells.iter().filter(|cell| cell.name().contains(&settings.filter)).collect();
        let empty = |cell: &&C| Row { name: cell.name(), samples: vec![Vec::new(); contenders.len()] };
        let mut rows: Vec<_> = chosen.iter().map(empty).collect();
        let mut repeated = 0;
        for round in 1..=rounds {
            for (cell, row) in chosen.iter().zip(&mut rows) {
                for index in order(round, contenders.len()) {
                    let (contender, samples) = (&mut contenders[index], &mut row.samples[index]);
                    if !(contender.takes)(cell) {
                        continue;
                    }
                    let (sample, repeats) = undisturbed(|| (contender.run)(cell))
                        .with_context(|| format!("{}, {}", contender.name, row.name))?;
                    repeated += repeats;
                    eprintln!(
                        "round {round}, {}, {}: {:.0} IOPS, {:.2} µs CPU, {:.2} µs guest",
                        row.name,
                        contender.name,
                        sample.iops,
                        sample.cpu.as_secs_f64() * 1e6,
                        sample.guest.as_secs_f64() * 1e6
                    );
                    samples.push(sample);
                }
            }
        }
        let contenders = contenders.iter().map(|contender| contender.name).collect();
        Ok(Self { contenders, rows, repeated })
    }
}

/// Repeats a run until nobody disturbs it. If all are disturbed, the first one counts: part of what others did may have been
/// for it, and to choose would prefer somebody. Returns how many runs were thrown away, too.
fn undisturbed(mut run: impl FnMut() -> Result<Sample>) -> Result<(Sample, usize)> {
    let first = run()?;
    if first.others <= QUIET {
        return Ok((first, 0));
    }
    for repeats in 1..=REPEATS {
        let again = run()?;
        if again.others <= QUIET {
            return Ok((again, repeats));
        }
    }
    Ok((first, REPEATS))
}

/// The order of contenders in a round, from 1: each begins once, for what runs first finds the machine in another state.
fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (round - 1 + turn) % count)
}

impl Row {
    /// The medians of a contender, if it has run.
    pub(crate) fn median(&self, contender: usize) -> Option<Sample> {
        let samples = self.samples.get(contender).filter(|samples| !samples.is_empty())?;
        let duration = |pick: fn(&Sample) -> Duration| {
            Duration::from_secs_f64(median(samples.iter().map(|sample| pick(sample).as_secs_f64())))
        };
        Some(Sample {
            iops: median(samples.iter().map(|sample| sample.iops)),
            cpu: duration(|sample| sample.cpu),
            guest: duration(|sample| sample.guest),
            others: median(samples.iter().map(|sample| sample.others)),
            p50: duration(|sample| sample.p50),
            p99: duration(|sample| sample.p99),
        })
    }
}

impl Tally {
    /// The medians of a contender in a row, if it has run.
    pub(crate) fn median(&self, row: &str, contender: &str) -> Option<Sample> {
        let contender = self.contenders.iter().position(|name| *name == contender)?;
        self.rows.iter().find(|candidate| candidate.name == row)?.median(contender)
    }

    /// The most CPUs that other processes kept busy in a run.
    pub(crate) fn disturbance(&self) -> f64 {
        self.rows
            .iter()
            .flat_map(|row| row.samples.iter().flatten())
            .fold(0.0, |most, sample| most.max(sample.others))
    }
}

/// The median; of an even number of values the mean of the middle two.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_contender_is_first_in_its_round() {
        let rounds = [1, 2, 3, 4].map(|round| order(round, 3).collect::<Vec<_>>());
        assert_eq!(rounds, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
        assert_eq!(order(2, 1).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_disturbed_run_is_repeated() {
        let runs = |others: &[f64]| {
            let mut others = others.iter();
            undisturbed(|| Ok(Sample { others: *others.next().unwrap(), ..sample(1.0, 1) })).unwrap()
        };
        let judged = |others: &[f64]| {
            let (sample, repeats) = runs(others);
            (sample.others, repeats)
        };
        assert_eq!(judged(&[0.1]), (0.1, 0));
        assert_eq!(judged(&[0.5, 0.9, 0.0]), (0.0, 2));
        assert_eq!(judged(&[0.9, 0.8, 0.7, 0.5, 0.6, 0.7]), (0.9, REPEATS));
    }

    fn sample(iops: f64, micros: u64) -> Sample {
        Sample {
            iops,
            cpu: Duration::from_micros(micros),
            guest: Duration::ZERO,
            others: 0.0,
            p50: Duration::ZERO,
            p99: Duration::from_millis(micros),
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median([].into_iter()).is_nan());
    }

    #[test]
    fn each_measure_has_a_median_of_its_own() {
        let row = Row {
            name: String::new(),
            samples: vec![vec![sample(1.0, 9), sample(5.0, 1), sample(3.0, 4)], vec![]],
        };
        assert!(row.median(1).is_none());
        let median = row.median(0).unwrap();
        assert_eq!(
            (median.iops, median.cpu, median.p99),
            (3.0, Duration::from_micros(4), Duration::from_millis(4))
        );
    }
}
