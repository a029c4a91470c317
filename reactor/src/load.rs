//! What reactors spend their time on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a reactor has spent its time on since it was started; the rest it has slept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReactorLoad {
    /// Working.
    pub busy: Duration,
    /// Looking for work in vain, before sleep.
    pub spinning: Duration,
}

/// The same as its reactor writes it, in nanoseconds, on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Load {
    busy: AtomicU64,
    spinning: AtomicU64,
}

impl Load {
    /// Tells others what it is by now.
    pub(crate) fn tell(&self, load: ReactorLoad) {
        self.busy.store(nanoseconds(load.busy), Relaxed);
        self.spinning.store(nanoseconds(load.spinning), Relaxed);
    }

    pub(crate) fn told(&self) -> ReactorLoad {
        let [busy, spinning] =
            [&self.busy, &self.spinning].map(|time| Duration::from_nanos(time.load(Relaxed)));
        ReactorLoad { busy, spinning }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
