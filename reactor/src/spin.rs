//! How long an idle reactor spins before it sleeps.

use crate::Poll;
use std::time::Duration;

const LONGEST: Duration = Duration::from_micros(20);
const SHORTEST: Duration = Duration::from_micros(6);
/// Work that took this long is worth a sleep and a wake-up.
const MUCH: Duration = Duration::from_micros(8);

/// Learns whether spinning pays: it does when work comes within [`LONGEST`], and so little of it at a time that going to
/// sleep and waking up would cost more than the work itself.
pub(crate) struct Spin {
    budget: Duration,
    adaptive: bool,
}

impl Spin {
    /// With a single CPU only `Always` spins: whoever would bring the work needs that CPU.
    pub(crate) fn new(poll: Poll, cpus: usize) -> Self {
        let budget = match poll {
            Poll::Always => Duration::MAX,
            Poll::Adaptive | Poll::Never => Duration::ZERO,
        };
        Self { budget, adaptive: poll == Poll::Adaptive && cpus > 1 }
    }

    /// How long to spin when there is nothing to do.
    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// Work has come after `idle` of spinning and sleeping; before that, `busy` was spent on work.
    pub(crate) fn learn(&mut self, idle: Duration, busy: Duration) {
        if !self.adaptive {
            return;
        }
        if idle > LONGEST || busy > MUCH {
            self.budget /= 2;
            if self.budget < SHORTEST {
                self.budget = Duration::ZERO;
            }
        } else if idle > self.budget {
            self.budget = (self.budget * 2).clamp(SHORTEST, LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn grows_while_work_comes_soon_and_shrinks_to_nothing() {
        let mut spin = Spin::new(Poll::Adaptive, 2);
        assert_eq!(spin.budget(), us(0));
        for _ in 0..10 {
            spin.learn(us(12), us(2));
        }
        assert_eq!(spin.budget(), us(12));
        spin.learn(us(19), us(2));
        assert_eq!(spin.budget(), us(20));
        spin.learn(us(5), us(2));
        assert_eq!(spin.budget(), us(20));
        for _ in 0..4 {
            spin.learn(us(2000), us(2));
        }
        assert_eq!(spin.budget(), us(0));
    }

    #[test]
    fn work_in_large_portions_is_not_spun_for() {
        let mut spin = Spin::new(Poll::Adaptive, 2);
        for _ in 0..10 {
            spin.learn(us(15), us(2));
        }
        for _ in 0..4 {
            spin.learn(us(5), us(10));
        }
        assert_eq!(spin.budget(), us(0));
    }

    #[test]
    fn fixed_policies_and_a_single_cpu_do_not_learn() {
        for (poll, cpus, budget) in
            [(Poll::Never, 2, us(0)), (Poll::Adaptive, 1, us(0)), (Poll::Always, 1, Duration::MAX)]
        {
            let mut spin = Spin::new(poll, cpus);
            spin.learn(us(1), us(1));
            assert_eq!(spin.budget(), budget);
        }
    }
}
