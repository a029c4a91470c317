//! The daemon under test: start it, wait until it serves, end it gently or not, start it again.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::netns::Netns;
use crate::tools::{self, Capture, Guarded, LIMIT, Output, Waited};

/// How to start `lunette serve`. It has a state directory of its own, which lives as long as the
/// value or any of its daemons.
#[derive(Clone)]
pub struct Lunette<'a> {
    arguments: Vec<OsString>,
    wrapper: Vec<OsString>,
    netns: Option<&'a Netns>,
    /// Where its stores may be.
    allowed: Vec<PathBuf>,
    inherited: Vec<Arc<OwnedFd>>,
    home: Arc<TempDir>,
}

impl<'a> Lunette<'a> {
    /// A daemon that serves nothing yet.
    pub fn new() -> Result<Self> {
        Ok(Lunette {
            arguments: Vec::new(),
            wrapper: Vec::new(),
            netns: None,
            allowed: vec![std::env::temp_dir(), "/var/tmp".into(), "/dev".into()],
            inherited: Vec::new(),
            home: Arc::new(tools::temp_dir()?),
        })
    }

    /// Adds `--lu`.
    pub fn lu(self, lu: impl AsRef<str>) -> Self {
        self.arg("--lu").arg(lu.as_ref())
    }

    /// Adds `--iscsi` on a free port of the loopback interface.
    pub fn iscsi(self) -> Self {
        self.arg("--iscsi").arg("127.0.0.1:0")
    }

    /// Adds `--vhost-user` with a socket in the directory of [`Lunette::path`].
    pub fn vhost_user(self, name: &str) -> Self {
        let socket = self.path(name);
        self.arg("--vhost-user").arg(socket)
    }

    /// Adds any argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Lets the daemon have stores below these directories only. Otherwise it may have them where tests put them.
    pub fn allow_only(mut self, directories: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.allowed = directories.into_iter().map(Into::into).collect();
        self
    }

    /// Lets the daemon inherit a descriptor, with the same number.
    pub fn inherits(mut self, descriptor: Arc<OwnedFd>) -> Self {
        self.inherited.push(descriptor);
        self
    }

    /// Runs the daemon in a network namespace.
    pub fn inside(mut self, netns: &'a Netns) -> Self {
        self.netns = Some(netns);
        self
    }

