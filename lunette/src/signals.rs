//! Waiting for the signal to stop, and serving the control socket and the signal to read the configuration again meanwhile.

use crate::control::Server;
use crate::watchdog::Watchdog;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
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
    /// Where a byte arrives when SIGHUP comes.
    hangup: UnixStream,
    /// Where the end arrives when the waker is called, and what that shuts down.
    wake: (UnixStream, Arc<UnixStream>),
    /// From now on they end the process at once.
    impatient: Arc<AtomicBool>,
}

impl StopSignals {
    pub(crate) fn catch() -> Result<Self> {
        let impatient = Arc::new(AtomicBool::new(false));
        let hear = |signal| -> std::io::Result<_> {
            let (read, write) = UnixStream::pair()?;
            pipe::register(signal, write)?;
            read.set_nonblocking(true)?;
            Ok(read)
        };
        let catch = |name, signal| -> std::io::Result<_> {
            flag::register_conditional_default(signal, impatient.clone())?;
            Ok((name, hear(signal)?))
        };
        let wait = || -> std::io::Result<_> {
            let signals = [catch("SIGTERM", SIGTERM)?, catch("SIGINT", SIGINT)?];
            let hangup = hear(SIGHUP)?;
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            Ok((signals, hangup, (read, Arc::new(write))))
        };
        let (signals, hangup, wake) = wait().context("cannot catch signals")?;
        Ok(Self { signals, hangup, wake, impatient })
    }

    /// Ends the [wait](Self::wait) when it is called, on whatever thread.
    pub(crate) fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let wake = self.wake.1.clone();
        move || drop(wake.shutdown(Shutdown::Both))
    }

    /// Serves the control socket, and the watchdog if there is one, until one of the signals comes, or until the
    /// [waker](Self::waker) is called (`None`). Calls `reload`, which must not wait, whenever SIGHUP comes. The next signal ends
    /// the process: stopping may take longer than anybody wants to wait.
    pub(crate) fn wait(
        mut self,
        control: &mut Server,
        mut watchdog: Option<&mut Watchdog>,
        reload: impl Fn(),
    ) -> Option<&'static str> {
        let signal = loop {
            if let Some(signal) = self.caught() {
                break Some(signal);
            }
            if self.is_woken() {
                break None;
            }
            // Several that have come by now are one.
            if self.hangup.read(&mut [0; 64]).is_ok_and(|length| length > 0) {
                reload();
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
        let own = self.signals.iter().map(|(_, pipe)| pipe).chain([&self.hangup, &self.wake.0]);
        let own: Vec<_> = own.map(AsFd::as_fd).chain(watchdog.map(AsFd::as_fd)).collect();
        // There is no memory, most likely.
        if let Err(error) = control.wait(&own) {
            tracing::warn!(%error, "cannot wait for signals");
            std::thread::sleep(REPEAT);
        }
    }
}
