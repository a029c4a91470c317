//! A Debian kernel and an initramfs for it, made once and kept in the target directory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::tools;

/// The package whose dependency is the kernel.
const PACKAGE: &str = "linux-image-amd64";

/// What must be loaded before the host's root can be.
const MODULES: [&str; 5] = ["virtio_pci", "9p", "9pnet_virtio", "overlay", "virtio_console"];

/// How an xz stream begins.
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// Where the parts of the kernel are.
pub(super) struct Kernel {
    folder: PathBuf,
}

impl Kernel {
    /// Gives the kept kernel, or fetches and unpacks one.
    pub(super) fn get() -> Result<Kernel> {
        let parent = tools::target_dir()?.join("e2e");
        fs::create_dir_all(&parent)?;
        let lock = fs::File::create(parent.join("kernel.lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let folder = parent.join("kernel");
        if !folder.is_dir() {
            let temporary = tempfile::tempdir_in(&parent)?;
            fetch(temporary.path()).context("cannot prepare a kernel for QEMU")?;
            fs::rename(temporary.keep(), &folder)?;
        }
        Ok(Kernel { folder })
    }

    /// The kernel as an ELF file, which QEMU starts without a boot loader (PVH).
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The kernel as a boot loader takes it.
    pub(super) fn packed_image(&self) -> Result<PathBuf> {
        Ok(packed_image(&self.root(), &release(&self.root())?))
    }

    /// Holds `lib/modules`.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Writes an initramfs with what it takes to load the host's root, and `init`, to `file`.
    pub(super) fn write_initramfs(&self, init: &str, file: &Path) -> Result<()> {
        self.write_initramfs_with(init, &MODULES, &[], file)
    }

    /// Writes an initramfs with modules, in `/modules` in the order to load them, programs of the host, and `init` to `file`.
    pub(super) fn write_initramfs_with(
        &self,
        init: &str,
        modules: &[&str],
        programs: &[&str],
        file: &Path,
    ) -> Result<()> {
        let content = tempfile::tempdir()?;
        let content = content.path();
        for folder in ["bin", "modules"] {
            fs::create_dir(content.join(folder))?;
        }
        fs::copy(tools::program("busybox")?, content.join("bin/busybox"))?;
        for program in programs {
            copy_program(&tools::program(program)?, content)?;
        }
        fs::write(content.join("init"), init)?;
        tools::make_executable(&content.join("init"))?;
        for (number, module) in self.modules(modules)?.iter().enumerate() {
            fs::copy(module, content.join(format!("modules/{number:03}.ko")))?;
        }
        let mut cpio = tools::command("sh")?;
        cpio.args(["-c", "find . | cpio --quiet -o -H newc >\"$0\""]).arg(file);
        tools::program("cpio")?;
        tools::run(cpio.current_dir(content), tools::LIMIT)?.ok()?;
        Ok(())
    }

    /// The files of modules and of what they need, in the order to load them.
    fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let release = release(&self.root())?;
        let mut modprobe = tools::command("modprobe")?;
        modprobe.arg("-d").arg(self.root()).args(["-S", &release]);
        modprobe.args(["--show-depends", "-a"]).args(names);
        let listed = tools::run(&mut modprobe, tools::LIMIT)?.ok()?.stdout;
        let mut files = Vec::new();
        for line in listed.lines() {
            let file = line.strip_prefix("insmod ").map(|file| PathBuf::from(file.trim()));
            files.extend(file.filter(|file| !files.contains(file)));
        }
        Ok(files)
    }
}

/// Copies a program and the libraries that it needs, to where they are on the host.
fn copy_program(program: &Path, root: &Path) -> Result<()> {
    let libraries = tools::output("ldd", [program])?.ok()?.stdout;
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.map(Path::new).chain([program]) {
        let to = root.join(file.strip_prefix("/")?);
        fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
        fs::copy(file, to)?;
    }
    Ok(())
}

/// Downloads the kernel's package and unpacks it into `folder`.
fn fetch(folder: &Path) -> Result<()> {
    let depends = tools::output("apt-cache", ["depends", PACKAGE])?.ok()?.stdout;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .with_context(|| format!("{PACKAGE} is unknown: run `apt-get update`"))?;
    let mut download = tools::command("apt-get")?;
    download.args(["--quiet", "download", &format!("linux-image-{package}")]);
    tools::run(download.current_dir(folder), tools::LIMIT)?
        .ok()
        .context("the kernel cannot be downloaded: run `apt-get update`")?;
    let archive = only_file(folder)?;
    let root = folder.join("root");
    let mut unpack = tools::command("dpkg")?;
    tools::run(unpack.arg("-x").arg(&archive).arg(&root), tools::LIMIT)?.ok()?;
    fs::remove_file(archive)?;
    let release = release(&root)?;
    let mut depmod = tools::command("depmod")?;
    tools::run(depmod.arg("-b").arg(&root).arg(&release), tools::LIMIT)?.ok()?;
    let packed = fs::read(packed_image(&root, &release))?;
    fs::write(folder.join("vmlinux"), unpack_image(&packed)?)?;
    Ok(())
}

fn packed_image(root: &Path, release: &str) -> PathBuf {
    root.join("boot").join(format!("vmlinuz-{release}"))
}

/// The name of the only directory of `lib/modules`.
fn release(root: &Path) -> Result<String> {
    let folder = only_file(&root.join("lib/modules"))?;
    let name = folder.file_name().and_then(|name| name.to_str());
    Ok(name.context("the kernel's release is not text")?.to_owned())
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?;
    let first = entries.next().context("nothing was unpacked")??;
    if entries.next().is_some() {
        bail!("{} holds more than one entry", folder.display());
    }
    Ok(first.path())
}

/// Takes the ELF file out of a bzImage.
fn unpack_image(packed: &[u8]) -> Result<Vec<u8>> {
    let at = packed
        .windows(XZ_MAGIC.len())
        .position(|bytes| bytes == XZ_MAGIC)
        .context("the kernel is not packed with xz")?;
    let mut xz = tools::command("xz")?
        .args(["--decompress", "--stdout", "--single-stream", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = xz.stdin.take().context("stdin is piped")?;
    let image = std::thread::scope(|scope| {
        // What follows the stream is not xz, so the pipe breaks at the end: the ELF header tells
        // whether all is well.
        scope.spawn(move || drop(input.write_all(&packed[at..])));
        xz.wait_with_output()
    })?;
    if !image.stdout.starts_with(b"\x7fELF") {
        bail!("the kernel does not unpack to an ELF file");
    }
    Ok(image.stdout)
}
