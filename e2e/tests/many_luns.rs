//! Hundreds of logical units behind one socket.

use anyhow::Result;
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::uml::Uml;

const COUNT: usize = 300;

#[test]
fn a_scan_finds_300_logical_units() -> Result<()> {
    checks::need_tools()?;
    let mut lunette = Lunette::new()?.vhost_user("vm.sock").iscsi();
    for number in 0..COUNT {
        lunette = lunette.lu(format!("disk:ram:1M,w,serial=UNIT{number:04}"));
    }
    let daemon = lunette.start()?;
    let uml = Uml::new().memory_mib(512).vhost_user_scsi(lunette.path("vm.sock"));
    let mut guest = uml.boot()?;
    // The scan is over when the last unit is there: the kernel goes by number.
    guest.check(&format!("until [ $(ls -d /sys/block/sd* | wc -l) -ge {COUNT} ]; do sleep 0.2; done"))?;
    let serials = guest
        .check("for page in /sys/block/sd*/device/vpd_pg80; do tail -c 8 $page; echo; done 2>/dev/null")?;
    let mut serials: Vec<&str> = serials.lines().map(str::trim).collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len(), COUNT, "{serials:?}");
    assert_eq!((serials[0], serials[COUNT - 1]), ("UNIT0000", "UNIT0299"));
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}
