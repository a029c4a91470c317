//! A guest that uses two disks all the time, each in its own way, and notices whatever goes wrong with them.

use crate::guest::Guest;
use crate::netns::Netns;
use crate::open_iscsi::PORTAL;
use crate::tools;
use crate::uml::Uml;
use anyhow::{Result, ensure};
use std::path::Path;

/// What the guest's kernel says of a disk or a session that has failed it, or was reset.
const COMPLAINTS: [&str; 6] =
    ["I/O error", "offline", "hung", "blocked for more than", "conn error", "Power-on or device reset"];

/// A guest with a vhost-user connection of its own and an iSCSI session, and a steady load on both: on LUN 0 by the one, on LUN 1 by
/// the other.
pub struct Loaded {
    guest: Guest,
    /// Bytes of the kernel's log at the beginning of the load.
    log_begins: usize,
}

/// What scripts know the two ways by: the file disk by vhost-user, the disk in memory by iSCSI.
const WAYS: &str = r#"
    host=$(basename $(ls -d /sys/class/iscsi_host/host*))
    by_vhost=$(disk 0 0)
    by_iscsi=$(disk 1 ${host#host})
"#;

impl Loaded {
    /// Boots one in this [network](crate::open_iscsi::network), whose vhost-user back end listens at `socket`.
    pub fn new(socket: &Path, netns: &Netns) -> Result<Self> {
        tools::need(["sg_persist", "sg_wr_mode", "jq", "fio"])?;
        let uml = Uml::new().memory_mib(512).vhost_user_scsi(socket).tap("tap0").inside(netns);
        let mut guest = uml.boot()?;
        guest.check("ip address add 192.0.2.2/24 dev vec0; ip link set vec0 up; iscsi_start")?;
        guest.check(&format!("iscsi_login {PORTAL}"))?;
        guest.check(&format!(
            "{WAYS}
             for disk in $by_vhost $by_iscsi; do
                 sg_turs $(generic $disk) || true
                 sg_persist --out --register-ignore --param-sark=0x1234 $(generic $disk)
                 sg_persist --out --reserve --param-rk=0x1234 --prout-type=1 $(generic $disk)
             done
             head -c 1M /dev/urandom >/run/kept
             dd if=/run/kept of=$by_iscsi bs=1M seek=40 oflag=direct status=none
             sg_wr_mode --page=0xa --contents=0a,0a,04,10,00,00,00,00,ff,ff,00,00 $(generic $by_iscsi)
             sg_modes --page=0xa --control=0 -H $(generic $by_iscsi) >/run/mode-page
             ROUNDS=/run/by-vhost rounds_begin $by_vhost --size=16M --iodepth=16
             ROUNDS=/run/by-iscsi rounds_begin $by_iscsi --size=16M --iodepth=16
             pulse_begin vhost $by_vhost
             pulse_begin iscsi $by_iscsi"
        ))?;
        let log_begins = guest.kernel_log().len();
        Ok(Self { guest, log_begins })
    }

    /// Waits until both have done some more.
    pub fn goes_on(&mut self) -> Result<()> {
        self.guest.check("ROUNDS=/run/by-vhost rounds_run; ROUNDS=/run/by-iscsi rounds_run")?;
        Ok(())
    }

    /// Nothing was lost. Says how long the longest pause was.
    pub fn end(mut self) -> Result<()> {
        self.guest.check("export ROUNDS=/run/by-vhost; rounds_wait 1; rounds_end")?;
        self.guest.check("export ROUNDS=/run/by-iscsi; rounds_wait 1; rounds_end")?;
        for way in ["vhost", "iscsi"] {
            println!(
                "the longest pause by {way}: {} ms",
                self.guest.check(&format!("pulse_end {way}"))?.trim()
            );
        }
        let kept = self.guest.check(&format!(
            "{WAYS}
             for disk in $by_vhost $by_iscsi; do
                 sg_persist --read-keys $(generic $disk); sg_persist --read-reservation $(generic $disk)
             done
             sg_modes --page=0xa --control=0 -H $(generic $by_iscsi) | cmp - /run/mode-page
             dd if=$by_iscsi bs=1M skip=40 count=1 iflag=direct status=none | cmp - /run/kept"
        ))?;
        ensure!(
            kept.matches("0x1234").count() == 4 && kept.matches("Write Exclusive").count() == 2,
            "{kept}"
        );
        let log = self.guest.kernel_log();
        let log = log.get(self.log_begins..).unwrap_or_default();
        let complaint = log.lines().find(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)));
        ensure!(complaint.is_none(), "{complaint:?}");
        self.guest.check("iscsiadm -m node --logout")?;
        self.guest.power_off()
    }
}
