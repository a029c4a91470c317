//! Virtual machine monitors come, are killed and come again: those that connect to the daemon, and those to which it connects.

use anyhow::{Context, Result, ensure};
use lunette_e2e::checks;
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::guest::Guest;
use lunette_e2e::held::Held;
use lunette_e2e::manager::Manager;
use lunette_e2e::qemu::Qemu;
use lunette_e2e::tools;
use lunette_e2e::uml::Uml;
use std::path::Path;
use std::time::Duration;

const WRITE: &str = "echo from the first | dd of=$(disk 0) bs=512 conv=sync oflag=direct";
const READ: &str = "dd if=$(disk 0) bs=512 count=1 iflag=direct status=none | tr -d '\\0'";

/// Waits until `lunette export show` says all of these words.
fn wait_for_state(lunette: &Lunette<'_>, words: &[&str]) -> Result<()> {
    let name = lunette.path("vm.sock").display().to_string();
    tools::wait_until("the state of the export", || {
        let said = lunette.tell(["export", "show", &name])?;
        Ok(words.iter().all(|word| said.contains(word)))
    })
}

/// A daemon that connects, and the monitor where it does.
fn calling() -> Result<(Lunette<'static>, Qemu)> {
    checks::need_tools()?;
    let plain = Lunette::new()?;
    let (file, socket) = (plain.file("disk.img", 64 << 20)?, plain.path("vm.sock"));
    let lunette = plain
        .lu(format!("disk:{},w,direct=on,fault=delay:3", file.display()))
        .arg("--vhost-user")
        .arg(format!("{},client=on", socket.display()));
    Ok((lunette, Qemu::new().vhost_user_scsi_server(&socket, ",virtqueue_size=256")))
}

/// Boots a guest whose monitor waits for the daemon.
fn monitor_first(
    qemu: &Qemu,
    socket: &Path,
    start: impl FnOnce() -> Result<Daemon>,
) -> Result<(Guest, Daemon)> {
    std::thread::scope(|scope| {
        let booting = scope.spawn(|| qemu.boot());
        tools::wait_until("the monitor's socket", || Ok(socket.exists()))?;
        let daemon = start()?;
        let guest = booting.join().ok().context("the boot panicked")??;
        Ok((guest, daemon))
    })
}

