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
