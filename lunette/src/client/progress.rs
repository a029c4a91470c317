//! Waiting for a job, with a bar on a terminal.

use anyhow::{Context, Result};
use lunette_control::{Connection, Error, Failure, JobState, JobStatus};
use serde_json::{Value, json};
use signal_hook::consts::SIGINT;
use signal_hook::{flag, low_level::pipe};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::columns;
use super::table::is_shown;
use unicode_width::UnicodeWidthChar;

/// Waits until a job has ended and returns what came of it. `cancels`: Ctrl-C cancels the job; once more, and it ends the
/// program.
pub(super) fn wait_for(daemon: &mut Connection, job: u64, cancels: bool) -> Result<Value> {
    let interrupt = if cancels { Some(Interrupt::catch()?) } else { None };
    let of_job = json!({ "kinds": ["job"], "objects": [job.to_string()] });
    daemon.call::<Value>("events.subscribe", &of_job)?;
    let mut bar = Bar::default();
    loop {
        let status: JobStatus = daemon.call("job.show", &json!({ "job": job }))?;
        bar.show(&status);
        if status.state.has_ended() {
            drop(bar);
            return outcome(status);
        }
        match &interrupt {
            None => drop(daemon.event()?),
            Some(interrupt) => {
                if daemon.event_or(interrupt.source.as_fd())?.is_none() {
                    interrupt.heard()?;
                    daemon.call::<Value>("job.cancel", &json!({ "job": job }))?;
                }
            }
        }
    }
}

fn outcome(status: JobStatus) -> Result<Value> {
    match status.state {
        JobState::Done => Ok(status.result.unwrap_or_default()),
        state => {
            let failure = status.failure.unwrap_or(Failure::failed(format!("the job is {state:?}")));
            Err(Error::Refused(failure).into())
        }
    }
}

/// Ctrl-C, once.
struct Interrupt {
    source: UnixStream,
    /// The next one ends the program.
    impatient: Arc<AtomicBool>,
}

impl Interrupt {
    fn catch() -> Result<Self> {
        let impatient = Arc::new(AtomicBool::new(false));
        let catch = || -> io::Result<_> {
            flag::register_conditional_default(SIGINT, impatient.clone())?;
            let (source, write) = UnixStream::pair()?;
            pipe::register(SIGINT, write)?;
            Ok(source)
        };
        let source = catch().context("cannot catch signals")?;
        Ok(Self { source, impatient })
    }

    fn heard(&self) -> io::Result<()> {
        self.impatient.store(true, Ordering::SeqCst);
        io::Read::read(&mut &self.source, &mut [0]).map(drop)
    }
}

/// How many cells the bar has at most.
const CELLS: usize = 30;
/// What stands around the bar, up to the text.
const AROUND: usize = 10;

/// A bar on standard error, if that is a terminal. It is taken away in the end.
struct Bar {
    is_shown: bool,
}

impl Default for Bar {
    fn default() -> Self {
        Self { is_shown: io::stderr().is_terminal() }
    }
}

impl Bar {
    fn show(&mut self, status: &JobStatus) {
        if self.is_shown {
            // It may have been made wider or narrower. What is in the last column moves the cursor in some terminals.
            let columns = columns(io::stderr()).unwrap_or(80).saturating_sub(1);
            let _ = write!(io::stderr(), "\r\x1b[K{}", line(status, columns));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// The bar, how far it is, and what goes on, in at most so many columns.
fn line(status: &JobStatus, columns: usize) -> String {
    let cells = columns.saturating_sub(AROUND).min(CELLS);
    let full = (status.progress.clamp(0.0, 1.0) * cells as f64) as usize;
    let room = columns.saturating_sub(cells + AROUND);
    let mut width = 0;
    let text: String = status
        .text
        .chars()
        .filter(|c| is_shown(*c))
        .take_while(|c| {
            width += c.width().unwrap_or(0);
            width <= room
        })
        .collect();
    let (full, empty) = ("#".repeat(full), "-".repeat(cells - full));
    format!("[{full}{empty}] {:3.0} %  {text}", status.progress.clamp(0.0, 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    fn status(state: &str, progress: f64) -> JobStatus {
        serde_json::from_value(json!({
            "job": 3, "method": "a.b", "user": 0, "state": state, "progress": progress, "text": "copying\u{1b}[2J",
            "begun": "", "ended": null, "result": 5
        }))
        .unwrap()
    }

    #[test]
    fn a_bar_is_as_full_as_the_job_is_done() {
        let of = |progress| line(&status("running", progress), 79);
        assert_eq!(of(0.5), format!("[{}{}]  50 %  copying[2J", "#".repeat(15), "-".repeat(15)));
        assert!(of(0.0).starts_with("[-") && of(1.0).contains("#] 100 %"));
        assert!(of(7.0).len() < 80);
        for columns in [10, 20, 45, 50] {
            assert!(line(&status("running", 0.5), columns).width() <= columns.max(AROUND), "{columns}");
        }
    }

    #[test]
    fn what_was_not_done_is_an_error() {
        assert_eq!(outcome(status("done", 1.0)).unwrap(), json!(5));
        let error = outcome(status("cancelled", 0.5)).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Error::Refused(_))));
    }
}