/// Which of both is there first is all the same, and neither notices the other's end for long.
#[test]
fn who_starts_first_does_not_matter() -> Result<()> {
    let (lunette, qemu) = calling()?;
    let (mut guest, mut daemon) = monitor_first(&qemu, &lunette.path("vm.sock"), || lunette.start())?;
    guest.check(WRITE)?;
    wait_for_state(&lunette, &["state", "connected"])?;

    // The daemon, which tries again and again, at a socket that nobody serves any more.
    drop(guest);
    wait_for_state(&lunette, &["connecting", "nobody listens"])?;
    let mut guest = qemu.boot()?;
    ensure!(guest.check(READ)? == "from the first\n");
    guest.power_off()?;
    daemon.alive()?;

    // A daemon that was killed finds the next monitor, too.
    daemon.kill()?;
    let daemon = lunette.start()?;
    wait_for_state(&lunette, &["connecting"])?;
    let mut guest = qemu.boot()?;
    ensure!(guest.check(READ)? == "from the first\n");
    let log = daemon.log();
    ensure!(log.matches("cannot connect").count() <= 2, "the log is full of attempts:\n{log}");
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// The monitor's socket is not asked for another connection, as it would not give one. That is for the next monitor.
#[test]
fn a_connection_goes_on_with_the_program_that_takes_the_daemons_place() -> Result<()> {
    let (lunette, qemu) = calling()?;
    let mut daemon = lunette.start()?;
    let mut guest = Held::by(qemu.boot()?)?;
    for _ in 0..2 {
        daemon = lunette.upgrade(daemon)?;
        guest.goes_on()?;
        wait_for_state(&lunette, &["state", "connected"])?;
        ensure!(!daemon.log().contains("cannot connect"), "{}", daemon.log());
    }
    guest.end()?;
    wait_for_state(&lunette, &["connecting"])?;
    // Who has just taken over still tries.
    daemon = lunette.upgrade(daemon)?;
    qemu.boot()?.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// A service manager has it meanwhile.
#[test]
fn a_connection_goes_on_after_kills() -> Result<()> {
    let (lunette, qemu) = calling()?;
    let manager = Manager::new(&lunette)?.storing();
    let (guest, mut daemon) =
        monitor_first(&qemu, &lunette.path("vm.sock"), || manager.manage(&lunette).start())?;
    let mut guest = Held::by(guest)?;
    for kill in 0..if tools::full() { 20 } else { 4 } {
        std::thread::sleep(Duration::from_millis(137 * (kill + 3) % 1000));
        daemon.kill()?;
        daemon = manager.manage(&lunette).start()?;
        guest.goes_on()?;
        ensure!(!daemon.log().contains("cannot connect"), "{}", daemon.log());
    }
    daemon = manager.restart(daemon, &lunette)?;
    guest.goes_on()?;
    guest.end()?;
    // The next monitor, of which the manager knows nothing.
    wait_for_state(&lunette, &["connecting"])?;
    tools::wait_until("nothing to be kept", || Ok(manager.stored().is_empty()))?;
    daemon.kill()?;
    let daemon = manager.manage(&lunette).start()?;
    qemu.boot()?.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// Keys are changed while nobody listens, and the export goes while it tries.
#[test]
fn a_client_is_made_changed_and_taken_away_while_it_tries() -> Result<()> {
    // There is no export at the start, and no device may be opened.
    let lunette = Lunette::new()?.lu("disk:ram:1M").iscsi().allow_only([std::env::temp_dir()]);
    let daemon = lunette.start()?;
    // Where it may make sockets, too.
    let path = |name: &str| lunette.path("state").join(name).display().to_string();
    lunette.tell(["export", "create", "vm", "--socket", &path("a.sock"), "--client"])?;
    tools::wait_until("a failure", || {
        Ok(lunette.tell(["export", "show", "vm"])?.contains("a.sock: No such file"))
    })?;
    let listed = lunette.tell(["export", "list"])?;
    ensure!(listed.contains("connecting"), "{listed}");
    lunette.tell(["export", "change", "vm", "--recreate", "--socket", &path("b.sock")])?;
    let listener = std::os::unix::net::UnixListener::bind(path("b.sock"))?;
    let (_monitor, _) = listener.accept()?;
    tools::wait_until("a connection", || Ok(lunette.tell(["export", "list"])?.contains("waiting")))?;
    // From now on the socket is the daemon's.
    lunette.ask(["export", "change", "vm", "--client=off"])?.fails()?;
    drop(listener);
    lunette.tell(["export", "change", "vm", "--recreate", "--client=off"])?;
    tools::wait_until("a socket", || Ok(lunette.tell(["export", "list"])?.contains("listening")))?;
    std::os::unix::net::UnixStream::connect(path("b.sock"))?;
    lunette.tell(["export", "change", "vm", "--recreate", "--client", "--socket", &path("c.sock")])?;
    lunette.tell(["export", "delete", "vm"])?;
    daemon.stop()?;
    Ok(())
}

/// The socket is the daemon's: whoever was killed makes room for the next at once.
#[test]
fn a_monitor_that_was_killed_makes_room_for_the_next() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w", file.display())).vhost_user("vm.sock");
    let daemon = lunette.start()?;
    let boot = || Uml::new().vhost_user_scsi(lunette.path("vm.sock")).boot();
    let mut guest = boot()?;
    guest.check(WRITE)?;
    for _ in 0..2 {
        // In the middle of its work.
        guest.check("(while :; do dd if=$(disk 0) of=/dev/null bs=4k iflag=direct; done) >&- 2>&- <&- &")?;
        drop(guest);
        guest = boot()?;
        ensure!(guest.check(READ)? == "from the first\n");
    }
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}
