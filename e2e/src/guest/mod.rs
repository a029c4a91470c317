//! A running guest, whatever booted it: scripts go in, output and status come out.
//!
//! The guest runs an agent (`agent.sh`) on two byte streams. A script is a file in the *job
//! directory*, which the guest sees at the same path; its number goes down the first stream. The
//! script's output comes up the two streams, each ended by a mark that carries the status.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::tools::{self, Capture, Guarded, LIMIT, Output, Waited};

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
        job.write("functions.sh", include_str!("functions.sh"))?;
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
    process: Guarded,
    stdio: UnixStream,
    stdout: Capture,
    stderr: Capture,
}

impl Wiring {
    /// Starts the guest's process. Its descriptor 3 carries the numbers down and the output up, its
    /// descriptor 4 carries the errors up. What it prints itself goes to the kernel's log.
    pub(crate) fn spawn(command: &Command, job: &Job) -> Result<Wiring> {
        let redirect = r#"exec "$@" 3>&1 4>&2 </dev/null >>"$0" 2>&1"#;
        let mut redirected = tools::command("sh")?;
        redirected.args(["-c", redirect]).arg(job.kernel_log());
        redirected.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            redirected.env(name, value.unwrap_or_default());
        }
        let (stdio, theirs) = UnixStream::pair()?;
        let mut process = Guarded::spawn_with(&redirected, OwnedFd::from(theirs).into())?;
        let stderr = process.child().stderr.take();
        Ok(Wiring {
            stdout: Capture::of(stdio.try_clone()?),
            stderr: Capture::of(stderr.context("stderr is piped")?),
            stdio,
            process,
        })
    }
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
        writeln!(self.wiring.stdio, "{number}")
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

    /// Lets the guest sync and power off, and waits for its end.
    pub fn power_off(mut self) -> Result<()> {
        writeln!(self.wiring.stdio, "off").context("the guest is gone")?;
        let deadline = Instant::now() + self.limit;
        match tools::wait(self.wiring.process.child(), deadline)? {
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
                self.wiring.process.kill();
                bail!(
                    "the guest was killed after {:?}: {}\n{}",
                    self.limit,
                    output(124),
                    self.kernel_log_tail()
                )
            }
        }
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
