//! Block devices made of files.

use crate::tools;
use anyhow::Result;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A loop device, which only root may open, until it is dropped.
pub struct LoopDevice(String);

impl LoopDevice {
    /// Makes a device of a file.
    ///
    /// # Errors
    /// When there is none left, or the file is no good.
    pub fn on(file: &Path) -> Result<Self> {
        let said = tools::run(tools::command("losetup")?.args(["--find", "--show"]).arg(file), tools::LIMIT)?
            .ok()?;
        let device = Self(said.stdout.trim().to_owned());
        fs::set_permissions(&device.0, fs::Permissions::from_mode(0o600))?;
        Ok(device)
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = tools::output("losetup", ["--detach", &self.0]);
    }
}
