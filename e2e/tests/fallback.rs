//! Where io_uring is refused, everything is served all the same, and the user is told.

use anyhow::Result;
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::uml::Uml;
use lunette_e2e::{checks, tools};

/// Serves a kernel over vhost-user and a client over iSCSI.
fn serve(lunette: &Lunette<'_>, daemon: &Daemon) -> Result<()> {
    let mut guest = Uml::new().memory_mib(512).vhost_user_scsi(lunette.path("vm.sock")).boot()?;
    checks::disk(&mut guest, 0)?;
    guest.power_off()?;
    let url = daemon.iscsi_url(0)?;
    let commands = ["-f", "raw", "-c", "write -P 7 0 8M", "-c", "flush", "-c", "read -P 7 0 8M"];
    tools::output("qemu-io", commands.iter().copied().chain([&*url]))?.ok()?;
    Ok(())
}

fn daemon() -> Result<Lunette<'static>> {
    checks::need_tools()?;
    let lunette = Lunette::new()?.vhost_user("vm.sock").iscsi();
    let file = lunette.file("disk.img", 128 << 20)?;
    Ok(lunette.lu(format!("disk:{},w", file.display())))
}

#[test]
fn epoll_serves_when_it_is_asked_for() -> Result<()> {
    let lunette = daemon()?.arg("--io").arg("epoll");
    let daemon = lunette.start()?;
    serve(&lunette, &daemon)?;
    daemon.stop()?;
    Ok(())
}

/// strace makes the kernel refuse, as a container does. `-D`: the daemon stays our child.
#[test]
fn epoll_serves_when_the_kernel_refuses() -> Result<()> {
    tools::need(["strace"])?;
    let refuse = "--inject=io_uring_setup:error=EPERM";
    let lunette = daemon()?.arg("--io").arg("auto").wrapped([
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qqq",
        "--output=/dev/null",
        "--trace=io_uring_setup",
        refuse,
    ]);
    let daemon = lunette.start()?;
    serve(&lunette, &daemon)?;
    let said = daemon.stop()?;
    assert!(said.text().contains("io_uring refused"), "it does not tell: {said}");
    Ok(())
}
