//! Ad hoc.
use lunette_e2e::{checks, netns::Netns, qemu::Qemu, tools, uml::Uml};
use std::time::Instant;
fn main() -> anyhow::Result<()> {
    let mode = std::env::args().nth(1).unwrap();
    let t = Instant::now();
    match mode.as_str() {
        "iscsi" => {
            let ns = Netns::with_tap("tap0", "192.0.2.1/24")?;
            let o = tools::run(ns.command("bash")?.args(["/tmp/tgt/ns.sh"]), tools::LIMIT)?;
            println!("{o}");
            let mut g = Uml::new().memory_mib(512).tap("tap0").inside(&ns).boot()?;
            println!("boot {:?}", t.elapsed());
            g.limit(std::time::Duration::from_secs(100));
            g.check("ip addr add 192.0.2.2/24 dev vec0; ip link set vec0 up; iscsi_login 192.0.2.1:3260")?;
            println!("login {:?}", t.elapsed());
            let r = checks::disk(&mut g, 1);
            println!("{r:?}");
            println!("disk {:?}", t.elapsed());
            let r = checks::read_only_disk(&mut g, 2);
            println!("{r:?}");
            println!("{}", g.check("iscsiadm -m node --logout; iscsiadm -k 0")?);
            g.power_off()?;
            tools::run(ns.command("bash")?.args(["-c", "kill -9 $(cat /tmp/tgt/ns.pid)"]), tools::LIMIT)?;
        }
        "qemu" => {
            let mut g = Qemu::new().vhost_user_scsi("/tmp/v.sock", ",hotplug=off,param_change=off").boot()?;
            println!("boot {:?}", t.elapsed());
            println!("{}", g.run("lsblk; ls /sys/block/sda/mq; sg_inq /dev/sda")?);
            let r = checks::disk(&mut g, 0);
            println!("{r:?}");
            println!("disk {:?}", t.elapsed());
            g.power_off()?;
        }
        "blk" => {
            let mut g =
                Uml::new().memory_mib(512).vhost_user(2, "/tmp/b.sock").modules(["virtio_blk"]).boot()?;
            println!("boot {:?}", t.elapsed());
            println!("{}", g.run("sleep 1; lsblk; fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=4k-256k  --size=32M --verify=crc32c --verify_fatal=1 --verify_state_save=0")?);
            g.power_off()?;
        }
        _ => {
            let mut g = Uml::new().memory_mib(512).vhost_user_scsi("/tmp/v.sock").boot()?;
            println!("boot {:?}", t.elapsed());
            println!("{}", g.run("sleep 1; lsblk; dmesg | tail")?);
            let r = checks::disk(&mut g, 0);
            println!("{r:?}");
        }
    }
    println!("end {:?}", t.elapsed());
    Ok(())
}
