//! Debian's tgt, as a private instance with one logical unit on a file in memory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::peers::{installed, output};
use crate::run::Settings;

/// The programs of the package.
pub(crate) struct Tgt {
    tgtd: PathBuf,
    tgtadm: PathBuf,
}

/// Keeps instances of tgtd apart; the socket makes them private anyway.
const CONTROL_PORT: &str = "37";

impl Tgt {
    pub(crate) const TARGET: &str = "iqn.2026-11.dev.lunette:tgt";
    /// LUN 0 is tgt's controller.
    pub(crate) const LUN: u8 = 1;

    pub(crate) fn find() -> Result<Self> {
        Ok(Self { tgtd: installed("tgtd", "tgt")?, tgtadm: installed("tgtadm", "tgt")? })
    }

    pub(crate) fn version(&self) -> Result<String> {
        output(&self.tgtd, &["--version"])
    }

    /// Serves `size` bytes of memory.
    pub(crate) fn serve(&self, settings: &Settings, portal: SocketAddr, size: u64) -> Result<Daemon> {
        let memory = TempDir::with_prefix_in("lunette-bench-", "/dev/shm")?;
        let file = memory.path().join("disk");
        std::fs::File::create(&file)?.set_len(size)?;
        let mut daemon = Daemon::start(&self.tgtd, settings, false, |command| {
            command.args(["--foreground", "--control-port", CONTROL_PORT]);
            command.args(["--iscsi", &format!("portal={portal}")]).env("TGT_IPC_SOCKET", "control");
        })?;
        let show = ["--mode", "system", "--op", "show"];
        daemon.wait_until(|daemon| self.administer(daemon, &show).is_ok())?;
        self.administer(
            &daemon,
            &["--mode", "target", "--op", "new", "--tid", "1", "--targetname", Self::TARGET],
        )?;
        let lun = Self::LUN.to_string();
        let store = file.to_string_lossy();
        let unit =
            ["--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", &lun, "--backing-store", &store];
        self.administer(&daemon, &unit)?;
        for digest in ["HeaderDigest", "DataDigest"] {
            // What an initiator may ask for.
            let value = ["--name", digest, "--value", "CRC32C,None"];
            self.administer(
                &daemon,
                &[&["--mode", "target", "--op", "update", "--tid", "1"][..], &value].concat(),
            )?;
        }
        self.administer(
            &daemon,
            &["--mode", "target", "--op", "bind", "--tid", "1", "--initiator-address", "ALL"],
        )?;
        // tgtd keeps the file open; the memory goes with it.
        memory.close()?;
        Ok(daemon)
    }

    fn administer(&self, daemon: &Daemon, arguments: &[&str]) -> Result<()> {
        let output = Command::new(&self.tgtadm)
            .args(["--control-port", CONTROL_PORT, "--lld", "iscsi"])
            .args(arguments)
            .env("TGT_IPC_SOCKET", daemon.path("control"))
            .output()?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tgtadm {arguments:?} failed: {message}");
        Ok(())
    }
}
