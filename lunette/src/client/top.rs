//! `lunette top`: what logical units do for whom, now.

use super::table::Table;
use super::{connect, print_text};
use crate::cli::TopCall;
use crate::metrics::{Counts, InitiatorStats, ReactorStats, Stats, ThrottleStats, Times, UnitStats};
use anyhow::Result;
use lunette_control::{Connection, Error};
use lunette_engine::Histogram;
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;

/// Moves the cursor home, and erases the screen from there.
const HOME: &str = "\x1b[H\x1b[J";

/// Of so many reactors each is told; of more, the average and the most.
const EACH: usize = 8;
/// Where a terminal has fewer columns, the longest times are left out.
const WIDE: usize = 104;

/// What has happened in a time.
#[derive(PartialEq, Debug, Serialize)]
struct Activity {
    /// Seconds.
    interval: f64,
    reactors: Vec<Load>,
    nexuses: Vec<Line>,
    throttles: Vec<Throttle>,
}

/// What a reactor has done of the time, from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
struct Load {
    busy: f64,
    spinning: f64,
}

/// Who has to wait for a throttle.
#[derive(PartialEq, Debug, Serialize)]
struct Throttle {
    throttle: String,
    /// How many commands wait.
    waiting: u64,
    /// How many have begun to wait, in a second.
    waits: f64,
}

/// What a unit has done for an initiator.
#[derive(PartialEq, Debug, Serialize)]
struct Line {
    unit: String,
    initiator: String,
    port: String,
    /// Commands that have ended, in a second.
    iops: f64,
    /// Bytes in a second.
    read: f64,
    written: f64,
    reads: Latency,
    writes: Latency,
    others: Latency,
    /// Commands that have not ended.
    under_way: u32,
    /// Commands that have failed, in a second.
    failures: f64,
}

/// How long commands took, in seconds; `None`: there were none.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
struct Latency {
    iops: f64,
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

/// Carries out `lunette top`.
pub(super) fn run(call: &TopCall) -> Result<()> {
    let mut daemon = connect(&call.control)?;
    let interval = Duration::from_secs_f64(call.interval);
    let mut before = ask(&mut daemon, call)?;
    loop {
        std::thread::sleep(interval);
        let now = match ask(&mut daemon, call) {
            // It may be started again.
            Err(Error::Socket(_)) if !call.once => {
                if !call.json {
                    print_text(&format!("{HOME}the daemon has gone; this goes on when it is there again\n"))?;
                }
                if let Ok(next) = connect(&call.control) {
                    (daemon, before) = (next, Stats::default());
                }
                continue;
            }
            now => now?,
        };
        let activity = Activity::between(&before, &now);
        let columns = super::columns(std::io::stdout());
        print_text(&match (call.json, call.once) {
            (true, _) => super::clean(&json!(activity).to_string()) + "\n",
            (false, true) => activity.text(now.time, columns, None),
            (false, false) => {
                HOME.to_owned() + &activity.text(now.time, columns, super::rows(std::io::stdout()))
            }
        })?;
        if call.once {
            return Ok(());
        }
        before = now;
    }
}

fn ask(daemon: &mut Connection, call: &TopCall) -> Result<Stats, Error> {
    daemon.call("stats.show", &json!({ "unit": call.unit }))
}

impl Activity {
    /// `before` is of the same run of the daemon, or nothing.
    fn between(before: &Stats, now: &Stats) -> Self {
        let interval = (now.time - before.time).max(f64::MIN_POSITIVE);
        let none = ReactorStats::default();
        let reactors = now.reactors.iter().zip(before.reactors.iter().chain(std::iter::repeat(&none)));
        let share = |now: f64, before: f64| ((now - before) / interval).clamp(0.0, 1.0);
        let reactors = reactors.map(|(now, before)| Load {
            busy: share(now.busy, before.busy),
            spinning: share(now.spinning, before.spinning),
        });
        let key = |unit: &UnitStats, one: &InitiatorStats| {
            (unit.unit.clone(), one.initiator.clone(), one.port.clone())
        };
        let known: HashMap<_, &Counts> = before
            .units
            .iter()
            .flat_map(|unit| unit.initiators.iter().map(move |one| (key(unit, one), &one.counts)))
            .collect();
        let none = Counts::default();
        let mut nexuses: Vec<Line> = now
            .units
            .iter()
            .flat_map(|unit| unit.initiators.iter().map(move |one| (unit, one)))
            .map(|(unit, one)| {
                let earlier = known.get(&key(unit, one)).copied().unwrap_or(&none);
                Line::between(unit, one, earlier, interval)
            })
            .collect();
        nexuses.sort_by(|one, other| other.iops.total_cmp(&one.iops));
        let throttles = now.throttles.iter().map(|now| Throttle::between(now, before, interval)).collect();
        Self { interval, reactors: reactors.collect(), nexuses, throttles }
    }

