//! Waiting for the signal to stop.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The signals that stop the daemon, caught from now on.
pub(crate) struct StopSignals(Signals);

impl StopSignals {
    pub(crate) fn catch() -> Result<Self> {
        Signals::new([SIGTERM, SIGINT]).map(Self).context("cannot catch signals")
    }

    /// Blocks until one of them comes.
    pub(crate) fn wait(mut self) -> &'static str {
        match self.0.forever().next() {
            Some(SIGINT) => "SIGINT",
            _ => "SIGTERM",
        }
    }
}
