//! A real systemd, in namespaces of its own, that runs `lunette` by the units of `packaging/systemd`.

use crate::daemon;
use crate::netns::Netns;
use crate::tools::{self, Capture, Guarded, LIMIT, Output};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

/// The unit of the daemon.
const SERVICE: &str = "lunette.service";

/// The first process of a machine that has the host's programs, and a network of the test's own. It ends with the value.
pub struct Systemd {
    process: Guarded,
    /// What went wrong where the namespaces are made.
    trouble: Capture,
    init: u32,
    /// The same process, whoever has its number by then.
    handle: Option<OwnedFd>,
    folder: TempDir,
}

impl Systemd {
    /// Starts one in this network, with these files besides the host's and the packaged units: where they are, and what is in them.
    /// `None`, and a word about it, where there can be none.
    pub fn begin(netns: &Netns, files: &[(&str, &str)]) -> Result<Option<Self>> {
        tools::need(["bash", "unshare", "nsenter", "systemctl", "journalctl"])?;
        if let Some(why) = why_not()? {
            eprintln!("skipped: a systemd of its own takes {why}");
            return Ok(None);
        }
        let folder = tools::temp_dir()?;
        fs::create_dir(folder.path().join("state"))?;
        let put = |path: &str, content: &str| -> Result<()> {
            let path = folder.path().join("files").join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().context("files lie in directories")?)?;
            Ok(fs::write(path, content)?)
        };
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
        for entry in fs::read_dir(packaging)? {
            let entry = entry?;
            let name = entry.file_name();
            let text = fs::read_to_string(entry.path())?;
            put(&format!("/etc/systemd/system/{}", name.display()), &text)?;
        }
        files.iter().try_for_each(|(path, content)| put(path, content))?;
        let script = folder.path().join("script");
        fs::write(&script, include_str!("../scripts/systemd.sh"))?;
        let mut command = netns.command("unshare")?;
        command.args(["--mount", "bash"]).arg(script).arg(folder.path()).arg(daemon::binary()?);
        let mut process = Guarded::spawn(&command)?;
        let trouble = Capture::of(process.child().stderr.take().context("stderr is piped")?);
        let mut systemd = Self { process, trouble, init: 0, handle: None, folder };
        systemd.boot()?;
        Ok(Some(systemd))
    }

    fn boot(&mut self) -> Result<()> {
        let init = self.folder.path().join("init");
        tools::wait_until("the namespaces", || {
            if let Some(status) = self.process.child().try_wait()? {
                bail!("they cannot be made: {status}\n{}", self.trouble.text());
            }
            Ok(fs::read_to_string(&init).is_ok_and(|text| text.ends_with('\n')))
        })?;
        let pid: i32 = fs::read_to_string(init)?.trim().parse()?;
        self.init = pid.unsigned_abs();
        let pid = Pid::from_raw(pid).context("a process has a number")?;
        self.handle = Some(pidfd_open(pid, PidfdFlags::empty()).with_context(|| self.trouble.text())?);
        tools::wait_until("systemd to be there", || {
            Ok(self.run(["systemctl", "is-active", "basic.target"])?.status == 0)
        })
    }

    /// The path outside of what has this path inside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Runs a program inside to its end.
    pub fn run<const N: usize>(&self, words: [&str; N]) -> Result<Output> {
        let mut command: Command = tools::command("nsenter")?;
        command.arg(format!("--target={}", self.init));
        command.args(["--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--"]).args(words);
        tools::run(&mut command, LIMIT)
    }

    /// Does something with the daemon's unit (`systemctl VERB lunette.service`).
    pub fn service(&self, verb: &str) -> Result<()> {
        let said = self.run(["systemctl", verb, SERVICE])?.ok();
        said.with_context(|| self.journal().unwrap_or_default())?;
        Ok(())
    }

    /// A property of the daemon's unit.
    pub fn shows(&self, property: &str) -> Result<String> {
        let said = self.run(["systemctl", "show", "--value", "--property", property, SERVICE])?.ok()?;
        Ok(said.stdout.trim().to_owned())
    }

    /// The same, of one that is a number.
    pub fn counts(&self, property: &str) -> Result<u64> {
        let value = self.shows(property)?;
        value.parse().with_context(|| format!("{property} is {value:?}"))
    }

    /// Number of the daemon's process inside; 0 while there is none.
    pub fn pid(&self) -> Result<u64> {
        self.counts("MainPID")
    }

    /// Sends a signal to the process with this number inside, if there still is one.
    pub fn signal(&self, name: &str, pid: u64) -> Result<()> {
        // By 0 the test itself would be meant.
        ensure!(pid > 1, "there is no daemon: {}", self.journal()?);
        self.run(["kill", "-s", name, &pid.to_string()])?;
        Ok(())
    }

    /// Waits until systemd has started another daemon than `before`, and that serves.
    pub fn wait_for_another(&self, before: u64) -> Result<()> {
        tools::wait_until("another daemon", || {
            // One that was killed while it was to be restarted has failed for a moment.
            let said = self.run(["systemctl", "show", "--property=ActiveState,Job", SERVICE])?.ok()?.stdout;
            let has_failed = said.contains("ActiveState=failed") && !said.contains("Job=");
            ensure!(!has_failed, "systemd has given up: {}", self.journal()?);
            Ok(said.contains("ActiveState=active") && ![0, before].contains(&self.pid()?))
        })
    }

    /// What the daemons have said, and systemd about them.
    pub fn journal(&self) -> Result<String> {
        Ok(self.run(["journalctl", "--no-pager", "--output=short-precise", "--unit", SERVICE])?.ok()?.stdout)
    }
}

impl Drop for Systemd {
    /// With the first process all others end. What was made for them is gone when the script has ended.
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            if std::thread::panicking() {
                eprintln!("the journal:\n{}", self.journal().unwrap_or_default());
            }
            let _ = pidfd_send_signal(handle, Signal::KILL);
            let _ = tools::wait(self.process.child(), Instant::now() + LIMIT);
        }
    }
}

/// What is missing.
fn why_not() -> Result<Option<&'static str>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Some("root"));
    }
    let systems = fs::read_to_string("/proc/filesystems")?;
    if !["overlay", "cgroup2", "tmpfs"]
        .iter()
        .all(|name| systems.split_whitespace().any(|word| word == *name))
    {
        return Ok(Some("overlay and cgroup2"));
    }
    // Nothing of it stays.
    let mount = ["--mount", "--pid", "--cgroup", "--fork", "mount", "-t", "cgroup2", "cgroup2", "/mnt"];
    let tried = tools::output("unshare", mount)?;
    Ok((tried.status != 0).then_some("namespaces, and to mount control groups (version 2)"))
}
