//! The daemon is restarted as it was planned, again and again, under guests that write all the time: they see pauses.

use anyhow::{Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::guest::Guest;
use lunette_e2e::manager::Manager;
use lunette_e2e::netns::Netns;
use lunette_e2e::open_iscsi::{PORTAL, network};
use lunette_e2e::tools::{self, Guarded};
use lunette_e2e::uml::Uml;
use std::fs::File;
use std::time::{Duration, Instant};

/// What the guest's kernel says of a disk or a session that has failed it, or was reset.
const COMPLAINTS: [&str; 6] =
    ["I/O error", "offline", "hung", "blocked for more than", "conn error", "Power-on or device reset"];

/// A guest with a vhost-user connection of its own and an iSCSI session, and a steady load on both.
struct Loaded {
    guest: Guest,
    /// Bytes of the kernel's log at the beginning of the load.
    log_begins: usize,
}

/// What the guest's kernel says of a disk that has failed it.
const FAILURES: [&str; 4] = ["I/O error", "offline", "hung", "blocked for more than"];

/// What scripts know the two ways by: the file disk by vhost-user, the disk in memory by iSCSI.
const WAYS: &str = r#"
    host=$(basename $(ls -d /sys/class/iscsi_host/host*))
    by_vhost=$(disk 0 0)
    by_iscsi=$(disk 1 ${host#host})
"#;

fn restarted(netns: &Netns) -> Result<Lunette<'_>> {
    tools::need(["sg_persist", "sg_wr_mode", "jq", "fio"])?;
    let lunette = Lunette::new()?.inside(netns);
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w,fault=delay:2", file.display())).lu("disk:ram:64M,w");
    Ok(lunette.vhost_user("vm.sock").arg("--iscsi").arg(PORTAL))
}

impl Loaded {
    fn new(lunette: &Lunette<'_>, netns: &Netns) -> Result<Self> {
        let uml =
            Uml::new().memory_mib(512).vhost_user_scsi(lunette.path("vm.sock")).tap("tap0").inside(netns);
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

    fn goes_on(&mut self) -> Result<()> {
        self.guest.check("ROUNDS=/run/by-vhost rounds_run; ROUNDS=/run/by-iscsi rounds_run")?;
        Ok(())
    }

    /// Nothing was lost. Says how long the longest pause was.
    fn end(mut self) -> Result<()> {
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

/// How often the daemon is restarted.
fn count() -> u32 {
    if tools::full() { 20 } else { 4 }
}

/// Restarts it, and sees that it goes on with what there was.
fn restart(
    mut daemon: Daemon,
    load: &mut Loaded,
    mut next: impl FnMut(Daemon) -> Result<Daemon>,
) -> Result<Daemon> {
    for _ in 0..count() {
        let begin = Instant::now();
        daemon = next(daemon)?;
        println!("restarted in {:?}", begin.elapsed());
        daemon.wait_for_log("going on with 1 of 1 iSCSI sessions")?;
        load.goes_on()?;
    }
    let log = daemon.log();
    ensure!(!log.contains("cannot be gone on with") && !log.contains("of no use"), "{log}");
    Ok(daemon)
}

#[test]
fn guests_live_through_upgrades() -> Result<()> {
    let netns = network()?;
    let lunette = restarted(&netns)?;
    let daemon = lunette.start()?;
    let mut load = Loaded::new(&lunette, &netns)?;
    let daemon = restart(daemon, &mut load, |daemon| lunette.upgrade(daemon))?;
    load.end()?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn guests_live_through_restarts_by_a_service_manager() -> Result<()> {
    let netns = network()?;
    let lunette = restarted(&netns)?;
    let manager = Manager::new(&lunette)?.storing();
    let daemon = manager.manage(&lunette).start()?;
    let mut load = Loaded::new(&lunette, &netns)?;
    let daemon = restart(daemon, &mut load, |daemon| manager.restart(daemon, &lunette))?;
    load.end()?;
    tools::wait_until("nothing to be kept", || Ok(manager.stored().is_empty()))?;
    daemon.stop()?;
    Ok(())
}

/// No relay stands between: the manager has kept what the guest's monitor has said, and what the daemon has noted.
#[test]
fn a_guest_lives_through_kills_under_a_service_manager() -> Result<()> {
    tools::need(["sg_persist", "fio"])?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette =
        lunette.lu(format!("disk:{},w,direct=on,fault=delay:5", file.display())).vhost_user("vm.sock");
    let manager = Manager::new(&lunette)?.storing();
    let mut daemon = manager.manage(&lunette).start()?;
    let mut guest = Uml::new().memory_mib(512).vhost_user_scsi(lunette.path("vm.sock")).boot()?;
    guest.check(
        "disk=$(disk 0); sg=$(generic $disk)
         sg_persist --out --register-ignore --param-sark=0x1234 --param-aptpl $sg
         sg_persist --out --reserve --param-rk=0x1234 --prout-type=1 $sg
         rounds_begin $disk --size=16M --iodepth=16",
    )?;
    let (wanted, mut again) = (if tools::full() { 50 } else { 5 }, 0);
    for kill in 0..wanted {
        // Whenever it happens to be.
        std::thread::sleep(Duration::from_millis(137 * (kill + 3) % 1000));
        daemon.kill()?;
        daemon = manager.manage(&lunette).start()?;
        guest.check("rounds_run")?;
        again += daemon.log().matches("going on with what was in flight").count();
    }
    println!("{again} rings of {wanted} daemons had something in flight");
    ensure!(again > 0, "nothing was in flight at any kill");
    guest.check("rounds_wait 1; rounds_end")?;
    let kept = guest
        .check("sg=$(generic $(disk 0)); sg_persist --read-keys $sg; sg_persist --read-reservation $sg")?;
    ensure!(kept.matches("0x1234").count() == 2 && kept.contains("Write Exclusive"), "{kept}");
    let log = guest.kernel_log();
    let failure = log.lines().find(|line| FAILURES.iter().any(|failure| line.contains(failure)));
    ensure!(failure.is_none(), "{failure:?}");
    guest.power_off()?;
    tools::wait_until("nothing to be kept", || Ok(manager.stored().is_empty()))?;
    daemon.stop()?;
    Ok(())
}

/// What the manager gives back is damaged, or of a version that nobody knows: the daemon starts as after any other end. (On a port of
/// its own: the shell that guards it has all that it has inherited, also sockets that listen.)
#[test]
fn what_is_of_no_use_refuses_no_start() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:8M").iscsi();
    let manager = Manager::new(&lunette)?.storing();
    let mut daemon = manager.manage(&lunette).start()?;
    for useless in ["/dev/null", "/proc/self/exe", "/dev/zero"] {
        let write = ["-f", "raw", "-c", "write -P 7 1M 64k", &daemon.iscsi_url(0)?];
        tools::output("qemu-io", write)?.ok()?;
        daemon.stop()?;
        ensure!(manager.stored().contains(&"state".to_owned()), "{:?}", manager.stored());
        for name in ["state", "g7"] {
            manager.replace(name, File::open(useless)?)?;
        }
        daemon = manager.manage(&lunette).start()?;
        daemon.wait_for_log("`state` is of no use")?;
        daemon.wait_for_log("`g7` is of no use")?;
        let read = ["-f", "raw", "-c", "read -P 0 1M 64k", &daemon.iscsi_url(0)?];
        tools::output("qemu-io", read)?.ok()?;
        ensure!(manager.stored().is_empty(), "{:?}", manager.stored());
    }
    daemon.stop()?;
    Ok(())
}

/// Before anything happens.
#[test]
fn an_upgrade_that_would_lose_something_is_refused() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:8M").iscsi();
    let daemon = lunette.start()?;
    lunette.tell(["lu", "create", "disk:ram:1M,name=b"])?;
    let said = lunette.ask(["upgrade"])?.fails()?;
    ensure!(said.stderr.contains("not saved") && said.stderr.contains("`--discard`"), "{said}");
    lunette.tell(["lu", "delete", "b", "--detach"])?;
    let write = ["-f", "raw", "-c", "write -P 7 1M 64k", &daemon.iscsi_url(0)?];
    tools::output("qemu-io", write)?.ok()?;
    let url = daemon.iscsi_url(0)?;
    let daemon = lunette.upgrade(daemon)?;
    ensure!(daemon.iscsi_url(0)? == url, "it listens elsewhere");
    tools::output("qemu-io", ["-f", "raw", "-c", "read -P 7 1M 64k", &url])?.ok()?;
    daemon.stop()?;

    let manager = Manager::new(&lunette)?;
    let daemon = manager.manage(&lunette).start()?;
    let said = lunette.ask(["upgrade"])?.fails()?;
    ensure!(said.stderr.contains("systemctl restart"), "{said}");
    daemon.stop()?;
    Ok(())
}

/// A command that does not end in time keeps its session from coming to rest, and that alone. Its initiator logs in again and sends
/// it once more.
#[test]
fn who_does_not_come_to_rest_holds_up_no_other() -> Result<()> {
    let lunette = Lunette::new()?;
    let (file, slow) = (lunette.file("disk.img", 64 << 20)?, lunette.file("slow.img", 8 << 20)?);
    let slow = format!("disk:{},w,name=slow,fault=delay:9000", slow.display());
    let lunette = lunette.lu(format!("disk:{},w", file.display())).lu(slow).iscsi();
    let mut daemon = lunette.start()?;
    let mut load = daemon.load(&file)?;
    let mut write = tools::command("qemu-io")?;
    write.args(["-t", "unsafe", "-f", "raw", "-c", "write -P 7 1M 64k", &daemon.iscsi_url(1)?]);
    let mut write = Guarded::spawn(&write)?;
    tools::wait_until("the slow write to begin", || {
        daemon.alive()?;
        let said = lunette.tell(["top", "--once", "--json", "--unit", "slow"])?;
        Ok(said.contains("\"under_way\":1") || said.contains("\"under_way\": 1"))
    })?;
    let daemon = lunette.upgrade(daemon)?;
    daemon.wait_for_log("going on with 1 of 1 iSCSI sessions")?;
    let written = tools::wait(write.child(), Instant::now() + tools::LIMIT)?;
    ensure!(written.is_some_and(|status| status.success()), "the write has failed: {written:?}");
    ensure!(load.child().try_wait()?.is_none(), "the other initiator has failed");
    daemon.stop()?;
    Ok(())
}
