//! A bound on what others can make us write to the log.
//!
//! ```
//! use lunette_store::log::LineBudget;
//! use std::time::Duration;
//!
//! let budget = LineBudget::default();
//! let allowed = (0..1000).filter(|_| budget.allows("vm1.sock", Duration::ZERO)).count();
//! assert_eq!(allowed, 50);
//! ```

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many lines there may be in [`PERIOD`].
const LINES: u32 = 50;
const PERIOD: Duration = Duration::from_secs(60);

/// Counts the log lines that the guests or initiators of one export can cause: 50 of them are written in a minute.
#[derive(Default)]
pub struct LineBudget(Mutex<Count>);

#[derive(Default)]
struct Count {
    since: Duration,
    lines: u64,
}

impl LineBudget {
    /// Whether one more line about `export` may be written at `now` ([`Cx::now`](crate::Cx::now)). Says so in the log when
    /// it is the first that may not, and later how many there were.
    pub fn allows(&self, export: &str, now: Duration) -> bool {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(count.since) >= PERIOD {
            let suppressed = count.lines.saturating_sub(LINES.into());
            *count = Count { since: now, lines: 0 };
            if suppressed > 0 {
                tracing::warn!(%export, "{suppressed} messages were suppressed");
            }
        }
        count.lines += 1;
        if count.lines == u64::from(LINES) + 1 {
            tracing::warn!(%export, "further messages are suppressed for up to {} s", PERIOD.as_secs());
        }
        count.lines <= LINES.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_ends_and_a_new_period_begins() {
        let budget = LineBudget::default();
        let allowed = |now| (0..1000).filter(|_| budget.allows("test", now)).count();
        assert_eq!(allowed(Duration::ZERO), LINES as usize);
        assert_eq!(allowed(PERIOD / 2), 0);
        assert_eq!(allowed(PERIOD), LINES as usize);
        assert_eq!(allowed(PERIOD / 2), 0, "time does not go back");
    }
}