    /// A screen of it, with as many lines as there is room for.
    fn text(&self, uptime: f64, columns: Option<usize>, rows: Option<usize>) -> String {
        let total = |of: fn(&Line) -> f64| self.nexuses.iter().map(of).sum::<f64>();
        let mut text = folded(
            &[
                format!("up {}", super::session::age(uptime)),
                format!("{} IOPS", count(total(|line| line.iops))),
                format!("{}/s read", bytes(total(|line| line.read))),
                format!("{}/s written", bytes(total(|line| line.written))),
                format!("reactors busy {}", self.shares(|load| load.busy)),
                format!("spinning {}", self.shares(|load| load.spinning)),
            ]
            .into_iter()
            .chain(self.delayed())
            .collect::<Vec<_>>(),
            columns,
        );
        text.push('\n');
        let is_wide = columns.is_none_or(|columns| columns >= WIDE);
        let (reads, writes) = match is_wide {
            true => ("READ p50 p99 max", "WRITE p50 p99 max"),
            false => ("READ p50 p99", "WRITE p50 p99"),
        };
        let headings =
            ["UNIT", "INITIATOR", "IOPS", "READ/s", "WRITTEN/s", "DEPTH", reads, writes, "FAILED/s"];
        let mut table = Table::new(headings).sparing_at_last(&[8, 5, 7, 6, 4, 3]);
        // The headings and the line where the cursor stays.
        let used = text.lines().count() + 2;
        let most = rows.map_or(usize::MAX, |rows| rows.saturating_sub(used));
        for line in self.nexuses.iter().take(most) {
            table.row([
                line.unit.clone(),
                line.initiator.clone(),
                count(line.iops),
                bytes(line.read),
                bytes(line.written),
                line.under_way.to_string(),
                line.reads.text(is_wide),
                line.writes.text(is_wide),
                count(line.failures),
            ]);
        }
        text += &table.lines(columns);
        text
    }

    /// What waits for throttles, if anything has.
    fn delayed(&self) -> Option<String> {
        let waiting: u64 = self.throttles.iter().map(|throttle| throttle.waiting).sum();
        let waits: f64 = self.throttles.iter().map(|throttle| throttle.waits).sum();
        let text = || format!("{waiting} waiting for throttles");
        (waiting > 0 || waits > 0.0).then(text)
    }

