//! Two kernels on one logical unit.

use anyhow::Result;
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::uml::Uml;

#[test]
fn guests_see_writes_and_resets_of_each_other() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?
        .lu("disk:ram:64M,w")
        .lu("disk:ram:64M,w,fault=delay:50")
        .vhost_user("one.sock")
        .vhost_user("two.sock");
    let daemon = lunette.start()?;
    let boot = |socket| Uml::new().vhost_user_scsi(lunette.path(socket)).boot();
    let mut one = boot("one.sock")?;
    let mut two = boot("two.sock")?;

    let write =
        |text, block| format!("echo {text} | dd of=$(disk 0) bs=512 seek={block} conv=sync oflag=direct");
    let read =
        |block| format!("dd if=$(disk 0) bs=512 skip={block} count=1 iflag=direct status=none | tr -d '\\0'");
    one.check(&write("one", 0))?;
    two.check(&write("two", 1))?;
    assert_eq!(two.check(&read(0))?, "one\n");
    assert_eq!(one.check(&read(1))?, "two\n");

    // Both are ready; a reset by one is a unit attention for the other, once.
    let ready = "sg_raw $(generic $(disk 0)) 00 00 00 00 00 00";
    for guest in [&mut one, &mut two] {
        guest.check(ready)?;
    }
    one.check("sg_reset --device $(disk 0)")?;
    let attention = two.run(ready)?;
    assert_eq!(attention.status, 6, "{attention}");
    let reset = attention.text().to_lowercase();
    assert!(reset.contains("reset") && reset.contains("occurred"), "{attention}");
    two.check(ready)?;

    // Writes that are on their way when the reset comes are repeated by their kernels.
    let delayed = "fio --name=verify --filename=$(disk 1) --direct=1 --ioengine=libaio \
        --iodepth=16 --rw=randwrite --bs=16k --size=4M --verify=crc32c --verify_fatal=1 \
        --verify_state_save=0 --output=/run/fio.log";
    two.check(&format!("{delayed} --offset=8M & echo $! >/run/fio.pid"))?;
    one.check(&format!(
        "{delayed} & writer=$!
         for n in 1 2 3; do sg_reset --device $(disk 1); sleep 0.2; done
         wait $writer"
    ))?;
    two.check(
        "while kill -0 $(cat /run/fio.pid) 2>/dev/null; do sleep 0.2; done
         grep 'err= 0' /run/fio.log",
    )?;
    one.power_off()?;
    two.check("dd if=$(disk 0) of=/dev/null bs=1M iflag=direct")?;
    two.power_off()?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_guest_learns_by_events_what_another_has_changed() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?.vhost_user("one.sock").vhost_user("two.sock");
    let image = lunette.file("disk.img", 16 << 20)?;
    let daemon = lunette.clone().lu(format!("disk:{},target=5,lun=300", image.display())).start()?;
    let boot = |socket| Uml::new().vhost_user_scsi(lunette.path(socket)).boot();
    let mut one = boot("one.sock")?;
    let mut two = boot("two.sock")?;
    // Linux counts the addressing method of the LUN, 01b, as part of its number.
    const LUN: u32 = 0x4000 | 300;
    let disk = format!("$(disk {LUN})");
    let cache = format!("cache=$(echo /sys/class/scsi_disk/*:5:{LUN}/cache_type)");
    let set = |cache_type| format!("{cache}; echo '{cache_type}' >$cache");
    let becomes = |cache_type| format!("{cache}; until grep -q '^{cache_type}$' $cache; do sleep 0.1; done");
    for guest in [&mut one, &mut two] {
        guest.check(&format!("echo {disk}"))?;
        guest.check(&becomes("write back"))?;
    }

    // MODE SELECT in one: the kernel of the other reads the mode pages again, and with that takes the unit attention.
    let quiet = two.kernel_log();
    one.check(&set("write through"))?;
    two.check(&becomes("write through"))?;
    two.check(&format!("sg_raw $(generic {disk}) 00 00 00 00 00 00"))?;
    let said = two.kernel_log().split_off(quiet.len());
    let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    assert!(matches!(said[..], [line] if line.ends_with("Mode parameters changed")), "{said:?}");

    // More changes than the kernel has buffers for. When it is told that it missed some it looks for units, not at pages,
    // but the next change that it is told of is read.
    one.check(&format!(
        "{cache}; for n in $(seq 50); do echo 'write back' >$cache; echo 'write through' >$cache; done"
    ))?;
    let mut tries = 0..100;
    while two.check(&format!("{cache}; cat $cache"))? != "write back\n" {
        tries.next().expect("events come again");
        one.check(&set("write through"))?;
        one.check(&set("write back"))?;
        two.check("sleep 0.2")?;
    }
    one.check(&format!("sg_reset --device {disk}"))?;
    for guest in [&mut one, &mut two] {
        guest.check(&format!("dd if=/dev/zero of={disk} bs=1M count=4 oflag=direct"))?;
        guest.check("[ $(ls -d /sys/block/sd* | wc -l) = 1 ]")?;
    }
    let said = two.kernel_log().split_off(quiet.len()).to_lowercase();
    for word in ["error", "not found", "timing out", "offline", "bug"] {
        assert!(!said.contains(word), "{said}");
    }
    one.power_off()?;
    two.power_off()?;
    daemon.stop()?;
    Ok(())
}
