//! An unmodified Linux over vhost-user-scsi: User-Mode Linux as the front end.

use anyhow::Result;
use lunette_e2e::checks;
use lunette_e2e::daemon::{Lunette, allocated};
use lunette_e2e::uml::Uml;

/// Files, both block sizes, memory and a read-only unit in one boot.
#[test]
fn disks_of_every_kind_serve_a_kernel() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 256 << 20)?;
    let direct = lunette.path("direct.img");
    let archive = lunette.file("archive.img", 16 << 20)?;
    let lunette = lunette
        .lu(format!("disk:{},w", file.display()))
        .lu(format!("disk:{},w,size=128M,block=4096,direct=on", direct.display()))
        .lu("disk:ram:128M,w,serial=TUESDAY7,wwn=5000c500a1b2c3d4")
        .lu(format!("disk:{},r", archive.display()))
        .vhost_user("vm.sock");
    let mut daemon = lunette.start()?;
    let mut guest = Uml::new().memory_mib(512).vhost_user_scsi(lunette.path("vm.sock")).boot()?;
    for lun in 0..3 {
        checks::disk(&mut guest, lun)?;
    }
    checks::copies(&mut guest, 0, 2)?;
    checks::read_only_disk(&mut guest, 3)?;
    // The only request queue is packed (bit 34), which UML takes wherever it is offered.
    assert_eq!(guest.check("cut -c35 /sys/class/scsi_host/host0/device/../features")?, "1\n");
    assert_eq!(guest.check("ls /sys/block/$(basename $(disk 0))/mq")?, "0\n");
    checks::resets_under_load(&mut guest, 0)?;
    guest.check("test $(blockdev --getss $(disk 1)) = 4096")?;
    guest.check("sg_vpd --page=0x80 $(disk 2) | grep TUESDAY7")?;
    guest.check("sg_vpd --page=0x83 $(disk 2) | grep 0x5000c500a1b2c3d4")?;

    // What the guest discards, the host gets back.
    guest.check("dd if=/dev/urandom of=$(disk 0) bs=1M count=64 oflag=direct")?;
    let full = allocated(&file)?;
    guest.check("blkdiscard $(disk 0)")?;
    assert!(full >= 64 << 20, "{full} bytes were allocated");
    assert!(allocated(&file)? < 16 << 20, "discard frees no space");

    guest.power_off()?;
    daemon.alive()?;
    daemon.stop()?;
    Ok(())
}

/// sg3_utils find the pages and commands with which disks are looked after.
#[test]
fn a_kernel_looks_after_its_disk() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?;
    let lunette = lunette.lu("disk:ram:64M,w").vhost_user("vm.sock");
    let daemon = lunette.start()?;
    let mut guest = Uml::new().vhost_user_scsi(lunette.path("vm.sock")).boot()?;
    checks::maintenance(&mut guest, 0)?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// A socket takes the next guest after the last one went, gently or not, and finds its data.
#[test]
fn guests_follow_each_other_on_one_socket() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?.lu("disk:ram:64M,w").vhost_user("vm.sock");
    let daemon = lunette.start()?;
    let uml = Uml::new().vhost_user_scsi(lunette.path("vm.sock"));

    let mut first = uml.boot()?;
    first.check("echo from the first | dd of=$(disk 0) bs=512 conv=sync oflag=direct")?;
    first.power_off()?;

    let mut second = uml.boot()?;
    let read = "dd if=$(disk 0) bs=512 count=1 iflag=direct status=none | tr -d '\\0'";
    assert_eq!(second.check(read)?, "from the first\n");
    second.check("(while :; do dd if=$(disk 0) of=/dev/null iflag=direct; done) 2>/dev/null &")?;
    drop(second);

    let mut third = uml.boot()?;
    assert_eq!(third.check(read)?, "from the first\n");
    third.power_off()?;
    daemon.stop()?;
    Ok(())
}
