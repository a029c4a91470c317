//! The text of the metrics, in the format of OpenMetrics 1.0.

use super::snapshot::{Counts, ExportStats, InitiatorStats, Stats, ThrottleStats};
use lunette_engine::Histogram;
use std::fmt::Write;
use std::time::Duration;

/// The media type of the text.
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A family of metrics.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    unit: &'static str,
    pub(super) help: &'static str,
    samples: fn(&Told<'_>, &mut Samples<'_>),
}

/// All there are.
pub(super) const FAMILIES: [Family; 20] = [
    Family {
        name: "lunette_build",
        kind: "info",
        unit: "",
        help: "The daemon's version.",
        samples: |_, to| to.sample("_info", &[("version", env!("CARGO_PKG_VERSION"))], "1"),
    },
    Family {
        name: "lunette_uptime_seconds",
        kind: "gauge",
        unit: "seconds",
        help: "How long the daemon has been running.",
        samples: |told, to| to.sample("", &[], &told.stats.time.to_string()),
    },
    Family {
        name: "lunette_reactor_busy_seconds",
        kind: "counter",
        unit: "seconds",
        help: "Time that a reactor has worked.",
        samples: |told, to| {
            for (number, reactor) in told.stats.reactors.iter().enumerate() {
                to.sample("_total", &[("reactor", &number.to_string())], &reactor.busy.to_string());
            }
        },
    },
    Family {
        name: "lunette_reactor_spinning_seconds",
        kind: "counter",
        unit: "seconds",
        help: "Time that a reactor has looked for work before it went to sleep.",
        samples: |told, to| {
            for (number, reactor) in told.stats.reactors.iter().enumerate() {
                to.sample("_total", &[("reactor", &number.to_string())], &reactor.spinning.to_string());
            }
        },
    },
    Family {
        name: "lunette_unit_commands",
        kind: "counter",
        unit: "",
        help: "Commands that have come to a logical unit from all initiators, also those that have gone.",
        samples: |told, to| units(told, to, commands),
    },
    Family {
        name: "lunette_unit_read_bytes",
        kind: "counter",
        unit: "bytes",
        help: "Bytes that all initiators have read, also those that have gone.",
        samples: |told, to| units(told, to, read),
    },
    Family {
        name: "lunette_unit_written_bytes",
        kind: "counter",
        unit: "bytes",
        help: "Bytes that all initiators have written, also those that have gone.",
        samples: |told, to| units(told, to, written),
    },
    Family {
        name: "lunette_unit_failures",
        kind: "counter",
        unit: "",
        help: "Commands of all initiators that have ended with another status than GOOD or CONDITION MET, or with none.",
        samples: |told, to| units(told, to, failures),
    },
    Family {
        name: "lunette_initiator_commands",
        kind: "counter",
        unit: "",
        help: "Commands that have come to a logical unit from an initiator.",
        samples: |told, to| initiators(told, to, commands),
    },
    Family {
        name: "lunette_initiator_read_bytes",
        kind: "counter",
        unit: "bytes",
        help: "Bytes that an initiator has read.",
        samples: |told, to| initiators(told, to, read),
    },
    Family {
        name: "lunette_initiator_written_bytes",
        kind: "counter",
        unit: "bytes",
        help: "Bytes that an initiator has written.",
        samples: |told, to| initiators(told, to, written),
    },
    Family {
        name: "lunette_initiator_failures",
        kind: "counter",
        unit: "",
        help: "Commands of an initiator that have ended with another status than GOOD or CONDITION MET, or with none.",
        samples: |told, to| initiators(told, to, failures),
    },
    Family {
        name: "lunette_initiator_sense",
        kind: "counter",
        unit: "",
        help: "Commands of an initiator that have ended with CHECK CONDITION.",
        samples: |told, to| initiators(told, to, sense),
    },
    Family {
        name: "lunette_initiator_commands_under_way",
        kind: "gauge",
        unit: "",
        help: "Commands of an initiator that have not ended.",
        samples: |told, to| {
            initiators(told, to, |counts, labels, to| to.sample("", labels, &counts.under_way.to_string()));
        },
    },
    Family {
        name: "lunette_initiator_latency_seconds",
        kind: "histogram",
        unit: "seconds",
        help: "How long READ and WRITE of an initiator took.",
        samples: |told, to| initiators(told, to, latency),
    },
    Family {
        name: "lunette_export_connected",
        kind: "gauge",
        unit: "",
        help: "Whether a vhost-user export has a front end.",
        samples: |told, to| {
            exports(told, |labels, one| to.sample("", labels, &u8::from(one.connected).to_string()));
        },
    },
    Family {
        name: "lunette_export_failures",
        kind: "counter",
        unit: "",
        help: "Attempts of a vhost-user client to connect that have failed.",
        samples: |told, to| {
            exports(told, |labels, one| to.sample("_total", labels, &one.failures.to_string()));
        },
    },
    Family {
        name: "lunette_throttle_commands_waiting",
        kind: "gauge",
        unit: "",
        help: "Commands that wait for a throttle.",
        samples: |told, to| throttles(told, |labels, one| to.sample("", labels, &one.waiting.to_string())),
    },
    Family {
        name: "lunette_throttle_waits",
        kind: "counter",
        unit: "",
        help: "How often a command has begun to wait for a throttle.",
        samples: |told, to| {
            throttles(told, |labels, one| to.sample("_total", labels, &one.waits.to_string()))
        },
    },
    Family {
        name: "lunette_initiators_left_out",
        kind: "gauge",
        unit: "",
        help: "Initiators of logical units that are not told of, because there are too many.",
        samples: |told, to| to.sample("", &[], &told.left_out.to_string()),
    },
];

