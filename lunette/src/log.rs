//! The log: lines on standard error, which name their priority where the journal reads them.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, IsTerminal};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How much is logged: that much, and what is more important.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogLevel {
    /// What cannot go on as it should
    Error,
    /// What somebody should look at
    Warn,
    /// What changes
    Info,
    /// What helps to find a fault
    Debug,
    /// Everything
    Trace,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// What says more precisely what is logged (the directives of the crate `tracing-subscriber`), and counts more than a level.
const VARIABLE: &str = "LUNETTE_LOG";

/// The log of this process, once it has been started.
pub(crate) struct Log(Box<dyn Fn(EnvFilter)>);

impl Log {
    /// Logs what is at least as important as `level`, from `info` on if there is none.
    pub(crate) fn start(level: Option<LogLevel>) -> Self {
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter(level))
            .with_writer(io::stderr)
            // It would panic, and so end the daemon, when nobody reads the log any more.
            .log_internal_errors(false)
            .with_ansi(io::stderr().is_terminal());
        let stream = std::env::var("JOURNAL_STREAM").ok();
        if stream.is_some_and(|stream| is_stream(&stream, io::stderr())) {
            let format = ForJournal(Format::default().without_time().with_level(false));
            let log = log.event_format(format).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Self(Box::new(move |filter| drop(handle.reload(filter))))
        } else {
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Self(Box::new(move |filter| drop(handle.reload(filter))))
        }
    }

    /// Logs what is at least as important as `level` from now on.
    pub(crate) fn set_level(&self, level: LogLevel) {
        (self.0)(filter(Some(level)));
    }
}

fn filter(level: Option<LogLevel>) -> EnvFilter {
    EnvFilter::builder()
        .with_default_directive(level.map_or(Level::INFO, Level::from).into())
        .with_env_var(VARIABLE)
        .from_env_lossy()
}

/// Whether what is written to `file` goes to the journal, by what its service manager says of the file (systemd.exec(5)).
fn is_stream(stream: &str, file: impl rustix::fd::AsFd) -> bool {
    let told =
        stream.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    let found = rustix::fs::fstat(file).ok().map(|file| (file.st_dev, file.st_ino));
    told.is_some() && told == found
}

/// Puts the priority before each line, as sd-daemon(3) has it; the journal knows the time.
struct ForJournal(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_journal_is_known_by_its_stream() {
        let file = tempfile::tempfile().unwrap();
        let data = file.metadata().unwrap();
        let (device, inode) = (data.dev(), data.ino());
        assert!(is_stream(&format!("{device}:{inode}"), &file));
        for other in
            [format!("{device}:{}", inode + 1), format!("{inode}:{device}"), "x:y".into(), String::new()]
        {
            assert!(device == inode || !is_stream(&other, &file), "{other}");
        }
    }

    #[test]
    fn priorities_are_those_of_syslog() {
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        assert_eq!(levels.map(priority), [3, 4, 6, 7, 7]);
    }
}
