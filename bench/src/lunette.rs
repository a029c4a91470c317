//! The daemon of this workspace.

use std::path::PathBuf;

use anyhow::Result;

use crate::daemon::Daemon;
use crate::run::Settings;

/// The program.
pub(crate) struct Lunette {
    program: PathBuf,
}

impl Lunette {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Starts it and waits until it listens. Relative paths lie in its own directory.
    pub(crate) fn serve(&self, settings: &Settings, exports: &[&str]) -> Result<Daemon> {
        let mut daemon = Daemon::start(&self.program, settings.split, |command| {
            command.args(["serve", "--state-dir", "state"]).args(options(settings)).args(exports);
        })?;
        daemon.wait_for_line("ready")?;
        Ok(daemon)
    }

    /// The command line for the report.
    pub(crate) fn shown(&self, settings: &Settings, exports: &str) -> String {
        format!("lunette serve {} {exports}", options(settings).join(" "))
    }
}

fn options(settings: &Settings) -> [&str; 4] {
    ["--reactors", "1", "--poll", settings.poll.as_str()]
}