    /// Puts a program and its arguments before the daemon's. It must become the daemon (`exec`),
    /// so that signals reach it.
    pub fn wrapped(mut self, wrapper: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// Has the daemon's log go to a file, which can be looked at before the daemon serves.
    pub fn logging_to(&self, log: &Path) -> Self {
        let words = ["sh".into(), "-c".into(), format!("exec \"$@\" 2>{}", log.display()), "sh".into()];
        self.clone().wrapped(words)
    }

    /// The path of a file in the daemon's own directory, for stores and sockets.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A sparse file of `size` bytes in that directory.
    pub fn file(&self, name: &str, size: u64) -> Result<PathBuf> {
        let path = self.path(name);
        fs::File::create(&path)?.set_len(size)?;
        Ok(path)
    }

    fn command(&self) -> Result<Command> {
        let mut command = self.program(self.wrapper.clone())?;
        command
            .arg("serve")
            .args(&self.arguments)
            .args(self.allowed.iter().flat_map(|path| [OsStr::new("--allow-path"), path.as_os_str()]))
            .env("LUNETTE_STATE_DIR", self.path("state"))
            .current_dir(self.home.path());
        Ok(command)
    }

    /// The program where the daemon is, after `words`.
    fn program(&self, mut words: Vec<OsString>) -> Result<Command> {
        words.push(binary()?.into());
        let program = words.remove(0).into_string().ok();
        let program = program.context("the path of the daemon is not UTF-8")?;
        let mut command = match self.netns {
            Some(netns) => netns.command(&program)?,
            None => tools::command(&program)?,
        };
        command.args(words);
        Ok(command)
    }

    /// Starts the daemon and waits until everything listens.
    pub fn start(&self) -> Result<Daemon> {
        self.serving(Guarded::spawn_inheriting(&self.command()?, &self.inherited)?)
    }

    /// Has a program take the place of a daemon (`lunette upgrade`), and waits until it serves and the other has ended well.
    pub fn upgrade(&self, before: Daemon) -> Result<Daemon> {
        self.upgrade_at(before, &[])
    }

    /// The same with more words.
    pub fn upgrade_at(&self, before: Daemon, words: &[&str]) -> Result<Daemon> {
        let mut command = self.program(Vec::new())?;
        command.args(["upgrade", "--state-dir"]).arg(self.path("state")).args(words);
        let daemon = self.serving(Guarded::spawn(&command)?)?;
        before.ended()?;
        Ok(daemon)
    }

    /// The same by a copy of the program, which `meanwhile` is told with the process when the other has begun to hand over.
    pub fn upgrade_while(
        &self,
        before: Daemon,
        meanwhile: impl FnOnce(&Path, Pid) -> Result<()>,
    ) -> Result<Daemon> {
        let copy = self.path("program");
        fs::copy(binary()?, &copy)?;
        let mut command = tools::command(&copy.display().to_string())?;
        command.args(["upgrade", "--state-dir"]).arg(self.path("state"));
        let mut process = Guarded::spawn(&command)?;
        before.wait_for_log("another program takes over")?;
        meanwhile(&copy, Pid::from_child(process.child()))?;
        let daemon = self.serving(process)?;
        before.ended()?;
        Ok(daemon)
    }

    fn serving(&self, mut process: Guarded) -> Result<Daemon> {
        let stdout = process.child().stdout.take();
        let stderr = process.child().stderr.take();
        let daemon = Daemon {
            stdout: Capture::of(stdout.context("stdout is piped")?),
            // One that is not heard has none.
            log: stderr.map_or_else(|| Capture::of(std::io::empty()), Capture::of),
            process,
            _home: Arc::clone(&self.home),
        };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// Carries out a command of the program that speaks to the daemon.
    pub fn ask<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = tools::command(&binary()?.display().to_string())?;
        for word in words {
            command.arg(word.as_ref());
        }
        let state = self.path("state");
        let said = tools::run(command.arg("--state-dir").arg(state).current_dir(self.home.path()), LIMIT)?;
        if said.stderr.contains("panicked") {
            bail!("it panicked: {said}");
        }
        Ok(said)
    }

    /// Carries out a command that must succeed. Returns what it prints.
    pub fn tell<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        let words: Vec<S> = words.into_iter().collect();
        let told = || words.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ");
        Ok(self.ask(&words)?.ok().with_context(told)?.stdout)
    }

    /// Runs a daemon that is expected to refuse its arguments, and gives what it said.
    pub fn refused(&self) -> Result<Output> {
        let mut command = self.command()?;
        tools::inherit(&mut command, &self.inherited);
        tools::run(&mut command, LIMIT)?.fails()
    }
}

/// A copy of `descriptor` to be [inherited](Lunette::inherits), with a number that shells leave alone.
pub fn to_inherit(descriptor: impl AsFd) -> Result<Arc<OwnedFd>> {
    Ok(Arc::new(fcntl_dupfd_cloexec(descriptor, 20)?))
}

/// The daemon's binary: `LUNETTE_BIN`, or the one built beside the running test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LUNETTE_BIN") {
        return Ok(fs::canonicalize(path)?);
    }
    let path = tools::profile_dir()?.join("lunette");
    if !path.is_file() {
        bail!("{} is missing: run `cargo build -p lunette`, or set LUNETTE_BIN", path.display());
    }
    Ok(path)
}

/// What is in the log where a filter has refused a system call.
const REFUSED: &str = "refused to a thread";

/// A daemon that serves. Dropping it kills it.
pub struct Daemon {
    process: Guarded,
    stdout: Capture,
    log: Capture,
    _home: Arc<TempDir>,
}

