//! How long an idle reactor spins before it sleeps.

use crate::Poll;
use std::time::Duration;

/// A request and its answer over a local socket or a fast network take less.
const LONGEST: Duration = Duration::from_micros(50);
/// How often whoever may bring the work is let onto this CPU.
const YIELD: Duration = Duration::from_micros(4);
/// Work that took this long is worth a sleep and a wake-up.
const MUCH: Duration = Duration::from_micros(20);

/// What shows that spinning pays, or would have paid, counts one; what shows the contrary this much more.
const MISS: u32 = 4;
/// From this score on, the reactor spins.
const ENOUGH: u32 = 16;
/// So that a host that is busy for a moment stops nobody from spinning.
const MOST: u32 = 64;

/// Learns whether spinning pays: it does when work comes within [`LONGEST`], and so little of it at a time that going to
/// sleep and waking up would cost more than the work itself.
pub(crate) struct Spin {
    policy: Poll,
    score: u32,
}

impl Spin {
    /// With a single CPU only `Always` spins: whoever would bring the work needs that CPU.
    pub(crate) fn new(poll: Poll, cpus: usize) -> Self {
        let policy = if poll == Poll::Adaptive && cpus < 2 { Poll::Never } else { poll };
        Self { policy, score: 0 }
    }

    /// How long to spin when there is nothing to do.
    pub(crate) fn budget(&self) -> Duration {
        match self.policy {
            Poll::Always => Duration::MAX,
            Poll::Adaptive if self.score >= ENOUGH => LONGEST,
            Poll::Adaptive | Poll::Never => Duration::ZERO,
        }
    }

    /// Work has come after `idle` of spinning and sleeping; before that, `busy` was spent on work.
    pub(crate) fn learn(&mut self, idle: Duration, busy: Duration) {
        if self.policy != Poll::Adaptive {
            return;
        }
        // One who slept has come late: in a virtual machine, to wake up a CPU takes as long as the whole exchange.
        let soon = if self.budget().is_zero() { 2 * LONGEST } else { LONGEST };
        if idle > soon || busy > MUCH {
            self.score = self.score.saturating_sub(MISS);
        } else {
            self.score = (self.score + 1).min(MOST);
        }
    }
}

/// When to yield while spinning: at once, for whoever was just woken may be on this CPU, and now and then.
pub(crate) struct Yields(Option<Duration>);

impl Yields {
    pub(crate) fn new() -> Self {
        Self(None)
    }

    /// Lets others run, or not yet.
    pub(crate) fn wait(&mut self, now: Duration) {
        if self.0.is_some_and(|last| now - last < YIELD) {
            std::hint::spin_loop();
        } else {
            self.0 = Some(now);
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    fn after(rests: u32, idle: u64, busy: u64) -> Spin {
        let mut spin = Spin::new(Poll::Adaptive, 2);
        for _ in 0..rests {
            spin.learn(us(idle), us(busy));
        }
        spin
    }

    #[test]
    fn spins_once_work_has_come_soon_for_a_while() {
        assert_eq!(after(0, 12, 2).budget(), us(0));
        assert_eq!(after(15, 12, 2).budget(), us(0));
        assert_eq!(after(16, 12, 2).budget(), us(50));
    }

    #[test]
    fn a_late_awakening_does_not_hide_that_work_came_soon() {
        assert_eq!(after(16, 90, 2).budget(), us(50));
        assert_eq!(after(1000, 110, 2).budget(), us(0));
    }

    #[test]
    fn seldom_spins_in_vain() {
        // So long that the sleeper seems late, and the spinner gives up.
        let mut spin = Spin::new(Poll::Adaptive, 2);
        let mut vain = 0;
        for _ in 0..1000 {
            vain += u32::from(!spin.budget().is_zero());
            spin.learn(us(60), us(2));
        }
        assert!(vain <= 200, "{vain}");
    }

    #[test]
    fn a_few_late_requests_do_not_stop_it_and_an_idle_guest_does() {
        let mut spin = after(100, 12, 2);
        for _ in 0..12 {
            spin.learn(us(2000), us(2));
        }
        assert_eq!(spin.budget(), us(50));
        spin.learn(us(2000), us(2));
        assert_eq!(spin.budget(), us(0));
    }

    #[test]
    fn work_in_large_portions_is_not_spun_for() {
        assert_eq!(after(100, 5, 25).budget(), us(0));
    }

    #[test]
    fn fixed_policies_and_a_single_cpu_do_not_learn() {
        for (poll, cpus, budget) in
            [(Poll::Never, 2, us(0)), (Poll::Adaptive, 1, us(0)), (Poll::Always, 1, Duration::MAX)]
        {
            let mut spin = Spin::new(poll, cpus);
            for _ in 0..100 {
                spin.learn(us(1), us(1));
            }
            assert_eq!(spin.budget(), budget);
        }
    }
}
