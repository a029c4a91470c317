//! A thousand logical units behind one socket.

use anyhow::Result;
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::uml::Uml;

const TARGETS: usize = 8;
const UNITS: usize = 125;

#[test]
fn a_scan_finds_1000_logical_units_of_8_targets() -> Result<()> {
    checks::need_tools()?;
    let mut lunette = Lunette::new()?.vhost_user("vm.sock");
    for number in 0..TARGETS * UNITS {
        // Targets 0 to 6, and the last one there can be.
        let target = match number % TARGETS {
            7 => 255,
            target => target,
        };
        lunette = lunette.lu(format!("disk:ram:1M,w,serial=UNIT{number:04},target={target}"));
    }
    let daemon = lunette.start()?;
    let uml = Uml::new().memory_mib(1024).vhost_user_scsi(lunette.path("vm.sock"));
    let mut guest = uml.boot()?;
    // The scan is over when the last unit is there: the kernel goes by number.
    let count = TARGETS * UNITS;
    guest.check(&format!("until [ $(ls -d /sys/block/sd* | wc -l) -ge {count} ]; do sleep 0.2; done"))?;
    let serials = guest
        .check("for page in /sys/block/sd*/device/vpd_pg80; do tail -c 8 $page; echo; done 2>/dev/null")?;
    let mut serials: Vec<&str> = serials.lines().map(str::trim).collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len(), count, "{serials:?}");
    assert_eq!((serials[0], serials[count - 1]), ("UNIT0000", "UNIT0999"));
    let targets = guest.check("ls /sys/class/scsi_disk | cut -d: -f3 | sort -n | uniq -c")?;
    let targets: Vec<Vec<usize>> =
        targets.lines().map(|line| line.split_whitespace().flat_map(str::parse).collect()).collect();
    let expected: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 255].map(|target| vec![UNITS, target]).into();
    assert_eq!(targets, expected);
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}
