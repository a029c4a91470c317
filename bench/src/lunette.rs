//! The daemon of this workspace.

use std::path::PathBuf;

use anyhow::Result;

use crate::daemon::Daemon;
use crate::run::Settings;

/// The program.
pub(crate) struct Lunette {
    program: PathBuf,
}

/// How it is started, where that is not the default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tuning {
    /// Its reactor never sleeps.
    pub(crate) poll: bool,
    /// It is pinned to CPUs of its own.
    pub(crate) pinned: bool,
}

impl Lunette {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Starts it and waits until it listens. Relative paths lie in its own directory.
    pub(crate) fn serve(&self, settings: &Settings, exports: &[&str]) -> Result<Daemon> {
        self.serve_tuned(settings, Tuning::default(), exports)
    }

    /// The same in another way than the default.
    pub(crate) fn serve_tuned(
        &self,
        settings: &Settings,
        tuning: Tuning,
        exports: &[&str],
    ) -> Result<Daemon> {
        let mut daemon = Daemon::start(&self.program, settings, tuning.pinned, |command| {
            command.args(["serve", "--state-dir", "state"]).args(options(settings, tuning)).args(exports);
        })?;
        daemon.wait_for_line("ready")?;
        Ok(daemon)
    }

    /// The command line for the report.
    pub(crate) fn shown(&self, settings: &Settings, exports: &str) -> String {
        format!("lunette serve {} {exports}", options(settings, Tuning::default()).join(" "))
    }
}

fn options(settings: &Settings, tuning: Tuning) -> [&str; 4] {
    ["--reactors", "1", "--poll", if tuning.poll { "always" } else { settings.poll.as_str() }]
}
