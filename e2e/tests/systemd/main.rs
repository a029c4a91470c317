//! The packaged units, run by a real systemd: what a stand-in for it cannot show.

use anyhow::{Context, Result, ensure};
use lunette_e2e::held::Held;
use lunette_e2e::loaded::Loaded;
use lunette_e2e::netns::Netns;
use lunette_e2e::open_iscsi::{PORTAL, network};
use lunette_e2e::systemd::Systemd;
use lunette_e2e::tools;
use lunette_e2e::uml::Uml;
use std::time::Duration;

/// The socket of a virtual machine that `lunette.socket` names.
const SOCKET: &str = "/run/lunette/vm1.sock";

const CONFIGURATION: &str = r#"
[[unit]]
lu = "disk:/var/lib/lunette/disk.img,w,name=disk,size=64M,direct=on,fault=delay:3,lun=0"

[[unit]]
lu = "disk:ram:64M,w,name=scratch,lun=1"

[[target]]
name = "iqn.2026-11.dev.lunette:default"

[[vhost-user]]
name = "vm1"
socket = "/run/lunette/vm1.sock"
units = { 0 = "disk" }
"#;

/// Where the initiator of a guest looks for the target.
fn portal() -> String {
    format!("[Socket]\nListenStream={PORTAL}\n")
}

/// One with the packaged units, and this besides in that of the daemon.
fn systemd(netns: &Netns, more: &str) -> Result<Option<Systemd>> {
    let files = [
        ("/etc/lunette/lunette.toml", CONFIGURATION),
        ("/etc/systemd/system/lunette.socket.d/portal.conf", &portal()),
        ("/etc/systemd/system/lunette.service.d/test.conf", more),
    ];
    Systemd::begin(netns, &files)
}

/// A guest with a steady load on its disk.
fn guest(systemd: &Systemd) -> Result<Held> {
    Held::by(Uml::new().memory_mib(512).vhost_user_scsi(systemd.path(SOCKET)).boot()?)
}

#[test]
fn guests_live_through_restarts() -> Result<()> {
    let netns = network()?;
    let Some(systemd) = systemd(&netns, "")? else { return Ok(()) };
    systemd.service("start")?;
    ensure!(
        systemd.shows("StatusText")? == "serving 2 logical units at 2 places",
        "{}",
        systemd.shows("StatusText")?
    );
    let journal = systemd.journal()?;
    ensure!(!journal.contains("not kept") && !journal.contains("cannot"), "{journal}");
    let mut load = Loaded::new(&systemd.path(SOCKET), &netns)?;
    // What is needed after a kill is there all the time.
    tools::wait_until("something to be kept", || Ok(systemd.counts("NFileDescriptorStore")? > 0))?;
    for restart in 1..=if tools::full() { 20 } else { 4 } {
        let before = systemd.pid()?;
        systemd.service("restart")?;
        ensure!(systemd.pid()? != before);
        tools::wait_until("a word of the session", || {
            let journal = systemd.journal()?;
            ensure!(!journal.contains("going on with 0"), "{journal}");
            Ok(journal.matches("going on with 1 of 1 iSCSI sessions").count() == restart)
        })?;
        load.goes_on()?;
    }
    systemd.service("reload")?;
    load.goes_on()?;
    // What systemd watches over is restarted by it.
    let said = systemd.run(["lunette", "upgrade", "--control", "/run/lunette/control.sock"])?.fails()?;
    ensure!(said.stderr.contains("systemctl restart"), "{said}");
    load.end()?;
    tools::wait_until("nothing to be kept", || Ok(systemd.counts("NFileDescriptorStore")? == 0))?;
    systemd.service("stop")?;
    ensure!(systemd.shows("Result")? == "success");
    let journal = systemd.journal()?;
    ensure!(!journal.contains("of no use") && !journal.contains("refused to a thread"), "{journal}");
    Ok(())
}

#[test]
fn a_guest_lives_through_kills() -> Result<()> {
    let netns = Netns::with_tap("tap0", "192.0.2.1/24")?;
    let Some(systemd) = systemd(&netns, "")? else { return Ok(()) };
    systemd.service("start")?;
    let mut guest = guest(&systemd)?;
    let (wanted, mut kills, mut halfway, mut in_flight) = (if tools::full() { 50 } else { 9 }, 0, 0, 0);
    // One that has left something in flight is to be among them.
    while kills < wanted || in_flight == 0 {
        ensure!(kills < 20 * wanted, "{kills} kills, and nothing was in flight");
        let kill = kills;
        kills += 1;
        // Whenever it happens to be.
        std::thread::sleep(Duration::from_millis(137 * (kill + 3) % 1000));
        let before = systemd.pid()?;
        // In the midst of a planned one, too.
        if kill % 3 == 2 {
            systemd.run(["systemctl", "restart", "--no-block", "lunette.service"])?.ok()?;
            // For so long it waits for the same signal again.
            std::thread::sleep(Duration::from_millis(100 + 11 * kill % 60));
        }
        systemd.signal("KILL", before)?;
        systemd.wait_for_another(before)?;
        guest.goes_on()?;
        let journal = systemd.journal()?;
        let said = |text| journal.matches(text).count();
        halfway = said("SIGTERM: stopping").saturating_sub(said("everything is handed over"));
        in_flight = said("going on with what was in flight");
    }
    println!("{kills} kills: {halfway} in the midst of a restart, {in_flight} with something in flight");
    guest.end()
}

#[test]
fn a_guest_lives_through_a_daemon_that_hangs() -> Result<()> {
    let netns = Netns::with_tap("tap0", "192.0.2.1/24")?;
    let Some(systemd) = systemd(&netns, "[Service]\nWatchdogSec=6\n")? else { return Ok(()) };
    systemd.service("start")?;
    let mut guest = guest(&systemd)?;
    let sign = systemd.counts("WatchdogTimestampMonotonic")?;
    tools::wait_until("a sign of life", || Ok(systemd.counts("WatchdogTimestampMonotonic")? > sign))?;
    let before = systemd.pid()?;
    systemd.signal("STOP", before)?;
    systemd.wait_for_another(before)?;
    guest.goes_on()?;
    guest.end()
}

/// A mistake in the configuration, when the daemon is started once more: until it is mended, all wait.
#[test]
fn a_guest_waits_for_a_configuration_that_is_right() -> Result<()> {
    let netns = Netns::with_tap("tap0", "192.0.2.1/24")?;
    let Some(systemd) = systemd(&netns, "")? else { return Ok(()) };
    systemd.service("start")?;
    let mut guest = guest(&systemd)?;
    let file = systemd.path("/etc/lunette/lunette.toml");
    std::fs::write(&file, "nonsense")?;
    systemd.run(["systemctl", "restart", "lunette.service"])?.fails()?;
    // As often as systemd tries without being told otherwise, and more.
    tools::wait_until("some attempts", || Ok(systemd.counts("NRestarts")? > 6))
        .with_context(|| systemd.journal().unwrap_or_default())?;
    std::fs::write(&file, CONFIGURATION)?;
    systemd.wait_for_another(0)?;
    guest.goes_on()?;
    guest.end()
}
