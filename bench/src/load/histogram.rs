//! Latencies, counted in buckets of about 3 % width.

use std::time::Duration;

/// Buckets per power of two.
const FINE_BITS: u32 = 5;
const FINE: u64 = 1 << FINE_BITS;
const BUCKETS: usize = ((64 - FINE_BITS + 1) << FINE_BITS) as usize;

/// A histogram of durations.
pub(crate) struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.buckets[bucket(nanoseconds)] += 1;
        self.count += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The smallest duration (rounded down to its bucket) that at least `fraction` of all do not exceed.
    pub(crate) fn quantile(&self, fraction: f64) -> Duration {
        let rank = ((self.count as f64 * fraction).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        Duration::from_nanos(found.map_or(0, lowest))
    }
}

fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < FINE {
        return nanoseconds as usize;
    }
    let shift = nanoseconds.ilog2() - FINE_BITS;
    ((u64::from(shift) << FINE_BITS) + (nanoseconds >> shift)) as usize
}

/// The smallest number of nanoseconds that falls into a bucket.
fn lowest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    match (bucket >> FINE_BITS).checked_sub(1) {
        None | Some(0) => bucket,
        Some(shift) => (bucket - (shift << FINE_BITS)) << shift,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_begins_close_below_what_falls_into_it() {
        for nanoseconds in (0..5000).chain([1 << 20, (1 << 20) - 1, 123_456_789, u64::MAX]) {
            let low = lowest(bucket(nanoseconds));
            assert!(low <= nanoseconds && nanoseconds - low <= nanoseconds / FINE, "{nanoseconds} {low}");
            assert_eq!(bucket(low), bucket(nanoseconds));
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_cut_where_they_should() {
        let mut histogram = Histogram::new();
        (1..=20).for_each(|n| histogram.record(n));
        assert_eq!(histogram.quantile(0.5), Duration::from_nanos(10));
        assert_eq!(histogram.quantile(0.99), Duration::from_nanos(20));
        assert_eq!(histogram.quantile(0.0), Duration::from_nanos(1));
        histogram.clear();
        assert_eq!((histogram.count(), histogram.quantile(0.5)), (0, Duration::ZERO));
    }
}
