//! A Debian kernel under QEMU over vhost-user-scsi: virtio-pci, SeaBIOS, two request queues.

use anyhow::Result;
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::guest::Guest;
use lunette_e2e::qemu::Qemu;

/// Boots twice against one daemon. SeaBIOS uses the disk before Linux does, so each boot stops and
/// starts the device once more.
#[test]
fn a_debian_kernel_boots_twice_against_one_daemon() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 128 << 20)?;
    let lunette = lunette
        .lu(format!("disk:{},w", file.display()))
        .lu("disk:ram:16M,r")
        .arg("--reactors")
        .arg("2")
        .vhost_user("vm.sock");
    let mut daemon = lunette.start()?;
    let qemu = Qemu::new().vhost_user_scsi(lunette.path("vm.sock"), ",bootindex=1,virtqueue_size=256");

    let mut guest = qemu.boot()?;
    checks::disk(&mut guest, 0)?;
    checks::read_only_disk(&mut guest, 1)?;
    load_both_queues(&mut guest)?;
    guest.check("echo from the first | dd of=$(disk 0) bs=512 conv=sync oflag=direct")?;
    guest.power_off()?;
    daemon.alive()?;

    let mut guest = qemu.boot()?;
    let read = "dd if=$(disk 0) bs=512 count=1 iflag=direct status=none | tr -d '\\0'";
    assert_eq!(guest.check(read)?, "from the first\n");
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// QEMU hands `packed=on` to the guest and the rings to the back end as they are.
#[test]
fn a_debian_kernel_uses_packed_rings() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 128 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w", file.display())).vhost_user("vm.sock");
    let daemon = lunette.start()?;
    let qemu =
        Qemu::new().vhost_user_scsi(lunette.path("vm.sock"), ",bootindex=1,virtqueue_size=256,packed=on");
    let mut guest = qemu.boot()?;
    // VIRTIO_F_RING_PACKED is bit 34 of the features that the driver has taken.
    assert_eq!(guest.check("cut -c35 /sys/bus/virtio/devices/*/features | grep -c 1")?, "1\n");
    checks::disk(&mut guest, 0)?;
    load_both_queues(&mut guest)?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// Two queues of 256 descriptors serve two processors, through resets.
fn load_both_queues(guest: &mut Guest) -> Result<()> {
    assert_eq!(guest.check("ls /sys/block/$(basename $(disk 0))/mq | wc -l")?, "2\n");
    assert_eq!(guest.check("cat /sys/class/scsi_host/host0/can_queue")?, "256\n");
    let before = interrupts(guest)?;
    checks::resets_under_load(guest, 0)?;
    let after = interrupts(guest)?;
    assert_eq!((before.len(), after.len()), (2, 2));
    let both = before.iter().zip(&after).all(|(before, after)| after > before);
    assert!(both, "a queue was idle: {before:?} before, {after:?} after");
    Ok(())
}

/// How often each request queue has interrupted each of the two processors, all in all.
fn interrupts(guest: &mut Guest) -> Result<Vec<u64>> {
    let lines = guest.check("awk '/virtio.*-request$/ { print $2 + $3 }' /proc/interrupts")?;
    Ok(lines.lines().map(str::parse).collect::<Result<_, _>>()?)
}