/// What is told.
struct Told<'a> {
    stats: &'a Stats,
    /// By the name of a unit, those that have used it.
    initiators: Vec<(&'a str, &'a InitiatorStats)>,
    left_out: usize,
}

/// Of so many initiators of units is told at most: each takes some kilobytes. The others, which have moved least, are among what is
/// told of their units.
const MOST: usize = 8192;

impl<'a> Told<'a> {
    fn new(stats: &'a Stats, most: usize) -> Self {
        let of = |unit: &'a super::UnitStats| unit.initiators.iter().map(|one| (unit.unit.as_str(), one));
        let mut initiators: Vec<_> = stats.units.iter().flat_map(of).collect();
        let left_out = initiators.len().saturating_sub(most);
        if left_out > 0 {
            let moved = |counts: &Counts| counts.bytes_read.saturating_add(counts.bytes_written);
            initiators.sort_by_key(|(_, one)| std::cmp::Reverse(moved(&one.counts)));
            initiators.truncate(most);
        }
        Self { stats, initiators, left_out }
    }
}

/// The ends of the buckets are powers of two of nanoseconds, from 8 µs to 17 s.
const BUCKETS: std::ops::RangeInclusive<u32> = 13..=34;

type Labels<'a> = [(&'a str, &'a str)];

fn units(told: &Told<'_>, to: &mut Samples<'_>, each: fn(&Counts, &Labels<'_>, &mut Samples<'_>)) {
    for unit in &told.stats.units {
        each(&unit.total, &[("unit", &unit.unit)], to);
    }
}

fn initiators(told: &Told<'_>, to: &mut Samples<'_>, each: fn(&Counts, &Labels<'_>, &mut Samples<'_>)) {
    for (unit, one) in &told.initiators {
        each(&one.counts, &[("unit", unit), ("initiator", &one.initiator), ("port", &one.port)], to);
    }
}

fn exports(told: &Told<'_>, mut each: impl FnMut(&Labels<'_>, &ExportStats)) {
    told.stats.exports.iter().for_each(|one| each(&[("export", &one.export)], one));
}

fn throttles(told: &Told<'_>, mut each: impl FnMut(&Labels<'_>, &ThrottleStats)) {
    told.stats.throttles.iter().for_each(|one| each(&[("throttle", &one.throttle)], one));
}

fn commands(counts: &Counts, labels: &Labels<'_>, to: &mut Samples<'_>) {
    let unknown = ("unknown", counts.unknown_commands);
    let known = counts.commands.iter().map(|(name, count)| (name.as_str(), *count));
    for (name, count) in known.chain([unknown]).filter(|(_, count)| *count > 0) {
        to.sample("_total", &[labels, &[("command", name)]].concat(), &count.to_string());
    }
}

