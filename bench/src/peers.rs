//! The programs lunette is compared with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The version of vhost-device-scsi.
pub(crate) const VHOST_DEVICE_SCSI: &str = "0.1.0";

/// The directory of cargo's output, in which this program lies.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.ancestors().nth(2).context("this program lies outside a target directory")?.to_path_buf())
}

/// vhost-device-scsi, built from its crate if that has not been done yet.
pub(crate) fn vhost_device_scsi() -> Result<PathBuf> {
    let root = target_directory()?.join("peers");
    let program = root.join("bin/vhost-device-scsi");
    if !program.exists() {
        eprintln!("building vhost-device-scsi {VHOST_DEVICE_SCSI}");
        let status = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .args(["install", "vhost-device-scsi", "--locked", "--version", VHOST_DEVICE_SCSI, "--root"])
            .arg(&root)
            .env_remove("CARGO_TARGET_DIR")
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "cannot build vhost-device-scsi");
    }
    Ok(program)
}

/// A program of a Debian package.
pub(crate) fn installed(program: &str, package: &str) -> Result<PathBuf> {
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&directories)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(program))
        .find(|path| path.is_file());
    found.with_context(|| format!("{program} is missing: install the Debian package {package}"))
}

/// What a program says, without the last line end.
pub(crate) fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        bail!("{} {arguments:?} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