    /// What reactors do of the time, for people.
    fn shares(&self, of: fn(&Load) -> f64) -> String {
        let shares: Vec<f64> = self.reactors.iter().map(|load| of(load) * 100.0).collect();
        if shares.len() <= EACH {
            return shares.iter().map(|share| format!("{share:.0}%")).collect::<Vec<_>>().join(" ");
        }
        let average = shares.iter().sum::<f64>() / shares.len() as f64;
        format!("{average:.0}% (at most {:.0}%)", shares.into_iter().fold(0.0, f64::max))
    }
}

/// These with commas between them, in lines that are not longer than a terminal if they can be.
fn folded(parts: &[String], columns: Option<usize>) -> String {
    let mut text = String::new();
    let mut width = 0;
    for (number, part) in parts.iter().enumerate() {
        let is_last = number + 1 == parts.len();
        let part = if is_last { part.clone() } else { format!("{part},") };
        if width > 0 && columns.is_some_and(|columns| width + 1 + part.len() > columns) {
            text.push('\n');
            width = 0;
        } else if width > 0 {
            text.push(' ');
            width += 1;
        }
        width += part.len();
        text += &part;
    }
    text + "\n"
}

impl Line {
    fn between(unit: &UnitStats, one: &InitiatorStats, before: &Counts, interval: f64) -> Self {
        let now = &one.counts;
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / interval;
        let failed = |counts: &Counts| counts.aborted + counts.statuses.values().sum::<u64>();
        let [reads, writes, others] =
            [(&now.reads, &before.reads), (&now.writes, &before.writes), (&now.others, &before.others)]
                .map(|(now, before)| Latency::between(now, before, interval));
        Self {
            unit: unit.unit.clone(),
            initiator: one.initiator.clone(),
            port: one.port.clone(),
            iops: reads.iops + writes.iops + others.iops,
            read: rate(now.bytes_read, before.bytes_read),
            written: rate(now.bytes_written, before.bytes_written),
            reads,
            writes,
            others,
            under_way: now.under_way,
            failures: rate(failed(now), failed(before)),
        }
    }
}

impl Throttle {
    fn between(now: &ThrottleStats, before: &Stats, interval: f64) -> Self {
        let before = before.throttles.iter().find(|before| before.throttle == now.throttle);
        // One that was made anew begins at 0 again.
        let waits = now.waits.saturating_sub(before.map_or(0, |before| before.waits));
        Self { throttle: now.throttle.clone(), waiting: now.waiting, waits: waits as f64 / interval }
    }
}

impl Latency {
    fn text(self, with_max: bool) -> String {
        match (self.p50, with_max) {
            (None, _) => "-".into(),
            (p50, true) => format!("{} {} {}", time(p50), time(self.p99), time(self.max)),
            (p50, false) => format!("{} {}", time(p50), time(self.p99)),
        }
    }

