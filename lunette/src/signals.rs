//! Waiting for the signal to stop.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Within this time a signal may be sent once more and mean the same: timeout(1) signals its child, then its group.
const REPEAT: Duration = Duration::from_millis(100);

/// The signals that stop the daemon, caught from now on.
pub(crate) struct StopSignals {
    signals: Signals,
    /// From now on they end the process at once.
    impatient: Arc<AtomicBool>,
}

impl StopSignals {
    pub(crate) fn catch() -> Result<Self> {
        let impatient = Arc::new(AtomicBool::new(false));
        let signals = [SIGTERM, SIGINT];
        for signal in signals {
            flag::register_conditional_default(signal, impatient.clone()).context("cannot catch signals")?;
        }
        Ok(Self { signals: Signals::new(signals).context("cannot catch signals")?, impatient })
    }

    /// Ends the [wait](Self::wait) when it is called, on whatever thread.
    pub(crate) fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let handle = self.signals.handle();
        move || handle.close()
    }

    /// Blocks until one of them comes, or until the [waker](Self::waker) is called (`None`). The next one ends the process:
    /// stopping may take longer than anybody wants to wait.
    pub(crate) fn wait(mut self) -> Option<&'static str> {
        let signal = self.signals.forever().next().map(|signal| match signal {
            SIGINT => "SIGINT",
            _ => "SIGTERM",
        });
        if signal.is_some() {
            std::thread::sleep(REPEAT);
        }
        self.impatient.store(true, Ordering::SeqCst);
        signal
    }
}
