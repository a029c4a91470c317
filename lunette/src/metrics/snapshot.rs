//! What there is to tell at one moment, in the form in which the control socket tells it.

use crate::running::{Link, LinkState};
use lunette_engine::{Activity, Delays, Histogram, LogicalUnit};
use lunette_reactor::{ReactorLoad, Reactors};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the daemon has done since it was started. All counts only rise; what has happened in a time is the difference.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Stats {
    /// Seconds since the daemon was started.
    pub(crate) time: f64,
    /// By their numbers.
    pub(crate) reactors: Vec<ReactorStats>,
    /// By their names.
    pub(crate) units: Vec<UnitStats>,
    /// By their names.
    pub(crate) exports: Vec<ExportStats>,
    /// By their names.
    pub(crate) throttles: Vec<ThrottleStats>,
}

/// How a vhost-user export and its front end stand.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ExportStats {
    /// Its name.
    pub(crate) export: String,
    /// Whether there is a front end.
    pub(crate) connected: bool,
    /// How often a `client` has not been able to connect since it was made.
    pub(crate) failures: u64,
}

impl ExportStats {
    pub(crate) fn new(export: impl ToString, link: &Link) -> Self {
        let connected = link.state == LinkState::Connected;
        Self { export: export.to_string(), connected, failures: link.failures }
    }
}

/// Who has to wait for a throttle.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ThrottleStats {
    /// Its name.
    pub(crate) throttle: String,
    /// How many commands wait.
    pub(crate) waiting: u64,
    /// How often a command has begun to wait since the throttle was made.
    pub(crate) waits: u64,
}

impl ThrottleStats {
    pub(crate) fn new(throttle: impl ToString, delays: &Delays) -> Self {
        Self { throttle: throttle.to_string(), waiting: delays.waiting(), waits: delays.waits() }
    }
}

/// What a reactor has spent its time on. For the rest of it, it has slept.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ReactorStats {
    /// Seconds of work.
    pub(crate) busy: f64,
    /// Seconds of looking for work before sleep.
    pub(crate) spinning: f64,
}

/// What a logical unit has done.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct UnitStats {
    /// Its name.
    pub(crate) unit: String,
    /// For all initiators, also those that have gone.
    pub(crate) total: Counts,
    /// For each that has used it and is there now.
    pub(crate) initiators: Vec<InitiatorStats>,
}

/// What a logical unit has done for an initiator that came by one target port.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct InitiatorStats {
    /// The initiator port's name.
    pub(crate) initiator: String,
    /// The target port's name.
    pub(crate) port: String,
    /// What was done.
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

/// What commands have come to.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Counts {
    /// Commands that have come, by their names.
    pub(crate) commands: BTreeMap<String, u64>,
    /// Commands that have come and that the unit does not know.
    pub(crate) unknown_commands: u64,
    /// Bytes of the medium that were read.
    pub(crate) bytes_read: u64,
    /// Bytes that were written to the medium.
    pub(crate) bytes_written: u64,
    /// How long READ took, of any length.
    pub(crate) reads: Times,
    /// How long WRITE, WRITE AND VERIFY and WRITE ATOMIC took, of any length.
    pub(crate) writes: Times,
    /// How long all other commands took.
    pub(crate) others: Times,
    /// Commands that have ended with CHECK CONDITION, by sense key.
    pub(crate) sense_keys: BTreeMap<String, u64>,
    /// Commands that have ended with another status than GOOD or CONDITION MET.
    pub(crate) statuses: BTreeMap<String, u64>,
    /// Commands that were ended without a status.
    pub(crate) aborted: u64,
    /// Commands that have not ended.
    pub(crate) under_way: u32,
}

/// How long commands took that have ended.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Times {
    /// Seconds, all together.
    pub(crate) seconds: f64,
    /// How many took fewer than so many nanoseconds, and not fewer than an eighth less.
    pub(crate) buckets: Vec<(u64, u64)>,
}

impl From<&Histogram> for Times {
    fn from(histogram: &Histogram) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            seconds: histogram.sum().as_secs_f64(),
            buckets: histogram.buckets().map(|(end, count)| (nanoseconds(end), count)).collect(),
        }
    }
}

impl From<&Times> for Histogram {
    fn from(times: &Times) -> Self {
        let buckets = times.buckets.iter().map(|(end, count)| (Duration::from_nanos(*end), *count));
        Self::of(buckets, Duration::try_from_secs_f64(times.seconds).unwrap_or_default())
    }
}

impl From<&Activity> for Counts {
    fn from(activity: &Activity) -> Self {
        let [reads, writes, others] = activity.times.each_ref().map(Times::from);
        Self {
            commands: named(&activity.commands),
            unknown_commands: activity.unknown_commands,
            bytes_read: activity.bytes_read,
            bytes_written: activity.bytes_written,
            reads,
            writes,
            others,
            sense_keys: named(&activity.sense_keys),
            statuses: named(&activity.statuses),
            aborted: activity.aborted,
            under_way: activity.under_way,
        }
    }
}

fn named<K: ToString>(counts: &BTreeMap<K, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(key, count)| (key.to_string(), *count)).collect()
}

/// What there is to tell of these units, and of a daemon that was started then.
pub(crate) fn stats(
    reactors: &Reactors,
    units: impl Iterator<Item = Arc<LogicalUnit>>,
    exports: Vec<ExportStats>,
    throttles: Vec<ThrottleStats>,
    since: Instant,
) -> Stats {
    let mut units: Vec<UnitStats> = units.map(|unit| unit_stats(&unit)).collect();
    units.sort_by(|one, other| one.unit.cmp(&other.unit));
    let load = |load: ReactorLoad| ReactorStats {
        busy: load.busy.as_secs_f64(),
        spinning: load.spinning.as_secs_f64(),
    };
    let reactors = reactors.loads().into_iter().map(load).collect();
    Stats { time: since.elapsed().as_secs_f64(), reactors, units, exports, throttles }
}

fn unit_stats(unit: &LogicalUnit) -> UnitStats {
    let activity = unit.activity();
    // A session that replaces another may be there beside it for a moment.
    let mut initiators = BTreeMap::<(String, String), Activity>::new();
    for nexus in activity.nexuses {
        initiators.entry((nexus.initiator, nexus.port)).or_default().add(&nexus.activity);
    }
    let initiators = initiators.into_iter().map(|((initiator, port), activity)| InitiatorStats {
        initiator,
        port,
        counts: Counts::from(&activity),
    });
    UnitStats {
        unit: unit.name.clone(),
        total: Counts::from(&activity.total),
        initiators: initiators.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_to_a_client() {
        let ms = Duration::from_millis;
        let histogram = Histogram::of([(ms(1), 5), (ms(3), 7), (ms(3000), 1)], ms(3100));
        let json = serde_json::to_string(&Times::from(&histogram)).unwrap();
        let times: Times = serde_json::from_str(&json).unwrap();
        assert_eq!(Histogram::from(&times), histogram);
        assert_eq!(histogram.quantile(1.0), Histogram::from(&times).quantile(1.0));
        let strange = Times { seconds: f64::NAN, buckets: vec![(0, 1), (u64::MAX, 2)] };
        assert_eq!(Histogram::from(&strange).count(), 3);
    }
}
