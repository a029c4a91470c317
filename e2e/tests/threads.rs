//! A daemon that gets no more threads.

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::tools;
use lunette_guest::{Command, Options, ScsiDriver};

const SYNCHRONIZE_CACHE: [u8; 10] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const GET_LBA_STATUS: [u8; 16] = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0];

/// Leaves the daemon `room` bytes of address space, or as much as it wants.
fn limit(daemon: &mut Daemon, room: Option<u64>) -> Result<()> {
    let pid = daemon.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).context("VmSize")?;
    let size: u64 = size.trim().trim_end_matches(" kB").parse()?;
    let limit = room.map_or("unlimited".into(), |room| (size * 1024 + room).to_string());
    tools::output("prlimit", [format!("--pid={pid}"), format!("--as={limit}:unlimited")])?.ok()?;
    Ok(())
}

/// A daemon with a disk, and a driver.
fn rig() -> Result<(Daemon, ScsiDriver)> {
    tools::need(["prlimit"])?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 1 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w", file.display())).vhost_user("vm.sock");
    let daemon = lunette.start()?;
    let mut driver = ScsiDriver::connect(&lunette.path("vm.sock"), &Options::default())?;
    while driver.execute(0, &Command::new(&[0; 6]), &[], 0)?.status != 0 {}
    Ok((daemon, driver))
}

/// A flush that was never tried is no failed flush: the medium is not at fault. It waits as if the store had no room.
#[test]
fn a_flush_that_finds_no_thread_waits_for_room() -> Result<()> {
    let (mut daemon, mut driver) = rig()?;
    // Enough for everything but the stack of a thread.
    limit(&mut daemon, Some(1 << 20))?;
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| driver.execute(0, &Command::new(&SYNCHRONIZE_CACHE), &[], 0));
        daemon.wait_for_log("cannot start threads")?;
        limit(&mut daemon, None)?;
        let flushed = asked.join().ok().context("the driver panicked")??;
        ensure!((flushed.response, flushed.status) == (0, 0), "{flushed:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    drop(driver);
    daemon.stop()?;
    Ok(())
}

/// A call that blocks is kept, for what it owns must not be dropped where it may block.
#[test]
fn a_call_that_finds_no_thread_waits_for_one() -> Result<()> {
    let (mut daemon, mut driver) = rig()?;
    limit(&mut daemon, Some(1 << 20))?;
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| driver.execute(0, &Command::new(&GET_LBA_STATUS), &[], 24));
        daemon.wait_for_log("cannot start threads")?;
        limit(&mut daemon, None)?;
        let answer = asked.join().ok().context("the driver panicked")??;
        ensure!((answer.response, answer.status) == (0, 0), "{answer:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    drop(driver);
    daemon.stop()?;
    Ok(())
}
