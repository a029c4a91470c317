//! User-Mode Linux: an unmodified Linux kernel as a process, on the host's own root.
//!
//! It boots in seconds, needs no privilege, sees the programs of the host and has one CPU.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::guest::{Guest, Job, Wiring};
use crate::netns::Netns;
use crate::tools;

/// The virtio device number of a SCSI host (virtio 1.2, clause 5).
pub const VIRTIO_SCSI: u32 = 8;

/// How to boot a guest.
#[derive(Clone)]
pub struct Uml<'a> {
    memory_mib: u32,
    modules: Vec<String>,
    devices: Vec<(u32, PathBuf)>,
    taps: Vec<String>,
    writable: Vec<PathBuf>,
    netns: Option<&'a Netns>,
}

impl Default for Uml<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Uml<'a> {
    /// A guest with 256 MiB and no devices.
    pub fn new() -> Self {
        Uml {
            memory_mib: 256,
            modules: Vec::new(),
            devices: Vec::new(),
            taps: Vec::new(),
            writable: Vec::new(),
            netns: None,
        }
    }

    /// The guest's memory.
    pub fn memory_mib(mut self, size: u32) -> Self {
        self.memory_mib = size;
        self
    }

    /// Loads kernel modules after the boot.
    pub fn modules<const N: usize>(mut self, names: [&str; N]) -> Self {
        self.modules.extend(names.map(str::to_owned));
        self
    }

    /// Adds a SCSI host whose back end listens on `socket`. May be repeated.
    pub fn vhost_user_scsi(self, socket: impl Into<PathBuf>) -> Self {
        self.vhost_user(VIRTIO_SCSI, socket).modules(["virtio_scsi", "sd_mod", "sg"])
    }

    /// Adds any virtio device by its number, with its back end on `socket`. May be repeated.
    pub fn vhost_user(mut self, device: u32, socket: impl Into<PathBuf>) -> Self {
        self.devices.push((device, socket.into()));
        self
    }

    /// Adds a network card (`vec0`, `vec1`, ...) on an existing tap interface.
    pub fn tap(mut self, name: &str) -> Self {
        self.taps.push(name.to_owned());
        self
    }

    /// Makes a host directory writable at the same path. Everything else is written to memory.
    pub fn writable(mut self, folder: impl Into<PathBuf>) -> Self {
        self.writable.push(folder.into());
        self
    }

    /// Runs the guest in a network namespace, where its taps are.
    pub fn inside(mut self, netns: &'a Netns) -> Self {
        self.netns = Some(netns);
        self
    }

    /// Boots the guest and waits until it takes scripts.
    pub fn boot(&self) -> Result<Guest> {
        tools::need(["linux.uml", "modprobe", "busybox", "ip"])?;
        let modules = Path::new("/usr/lib/uml/modules");
        if !modules.is_dir() {
            bail!("{} is missing: Debian's package user-mode-linux has it", modules.display());
        }
        let job = Job::new()?;
        job.write("init", include_str!("init.sh"))?;
        tools::make_executable(&job.path("init"))?;
        let folders = self.writable.iter().map(|f| format!("{}\n", f.display()));
        job.write("writable", &folders.collect::<String>())?;
        let wiring = Wiring::spawn(&self.command(&job)?, &job)?;
        Guest::new(job, wiring)
    }

    fn command(&self, job: &Job) -> Result<Command> {
        let mut command = match self.netns {
            Some(netns) => netns.command("linux.uml")?,
            None => tools::command("linux.uml")?,
        };
        command
            .arg(format!("mem={}M", self.memory_mib))
            .args(["rootfstype=hostfs", "rootflags=/", "ro"])
            .args(["loglevel=5", "panic=-1"])
            .arg("initcall_blacklist=raid6_select_algo")
            .args(["con=null", "con0=null,fd:1", "stderr=1"])
            .args(["ssl=null", "ssl0=fd:3", "ssl1=null,fd:4"])
            .arg(format!("uml_dir={}", job.path("").display()))
            .arg(format!("init={}", job.path("init").display()))
            .args(job.kernel_arguments(&self.modules).split(' '));
        for (device, socket) in &self.devices {
            let socket = socket.display();
            command.arg(format!("virtio_uml.device={socket}:{device}"));
        }
        for (number, tap) in self.taps.iter().enumerate() {
            // Without gro, TCP from the host stalls after about a megabyte.
            command.arg(format!("vec{number}:transport=tap,ifname={tap},gro=1"));
        }
        let shim = include_str!("wide_registers.c");
        command.env("LD_PRELOAD", tools::preload_library("wide_registers", shim)?);
        // The memory file must be on an executable file system that is not the disk.
        command.env("TMPDIR", "/dev/shm");
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_run_in_one_guest() {
        let folder = tools::temp_dir().unwrap();
        let mut guest = Uml::new().writable(folder.path()).boot().unwrap();
        assert!(guest.check("uname -r; whoami").unwrap().ends_with("root\n"));
        let said = guest.run("echo -n o; echo -n e >&2; exit 7").unwrap();
        assert_eq!((said.status, said.stdout.as_str(), said.stderr.as_str()), (7, "o", "e"));
        guest.check("touch /etc/lunette-e2e-was-here").unwrap();
        assert!(!Path::new("/etc/lunette-e2e-was-here").exists());
        let file = folder.path().join("made");
        guest.check(&format!("echo made >{}; sync", file.display())).unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "made\n");
        assert!(guest.check("false").unwrap_err().to_string().contains("+ false"));
        guest.power_off().unwrap();
    }
}
