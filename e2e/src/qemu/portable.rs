//! A guest that can move from one QEMU to another: it has nothing of the host but its memory, its console and SCSI disks.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::kernel::Kernel;
use crate::tools::{self, Guarded};

/// What its kernel needs.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_scsi", "sd_mod"];
/// Where it has its programs; the rest is up to whoever writes it.
const PRELUDE: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/usr/sbin
mkdir -p /proc /dev /sys /tmp
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
for module in /modules/*; do insmod "$module"; done
until [ -b /dev/sda ]; do sleep 0.2; done
"#;

/// How to boot a guest, and what it does.
pub struct Portable {
    folder: TempDir,
    kernel: PathBuf,
}

impl Portable {
    /// One whose first process carries out a script of busybox's shell when there is a disk, with programs of the host.
    pub fn new(script: &str, programs: &[&str]) -> Result<Self> {
        tools::need(["qemu-system-x86_64", "busybox", "modprobe"])?;
        let (folder, kernel) = (tools::temp_dir()?, Kernel::get()?);
        let initramfs = folder.path().join("initramfs");
        kernel.write_initramfs_with(&format!("{PRELUDE}{script}"), &MODULES, programs, &initramfs)?;
        Ok(Self { folder, kernel: kernel.image() })
    }

    /// Starts a QEMU whose vhost-user-scsi device is behind `socket`, with more properties such as `,packed=on`. One that is
    /// `incoming` waits for a guest.
    pub fn start(&self, name: &str, socket: &Path, properties: &str, incoming: Incoming) -> Result<Machine> {
        let path = |suffix: &str| self.folder.path().join(format!("{name}.{suffix}"));
        let (console, qmp, migration) = (path("console"), path("qmp"), path("migration"));
        let mut command = tools::command("qemu-system-x86_64")?;
        command
            .args(["-accel", "tcg", "-smp", "2", "-machine", "q35,memory-backend=memory", "-m", "512"])
            .args(["-object", "memory-backend-memfd,id=memory,share=on,size=512M"])
            .args(["-display", "none", "-no-reboot", "-nodefaults", "-serial"])
            .arg(format!("file:{}", console.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp.display()))
            .arg("-chardev")
            .arg(format!("socket,id=scsi,path={}", socket.display()))
            .arg("-device")
            .arg(format!("vhost-user-scsi-pci,chardev=scsi,num_queues=2,virtqueue_size=256{properties}"))
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(self.folder.path().join("initramfs"))
            .args(["-append", "console=ttyS0 loglevel=4 panic=-1"]);
        if incoming != Incoming::No {
            command.arg("-incoming").arg(format!("unix:{}", migration.display()));
        }
        if incoming == Incoming::Stopped {
            command.arg("-S");
        }
        let mut machine = Machine { process: Guarded::spawn(&command)?, console, migration, qmp: None };
        tools::wait_until("QEMU to listen", || {
            machine.alive()?;
            Ok(UnixStream::connect(&qmp).map(|stream| machine.qmp = Some(stream)).is_ok())
        })?;
        machine.execute("qmp_capabilities", json!({}))?;
        Ok(machine)
    }
}

/// Whether a QEMU waits for a guest that comes from elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// It boots.
    No,
    /// It waits, and goes on with it.
    Runs,
    /// It waits, and does not go on before it is told.
    Stopped,
}

/// A QEMU. Dropping it kills it.
pub struct Machine {
    process: Guarded,
    console: PathBuf,
    migration: PathBuf,
    qmp: Option<UnixStream>,
}

impl Machine {
    /// Fails when it has ended.
    pub fn alive(&mut self) -> Result<()> {
        match self.process.child().try_wait()? {
            None => Ok(()),
            Some(status) => bail!("QEMU has ended: {status}\n{}", self.console()),
        }
    }

    /// What the guest has said here.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits until the guest has said `text` here once more than `times` times.
    pub fn wait_for(&mut self, text: &str, times: usize) -> Result<()> {
        let waited = tools::wait_until(text, || {
            self.alive()?;
            Ok(self.said(text) > times)
        });
        waited.with_context(|| self.console())
    }

    /// How often the guest has said `text` here.
    pub fn said(&self, text: &str) -> usize {
        self.console().matches(text).count()
    }

    /// Carries out a command of QMP; its result.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let stream = self.qmp.as_ref().context("it listens")?;
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(&*stream, "{request}")?;
        let mut line = String::new();
        // One byte at a time: what follows is for the next command.
        let mut reader = BufReader::with_capacity(1, stream);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                bail!("{command}: QEMU has gone");
            }
            let mut answer: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if answer.get("error").is_some() {
                bail!("{command}: {answer}");
            }
        }
    }

    /// Begins to move its guest to another QEMU.
    pub fn begin_to_move(&mut self, to: &Machine) -> Result<()> {
        let limits = json!({ "max-bandwidth": 4_u64 << 30, "downtime-limit": 2000 });
        self.execute("migrate-set-parameters", limits)?;
        self.execute("migrate", json!({ "uri": to.address() })).map(drop)
    }

    /// Where it waits for a guest.
    pub fn address(&self) -> String {
        format!("unix:{}", self.migration.display())
    }

    /// Waits until the guest has moved, or could not be.
    pub fn moved(&mut self) -> Result<Value> {
        let mut told = Value::Null;
        tools::wait_until("the guest to move", || {
            told = self.execute("query-migrate", json!({}))?;
            let status = told["status"].as_str().unwrap_or_default();
            Ok(["completed", "failed", "cancelled"].contains(&status))
        })?;
        Ok(told)
    }

    /// Whether the guest runs here.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.execute("query-status", json!({}))?["running"] == true)
    }
}
