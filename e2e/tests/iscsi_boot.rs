//! A PC that has no disk but one over iSCSI: QEMU's block layer (libiscsi) is the initiator, and firmware, boot loader and
//! kernel know nothing of it.

use anyhow::{Context, Result};
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::qemu::{Qemu, disk};
use lunette_e2e::tools;

#[test]
fn a_machine_boots_from_iscsi() -> Result<()> {
    checks::need_tools()?;
    tools::need(["qemu-img"])?;
    let mut daemon = Lunette::new()?.lu(format!("disk:ram:{}M,w", disk::SIZE >> 20)).iscsi().start()?;
    let url = daemon.iscsi_url(0)?;
    let qemu = Qemu::new().modules(["virtio_blk", "vfat", "nls_cp437", "nls_ascii"]);
    let mut guest = qemu.boot_from_disk(|image, qemu| {
        let image = image.to_str().context("a path is not UTF-8")?;
        tools::output("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", image, &url])?.ok()?;
        let drive = format!("file={url},format=raw,if=virtio,cache=none");
        Ok(qemu.arg("-drive").arg(&drive).arg("-boot").arg("c"))
    })?;
    // syslinux says what it has started.
    guest.check("grep 'BOOT_IMAGE=linux' /proc/cmdline")?;
    let image = guest.shared().join("disk.img").display().to_string();
    guest.check(&format!("cmp -n {} {image} /dev/vda", disk::SIZE))?;
    guest.check(
        "mkdir /run/boot
         mount -o ro /dev/vda1 /run/boot
         ls -l /run/boot
         umount /run/boot
         fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite \
             --bsrange=4k-64k --offset=48M --size=8M --verify=crc32c --verify_fatal=1 --verify_state_save=0",
    )?;
    guest.power_off()?;
    daemon.alive()?;
    daemon.stop()?;
    Ok(())
}