    fn between(now: &Times, before: &Times, interval: f64) -> Self {
        let came = Histogram::from(now).since(&Histogram::from(before));
        let at = |share| came.quantile(share).map(|time: Duration| time.as_secs_f64());
        Self { iops: came.count() as f64 / interval, p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

fn bytes(bytes: f64) -> String {
    super::bytes(bytes as u64)
}

/// For people: three digits or so.
fn count(number: f64) -> String {
    match number {
        ..0.05 => "0".into(),
        ..10.0 => format!("{number:.1}"),
        ..10_000.0 => format!("{number:.0}"),
        ..10_000_000.0 => format!("{:.0}k", number / 1e3),
        _ => format!("{:.0}M", number / 1e6),
    }
}

/// For people: `12µs`, `3.4ms`, `1.2s`.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".into(),
        Some(seconds) if seconds < 9.95e-6 => format!("{:.1}µs", seconds * 1e6),
        Some(seconds) if seconds < 0.9995e-3 => format!("{:.0}µs", seconds * 1e6),
        Some(seconds) if seconds < 9.95e-3 => format!("{:.1}ms", seconds * 1e3),
        Some(seconds) if seconds < 0.9995 => format!("{:.0}ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    fn stats(time: f64, reads: u64, busy: f64) -> Stats {
        let counts = Counts {
            bytes_read: reads * 4096,
            reads: Times { seconds: 0.0, buckets: vec![(8192, reads / 2), (1 << 20, reads - reads / 2)] },
            under_way: 3,
            aborted: reads / 10,
            ..Counts::default()
        };
        let one =
            |name: &str, counts: Counts| InitiatorStats { initiator: name.into(), port: "p".into(), counts };
        let initiators = vec![one("idle\u{1b}[2J", Counts::default()), one("busy", counts)];
        let unit = UnitStats { unit: "disk".into(), total: Counts::default(), initiators };
        let throttle = ThrottleStats { throttle: "gold".into(), waiting: 5, waits: reads / 2 };
        let reactors = vec![ReactorStats { busy, spinning: 0.0 }];
        Stats { time, reactors, units: vec![unit], exports: Vec::new(), throttles: vec![throttle] }
    }

    #[test]
    fn what_is_shown_is_what_has_happened_between() {
        let activity = Activity::between(&stats(10.0, 1000, 1.0), &stats(12.0, 3000, 2.5));
        assert_eq!((activity.interval, activity.reactors[0].busy), (2.0, 0.75));
        let [busy, idle] = &activity.nexuses[..] else { panic!() };
        assert_eq!((idle.iops, idle.reads.p50), (0.0, None));
        assert_eq!((busy.iops, busy.read, busy.failures, busy.under_way), (1000.0, 4_096_000.0, 100.0, 3));
        assert_eq!((busy.reads.p50, busy.reads.max), (Some(8.192e-6), Some(1.048576e-3)));
        let text = activity.text(12.0, None, None);
        assert_eq!((activity.throttles[0].waiting, activity.throttles[0].waits), (5, 500.0));
        assert!(text.contains("spinning 0%, 5 waiting for throttles\n"), "{text}");
        assert!(text.contains("up 12s, 1000 IOPS") && text.contains("busy 75%"), "{text}");
        assert!(text.contains("8.2µs") && text.contains("1.0ms") && !text.contains('\u{1b}'), "{text}");
        let since_start = Activity::between(&Stats::default(), &stats(1.0, 10, 0.5));
        assert_eq!((since_start.interval, since_start.nexuses[0].iops), (1.0, 10.0));
        let nobody = Stats { throttles: Vec::new(), ..stats(1.0, 10, 0.5) };
        assert!(!Activity::between(&nobody, &nobody).text(1.0, None, None).contains("throttles"));
    }

    #[test]
    fn it_fits_the_terminal() {
        let line = |number: usize| Line {
            unit: format!("a-unit-with-a-long-name-{number}"),
            initiator: "iqn.2026-11.org.example:a-host-with-a-long-name".into(),
            port: "p".into(),
            iops: 123_456.0,
            read: 1000.0 * 1_048_576.0,
            written: 1000.0 * 1_048_576.0,
            reads: Latency { iops: 1.0, p50: Some(0.25), p99: Some(0.5), max: Some(12.34) },
            writes: Latency { iops: 1.0, p50: Some(0.25), p99: Some(0.5), max: Some(12.34) },
            others: Latency::default(),
            under_way: 12_345,
            failures: 123_456.0,
        };
        for reactors in [1, EACH, 64] {
            let reactors = vec![Load { busy: 1.0, spinning: 1.0 }; reactors];
            let throttle = Throttle { throttle: "gold".into(), waiting: 123_456, waits: 123_456.0 };
            let nexuses = (0..50).map(line).collect();
            let activity = Activity { interval: 1.0, reactors, nexuses, throttles: vec![throttle] };
            for columns in [60, 80, WIDE, 132] {
                let text = activity.text(1e7, Some(columns), Some(24));
                assert!(text.lines().all(|line| line.width() <= columns), "{columns}:\n{text}");
                assert_eq!(text.lines().count(), 23, "the cursor stays below:\n{text}");
                let has = |heading: &str| text.contains(heading);
                assert_eq!((has("FAILED/s"), has("max")), (columns >= WIDE, columns >= WIDE), "{text}");
                assert!(columns < 80 || has("WRITE p50 p99"), "{text}");
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        let times = [None, Some(1e-6), Some(9.94e-5), Some(0.0034), Some(0.25), Some(12.34)].map(time);
        assert_eq!(times, ["-", "1.0µs", "99µs", "3.4ms", "250ms", "12.3s"]);
        let counts = [0.0, 0.5, 99.4, 9999.0, 123_456.0, 2e9].map(count);
        assert_eq!(counts, ["0", "0.5", "99", "9999", "123k", "2000M"]);
    }
}