impl Daemon {
    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        // A line that begins with the word: the log goes elsewhere, so this is unambiguous.
        let found = match self.stdout.wait_for(0, b"ready", deadline) {
            Waited::Found(0) => Waited::Found(0),
            Waited::Found(_) => self.stdout.wait_for(0, b"\nready", deadline),
            other => other,
        };
        match found {
            Waited::Found(_) => Ok(()),
            Waited::Ended => {
                self.log.wait_for_end(deadline);
                bail!("lunette ended before it was ready\n{}", self.said())
            }
            Waited::TimedOut => bail!("lunette was not ready in time\n{}", self.said()),
        }
    }

    /// What it printed for the user: its exports and how to connect.
    pub fn printed(&self) -> String {
        self.stdout.text()
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until it logs `text`.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        match self.log.wait_for(0, text.as_bytes(), Instant::now() + LIMIT) {
            Waited::Found(_) => Ok(()),
            _ => bail!("lunette did not log {text:?}\n{}", self.said()),
        }
    }

    /// A client that writes to the unit at LUN 0, whose bytes are in `file`, until it is dropped. It has begun.
    pub fn load(&mut self, file: &Path) -> Result<Guarded> {
        let mut bench = tools::command("qemu-img")?;
        bench.args(["bench", "-w", "-f", "raw", "--pattern=0xaa", "-d", "16", "-s", "64k", "-c", "10000000"]);
        let bench = Guarded::spawn(bench.arg(self.iscsi_url(0)?))?;
        tools::wait_until("the client to write", || {
            self.alive()?;
            Ok(allocated(file)? > 1 << 20)
        })?;
        Ok(bench)
    }

    fn said(&self) -> String {
        format!("--- stdout\n{}--- log\n{}", self.printed(), self.log())
    }

    /// The iSCSI URL of a logical unit, as `iscsi://ADDRESS:PORT/NAME/LUN`.
    pub fn iscsi_url(&self, lun: u32) -> Result<String> {
        let printed = self.printed();
        let url = printed
            .split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '`'))
            .find(|word| word.starts_with("iscsi://"))
            .with_context(|| format!("no iSCSI URL is printed\n{}", self.said()))?;
        let (target, _) = url.rsplit_once('/').context("the URL has no LUN")?;
        Ok(format!("{target}/{lun}"))
    }

    /// The port on which it serves iSCSI.
    pub fn iscsi_port(&self) -> Result<u16> {
        let url = self.iscsi_url(0)?;
        let port = url
            .split('/')
            .nth(2)
            .and_then(|portal| portal.rsplit_once(':'))
            .and_then(|(_, port)| port.parse().ok());
        port.with_context(|| format!("{url} has no port"))
    }

    /// Its process number.
    pub fn pid(&mut self) -> u32 {
        self.process.child().id()
    }

    /// Fails when the daemon no longer runs.
    pub fn alive(&mut self) -> Result<()> {
        match self.process.child().try_wait()? {
            None => Ok(()),
            Some(status) => bail!("lunette ended: {status}\n{}", self.said()),
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Asks it to end (SIGTERM), and fails unless it ends with status 0.
    pub fn stop(self) -> Result<Output> {
        self.terminate()?;
        self.ended().context("after SIGTERM")
    }

    /// Waits until it ends, and fails unless it does so with status 0.
    pub fn ended(mut self) -> Result<Output> {
        let Some(status) = tools::wait(self.process.child(), Instant::now() + LIMIT)? else {
            bail!("lunette did not end\n{}", self.said());
        };
        self.stdout.wait_for_end(Instant::now() + LIMIT);
        self.log.wait_for_end(Instant::now() + LIMIT);
        let status = tools::status_number(status);
        Output { status, stdout: self.printed(), stderr: self.log() }.ok().context("lunette did not end well")
    }

    /// Kills it (SIGKILL). Returns once the process is gone as far as its parent can see; I/O of
    /// its may still be on the way to the disk.
    pub fn kill(mut self) -> Result<()> {
        self.alive()?;
        self.process.signal(Signal::KILL)?;
        self.process.child().wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    /// Fails the test where the daemon was refused something that it wanted to do: its confinement is wrong then, even if it
    /// went on without.
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            eprintln!("lunette said:\n{}", self.said());
        } else if let Some(refused) = self.log().lines().find(|line| line.contains(REFUSED)) {
            panic!("{refused}");
        }
    }
}

/// The size in bytes that a file really takes.
pub fn allocated(file: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(file)?.blocks() * 512)
}
