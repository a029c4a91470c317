//! A bucket of tokens that fills with time, as one number: when it will be full.

use super::Rate;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Parts of a nanosecond in which times are counted here, as a power of two: a byte may take less than one.
const PARTS: u32 = 6;
/// So many times what is taken ahead must be there.
const PLENTY: u64 = 8;
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

/// So many parts of a nanosecond: what a moment is here, and how long something takes.
pub(super) fn parts(time: Duration) -> u64 {
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
    pub(super) fn has_tokens(&self, now: u64) -> bool {
        self.missing(now) == 0
    }

    /// Whether nothing more comes.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.interval.load(Relaxed) == 0 || self.full_at.load(Relaxed) <= now
    }

    /// Whether so many are only a small part of what is there.
    pub(super) fn has_plenty(&self, tokens: u64, now: u64) -> bool {
        let time = time_of(tokens, self.interval.load(Relaxed)).saturating_mul(PLENTY);
        let until_full = self.full_at.load(Relaxed).saturating_sub(now);
        time == 0 || until_full.saturating_add(time) <= self.depth.load(Relaxed)
    }

    /// How long it takes until there is one.
    fn missing(&self, now: u64) -> u64 {
        let interval = self.interval.load(Relaxed);
        if interval == 0 {
            return 0;
        }
        let until_full = self.full_at.load(Relaxed).saturating_sub(now);
        until_full.saturating_add(time_of(1, interval)).saturating_sub(self.depth.load(Relaxed))
    }

    /// Takes tokens if there is one, also such as are not there yet. Returns whether it has.
    #[inline]
    pub(super) fn draw(&self, tokens: u64, now: u64) -> bool {
        let interval = self.interval.load(Relaxed);
        if interval == 0 {
            return true;
        }
        let time = time_of(tokens, interval);
        let latest = now.saturating_add(self.depth.load(Relaxed).saturating_sub(time_of(1, interval)));
        let later = |full_at: u64| (full_at <= latest).then(|| full_at.max(now).saturating_add(time));
        self.full_at.fetch_update(Relaxed, Relaxed, later).is_ok()
    }

    /// The same whatever there is.
    pub(super) fn take(&self, tokens: u64, now: u64) {
        let interval = self.interval.load(Relaxed);
        if interval > 0 {
            let time = time_of(tokens, interval);
            let later = |full_at: u64| Some(full_at.max(now).saturating_add(time));
            let _ = self.full_at.fetch_update(Relaxed, Relaxed, later);
        }
    }

    pub(super) fn give_back(&self, tokens: u64) {
        let time = time_of(tokens, self.interval.load(Relaxed));
        let _ = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| Some(full_at.saturating_sub(time)));
    }

    /// How long until there are tokens.
    pub(super) fn empty_for(&self, now: u64) -> Duration {
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
        let (there, now) = (bucket.has_tokens(parts(now)), parts(now));
        assert_eq!(bucket.draw(tokens, now), there);
        there
    }

    fn empty_for(bucket: &Bucket, now: Duration) -> Duration {
        bucket.empty_for(parts(now))
    }

    #[test]
    fn a_burst_is_taken_at_once_and_the_rest_by_and_by() {
        let bucket = bucket(10, 5);
        let at = Duration::from_secs(7);
        assert_eq!((0..20).filter(|_| draw(&bucket, 1, at)).count(), 5);
        let wait = empty_for(&bucket, at);
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
        let wait = empty_for(&bucket, at);
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
                    now += empty_for(&bucket, now);
                }
            }
            let allowed = (now - begin).as_secs_f64() * per_second as f64;
            let burst = (per_second as f64 / 100.0).max(1.0) + tokens as f64;
            assert!((taken as f64) < allowed * 1.001 + burst, "{per_second}: {taken} in {:?}", now - begin);
        }
    }
}
