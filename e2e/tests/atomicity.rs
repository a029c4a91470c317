//! Commands that have their blocks to themselves, and the room of thin disks, as sg3_utils and a kernel see them.

use anyhow::{Result, ensure};
use lunette_e2e::daemon::{Lunette, allocated};
use lunette_e2e::guest::Guest;
use lunette_e2e::uml::Uml;
use lunette_e2e::{checks, tools};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// Exit statuses of sg3_utils.
const DATA_PROTECT: i32 = 7;
const MISCOMPARE: i32 = 14;
/// Where the file of a disk must end: RLIMIT_FSIZE in bytes.
const LIMIT: u64 = 8 << 20;

fn boot(lunette: &Lunette<'_>) -> Result<Guest> {
    let mut guest = Uml::new().vhost_user_scsi(lunette.path("vm.sock")).boot()?;
    guest.check("modprobe sg; ln -s $(generic $(disk 0)) /run/sg")?;
    // Files of so many blocks full of one letter.
    guest
        .check("of() { head -c $(($2 * 512)) /dev/zero | tr '\\0' $1; }; of A 2 > /run/a; of B 2 > /run/b")?;
    guest.check("cat /run/a /run/b > /run/ab; cat /run/b /run/a > /run/ba")?;
    Ok(guest)
}

/// The first letter of a block.
fn letter(guest: &mut Guest, lba: u32) -> Result<String> {
    guest.check(&format!("dd if=$(disk 0) bs=512 skip={lba} count=1 iflag=direct 2>/dev/null | head -c 1"))
}

#[test]
fn sg3_utils_compare_write_and_unmap() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w", file.display())).vhost_user("vm.sock");
    let mut daemon = lunette.start()?;
    let mut guest = boot(&lunette)?;
    guest.check("sg_vpd --page=bl /run/sg | grep 'Maximum compare and write length: 255'")?;

    guest.check("sg_write_x --atomic=0 --16 --lba=8 --num=2 --in=/run/a /run/sg")?;
    let swap = |from: &str| {
        format!("sg_compare_and_write --quiet --in=/run/{from} --lba=8 --num=2 --xferlen=2048 /run/sg")
    };
    guest.check(&swap("ab"))?;
    assert_eq!(letter(&mut guest, 9)?, "B");
    let refused = guest.run(&swap("ab"))?;
    assert_eq!(refused.status, MISCOMPARE, "{refused}");
    guest.check(&swap("ba"))?;
    assert_eq!(letter(&mut guest, 8)?, "A");
    guest.check("sg_write_x --or --16 --lba=8 --num=2 --in=/run/b /run/sg")?;
    assert_eq!(letter(&mut guest, 9)?, "C", "A or B");

    let status =
        |guest: &mut Guest, lba: u32| guest.check(&format!("sg_get_lba_status -bb --lba={lba} /run/sg"));
    assert_eq!(status(&mut guest, 8)?.trim(), "0", "mapped");
    guest.check("sg_unmap --force --lba=8 --num=8 /run/sg")?;
    assert_eq!(status(&mut guest, 8)?.trim(), "1", "deallocated");
    guest.check("sg_write_same --16 --lba=8 --num=64 --in=/run/b --xferlen=512 /run/sg")?;
    assert_eq!(letter(&mut guest, 71)?, "B");
    guest.check("sg_write_same --16 --unmap --ndob --lba=8 --num=64 /run/sg")?;
    assert_eq!(status(&mut guest, 64)?.trim(), "1", "deallocated");
    guest.check("sg_logs --page=0xc /run/sg | grep -i 'available lba mapping'")?;

    guest.power_off()?;
    daemon.alive()?;
    daemon.stop()?;
    Ok(())
}

/// The daemon is killed when half of the blocks are written, and again when all are.
#[test]
fn a_killed_daemon_leaves_all_or_nothing_of_an_atomic_write() -> Result<()> {
    checks::need_tools()?;
    const BLOCK: u64 = 512;
    let home = Lunette::new()?;
    let file = home.path("disk.img");
    fs::write(&file, vec![b'A'; 64 * BLOCK as usize])?;
    let serve =
        |fault: &str| home.clone().lu(format!("disk:{},w{fault}", file.display())).vhost_user("vm.sock");
    let content =
        || -> Result<Vec<u8>> { Ok(fs::read(&file)?.chunks(BLOCK as usize).map(|block| block[0]).collect()) };
    let write = "head -c 8192 /dev/zero | tr '\\0' B > /run/new
        sg_write_x --atomic=0 --16 --lba=8 --num=16 --in=/run/new /run/sg";
    let [old, half, new] =
        [0, 8, 16].map(|written| [vec![b'A'; 8], vec![b'B'; written], vec![b'A'; 56 - written]].concat());

    let torn = serve(&format!(",fault=torn:{}", 16 * BLOCK));
    let daemon = torn.start()?;
    let mut guest = boot(&torn)?;
    guest.check(&format!("{write} > /dev/null 2>&1 &"))?;
    let deadline = Instant::now() + tools::LIMIT;
    while content()? != half {
        ensure!(Instant::now() < deadline, "{:?}", content()?);
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.kill()?;
    drop(guest);

    let whole = serve("");
    let daemon = whole.start()?;
    let mut guest = boot(&whole)?;
    assert_eq!(letter(&mut guest, 8)?, "A");
    assert_eq!(content()?, old);
    guest.check(write)?;
    daemon.kill()?;
    drop(guest);

    let daemon = whole.start()?;
    let mut guest = boot(&whole)?;
    assert_eq!(letter(&mut guest, 23)?, "B");
    assert_eq!(content()?, new);
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// What has no room is refused, the rest goes on, and so does all when there is room again.
#[test]
fn a_thin_disk_runs_out_of_room_and_recovers() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let limited = format!("trap '' XFSZ; exec prlimit --fsize={LIMIT}:unlimited \"$0\" \"$@\"");
    let lunette = lunette.lu(format!("disk:{},w", file.display())).vhost_user("vm.sock").wrapped([
        "sh".to_owned(),
        "-c".to_owned(),
        limited,
    ]);
    let mut daemon = lunette.start()?;
    let mut guest = boot(&lunette)?;
    let beyond = LIMIT / 512;
    let write = format!("sg_write_x --16 --lba={beyond} --num=2 --in=/run/a /run/sg");
    let refused = guest.run(&write)?;
    assert_eq!(refused.status, DATA_PROTECT, "{refused}");
    let refused =
        guest.run(&format!("sg_write_x --atomic=0 --16 --lba={} --num=2 --in=/run/b /run/sg", beyond - 1))?;
    assert_eq!(refused.status, DATA_PROTECT, "{refused}");
    assert_eq!(
        guest.check(&format!(
            "dd if=$(disk 0) bs=512 skip={} count=1 iflag=direct | tr -d '\\0'",
            beyond - 1
        ))?,
        ""
    );
    guest.check(&format!("sg_write_x --16 --lba={} --num=2 --in=/run/a /run/sg", beyond - 2))?;

    let pid = daemon.pid().to_string();
    let lifted = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:unlimited"]).status()?;
    assert!(lifted.success());
    guest.check(&write)?;
    assert_eq!(letter(&mut guest, beyond as u32 + 1)?, "A");
    assert!(allocated(&file)? < 1 << 20);

    guest.power_off()?;
    daemon.alive()?;
    daemon.stop()?;
    Ok(())
}
