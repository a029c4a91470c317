//! `lunette top`: what logical units do for whom, now.

use super::table::Table;
use super::{connect, print_text};
use crate::cli::TopCall;
use crate::metrics::{Counts, InitiatorStats, ReactorStats, Stats, Times, UnitStats};
use anyhow::Result;
use lunette_control::Connection;
use lunette_engine::Histogram;
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;

/// Moves the cursor home, and after the text erases what is below.
const HOME: &str = "\x1b[H\x1b[J";

/// What has happened in a time.
#[derive(PartialEq, Debug, Serialize)]
struct Activity {
    /// Seconds.
    interval: f64,
    reactors: Vec<Load>,
    nexuses: Vec<Line>,
}

/// What a reactor has done of the time, from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
struct Load {
    busy: f64,
    spinning: f64,
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
        let now = ask(&mut daemon, call)?;
        let activity = Activity::between(&before, &now);
        print_text(&match (call.json, call.once) {
            (true, _) => super::clean(&json!(activity).to_string()) + "\n",
            (false, true) => activity.text(now.time, super::columns(std::io::stdout()), None),
            (false, false) => {
                HOME.to_owned()
                    + &activity.text(
                        now.time,
                        super::columns(std::io::stdout()),
                        super::rows(std::io::stdout()),
                    )
            }
        })?;
        if call.once {
            return Ok(());
        }
        before = now;
    }
}

fn ask(daemon: &mut Connection, call: &TopCall) -> Result<Stats> {
    Ok(daemon.call("stats.show", &json!({ "unit": call.unit }))?)
}

impl Activity {
    fn between(before: &Stats, now: &Stats) -> Self {
        // Since it was started, if it was started again.
        let nothing = Stats::default();
        let before = if before.time < now.time { before } else { &nothing };
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
        Self { interval, reactors: reactors.collect(), nexuses }
    }

    /// A screen of it, with as many lines as there is room for.
    fn text(&self, uptime: f64, columns: Option<usize>, rows: Option<usize>) -> String {
        let total = |of: fn(&Line) -> f64| self.nexuses.iter().map(of).sum::<f64>();
        let shares = |of: fn(&Load) -> f64| {
            let shares = self.reactors.iter().map(|load| format!("{:.0}%", of(load) * 100.0));
            shares.collect::<Vec<_>>().join(" ")
        };
        let mut text = format!(
            "up {}, {} IOPS, {}/s read, {}/s written; reactors busy {}, spinning {}\n\n",
            super::session::age(uptime),
            count(total(|line| line.iops)),
            bytes(total(|line| line.read)),
            bytes(total(|line| line.written)),
            shares(|load| load.busy),
            shares(|load| load.spinning),
        );
        let mut table = Table::new([
            "UNIT",
            "INITIATOR",
            "IOPS",
            "READ/s",
            "WRITTEN/s",
            "DEPTH",
            "READ p50 p99 max",
            "WRITE p50 p99 max",
            "FAILED/s",
        ]);
        let most = rows.map_or(usize::MAX, |rows| rows.saturating_sub(4));
        for line in self.nexuses.iter().take(most) {
            table.row([
                line.unit.clone(),
                line.initiator.clone(),
                count(line.iops),
                bytes(line.read),
                bytes(line.written),
                line.under_way.to_string(),
                line.reads.text(),
                line.writes.text(),
                count(line.failures),
            ]);
        }
        text += &table.lines(columns);
        text
    }
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

impl Latency {
    fn text(self) -> String {
        match self.p50 {
            None => "-".into(),
            p50 => format!("{} {} {}", time(p50), time(self.p99), time(self.max)),
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
        Stats { time, reactors: vec![ReactorStats { busy, spinning: 0.0 }], units: vec![unit] }
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
        assert!(text.contains("up 12s, 1000 IOPS") && text.contains("busy 75%"), "{text}");
        assert!(text.contains("8.2µs") && text.contains("1.0ms") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(activity.text(12.0, Some(80), Some(5)).lines().count(), 4);
        // It was started again.
        let again = Activity::between(&stats(12.0, 3000, 2.5), &stats(1.0, 10, 0.5));
        assert_eq!((again.interval, again.nexuses[0].iops), (1.0, 10.0));
    }

    #[test]
    fn numbers_are_short() {
        let times = [None, Some(1e-6), Some(9.94e-5), Some(0.0034), Some(0.25), Some(12.34)].map(time);
        assert_eq!(times, ["-", "1.0µs", "99µs", "3.4ms", "250ms", "12.3s"]);
        let counts = [0.0, 0.5, 99.4, 9999.0, 123_456.0, 2e9].map(count);
        assert_eq!(counts, ["0", "0.5", "99", "9999", "123k", "2000M"]);
    }
}