fn read(counts: &Counts, labels: &Labels<'_>, to: &mut Samples<'_>) {
    to.sample("_total", labels, &counts.bytes_read.to_string());
}

fn written(counts: &Counts, labels: &Labels<'_>, to: &mut Samples<'_>) {
    to.sample("_total", labels, &counts.bytes_written.to_string());
}

fn failures(counts: &Counts, labels: &Labels<'_>, to: &mut Samples<'_>) {
    let aborted = Some(("none", counts.aborted)).filter(|(_, count)| *count > 0);
    let statuses = counts.statuses.iter().map(|(status, count)| (status.as_str(), *count));
    for (status, count) in statuses.chain(aborted) {
        to.sample("_total", &[labels, &[("status", status)]].concat(), &count.to_string());
    }
}

fn sense(counts: &Counts, labels: &Labels<'_>, to: &mut Samples<'_>) {
    for (key, count) in &counts.sense_keys {
        to.sample("_total", &[labels, &[("sense_key", key.as_str())]].concat(), &count.to_string());
    }
}

fn latency(counts: &Counts, labels: &Labels<'_>, to: &mut Samples<'_>) {
    for (class, times) in [("read", &counts.reads), ("write", &counts.writes)] {
        let histogram = Histogram::from(times);
        let all = histogram.count();
        if all == 0 {
            continue;
        }
        let labels = [labels, &[("class", class)]].concat();
        for power in BUCKETS {
            let end = Duration::from_nanos(1 << power);
            let le = end.as_secs_f64().to_string();
            let count = histogram.up_to(end).to_string();
            to.sample("_bucket", &[&labels[..], &[("le", &le)]].concat(), &count);
        }
        to.sample("_bucket", &[&labels[..], &[("le", "+Inf")]].concat(), &all.to_string());
        to.sample("_count", &labels, &all.to_string());
        to.sample("_sum", &labels, &times.seconds.to_string());
    }
}

/// Where the samples of a family are written.
pub(super) struct Samples<'a> {
    family: &'a Family,
    text: &'a mut String,
}

impl Samples<'_> {
    fn sample(&mut self, suffix: &str, labels: &Labels<'_>, value: &str) {
        self.text.push_str(self.family.name);
        self.text.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(value, self.text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Initiators choose their names.
fn escape(value: &str, to: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => to.push_str("\\\\"),
            '"' => to.push_str("\\\""),
            '\n' => to.push_str("\\n"),
            c => to.push(c),
        }
    }
}

