//! A daemon under load: started in a directory of its own, killed when dropped.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;

use crate::cpu::Usage;
use crate::run::Settings;

/// How long a daemon may take to start.
const START: Duration = Duration::from_secs(20);

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    home: TempDir,
}

impl Daemon {
    /// Starts a program with an empty directory as its working directory.
    pub(crate) fn start(
        program: &Path,
        settings: &Settings,
        pinned: bool,
        arguments: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let home = TempDir::with_prefix("lunette-bench-")?;
        let log = File::create(home.path().join("log"))?;
        let mut command = Command::new(program);
        command.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        arguments(&mut command);
        // A benchmark that is killed must leave nothing behind.
        let die = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
        // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor takes a lock.
        unsafe { command.pre_exec(die) };
        let child = settings.place(pinned, || command.spawn())?;
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, home })
    }

    /// A path in the daemon's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that it and others have used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::now(self.pid())
    }

    /// Waits until `ready` holds.
    pub(crate) fn wait_until(&mut self, mut ready: impl FnMut(&Self) -> bool) -> Result<()> {
        let begin = Instant::now();
        while !ready(self) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended: {status}\n{}", self.log());
            }
            if begin.elapsed() > START {
                bail!("the daemon is not ready after {START:?}\n{}", self.log());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits for a line on its standard output that starts with `word`.
    pub(crate) fn wait_for_line(&mut self, word: &str) -> Result<()> {
        let output = self.child.stdout.take().context("standard output is piped")?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        while !line.starts_with(word) {
            line.clear();
            if output.read_line(&mut line)? == 0 {
                bail!("the daemon ended before it was ready\n{}", self.log());
            }
        }
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Ok(())
    }

    fn log(&self) -> String {
        let mut log = String::new();
        let read = File::open(self.path("log")).and_then(|mut file| file.read_to_string(&mut log));
        read.map_or_else(|error| format!("(no log: {error})"), |_| log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
