//! How long commands took: a histogram of fixed size, with buckets that are equally wide within a power of two.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Nanoseconds, as a power of two, that are not told apart.
const UNIT: u32 = 6;
/// Buckets within a power of two, as a power of two: a value is known to an eighth.
const PARTS: u32 = 3;
/// What takes this power of two of nanoseconds or longer, more than two minutes, is in the last bucket.
const LONGEST: u32 = 37;
/// How many buckets there are.
const BUCKETS: usize = ((LONGEST - UNIT - PARTS + 1) << PARTS) as usize;

/// In which bucket a time is.
pub(super) fn bucket(time: Duration) -> usize {
    let units = (u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) >> UNIT).min((1 << (LONGEST - UNIT)) - 1);
    let above = (units | 1 << PARTS).ilog2() - PARTS;
    ((above as usize) << PARTS) + (units >> above) as usize
}

/// So many of this time together, in nanoseconds.
pub(super) fn nanoseconds(time: Duration, commands: u64) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(commands)
}

/// The times from which on a bucket is the next one.
fn end(bucket: usize) -> Duration {
    let (bucket, parts) = (bucket as u64, 1 << PARTS);
    let above = (bucket / parts).saturating_sub(1);
    Duration::from_nanos((bucket - above * parts + 1) << above << UNIT)
}

/// What one reactor has measured; it is the only one that writes here.
#[derive(Debug)]
pub(super) struct Measured {
    counts: [AtomicU64; BUCKETS],
    /// All times together, in nanoseconds.
    sum: AtomicU64,
}

impl Default for Measured {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Measured {
    /// So many took this long.
    pub(super) fn count(&self, time: Duration, commands: u64) {
        super::add(&self.counts[bucket(time)], commands);
        super::add(&self.sum, nanoseconds(time, commands));
    }
}

/// How long commands took. Histograms of different reactors and times can be added and taken from each other.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Histogram {
    /// By bucket; those behind the last one that counts are left out.
    counts: Vec<u64>,
    sum: Duration,
}

impl Histogram {
    /// A histogram of what [`buckets`](Self::buckets) of another one said: counts by the end of their bucket, and all times
    /// together.
    pub fn of(buckets: impl IntoIterator<Item = (Duration, u64)>, sum: Duration) -> Self {
        let mut histogram = Self { counts: Vec::new(), sum };
        for (end, count) in buckets {
            *histogram.count_of(bucket(end.saturating_sub(Duration::from_nanos(1)))) += count;
        }
        histogram
    }

    fn count_of(&mut self, bucket: usize) -> &mut u64 {
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        &mut self.counts[bucket]
    }

    pub(super) fn add_measured(&mut self, measured: &Measured) {
        let counts = (0..).zip(measured.counts.iter().map(|count| count.load(Relaxed)));
        self.add_counts(counts.filter(|(_, count)| *count > 0), measured.sum.load(Relaxed));
    }

    /// Adds counts by bucket, and all times together, in nanoseconds.
    pub(super) fn add_counts(&mut self, counts: impl Iterator<Item = (u16, u64)>, sum: u64) {
        counts.for_each(|(bucket, count)| *self.count_of(bucket.into()) += count);
        self.sum = self.sum.saturating_add(Duration::from_nanos(sum));
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        for (bucket, count) in other.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            *self.count_of(bucket) += count;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// What has come since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        Self {
            counts: self.counts.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect(),
            sum: self.sum.saturating_sub(earlier.sum),
        }
    }

    /// How many commands there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long all took together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The buckets that count something: how long their commands took at most, and how many they are.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(bucket, count)| (end(bucket), *count))
    }

    /// How many took no longer than `time`, as far as buckets can tell.
    pub fn up_to(&self, time: Duration) -> u64 {
        self.buckets().take_while(|(end, _)| *end <= time).map(|(_, count)| count).sum()
    }

    /// How long `share` of the commands, of 1, took at most; `None` if there were none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets().find_map(|(end, count)| {
            seen += count;
            (seen >= rank).then_some(end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(n: u64) -> Duration {
        Duration::from_nanos(n)
    }

    #[test]
    fn a_time_is_in_a_bucket_that_is_an_eighth_of_it_wide_at_most() {
        let mut last = 0;
        for time in (0..37).flat_map(|power| (0..64).map(move |part| (1u64 << power) + (part << power) / 64))
        {
            let at = bucket(ns(time));
            let begin = if at == 0 { ns(0) } else { end(at - 1) };
            assert!(begin <= ns(time) && ns(time) < end(at), "{time} is in {at}: {begin:?} to {:?}", end(at));
            assert!(time < 1024 || end(at) - begin <= ns(time) / 8, "{time}");
            assert!(at >= last || time < 64);
            last = at;
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket(end(BUCKETS - 2)), BUCKETS - 1);
    }

    #[test]
    fn what_was_measured_is_added_and_told() {
        let (first, second) = (Measured::default(), Measured::default());
        first.count(ns(100), 98);
        second.count(Duration::from_millis(1), 1);
        second.count(Duration::from_secs(1), 1);
        let mut all = Histogram::default();
        assert_eq!(all.quantile(0.5), None);
        all.add_measured(&first);
        let before = all.clone();
        all.add_measured(&second);
        assert_eq!((all.count(), all.sum()), (100, ns(98 * 100 + 1_001_000_000)));
        let about = |share, time: Duration| {
            let found = all.quantile(share).unwrap();
            assert!(found > time && found <= time + time / 7, "{share}: {found:?}");
        };
        about(0.99, Duration::from_millis(1));
        about(1.0, Duration::from_secs(1));
        assert_eq!(all.quantile(0.98), Some(ns(128)));
        assert_eq!(all.up_to(Duration::from_millis(100)), 99);
        let after = all.since(&before);
        assert_eq!((after.count(), after.sum()), (2, ns(1_001_000_000)));
        let mut again = before.clone();
        again.add(&after);
        assert_eq!(again, all);
        assert_eq!(Histogram::of(all.buckets(), all.sum()), all);
    }
}
