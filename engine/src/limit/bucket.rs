//! A bucket of tokens that fills with time, as one number: when it will be full.

use super::Rate;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Parts of a nanosecond in which times are counted here, as a power of two: a byte may take less than one.
const PARTS: u32 = 6;
/// What comes in this time may be taken at once in any case: a reactor sees tokens when it looks.
const SHORTEST: Duration = Duration::from_millis(10);

/// Without limit at first.
#[derive(Default, Debug)]
pub(super) struct Bucket {
    /// How long it takes until a token comes, in 2⁻³² ns; 0: there is no limit.
    interval: AtomicU64,
    /// How long it takes until an empty one is full.
    depth: AtomicU64,
    full_at: AtomicU64,
}

fn parts(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() << PARTS).unwrap_or(u64::MAX)
}

/// How long it takes until so many tokens come.
fn time_of(tokens: u64, interval: u64) -> u64 {
    u64::try_from((u128::from(tokens) * u128::from(interval)) >> (32 - PARTS)).unwrap_or(u64::MAX)
}

impl Bucket {
    /// It is full afterwards.
    pub(super) fn set(&self, rate: Option<Rate>) {
        let interval = rate.map_or(0, |rate| (1_000_000_000 << 32) / rate.per_second);
        let depth = rate.map_or(0, |rate| time_of(rate.burst.max(1), interval)).max(parts(SHORTEST));
        self.interval.store(interval, Relaxed);
        self.depth.store(depth, Relaxed);
        self.full_at.store(0, Relaxed);
    }

    /// Whether there is one.
    #[inline]
    pub(super) fn has_tokens(&self, now: Duration) -> bool {
        self.missing(now) == 0
    }

    /// Whether nothing more comes.
    pub(super) fn is_full(&self, now: Duration) -> bool {
        self.interval.load(Relaxed) == 0 || self.full_at.load(Relaxed) <= parts(now)
    }

    /// How long it takes until there is one.
    fn missing(&self, now: Duration) -> u64 {
        let interval = self.interval.load(Relaxed);
        if interval == 0 {
            return 0;
        }
        let until_full = self.full_at.load(Relaxed).saturating_sub(parts(now));
        until_full.saturating_add(time_of(1, interval)).saturating_sub(self.depth.load(Relaxed))
    }

    /// Takes tokens, also such as are not there yet.
    #[inline]
    pub(super) fn take(&self, tokens: u64, now: Duration) {
        let interval = self.interval.load(Relaxed);
        if interval > 0 {
            let (time, now) = (time_of(tokens, interval), parts(now));
            let later = |full_at: u64| Some(full_at.max(now).saturating_add(time));
            let _ = self.full_at.fetch_update(Relaxed, Relaxed, later);
        }
    }

    pub(super) fn give_back(&self, tokens: u64) {
        let time = time_of(tokens, self.interval.load(Relaxed));
        let _ = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| Some(full_at.saturating_sub(time)));
    }

    /// How long until there are tokens.
    pub(super) fn empty_for(&self, now: Duration) -> Duration {
        match self.missing(now) {
            0 => Duration::ZERO,
            time => Duration::from_nanos((time >> PARTS) + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    fn bucket(per_second: u64, burst: u64) -> Bucket {
        let bucket = Bucket::default();
        bucket.set(Some(Rate { per_second: NonZeroU64::new(per_second).unwrap(), burst }));
        bucket
    }

    fn draw(bucket: &Bucket, tokens: u64, now: Duration) -> bool {
        let there = bucket.has_tokens(now);
        if there {
            bucket.take(tokens, now);
        }
        there
    }

    #[test]
    fn a_burst_is_taken_at_once_and_the_rest_by_and_by() {
        let bucket = bucket(10, 5);
        let at = Duration::from_secs(7);
        assert_eq!((0..20).filter(|_| draw(&bucket, 1, at)).count(), 5);
        let wait = bucket.empty_for(at);
        assert!(wait >= Duration::from_millis(99) && wait <= Duration::from_millis(101), "{wait:?}");
        assert_eq!((0..20).filter(|n| draw(&bucket, 1, at + Duration::from_millis(50 * n + 1))).count(), 9);
        bucket.set(None);
        assert!((0..1000).all(|_| draw(&bucket, 1 << 40, at)));
    }

    #[test]
    fn what_is_taken_ahead_is_made_up_for() {
        let bucket = bucket(1 << 20, 1 << 20);
        let at = Duration::from_secs(1);
        assert!(draw(&bucket, 4 << 20, at) && !draw(&bucket, 1, at));
        let wait = bucket.empty_for(at);
        assert!(wait > Duration::from_millis(2999) && wait < Duration::from_millis(3001), "{wait:?}");
        assert!(!draw(&bucket, 1, at + wait - Duration::from_micros(1)));
        assert!(draw(&bucket, 1, at + wait));
        bucket.give_back(2 << 20);
        assert!(draw(&bucket, 1, at + wait));
    }

    #[test]
    fn rates_are_kept_from_the_least_to_the_greatest() {
        for (per_second, tokens) in
            [(1, 1), (3, 1), (1000, 1), (1_000_000, 1), (100 << 30, 4096), (u64::MAX, 1 << 30)]
        {
            let bucket = bucket(per_second, 1);
            let (mut now, mut taken) = (Duration::from_secs(1000), 0_u64);
            let begin = now;
            while taken < 2000 * tokens {
                if draw(&bucket, tokens, now) {
                    taken += tokens;
                } else {
                    now += bucket.empty_for(now);
                }
            }
            let allowed = (now - begin).as_secs_f64() * per_second as f64;
            let burst = (per_second as f64 / 100.0).max(1.0) + tokens as f64;
            assert!((taken as f64) < allowed * 1.001 + burst, "{per_second}: {taken} in {:?}", now - begin);
        }
    }
}
