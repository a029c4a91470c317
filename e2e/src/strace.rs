//! Faults in the system calls of a program that runs, which strace makes the kernel report, or holds back.

use crate::tools::{self, Capture, LIMIT, Waited};
use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

/// Has system calls fail until it is dropped.
pub struct Injection {
    strace: Child,
}

impl Injection {
    /// Has the system call that begins `what`, as in `fdatasync:error=EIO`, end like that in the process `pid`: where it is about
    /// `file`, or everywhere. What a `delay_enter` holds back goes on when the value is dropped.
    ///
    /// # Errors
    /// When the process cannot be traced. One that is confined must not be: its filter sees a call that is none.
    pub fn begin(pid: u32, file: Option<&Path>, what: &str) -> Result<Self> {
        let call = what.split(':').next().unwrap_or_default();
        let mut command = tools::command("strace")?;
        command.args(["-f", "--output=/dev/null", "-p", &pid.to_string()]);
        command.arg(format!("--trace={call}")).arg(format!("--inject={what}"));
        if let Some(file) = file {
            command.arg("-P").arg(file);
        }
        let mut strace = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let said = strace.stderr.take().map(Capture::of);
        let injection = Self { strace };
        match said.map(|said| (said.wait_for(0, b"attached", Instant::now() + LIMIT), said)) {
            Some((Waited::Found(_), _)) => Ok(injection),
            Some((_, said)) => bail!("strace does not trace: {}", said.text()),
            None => bail!("strace says nothing"),
        }
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // It lets go of the process before it ends.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}
