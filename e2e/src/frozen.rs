//! A block device on which writes can be held up.

use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::{fs, io, thread};

use anyhow::{Context, Result};
use rustix::fs::OFlags;

use crate::tools;

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// Where direct I/O wants it.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

/// A block device whose writes wait while the file system below it is frozen.
pub struct Device {
    folder: tempfile::TempDir,
    loops: Vec<String>,
}

impl Device {
    /// A device of 8 MiB of zeroes; `None`, and a word about it, without the rights of root.
    pub fn new() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: loop devices take root");
            return Ok(None);
        }
        tools::need(["mkfs.ext4", "losetup", "fsfreeze", "mount", "umount"])?;
        let folder = tools::temp_dir()?;
        let mut device = Self { loops: Vec::new(), folder };
        let image = device.path("image");
        fs::File::create(&image)?.set_len(64 * MIB)?;
        tools::output("mkfs.ext4", ["-q", &image.display().to_string()])?.ok()?;
        let below = device.attach(&image)?;
        fs::create_dir(device.path("mount"))?;
        tools::output("mount", [below, device.path("mount").display().to_string()])?.ok()?;
        let file = device.file();
        fs::write(&file, vec![0; 8 * MIB as usize])?;
        device.attach(&file)?;
        Ok(Some(device))
    }

    fn attach(&mut self, file: &Path) -> Result<String> {
        let mut attach = tools::command("losetup")?;
        attach.args(["--find", "--show", "--direct-io=on"]).arg(file);
        let said = tools::run(&mut attach, tools::LIMIT)?.ok()?;
        self.loops.push(said.stdout.trim().to_owned());
        Ok(said.stdout.trim().to_owned())
    }

    /// The file that keeps what is on it.
    pub fn file(&self) -> PathBuf {
        self.path("mount/disk")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The device.
    pub fn name(&self) -> &str {
        &self.loops[1]
    }

    /// Has writes wait, or go on.
    pub fn freeze(&self, freeze: bool) -> Result<()> {
        let mount = self.path("mount").display().to_string();
        tools::output("fsfreeze", [if freeze { "-f" } else { "-u" }, &mount])?.ok()?;
        Ok(())
    }

    /// Has writes wait, and with them all that comes later, reads too, until it goes on: what is below takes one after the other. What
    /// waits is a write of zeroes to the last block.
    pub fn hold_up(&self) -> Result<JoinHandle<io::Result<()>>> {
        let direct = OFlags::DIRECT.bits().cast_signed();
        let device = fs::OpenOptions::new().write(true).custom_flags(direct).open(self.name())?;
        self.freeze(true)?;
        let write = thread::spawn(move || {
            let block = Block([0; BLOCK]);
            device.write_all_at(&block.0, 8 * MIB - BLOCK as u64)
        });
        tools::wait_until("a write to wait", || Ok(self.writes()? > 0))?;
        Ok(write)
    }

    /// How many writes it has that have not ended.
    pub fn writes(&self) -> Result<u64> {
        self.in_flight(1)
    }

    /// How many reads it has that have not ended.
    pub fn reads(&self) -> Result<u64> {
        self.in_flight(0)
    }

    fn in_flight(&self, kind: usize) -> Result<u64> {
        let name = self.name().trim_start_matches("/dev/");
        let counts = fs::read_to_string(format!("/sys/block/{name}/inflight"))?;
        Ok(counts.split_whitespace().nth(kind).context("reads and writes")?.parse()?)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mount = self.path("mount").display().to_string();
        let _ = tools::output("fsfreeze", ["-u", &mount]);
        if let Some(name) = self.loops.get(1) {
            let _ = tools::output("losetup", ["--detach", name]);
        }
        let _ = tools::output("umount", [&mount]);
        if let Some(name) = self.loops.first() {
            let _ = tools::output("losetup", ["--detach", name]);
        }
    }
}
