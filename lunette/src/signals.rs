//! Waiting for the signal to stop, and serving the control socket meanwhile.

use crate::control::Server;
use crate::watchdog::Watchdog;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Within this time a signal may be sent once more and mean the same: timeout(1) signals its child, then its group.
const REPEAT: Duration = Duration::from_millis(100);

/// The signals that stop the daemon, caught from now on.
pub(crate) struct StopSignals {
    /// Each with its name, and where a byte arrives when it comes.
    signals: [(&'static str, UnixStream); 2],
    /// Where the end arrives when the waker is called, and what that shuts down.
    wake: (UnixStream, Arc<UnixStream>),
    /// From now on they end the process at once.
    impatient: Arc<AtomicBool>,
}

impl StopSignals {
    pub(crate) fn catch() -> Result<Self> {
        let impatient = Arc::new(AtomicBool::new(false));
        let catch = |name, signal| -> std::io::Result<_> {
            flag::register_conditional_default(signal, impatient.clone())?;
            let (read, write) = UnixStream::pair()?;
            pipe::register(signal, write)?;
            read.set_nonblocking(true)?;
            Ok((name, read))
        };
        let wait = || -> std::io::Result<_> {
            let signals = [catch("SIGTERM", SIGTERM)?, catch("SIGINT", SIGINT)?];
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            Ok((signals, (read, Arc::new(write))))
        };
        let (signals, wake) = wait().context("cannot catch signals")?;
        Ok(Self { signals, wake, impatient })
    }

    /// Ends the [wait](Self::wait) when it is called, on whatever thread.
    pub(crate) fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let wake = self.wake.1.clone();
        move || drop(wake.shutdown(Shutdown::Both))
    }

    /// Serves the control socket, and the watchdog if there is one, until one of the signals comes, or until the [waker](Self::waker) is called (`None`). The
    /// next signal ends the process: stopping may take longer than anybody wants to wait.
    pub(crate) fn wait(
        mut self,
        control: &mut Server,
        mut watchdog: Option<&mut Watchdog>,
    ) -> Option<&'static str> {
        let signal = loop {
            if let Some(signal) = self.caught() {
                break Some(signal);
            }
            if self.is_woken() {
                break None;
            }
            control.turn();
            if let Some(watchdog) = &mut watchdog {
                watchdog.turn();
            }
            self.sleep(control, watchdog.as_deref());
        };
        if signal.is_some() {
            std::thread::sleep(REPEAT);
        }
        self.impatient.store(true, Ordering::SeqCst);
        signal
    }

    /// The signal that has come.
    fn caught(&mut self) -> Option<&'static str> {
        let mut signals = self.signals.iter_mut();
        signals.find_map(|(name, pipe)| pipe.read(&mut [0]).is_ok_and(|length| length > 0).then_some(*name))
    }

    fn is_woken(&mut self) -> bool {
        !matches!(self.wake.0.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Sleeps until there is something to do.
    fn sleep(&self, control: &mut Server, watchdog: Option<&Watchdog>) {
        let own = self.signals.iter().map(|(_, pipe)| pipe).chain([&self.wake.0]);
        let own: Vec<_> = own.map(AsFd::as_fd).chain(watchdog.map(AsFd::as_fd)).collect();
        // There is no memory, most likely.
        if let Err(error) = control.wait(&own) {
            tracing::warn!(%error, "cannot wait for signals");
            std::thread::sleep(REPEAT);
        }
    }
}
