//! What a killed daemon has given to a block device that is slow, or wants of it, comes before anything that the next daemon does.

use std::path::Path;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::{frozen, tools};
use lunette_guest::{Command, GuestMemory, InFlight, Monitor, Options, ScsiDriver};

const MIB: usize = 1 << 20;
const QUEUES: u16 = 3;
/// READ(10) of eight blocks at the first one.
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0];
/// WRITE(10) of eight blocks at the first one.
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const LENGTH: usize = 4096;

/// The next one is there already, and has the disk as soon as nothing of the first is under way.
#[test]
fn nothing_of_a_killed_daemon_comes_late_to_who_takes_its_disk() -> Result<()> {
    let Some(device) = frozen::Device::new()? else { return Ok(()) };
    let lunette = Lunette::new()?;
    let both = lunette.clone().lu(format!("disk:{},w,direct=on,name=disk,migratable=on", device.name()));
    let start = |name: &str| {
        let socket = format!("{},name=vm", lunette.path(name).display());
        let control = lunette.path(&format!("{name}.control"));
        both.clone().arg("--vhost-user").arg(socket).arg("--control").arg(control).start()
    };
    let (first, second) = (start("one")?, start("other")?);
    let options = Options::default();
    let mut driver = ScsiDriver::connect(&lunette.path("one"), &options)?;
    driver.execute(0, &Command::new(&[0; 6]), &[], 0)?;

    device.freeze(true)?;
    driver.send(0, &Command::new(&WRITE), &[0x0b; LENGTH], 0)?;
    tools::wait_until("the write to reach the device", || Ok(device.writes()? > 0))?;
    first.kill()?;
    let mut driver = ScsiDriver::connect(&lunette.path("other"), &options)?;
    let slot = driver.send(0, &Command::new(&WRITE), &[0x0c; LENGTH], 0)?;
    let waited = second.wait_for_log("rings do not start yet: disk: ");
    let not_begun = driver.poll(0)?.is_none() && device.writes()? == 1;
    device.freeze(false)?;
    waited?;
    ensure!(not_begun, "it did not wait");
    // The unit attention of a power cycle.
    ensure!(driver.wait_for(0, slot)?.status == 2);
    ensure!(fs::read(device.file())?[..LENGTH] == [0x0b; LENGTH]);
    ensure!(driver.execute(0, &Command::new(&WRITE), &[0x0c; LENGTH], 0)?.status == 0);
    drop(driver);
    second.stop()?;
    ensure!(fs::read(device.file())?[..LENGTH] == [0x0c; LENGTH]);
    Ok(())
}

/// A driver that has begun, and whose monitor keeps the notes.
fn with_notes(socket: &Path, options: &Options) -> Result<(ScsiDriver, InFlight)> {
    let mut monitor = Monitor::connect(socket, GuestMemory::with_size(16 * MIB)?, &options.wanted)?;
    let notes = monitor.session.begin_notes(QUEUES, options.queue_size)?.context("memory for notes")?;
    let mut driver = ScsiDriver::new(monitor, options)?;
    driver.start()?;
    driver.execute(0, &Command::new(&[0; 6]), &[], 0)?;
    Ok((driver, notes))
}

/// Starts a daemon, which does not serve before the device goes on.
fn start_that_waits(next: &Lunette<'_>, log: &Path, device: &frozen::Device) -> Result<Daemon> {
    thread::scope(|scope| {
        let next = scope.spawn(|| next.start());
        let waits =
            || Ok(fs::read_to_string(log).unwrap_or_default().contains("waiting for it to be let go"));
        let waited = tools::wait_until("the next daemon to wait", waits);
        let not_begun = !next.is_finished();
        device.freeze(false)?;
        waited?;
        ensure!(not_begun, "it did not wait");
        next.join().ok().context("it panicked")?
    })
}

/// What is read lands in the guest's memory, which may be something else by then. Who only reads shares the disk with others.
#[test]
fn nothing_that_a_killed_daemon_reads_comes_late() -> Result<()> {
    let Some(device) = frozen::Device::new()? else { return Ok(()) };
    let lunette = Lunette::new()?;
    let (socket, log) = (lunette.path("vm.sock"), lunette.path("next.log"));
    let lunette = lunette.lu(format!("disk:{},r,direct=on", device.name())).vhost_user("vm.sock");
    let daemon = lunette.start()?;
    let options = Options::default();
    let (mut driver, notes) = with_notes(&socket, &options)?;

    let write = device.hold_up()?;
    let slot = driver.send(0, &Command::new(&READ), &[], LENGTH)?;
    tools::wait_until("the read to reach the device", || Ok(device.reads()? > 0))?;
    daemon.kill()?;
    ensure!(device.reads()? == 1, "the read is still under way");
    let daemon = start_that_waits(&lunette.logging_to(&log), &log, &device)?;
    // The old read has landed, before the new daemon does anything.
    ensure!(device.reads()? == 0);
    write.join().ok().context("it panicked")??;

    driver.monitor.reconnect(&socket, &options.wanted, Some(&notes))?;
    (0..QUEUES).try_for_each(|queue| driver.monitor.start(queue))?;
    // The unit attention of the restart.
    ensure!(driver.wait_for(0, slot)?.status == 2);
    ensure!(driver.execute(0, &Command::new(&READ), &[], LENGTH)?.status == 0);
    drop(driver);
    daemon.stop()?;
    Ok(())
}

#[test]
fn nothing_of_a_killed_daemon_comes_late() -> Result<()> {
    let Some(device) = frozen::Device::new()? else { return Ok(()) };
    let lunette = Lunette::new()?;
    let (socket, log) = (lunette.path("vm.sock"), lunette.path("next.log"));
    let lunette = lunette.lu(format!("disk:{},w,direct=on", device.name())).vhost_user("vm.sock");
    let daemon = lunette.start()?;
    let options = Options::default();
    let (mut driver, notes) = with_notes(&socket, &options)?;

    device.freeze(true)?;
    let slot = driver.send(0, &Command::new(&WRITE), &[0x0b; LENGTH], 0)?;
    tools::wait_until("the write to reach the device", || Ok(device.writes()? > 0))?;
    daemon.kill()?;
    ensure!(device.writes()? == 1, "the write is still under way");

    let next = lunette.logging_to(&log);
    let daemon = start_that_waits(&next, &log, &device)?;
    // The old write has landed, before the new daemon does anything.
    ensure!(device.writes()? == 0);
    ensure!(fs::read(device.file())?[..LENGTH] == [0x0b; LENGTH]);

    driver.monitor.reconnect(&socket, &options.wanted, Some(&notes))?;
    (0..QUEUES).try_for_each(|queue| driver.monitor.start(queue))?;
    // The unit attention of the restart; the driver sends it again.
    ensure!(driver.wait_for(0, slot)?.status == 2);
    ensure!(driver.execute(0, &Command::new(&WRITE), &[0x0b; LENGTH], 0)?.status == 0);
    ensure!(driver.execute(0, &Command::new(&WRITE), &[0x0c; LENGTH], 0)?.status == 0);
    drop(driver);
    daemon.stop()?;
    ensure!(fs::read(device.file())?[..LENGTH] == [0x0c; LENGTH]);
    Ok(())
}
