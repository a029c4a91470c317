//! A running guest, whatever booted it: scripts go in, output and status come out.
//!
//! The guest runs an agent (`agent.sh`) on two byte streams. A script is a file in the *job
//! directory*, which the guest sees at the same path; its number goes down the first stream. The
//! script's output comes up the two streams, each ended by a mark that carries the status.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::tools::{self, Capture, LIMIT, Output, Waited};

/// Where the agent puts its mark: no text has this character.
const MARK: u8 = 0x1e;

/// The directory through which rig and guest share files, before the guest runs.
pub(crate) struct Job {
    folder: TempDir,
    nonce: String,
}

impl Job {
    /// Makes the directory and puts the agent there.
    pub(crate) fn new() -> Result<Job> {
        let folder = tools::temp_dir()?;
        let nonce = format!("{}-{:p}", std::process::id(), &raw const folder);
        let job = Job { folder, nonce };
        job.write("agent.sh", include_str!("agent.sh"))?;
        job.write("root.sh", include_str!("root.sh"))?;
        Ok(job)
    }

    /// The path of a file of the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of the directory.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path(name), text).with_context(|| format!("cannot write {name}"))
    }

    /// The kernel arguments that reach init as environment variables.
    pub(crate) fn kernel_arguments(&self, modules: &[String]) -> String {
        format!(
            "E2E_JOB={} E2E_NONCE={} E2E_MODULES={}",
            self.folder.path().display(),
            self.nonce,
            modules.join(",")
        )
    }

    /// Where the kernel's messages go.
    pub(crate) fn kernel_log(&self) -> PathBuf {
        self.path("kernel.log")
    }
}

/// What a guest's rig talks to it through.
pub(crate) struct Wiring {
    pub(crate) child: Child,
    pub(crate) input: Box<dyn Write + Send>,
    pub(crate) stdout: Capture,
    pub(crate) stderr: Capture,
}

/// A guest that has booted. Dropping it pulls the plug.
pub struct Guest {
    job: Job,
    wiring: Wiring,
    sequence: u32,
    seen: (usize, usize),
    limit: Duration,
}

impl Guest {
    /// Waits until the agent answers.
    pub(crate) fn new(job: Job, wiring: Wiring) -> Result<Guest> {
        let mut guest = Guest { job, wiring, sequence: 0, seen: (0, 0), limit: LIMIT };
        guest.finish().context("the guest did not boot")?.ok()?;
        Ok(guest)
    }

    /// The time limit of each script; [`LIMIT`] unless set.
    pub fn limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Runs a bash script as root, whatever its status.
    ///
    /// What the script leaves in the background lives on and may be looked at later.
    pub fn run(&mut self, script: &str) -> Result<Output> {
        self.sequence += 1;
        let number = self.sequence;
        self.job.write(&format!("{number}.sh"), script)?;
        writeln!(self.wiring.input, "{number}")
            .and_then(|()| self.wiring.input.flush())
            .with_context(|| format!("the guest is gone\n{}", self.kernel_log_tail()))?;
        self.finish()
    }

    /// Runs a bash script that stops at its first failure, and gives its standard output. The
    /// error shows the commands as they were executed.
    pub fn check(&mut self, script: &str) -> Result<String> {
        let output = self.run(&format!("set -euo pipefail\nset -x\n{script}"))?;
        Ok(output.ok()?.stdout)
    }

    /// Runs [`Guest::check`] on a script with `name=value` set before it.
    pub fn check_with(&mut self, variables: &[(&str, &str)], script: &str) -> Result<String> {
        let assignments: String =
            variables.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        self.check(&format!("{assignments}{script}"))
    }

    /// Hangs up, on which the guest syncs and powers off, and waits for its end.
    pub fn power_off(mut self) -> Result<()> {
        self.wiring.input = Box::new(std::io::sink());
        let deadline = Instant::now() + self.limit;
        match tools::wait(&mut self.wiring.child, deadline)? {
            Some(_) => Ok(()),
            None => bail!("the guest did not power off\n{}", self.kernel_log_tail()),
        }
    }

    /// The kernel's messages so far.
    pub fn kernel_log(&self) -> String {
        let log = fs::read(self.job.kernel_log()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The job directory: the same path in the guest and on the host, written by both.
    pub fn shared(&self) -> &Path {
        self.job.folder.path()
    }

    fn kernel_log_tail(&self) -> String {
        let log = self.kernel_log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(60)..];
        format!("--- kernel log\n{}", tail.join("\n"))
    }

    /// Collects the output of the script that runs now.
    fn finish(&mut self) -> Result<Output> {
        let deadline = Instant::now() + self.limit;
        let end = format!(" {}.{}\n", self.job.nonce, self.sequence);
        let (stderr, _) = collect(&self.wiring.stderr, &mut self.seen.1, &end, deadline);
        let (stdout, end) = collect(&self.wiring.stdout, &mut self.seen.0, &end, deadline);
        let output = |status| Output { status, stdout, stderr };
        match end {
            End::Status(status) => Ok(output(status)),
            End::Died => bail!("the guest died: {}\n{}", output(125), self.kernel_log_tail()),
            End::TimedOut => {
                self.stop();
                bail!(
                    "the guest was killed after {:?}: {}\n{}",
                    self.limit,
                    output(124),
                    self.kernel_log_tail()
                )
            }
        }
    }

    /// Kills the guest's process group.
    fn stop(&mut self) {
        if let Ok(None) = self.wiring.child.try_wait() {
            let group = rustix::process::Pid::from_child(&self.wiring.child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = self.wiring.child.wait();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop();
    }
}

enum End {
    Status(i32),
    Died,
    TimedOut,
}

/// Takes one script's part out of a stream, and moves `seen` behind it.
fn collect(stream: &Capture, seen: &mut usize, end: &str, deadline: Instant) -> (String, End) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match stream.wait_for(*seen, end.as_bytes(), deadline) {
        Waited::Found(at) => {
            let part = stream.slice(*seen, at);
            *seen = at + end.len();
            let mark = part.iter().rposition(|byte| *byte == MARK);
            let mark = mark.unwrap_or(part.len());
            let status = text(part.get(mark + 1..).unwrap_or_default());
            let status = status.parse().unwrap_or(125);
            (text(&part[..mark]), End::Status(status))
        }
        Waited::Ended => (text(&stream.slice(*seen, usize::MAX)), End::Died),
        Waited::TimedOut => (text(&stream.slice(*seen, usize::MAX)), End::TimedOut),
    }
}
