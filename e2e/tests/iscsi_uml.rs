//! An unmodified Linux over iSCSI: open-iscsi in User-Mode Linux, over a tap interface.

use anyhow::Result;
use lunette_e2e::daemon::{Lunette, allocated};
use lunette_e2e::guest::Guest;
use lunette_e2e::netns::Netns;
use lunette_e2e::open_iscsi::{self, PORTAL, network};
use lunette_e2e::{checks, tools};

/// A guest that is logged in.
fn initiator(netns: &Netns) -> Result<Guest> {
    let mut guest = open_iscsi::guest(netns)?;
    guest.check(&format!("iscsi_login {PORTAL}"))?;
    Ok(guest)
}

#[test]
fn disks_serve_a_kernel() -> Result<()> {
    let netns = network()?;
    let lunette = Lunette::new()?.inside(&netns);
    let file = lunette.file("disk.img", 128 << 20)?;
    let other = lunette.file("other.img", 16 << 20)?;
    let daemon = lunette
        .lu(format!("disk:{},w", file.display()))
        .lu("disk:ram:16M,r")
        .lu(format!("disk:{},w", other.display()))
        .arg("--iscsi")
        .arg(PORTAL)
        .start()?;
    let mut guest = initiator(&netns)?;
    checks::disk(&mut guest, 0)?;
    checks::read_only_disk(&mut guest, 1)?;
    checks::copies(&mut guest, 0, 2)?;

    guest.check("iscsiadm -m node --logout")?;
    guest.check(
        "iscsiadm -m node --op update -n node.conn[0].iscsi.HeaderDigest -v CRC32C
         iscsiadm -m node --op update -n node.conn[0].iscsi.DataDigest -v CRC32C
         iscsiadm -m node --op update -n node.session.iscsi.InitialR2T -v Yes
         iscsiadm -m node --op update -n node.session.iscsi.ImmediateData -v No
         iscsiadm -m node --login",
    )?;
    let session = guest.check("iscsiadm -m session -P 2")?;
    assert!(session.contains("DataDigest: CRC32C"), "{session}");
    checks::disk(&mut guest, 0)?;
    guest.check("iscsiadm -m node --logout")?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// The daemon is killed, and later ended gently, under a guest that writes: the guest's sessions
/// come back by themselves and it notices nothing but the time.
#[test]
fn a_guest_outlives_the_daemon() -> Result<()> {
    let netns = network()?;
    let lunette = Lunette::new()?.inside(&netns);
    let file = lunette.file("disk.img", 128 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w", file.display())).arg("--iscsi").arg(PORTAL);
    let mut daemon = lunette.start()?;
    let mut guest = initiator(&netns)?;
    guest.check(
        "disk=$(disk 0)
         fio --name=verify --filename=$disk --direct=1 --ioengine=libaio --iodepth=16 \
             --rw=randwrite --bs=16k --size=96M --verify=crc32c --verify_fatal=1 \
             --verify_state_save=0 --output=/run/fio.log &
         echo $! >/run/fio.pid",
    )?;
    for gently in [false, true] {
        // More than a daemon before this one has seen: its sessions are there.
        let before = allocated(&file)?;
        tools::wait_until("the guest to write", || {
            daemon.alive()?;
            Ok(allocated(&file)? > before + (1 << 20))
        })?;
        if gently {
            let said = daemon.stop()?.stderr;
            assert!(said.contains("iSCSI session ended: logged out"), "as it was asked to:\n{said}");
        } else {
            daemon.kill()?;
        }
        daemon = lunette.start()?;
    }
    guest.check(
        "while kill -0 $(cat /run/fio.pid) 2>/dev/null; do sleep 0.2; done
         cat /run/fio.log
         grep 'err= 0' /run/fio.log
         grep 'Target requests logout' /run/iscsid.log",
    )?;
    guest.check("iscsiadm -m node --logout")?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}
