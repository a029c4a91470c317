//! QEMU without KVM: a Debian kernel on an emulated PC with two processors.
//!
//! Slower than User-Mode Linux, but with a real virtio-pci transport, SeaBIOS (which uses the disk
//! before Linux does) and several request queues. The root is the host's, over virtio-9p.

pub mod disk;
mod kernel;
pub mod portable;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::guest::{Guest, Job, Wiring};
use crate::tools;
use kernel::Kernel;

/// How to boot a guest.
#[derive(Clone)]
pub struct Qemu {
    memory_mib: u32,
    machine: Option<Vec<String>>,
    modules: Vec<String>,
    arguments: Vec<String>,
}

impl Default for Qemu {
    fn default() -> Self {
        Self::new()
    }
}

impl Qemu {
    /// A guest with 768 MiB, two processors and no disks.
    pub fn new() -> Self {
        Qemu { memory_mib: 768, machine: None, modules: Vec::new(), arguments: Vec::new() }
    }

    /// The guest's memory.
    pub fn memory_mib(mut self, size: u32) -> Self {
        self.memory_mib = size;
        self
    }

    /// Uses these arguments for processors and memory, and for whatever else they say, instead of its own.
    pub fn machine(mut self, arguments: Vec<String>) -> Self {
        self.machine = Some(arguments);
        self
    }

    fn own_machine(&self) -> Vec<String> {
        let (size, object) = (self.memory_mib, "memory-backend-memfd,id=memory,share=on");
        let words =
            ["-smp", "2", "-machine", "q35,memory-backend=memory", "-m", &size.to_string(), "-object"];
        words.into_iter().map(str::to_owned).chain([format!("{object},size={size}M")]).collect()
    }

    /// Loads kernel modules after the boot.
    pub fn modules<const N: usize>(mut self, names: [&str; N]) -> Self {
        self.modules.extend(names.map(str::to_owned));
        self
    }

    /// Adds a SCSI host with two request queues, whose back end listens on `socket`. `properties`
    /// are more of the device's, such as `,packed=on`. May be repeated.
    pub fn vhost_user_scsi(self, socket: impl Into<PathBuf>, properties: &str) -> Self {
        self.with_scsi_host(&socket.into(), "", properties)
    }

    /// The same with a socket that QEMU makes, and a back end that connects. QEMU waits for it.
    pub fn vhost_user_scsi_server(self, socket: impl Into<PathBuf>, properties: &str) -> Self {
        self.with_scsi_host(&socket.into(), ",server=on", properties)
    }

    fn with_scsi_host(self, socket: &Path, server: &str, properties: &str) -> Self {
        let id = format!("scsi{}", self.arguments.len());
        self.arg("-chardev")
            .arg(&format!("socket,id={id},path={}{server}", socket.display()))
            .arg("-device")
            .arg(&format!("vhost-user-scsi-pci,chardev={id},num_queues=2{properties}"))
            .modules(["virtio_scsi", "sd_mod", "sg"])
    }

    /// Adds any argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Boots the guest and waits until it takes scripts.
    pub fn boot(&self) -> Result<Guest> {
        let (kernel, job) = self.prepare()?;
        let mut command = self.command(&job)?;
        command.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(job.path("initramfs"));
        command.args(["-append", &self.kernel_arguments(&kernel, &job)]);
        let wiring = Wiring::spawn(&command, &job)?;
        Guest::new(job, wiring)
    }

    /// Boots the guest from a disk of its own. `place` brings the image of [`disk::SIZE`] bytes to where the disk is, and
    /// adds that disk.
    pub fn boot_from_disk(&self, place: impl FnOnce(&Path, Qemu) -> Result<Qemu>) -> Result<Guest> {
        tools::need(["mformat", "mcopy", "syslinux"])?;
        let (kernel, job) = self.prepare()?;
        let image = job.path("disk.img");
        let arguments = self.kernel_arguments(&kernel, &job);
        disk::write(&image, &kernel.packed_image()?, &job.path("initramfs"), &arguments)?;
        let command = place(&image, self.clone())?.command(&job)?;
        let wiring = Wiring::spawn(&command, &job)?;
        Guest::new(job, wiring)
    }

    /// A kernel and, in the job directory, its initramfs.
    fn prepare(&self) -> Result<(Kernel, Job)> {
        tools::need(["qemu-system-x86_64", "busybox", "modprobe"])?;
        let kernel = Kernel::get()?;
        let job = Job::new()?;
        kernel.write_initramfs(include_str!("init.sh"), &job.path("initramfs"))?;
        Ok((kernel, job))
    }

    fn kernel_arguments(&self, kernel: &Kernel, job: &Job) -> String {
        let root = kernel.root();
        let root = root.display();
        // The kernel would count timer interrupts while it loops for some time, and an emulator on a busy machine is late.
        format!(
            "console=ttyS0 no_timer_check loglevel=5 panic=-1 E2E_KERNEL={root} {}",
            job.kernel_arguments(&self.modules)
        )
    }

    fn command(&self, job: &Job) -> Result<Command> {
        let mut command = tools::command("qemu-system-x86_64")?;
        command
            .args(["-accel", "tcg"])
            .args(self.machine.clone().unwrap_or_else(|| self.own_machine()))
            .args(["-display", "none", "-no-reboot", "-nodefaults"])
            .arg("-chardev")
            .arg(format!("file,id=log,append=on,path={}", job.kernel_log().display()))
            .args(["-serial", "chardev:log"])
            .args(["-device", "virtio-serial-pci"])
            .args(["-chardev", "socket,id=stdio,fd=3"])
            .args(["-device", "virtserialport,chardev=stdio,name=stdio"])
            .args(["-chardev", "file,id=stderr,path=/dev/fd/4"])
            .args(["-device", "virtserialport,chardev=stderr,name=stderr"]);
        let root = "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap";
        let shared = format!("local,path={},mount_tag=job,security_model=none", job.path("").display());
        command.args(["-virtfs", root, "-virtfs", &shared]);
        command.args(&self.arguments);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_run_on_two_processors() {
        let mut guest = Qemu::new().boot().unwrap();
        assert_eq!(guest.check("nproc").unwrap(), "2\n");
        let said = guest.run("echo -n o; echo -n e >&2; exit 7").unwrap();
        let said = (said.status, said.stdout.as_str(), said.stderr.as_str());
        assert_eq!(said, (7, "o", "e"));
        guest.check("modprobe ext4 && touch /etc/lunette-e2e-was-here").unwrap();
        guest.power_off().unwrap();
    }
}
