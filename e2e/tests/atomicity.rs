//! Commands that have their blocks to themselves, and the room of thin disks, as sg3_utils and a kernel see them.

use anyhow::Result;
use lunette_e2e::checks;
use lunette_e2e::daemon::{Lunette, allocated};
use lunette_e2e::guest::Guest;
use lunette_e2e::uml::Uml;
use std::process::Command;

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