/// All metrics.
pub(super) fn text(stats: &Stats) -> String {
    let (mut text, told) = (String::new(), Told::new(stats, MOST));
    for family in &FAMILIES {
        let Family { name, kind, unit, help, samples } = family;
        let _ = writeln!(text, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(text, "# HELP {name} {help}");
        samples(&told, &mut Samples { family, text: &mut text });
    }
    text + "# EOF\n"
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{InitiatorStats, ReactorStats, Times, UnitStats};
    use super::*;

    fn example() -> Stats {
        let counts = Counts {
            commands: [("READ(10)".to_owned(), 3)].into(),
            unknown_commands: 1,
            bytes_read: 4096,
            reads: Times { seconds: 0.5, buckets: vec![(8192, 1), (9216, 1), (1 << 36, 1)] },
            sense_keys: [("ILLEGAL REQUEST".to_owned(), 1)].into(),
            statuses: [("CHECK CONDITION".to_owned(), 1)].into(),
            aborted: 2,
            under_way: 7,
            ..Counts::default()
        };
        let initiator = InitiatorStats {
            initiator: "a\"b\\c\nd".into(),
            port: "iqn.x,t,0x0001".into(),
            counts: counts.clone(),
        };
        let unit = UnitStats { unit: "disk".into(), total: counts, initiators: vec![initiator] };
        let reactors = vec![ReactorStats { busy: 1.5, spinning: 0.0 }];
        let throttle = ThrottleStats { throttle: "gold".into(), waiting: 12, waits: 3456 };
        let export = ExportStats { export: "vm".into(), connected: true, failures: 5 };
        Stats { time: 3.25, reactors, units: vec![unit], exports: vec![export], throttles: vec![throttle] }
    }

    #[test]
    fn the_text_says_what_was_counted() {
        let text = text(&example());
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        has("# TYPE lunette_reactor_busy_seconds counter");
        has("# UNIT lunette_reactor_busy_seconds seconds");
        has("lunette_reactor_busy_seconds_total{reactor=\"0\"} 1.5");
        has("lunette_uptime_seconds 3.25");
        has("lunette_export_connected{export=\"vm\"} 1");
        has("lunette_export_failures_total{export=\"vm\"} 5");
        has("lunette_unit_commands_total{unit=\"disk\",command=\"READ(10)\"} 3");
        has("lunette_unit_commands_total{unit=\"disk\",command=\"unknown\"} 1");
        has("lunette_unit_failures_total{unit=\"disk\",status=\"none\"} 2");
        let who = "unit=\"disk\",initiator=\"a\\\"b\\\\c\\nd\",port=\"iqn.x,t,0x0001\"";
        has(&format!("lunette_initiator_read_bytes_total{{{who}}} 4096"));
        has(&format!("lunette_initiator_sense_total{{{who},sense_key=\"ILLEGAL REQUEST\"}} 1"));
        has(&format!("lunette_initiator_commands_under_way{{{who}}} 7"));
        has("lunette_throttle_commands_waiting{throttle=\"gold\"} 12");
        has("lunette_throttle_waits_total{throttle=\"gold\"} 3456");
        let bucket = |le: &str| {
            format!("lunette_initiator_latency_seconds_bucket{{{who},class=\"read\",le=\"{le}\"}}")
        };
        has(&format!("{} 1", bucket("0.000008192")));
        has(&format!("{} 2", bucket("0.000016384")));
        has(&format!("{} 2", bucket("17.179869184")));
        has(&format!("{} 3", bucket("+Inf")));
        has(&format!("lunette_initiator_latency_seconds_sum{{{who},class=\"read\"}} 0.5"));
        assert!(text.ends_with("\n# EOF\n") && !text.contains("class=\"write\""));
    }

    #[test]
    fn of_too_many_initiators_those_are_told_that_move_most() {
        let mut stats = example();
        let one = stats.units[0].initiators[0].clone();
        stats.units[0].initiators = (0..5)
            .map(|number| InitiatorStats {
                initiator: number.to_string(),
                counts: Counts { bytes_written: [3, 0, 9, 0, 4][number], ..one.counts.clone() },
                ..one.clone()
            })
            .collect();
        let names = |most| {
            let told = Told::new(&stats, most);
            let names: Vec<_> = told.initiators.iter().map(|(_, one)| one.initiator.clone()).collect();
            (names.join(" "), told.left_out)
        };
        assert_eq!(names(5), ("0 1 2 3 4".into(), 0));
        assert_eq!(names(2), ("2 4".into(), 3));
        assert!(text(&stats).contains("\nlunette_initiators_left_out 0\n"));
    }

    #[test]
    fn families_of_counters_and_times_are_named_as_the_format_wants_it() {
        for family in &FAMILIES {
            assert!(!family.name.ends_with("_total") && !family.name.ends_with("_info"), "{}", family.name);
            assert!(family.unit.is_empty() || family.name.ends_with(&format!("_{}", family.unit)));
            assert!(family.help.ends_with('.') && !family.help.contains('\\'));
        }
    }

    #[test]
    fn the_documentation_tells_every_metric_and_no_other() {
        let docs = include_str!("../../../docs/metrics.md");
        let rows = docs.lines().filter_map(|line| line.strip_prefix("| `lunette_"));
        let told: Vec<_> = rows
            .map(|row| {
                let cells: Vec<_> = row.split(" | ").collect();
                let name = format!("lunette_{}", cells[0].trim_end_matches('`'));
                (name, cells[1].to_owned(), cells[3].trim_end_matches(" |").to_owned())
            })
            .collect();
        let served: Vec<_> = FAMILIES
            .iter()
            .map(|family| (family.name.into(), family.kind.into(), family.help.into()))
            .collect();
        assert_eq!(told, served);
    }
}
