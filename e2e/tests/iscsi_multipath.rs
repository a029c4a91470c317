//! One logical unit over two portals, which are two target ports, and dm-multipath above them: a path may go at any time,
//! whichever way, and the guest that writes does not notice.

use anyhow::{Result, ensure};
use lunette_e2e::daemon::Lunette;
use lunette_e2e::guest::Guest;
use lunette_e2e::open_iscsi::{self, TARGET};
use lunette_e2e::proxy::{Proxy, Trouble};
use lunette_e2e::tools;

const DISK: &str = "/dev/mapper/mpatha";

/// Waits until so many of the two paths are active.
fn wait_for_paths(guest: &mut Guest, count: u32) -> Result<()> {
    guest.check(&format!(
        "until [ $(multipathd show paths raw format '%t %T' | grep -c '^active *ready$') = {count} ]; do
            rounds_run
            sleep 0.1
         done"
    ))?;
    Ok(())
}

#[test]
fn a_disk_with_two_paths_outlives_each() -> Result<()> {
    tools::need(["multipathd", "dmsetup", "udevadm"])?;
    let netns = open_iscsi::network()?;
    netns.ip("address add 198.51.100.1/24 dev tap0")?;
    let lunette = Lunette::new()?.inside(&netns);
    let file = lunette.file("disk.img", 64 << 20)?;
    let mut daemon = lunette
        .lu(format!("disk:{},w", file.display()))
        .arg("--iscsi")
        .arg("192.0.2.1:3260,group=1")
        .arg("--iscsi")
        .arg("198.51.100.1:3260,group=2")
        .start()?;
    let mut proxies = Vec::new();
    for host in ["192.0.2.1", "198.51.100.1"] {
        let [listen, target] = [3261, 3260].map(|port| format!("{host}:{port}").parse());
        proxies.push(Proxy::start(&netns, listen?, target?, &Trouble::NONE)?);
    }
    let mut guest = open_iscsi::guest(&netns)?;
    guest.check("ip address add 198.51.100.2/24 dev vec0")?;
    let portals = [("PORTALS", "192.0.2.1:3261 198.51.100.1:3261"), ("TARGET", TARGET)];
    guest.check_with(&portals, include_str!("../scripts/multipath.sh"))?;
    guest.check(&format!("until [ -b {DISK} ]; do sleep 0.1; done; rounds_begin {DISK} --size=2M"))?;
    wait_for_paths(&mut guest, 2)?;

    // The connection ends, or nothing is heard any more: each happens to one path or, in the long form, to both.
    let gone: [fn(&mut Proxy) -> Result<()>; 2] = [Proxy::close, Proxy::silence];
    for round in 0..if tools::full() { 20 } else { 2 } {
        gone[(round + round / 2) % 2](&mut proxies[round % 2])?;
        wait_for_paths(&mut guest, 1)?;
        guest.check("rounds_wait 1")?;
        proxies[round % 2].open()?;
        wait_for_paths(&mut guest, 2)?;
    }
    guest.check("rounds_wait 1; rounds_end")?;
    for proxy in &mut proxies {
        let report = proxy.report()?;
        println!("{report:?}");
        ensure!(report["pdus"] > 100, "a path was hardly used: {report:?}");
    }
    // udev looks at a disk that has been written to, and has it open meanwhile.
    guest.check("until multipath -f mpatha; do sleep 0.1; done; iscsiadm -m node --logout")?;
    guest.power_off()?;
    daemon.alive()?;
    daemon.stop()?;
    Ok(())
}
