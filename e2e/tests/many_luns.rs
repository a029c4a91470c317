//! A thousand logical units of eight targets behind one socket.

use anyhow::Result;
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::guest::Guest;
use lunette_e2e::qemu::Qemu;
use lunette_e2e::uml::Uml;
use std::collections::BTreeSet;
use std::path::Path;

/// The first targets, and the last that there can be.
const TARGETS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 255];
const UNITS: usize = 125;

/// Boots a guest against a daemon with all of them; its scan must find each unit once, where it is.
fn scan(boot: impl FnOnce(&Path) -> Result<Guest>) -> Result<()> {
    checks::need_tools()?;
    let mut lunette = Lunette::new()?.vhost_user("vm.sock");
    let mut expected = BTreeSet::new();
    for number in 0..TARGETS.len() * UNITS {
        let target = TARGETS[number % TARGETS.len()];
        lunette = lunette.lu(format!("disk:ram:1M,w,serial=UNIT{number:04},target={target}"));
        expected.insert(format!("{target}:{} UNIT{number:04}", number / TARGETS.len()));
    }
    let daemon = lunette.start()?;
    let mut guest = boot(&lunette.path("vm.sock"))?;
    // The scan goes by number, and disks are attached behind it.
    let count = expected.len();
    guest.check(&format!(
        "set +x
         until [ -e /sys/class/scsi_device/*:255:124 ] && [ $(ls /sys/block | grep -c ^sd) -ge {count} ]; do
             sleep 0.2
         done"
    ))?;
    let found = guest.check(
        "grep -aHo 'UNIT[0-9]*' /sys/class/scsi_disk/*/device/vpd_pg80 |
             sed -E 's|.*/[0-9]+:0:([0-9:]+)/device/vpd_pg80:|\\1 |'",
    )?;
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found.len(), count, "{found:?}");
    let found: BTreeSet<String> = found.into_iter().map(str::to_owned).collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    assert_eq!(found, expected, "missing: {missing:?}");
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn user_mode_linux_finds_1000_logical_units_of_8_targets() -> Result<()> {
    scan(|socket| Uml::new().memory_mib(1024).vhost_user_scsi(socket).boot())
}

#[test]
fn qemu_finds_1000_logical_units_of_8_targets() -> Result<()> {
    scan(|socket| Qemu::new().memory_mib(1024).vhost_user_scsi(socket, "").boot())
}
