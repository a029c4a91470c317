//! The daemon is restarted as it was planned, again and again, under guests that write all the time: they see pauses.

use anyhow::{Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::guest::Guest;
use lunette_e2e::held::Held;
use lunette_e2e::loaded::Loaded;
use lunette_e2e::manager::Manager;
use lunette_e2e::netns::Netns;
use lunette_e2e::open_iscsi::{PORTAL, network};
use lunette_e2e::qemu::Qemu;
use lunette_e2e::tools::{self, Guarded};
use lunette_e2e::uml::Uml;
use rustix::process::{Signal, kill_process};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

fn restarted(netns: &Netns) -> Result<Lunette<'_>> {
    let lunette = Lunette::new()?.inside(netns);
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w,fault=delay:2", file.display())).lu("disk:ram:64M,w");
    Ok(lunette.vhost_user("vm.sock").arg("--iscsi").arg(PORTAL))
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
    let mut load = Loaded::new(&lunette.path("vm.sock"), &netns)?;
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
    let mut load = Loaded::new(&lunette.path("vm.sock"), &netns)?;
    let daemon = restart(daemon, &mut load, |daemon| manager.restart(daemon, &lunette))?;
    load.end()?;
    tools::wait_until("nothing to be kept", || Ok(manager.stored().is_empty()))?;
    daemon.stop()?;
    Ok(())
}

/// No relay stands between: the manager has kept what the guest's monitor has said, and what the daemon has noted.
fn kill_under_a_service_manager(boot: impl FnOnce(&Path) -> Result<Guest>) -> Result<()> {
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette =
        lunette.lu(format!("disk:{},w,direct=on,fault=delay:5", file.display())).vhost_user("vm.sock");
    let manager = Manager::new(&lunette)?.storing();
    let mut daemon = manager.manage(&lunette).start()?;
    let mut guest = Held::by(boot(&lunette.path("vm.sock"))?)?;
    let (wanted, mut kills, mut again) = (if tools::full() { 50 } else { 5 }, 0, 0);
    // One that finds nothing in flight tries nothing.
    while kills < wanted || again == 0 {
        ensure!(kills < 20 * wanted, "{kills} kills, and nothing was in flight at any of them");
        kills += 1;
        // Whenever it happens to be.
        std::thread::sleep(Duration::from_millis(137 * (kills + 2) % 1000));
        daemon.kill()?;
        daemon = manager.manage(&lunette).start()?;
        guest.goes_on()?;
        again += daemon.log().matches("going on with what was in flight").count();
    }
    println!("{again} rings of {kills} daemons had something in flight");
    guest.end()?;
    tools::wait_until("nothing to be kept", || Ok(manager.stored().is_empty()))?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_guest_lives_through_kills_under_a_service_manager() -> Result<()> {
    kill_under_a_service_manager(|socket| Uml::new().memory_mib(512).vhost_user_scsi(socket).boot())
}

/// Its monitor could not connect again.
#[test]
fn a_debian_kernel_lives_through_kills_under_a_service_manager() -> Result<()> {
    kill_under_a_service_manager(|socket| Qemu::new().vhost_user_scsi(socket, ",virtqueue_size=256").boot())
}

/// Two processors with a packed ring each, in a monitor that could not connect again.
#[test]
fn a_debian_kernel_lives_through_upgrades() -> Result<()> {
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w,fault=delay:2", file.display())).vhost_user("vm.sock");
    let mut daemon = lunette.start()?;
    let qemu = Qemu::new().vhost_user_scsi(lunette.path("vm.sock"), ",virtqueue_size=256,packed=on");
    let mut guest = Held::by(qemu.boot()?)?;
    for _ in 0..count() {
        daemon = lunette.upgrade(daemon)?;
        guest.goes_on()?;
    }
    guest.end()?;
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

/// Writes to a LUN, and waits until the store has that.
fn begin_to_write(lunette: &Lunette<'_>, daemon: &mut Daemon, lun: u32, unit: &str) -> Result<Guarded> {
    let mut write = tools::command("qemu-io")?;
    write.args(["-t", "unsafe", "-f", "raw", "-c", "write -P 7 1M 64k", &daemon.iscsi_url(lun)?]);
    let write = Guarded::spawn(&write)?;
    tools::wait_until("the write to begin", || {
        daemon.alive()?;
        let said = lunette.tell(["top", "--once", "--json", "--unit", unit])?;
        Ok(said.contains("\"under_way\":1") || said.contains("\"under_way\": 1"))
    })?;
    Ok(write)
}

/// A store that does not answer would keep the process, and with it all locks, from ending: nothing changes then.
#[test]
fn an_upgrade_while_a_store_does_not_answer_is_refused() -> Result<()> {
    for (unit, patience) in [("early", ",stuck-after=1"), ("late", "")] {
        let lunette = Lunette::new()?;
        let file = lunette.file("stuck.img", 8 << 20)?;
        let stuck = format!("disk:{},w,name={unit},fault=delay:600000{patience}", file.display());
        let lunette = lunette.lu("disk:ram:8M").lu(stuck).iscsi();
        let mut daemon = lunette.start()?;
        let _write = begin_to_write(&lunette, &mut daemon, 1, unit)?;
        match patience {
            // Nobody knows that it does not answer before it has had the time to.
            "" => std::thread::sleep(Duration::from_secs(11)),
            _ => tools::wait_until("the unit to be stuck", || {
                Ok(lunette.tell(["lu", "list", "--json"])?.contains("TIME-OUT"))
            })?,
        }
        let said = lunette.ask(["upgrade"])?.fails()?;
        ensure!(said.stderr.contains(&format!("no answer from the store of {unit}:")), "{said}");
        let read = ["-f", "raw", "-c", "read -P 0 1M 64k", &daemon.iscsi_url(0)?];
        tools::output("qemu-io", read)?.ok()?;
        daemon.kill()?;
    }
    Ok(())
}

/// A command that does not end in time keeps its session from coming to rest, and that alone. Its initiator logs in again and sends
/// it once more.
/// Meanwhile people lose patience with the program that takes over, and remove its file.
#[test]
fn who_does_not_come_to_rest_holds_up_no_other() -> Result<()> {
    let lunette = Lunette::new()?;
    let (file, slow) = (lunette.file("disk.img", 64 << 20)?, lunette.file("slow.img", 8 << 20)?);
    let slow = format!("disk:{},w,name=slow,fault=delay:9000", slow.display());
    let lunette = lunette.lu(format!("disk:{},w", file.display())).lu(slow).iscsi();
    let mut daemon = lunette.start()?;
    let mut load = daemon.load(&file)?;
    let mut write = begin_to_write(&lunette, &mut daemon, 1, "slow")?;
    let daemon = lunette.upgrade_while(daemon, |program, pid| {
        for signal in [Signal::HUP, Signal::INT, Signal::TERM, Signal::QUIT, Signal::TSTP] {
            kill_process(pid, signal)?;
        }
        Ok(std::fs::remove_file(program)?)
    })?;
    daemon.wait_for_log("going on with 1 of 1 iSCSI sessions")?;
    let written = tools::wait(write.child(), Instant::now() + tools::LIMIT)?;
    ensure!(written.is_some_and(|status| status.success()), "the write has failed: {written:?}");
    ensure!(load.child().try_wait()?.is_none(), "the other initiator has failed");
    daemon.stop()?;
    Ok(())
}
