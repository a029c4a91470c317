//! The packaged units, run by a real systemd: what a stand-in for it cannot show.

use anyhow::{Context, Result, ensure};
use lunette_e2e::guest::Guest;
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
fn guest(systemd: &Systemd) -> Result<Guest> {
    tools::need(["sg_persist", "fio"])?;
    let mut guest = Uml::new().memory_mib(512).vhost_user_scsi(systemd.path(SOCKET)).boot()?;
    guest.check(
        "disk=$(disk 0); sg=$(generic $disk)
         sg_persist --out --register-ignore --param-sark=0x1234 --param-aptpl $sg
         sg_persist --out --reserve --param-rk=0x1234 --prout-type=1 $sg
         rounds_begin $disk --size=16M --iodepth=16",
    )?;
    Ok(guest)
}

/// It has lost nothing.
fn end(mut guest: Guest) -> Result<()> {
    guest.check("rounds_wait 1; rounds_end")?;
    let kept = guest
        .check("sg=$(generic $(disk 0)); sg_persist --read-keys $sg; sg_persist --read-reservation $sg")?;
    ensure!(kept.matches("0x1234").count() == 2 && kept.contains("Write Exclusive"), "{kept}");
    let log = guest.kernel_log();
    let failures = ["I/O error", "offline", "hung", "blocked for more than"];
    let failure = log.lines().find(|line| failures.iter().any(|failure| line.contains(failure)));
    ensure!(failure.is_none(), "{failure:?}");
    guest.power_off()
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
        let before = systemd.shows("MainPID")?;
        systemd.service("restart")?;
        ensure!(systemd.shows("MainPID")? != before);
        let journal = systemd.journal()?;
        let went_on = journal.matches("going on with 1 of 1 iSCSI sessions").count();
        ensure!(went_on == restart, "{went_on} of {restart}: {journal}");
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
    for kill in 0..if tools::full() { 30 } else { 6 } {
        // Whenever it happens to be.
        std::thread::sleep(Duration::from_millis(137 * (kill + 3) % 1000));
        systemd.signal("KILL")?;
        systemd.wait_for_another(kill)?;
        guest.check("rounds_run")?;
    }
    ensure!(systemd.journal()?.contains("going on with what was in flight"), "nothing was in flight");
    end(guest)
}

#[test]
fn a_guest_lives_through_a_daemon_that_hangs() -> Result<()> {
    let netns = Netns::with_tap("tap0", "192.0.2.1/24")?;
    let Some(systemd) = systemd(&netns, "[Service]\nWatchdogSec=2\n")? else { return Ok(()) };
    systemd.service("start")?;
    let mut guest = guest(&systemd)?;
    // Signs of life are taken.
    std::thread::sleep(Duration::from_secs(5));
    ensure!(systemd.counts("NRestarts")? == 0, "{}", systemd.journal()?);
    systemd.signal("STOP")?;
    systemd.wait_for_another(0)?;
    guest.check("rounds_run")?;
    end(guest)
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
    guest.check("rounds_run")?;
    end(guest)
}
