//! Formatting and sanitizing, and media that come and go.

use anyhow::{Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::guest::Guest;
use lunette_e2e::uml::Uml;
use lunette_e2e::{checks, tools};
use lunette_guest::{Command, Options, ScsiDriver};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const SIZE: u64 = 8 << 20;

#[test]
fn a_kernel_erases_and_ejects_its_disks() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", SIZE)?;
    let lunette = lunette
        .lu(format!("disk:{},w,pace=off", file.display()))
        .lu("disk:ram:8M,w,removable=on")
        .vhost_user("vm.sock");
    let mut daemon = lunette.start()?;
    let mut guest = Uml::new().vhost_user_scsi(lunette.path("vm.sock")).boot()?;
    guest.check("modprobe sg")?;
    checks::on_lun(&mut guest, 0, include_str!("../scripts/erasing.sh"))?;
    checks::on_lun(&mut guest, 1, include_str!("../scripts/removable.sh"))?;
    guest.power_off()?;
    daemon.alive()?;
    daemon.stop()?;
    Ok(())
}

/// Work on two disks that goes on, if slowly, when the daemon is killed and when it is stopped; and is done when it is no
/// more slow.
#[test]
fn a_daemon_that_has_ended_goes_on_erasing() -> Result<()> {
    checks::need_tools()?;
    tools::need(["iscsi-readcapacity16"])?;
    let home = Lunette::new()?;
    let files = [home.file("sanitized.img", SIZE)?, home.file("formatted.img", SIZE)?];
    let serve = |pace: &str| {
        let lu = |file: &Path| format!("disk:{},w,pace={pace}", file.display());
        home.clone().lu(lu(&files[0])).lu(lu(&files[1])).iscsi()
    };
    // A mebibyte, and then nothing for 16 seconds.
    let slow = serve("64K").vhost_user("vm.sock");
    let daemon = slow.start()?;
    let mut guest = Uml::new().vhost_user_scsi(slow.path("vm.sock")).boot()?;
    guest.check("modprobe sg; printf B >/run/B; printf '\\0\\x8a\\0\\0\\0\\1\\0\\1B' >/run/list")?;
    guest.check("sg_sanitize --overwrite --pattern=/run/B --ipl=1 --quick --early $(generic $(disk 0))")?;
    guest.check("sg_raw --send=9 --infile=/run/list $(generic $(disk 1)) 04 10 00 00 00 00")?;
    for (file, lun, said) in [(&files[0], 0, "sanitize in progress"), (&files[1], 1, "format in progress")] {
        until(|| Ok(byte(file, 0)? == b'B'))?;
        in_progress(&mut guest, lun, said)?;
    }
    daemon.kill()?;
    drop(guest);

    let daemon = slow.start()?;
    for lun in [0, 1] {
        let ready = capacity(&daemon, lun)?;
        ensure!(!ready, "LUN {lun} lets initiators at what is half erased");
    }
    daemon.stop()?;
    for file in &files {
        assert_eq!(byte(file, SIZE - 1)?, 0, "it is not done");
    }

    let daemon = serve("off").start()?;
    for (lun, file) in (0..).zip(&files) {
        until(|| capacity(&daemon, lun))?;
        assert!(fs::read(file)?.iter().all(|byte| *byte == b'B'));
    }
    daemon.stop()?;
    Ok(())
}

/// A kernel would start it, a firmware that is to boot from it does not.
#[test]
fn a_disk_that_one_guest_has_stopped_runs_for_the_next() -> Result<()> {
    const TEST_UNIT_READY: [u8; 6] = [0; 6];
    const STOP: [u8; 6] = [0x1b, 0, 0, 0, 0, 0];
    let lunette = Lunette::new()?.lu("disk:ram:1M,w").vhost_user("vm.sock");
    let daemon = lunette.start()?;
    for _ in 0..2 {
        let mut guest = ScsiDriver::connect(&lunette.path("vm.sock"), &Options::default())?;
        let mut status =
            |cdb: &[u8]| Ok::<_, anyhow::Error>(guest.execute(0, &Command::new(cdb), &[], 0)?.status);
        // What there is to be told of is told once.
        status(&TEST_UNIT_READY)?;
        assert_eq!((status(&TEST_UNIT_READY)?, status(&STOP)?, status(&TEST_UNIT_READY)?), (0, 0, 2));
    }
    daemon.stop()?;
    Ok(())
}

/// The status of sg_requests says once more what it prints.
fn in_progress(guest: &mut Guest, lun: u32, said: &str) -> Result<()> {
    let ask = |option| format!("sg_requests {option} $(generic $(disk {lun})) 2>&1 || true;");
    let sense = guest.check(&[ask(""), ask("--progress")].concat())?;
    ensure!(sense.to_lowercase().contains(said) && sense.contains("% done"), "{sense}");
    Ok(())
}

/// Whether a disk tells its capacity: it is ready.
fn capacity(daemon: &Daemon, lun: u32) -> Result<bool> {
    let answer = tools::output("iscsi-readcapacity16", ["-s", &daemon.iscsi_url(lun)?])?;
    Ok(answer.stdout.trim() == SIZE.to_string())
}

fn byte(file: &Path, at: u64) -> Result<u8> {
    let mut byte = [0];
    fs::File::open(file)?.read_exact_at(&mut byte, at)?;
    Ok(byte[0])
}

fn until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + tools::LIMIT;
    while !done()? {
        ensure!(Instant::now() < deadline, "it never happens");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
