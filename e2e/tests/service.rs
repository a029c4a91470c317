//! The daemon as a service: what its manager passes and is told, and what it may not do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::Result;
use lunette_e2e::daemon::{Lunette, allocated, binary};
use lunette_e2e::manager::Manager;
use lunette_e2e::tools;

#[test]
fn the_manager_is_told_how_things_are_and_watches() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M").iscsi();
    let mut manager = Manager::new(&lunette)?.watch(400_000);
    let mut daemon = manager.manage(&lunette).start()?;
    let ready = manager.told()?;
    assert_eq!(ready.pid, daemon.pid());
    assert_eq!(ready.value("READY"), Some("1"));
    assert_eq!(ready.value("STATUS"), Some("serving 1 logical unit at 1 place"));
    for _ in 0..3 {
        manager.is_alive()?;
    }
    daemon.stop()?;
    let stopping = manager.told()?;
    assert_eq!(stopping.value("STOPPING"), Some("1"));
    assert!(stopping.value("STATUS").is_some_and(|text| text.starts_with("stopping")), "{stopping:?}");
    assert!(manager.store.is_empty(), "the lock of a store would outlive the daemon");
    Ok(())
}

/// Sockets at the addresses of a configuration are its portals and exports, and not more of them.
#[test]
fn passed_sockets_are_those_of_the_configuration() -> Result<()> {
    let lunette = Lunette::new()?;
    let portal = TcpListener::bind("127.0.0.1:0")?;
    let address = portal.local_addr()?;
    let (path, control) = (lunette.path("vm.sock"), lunette.path("elsewhere.sock"));
    let file = lunette.path("lunette.toml");
    fs::write(
        &file,
        format!(
            "[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n\n[[portal]]\nlisten = \"{address}\"\ngroup = 7\n\n\
             [[target]]\nname = \"iqn.2026-11.dev.lunette:a\"\nunits = {{ 5 = \"a\" }}\n\n\
             [[vhost-user]]\nname = \"vm\"\nsocket = \"{}\"\nunits = {{ 5 = \"a\" }}\n",
            path.display()
        ),
    )?;
    let lunette = lunette.arg("--config").arg(&file);
    let mut manager = Manager::new(&lunette)?
        .pass("portal", portal)?
        .pass("vm", UnixListener::bind(&path)?)?
        .pass("control", UnixListener::bind(&control)?)?;
    let daemon = manager.manage(&lunette).start()?;
    assert_eq!(manager.told()?.value("STATUS"), Some("serving 1 logical unit at 2 places"));
    let url = daemon.iscsi_url(5)?;
    assert!(url.contains(&address.to_string()), "{url}");
    let size = tools::output("iscsi-readcapacity16", ["-s", &url])?.ok()?;
    assert_eq!(size.stdout.trim(), (1 << 20).to_string());
    UnixStream::connect(&path)?;
    let mut status = tools::command(&binary()?.display().to_string())?;
    tools::run(status.args(["status", "--control"]).arg(&control), tools::LIMIT)?.ok()?;
    assert!(!lunette.path("state/control.sock").exists());
    daemon.stop()?;
    assert!(path.exists() && control.exists(), "they are not the daemon's to remove");
    Ok(())
}

/// Commands under way end, and what was answered is in the file when the manager sees the daemon's end.
#[test]
fn it_drains_when_the_manager_stops_it() -> Result<()> {
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w,fault=delay:20", file.display())).iscsi();
    let mut manager = Manager::new(&lunette)?;
    let mut daemon = manager.manage(&lunette).start()?;
    assert_eq!(manager.told()?.value("READY"), Some("1"));
    let mut bench = tools::command("qemu-img")?;
    bench.args(["bench", "-w", "-f", "raw", "--pattern=0xaa", "-d", "16", "-s", "64k"]);
    bench.args(["-c", "10000000"]).arg(daemon.iscsi_url(0)?);
    let _bench = tools::Guarded::spawn(&bench)?;
    tools::wait_until("the client to write", || {
        daemon.alive()?;
        Ok(allocated(&file)? > 1 << 20)
    })?;
    let said = daemon.stop()?;
    assert_eq!(manager.told()?.value("STOPPING"), Some("1"));
    assert!(!said.stderr.contains("not ended") && !said.stderr.contains("cannot flush"), "{said}");
    Ok(())
}
