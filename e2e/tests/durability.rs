//! What was flushed survives the daemon's death, and nothing of the dead lands later.

use anyhow::Result;
use lunette_e2e::daemon::{Daemon, Lunette, binary};
use lunette_e2e::uml::Uml;
use lunette_e2e::{checks, tools};

/// Runs commands of `qemu-io` on a logical unit; none may fail.
fn client<const N: usize>(daemon: &Daemon, commands: [&str; N]) -> Result<()> {
    let url = daemon.iscsi_url(0)?;
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let arguments = ["-f", "raw"].into_iter().chain(commands).chain([&*url]);
    tools::output("qemu-io", arguments)?.ok()?;
    Ok(())
}

#[test]
fn flushed_writes_survive_a_kill() -> Result<()> {
    for options in ["", ",direct=on", ",inline=on"] {
        let lunette = Lunette::new()?;
        let file = lunette.path("disk.img");
        let lunette = lunette.lu(format!("disk:{},w,size=64M{options}", file.display())).iscsi();
        let daemon = lunette.start()?;
        client(&daemon, ["write -P 1 0 4M", "flush", "write -f -P 2 4M 4M"])?;
        daemon.kill()?;
        let daemon = lunette.start()?;
        client(&daemon, ["read -P 1 0 4M", "read -P 2 4M 4M", "read -P 0 8M 56M"])?;
        daemon.stop()?;
    }
    Ok(())
}

/// The daemon runs in the guest, whose kernel has devices that are slow on purpose.
fn slow_device(kind: &str) -> Result<()> {
    checks::need_tools()?;
    tools::need(["qemu-io", "qemu-img", "dmsetup"])?;
    let lunette = binary()?.display().to_string();
    let mut guest = Uml::new().memory_mib(768).boot()?;
    guest.check_with(&[("lunette", &lunette), ("kind", kind)], include_str!("../scripts/slow_device.sh"))?;
    guest.power_off()
}

#[test]
fn a_killed_daemon_leaves_nothing_on_the_way_to_a_device() -> Result<()> {
    slow_device("device")
}

#[test]
fn a_killed_daemon_leaves_nothing_on_the_way_to_a_file() -> Result<()> {
    slow_device("file")
}
