//! The other targets: Debian's tgt beside the daemon, LIO in the guest.

use std::path::PathBuf;

use anyhow::Result;
use lunette_e2e::guest::Guest;
use lunette_e2e::netns::Netns;
use lunette_e2e::tools::{self, Guarded};
use tempfile::TempDir;

/// tgtd with one disk in memory, LUN 1: LUN 0 is its controller.
pub(crate) struct Tgt<'a> {
    netns: &'a Netns,
    folder: TempDir,
    _process: Guarded,
}

const CONTROL_PORT: &str = "38";

impl<'a> Tgt<'a> {
    pub(crate) fn start(netns: &'a Netns, portal: &str, target: &str, size: u64) -> Result<Self> {
        let folder = tools::temp_dir()?;
        let disk = folder.path().join("disk");
        std::fs::File::create(&disk)?.set_len(size)?;
        let mut daemon = netns.command("tgtd")?;
        daemon.args(["--foreground", "--control-port", CONTROL_PORT, "--iscsi", &format!("portal={portal}")]);
        daemon.env("TGT_IPC_SOCKET", Self::socket(&folder));
        let tgt = Tgt { netns, _process: Guarded::spawn(&daemon)?, folder };
        tools::wait_until("tgtd", || Ok(tgt.administer("--mode system --op show").is_ok()))?;
        let disk = disk.display();
        for order in [
            format!("--mode target --op new --tid 1 --targetname {target}"),
            format!("--mode logicalunit --op new --tid 1 --lun 1 --backing-store {disk}"),
            "--mode logicalunit --op update --tid 1 --lun 1 --params thin_provisioning=1".to_owned(),
            "--mode target --op update --tid 1 --name HeaderDigest --value CRC32C,None".to_owned(),
            "--mode target --op update --tid 1 --name DataDigest --value CRC32C,None".to_owned(),
            "--mode target --op bind --tid 1 --initiator-address ALL".to_owned(),
        ] {
            tgt.administer(&order)?;
        }
        Ok(tgt)
    }

    fn socket(folder: &TempDir) -> PathBuf {
        folder.path().join("control")
    }

    fn administer(&self, order: &str) -> Result<()> {
        let mut tgtadm = self.netns.command("tgtadm")?;
        tgtadm.args(["--control-port", CONTROL_PORT, "--lld", "iscsi"]).args(order.split(' '));
        tgtadm.env("TGT_IPC_SOCKET", Self::socket(&self.folder));
        tools::run(&mut tgtadm, tools::LIMIT)?.ok()?;
        Ok(())
    }
}

/// Has the guest's kernel serve one disk as LUN 0.
pub(crate) fn start_lio(guest: &mut Guest, portal: &str, target: &str, size: u64) -> Result<()> {
    let size = size.to_string();
    let variables = [("PORTAL", portal), ("TARGET", target), ("SIZE", &*size)];
    guest.check_with(&variables, include_str!("../../scripts/lio.sh"))?;
    Ok(())
}
