//! The daemon as a service: what its manager passes and is told, and what it may not do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::{Lunette, binary};
use lunette_e2e::loop_device::LoopDevice;
use lunette_e2e::manager::Manager;
use lunette_e2e::strace::Injection;
use lunette_e2e::tools;
use lunette_guest::{Command, Options, ScsiDriver};

#[test]
fn the_manager_is_told_how_things_are_and_watches() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M").iscsi();
    let manager = Manager::new(&lunette)?.watch(400_000);
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
    assert!(manager.stored().is_empty(), "the lock of a store would outlive the daemon");
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
    let manager = Manager::new(&lunette)?
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

/// It needs nothing of `/dev` but what everybody may have.
#[test]
fn virtual_machines_are_served_wherever_stores_may_be() -> Result<()> {
    let lunette = Lunette::new()?;
    let inside = lunette.path("inside");
    fs::create_dir(&inside)?;
    let daemon = lunette.clone().allow_only([&inside]).lu("disk:ram:1M").vhost_user("vm.sock").start()?;
    UnixStream::connect(lunette.path("vm.sock"))?;
    daemon.stop()?;
    Ok(())
}

/// Commands under way end, and what was answered is in the file when the manager sees the daemon's end.
#[test]
fn it_drains_when_the_manager_stops_it() -> Result<()> {
    let lunette = Lunette::new()?;
    let (file, other) = (lunette.file("disk.img", 64 << 20)?, lunette.file("other.img", 8 << 20)?);
    let slow = |file: &Path| format!("disk:{},w,fault=delay:20", file.display());
    let lunette = lunette.lu(slow(&file)).lu(slow(&other)).iscsi();
    let manager = Manager::new(&lunette)?;
    let mut daemon = manager.manage(&lunette).start()?;
    assert_eq!(manager.told()?.value("READY"), Some("1"));
    let _bench = daemon.load(&file)?;
    // The client flushes nothing.
    let write = ["-t", "unsafe", "-f", "raw", "-c", "write -P 7 1M 64k", &daemon.iscsi_url(1)?];
    tools::output("qemu-io", write)?.ok()?;
    let said = daemon.stop()?;
    assert_eq!(fs::read(&other)?[1 << 20..][..65536], [7; 65536]);
    assert_eq!(manager.told()?.value("STOPPING"), Some("1"));
    assert!(!said.stderr.contains("not ended") && !said.stderr.contains("cannot flush"), "{said}");
    Ok(())
}

#[test]
fn a_store_outside_the_allowed_paths_is_refused_and_logged() -> Result<()> {
    let lunette = Lunette::new()?.iscsi();
    let inside = lunette.path("inside");
    fs::create_dir(&inside)?;
    let outside = lunette.file("outside.img", 1 << 20)?;
    symlink(&outside, inside.join("link.img"))?;
    let lunette = lunette.allow_only([&inside]);
    for path in [outside, inside.join("link.img"), inside.join("../outside.img"), lunette.path("new.img")] {
        let path = path.display();
        let said = lunette.clone().lu(format!("disk:{path},w,size=1M")).refused()?;
        for part in
            ["a store outside allowed-paths is refused", "`allowed-paths` of [daemon]", "started again"]
        {
            assert!(said.stderr.contains(part), "{part:?} is not said: {said}");
        }
    }
    assert!(!lunette.path("new.img").exists());
    let store = inside.join("a.img");
    let daemon = lunette.clone().lu(format!("disk:{},w,size=1M", store.display())).start()?;
    assert!(store.exists());
    // While it runs, too.
    let link = inside.join("link.img");
    let said = lunette.ask(["lu", "create", &format!("disk:{},w,name=link", link.display())])?.fails()?;
    assert!(said.stderr.contains("`allowed-paths` of [daemon]"), "{said}");
    daemon.wait_for_log("a store outside allowed-paths is refused")?;
    lunette
        .ask(["lu", "create", &format!("disk:{},w,size=1M,name=b", inside.join("b.img").display())])?
        .ok()?;
    daemon.stop()?;
    Ok(())
}

/// The configuration is neither in the state directory nor below the allowed paths.
#[test]
fn the_configuration_is_written_where_it_is() -> Result<()> {
    let lunette = Lunette::new()?;
    let (etc, inside) = (lunette.path("etc"), lunette.path("inside"));
    fs::create_dir(&etc)?;
    fs::create_dir(&inside)?;
    let (file, link) = (etc.join("lunette.toml"), lunette.path("lunette.toml"));
    fs::write(&file, "[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\nlun = 0\n")?;
    symlink(&file, &link)?;
    let lunette = lunette.allow_only([&inside]).arg("--config").arg("lunette.toml");
    let daemon = lunette.start()?;
    for unit in ["b", "c"] {
        lunette.ask(["lu", "create", unit, "--store", "ram:1M"])?.ok()?;
        let said = lunette.ask(["save"])?.ok()?;
        assert_eq!(said.stdout, format!("{} is written\n", file.display()));
        ensure!(fs::read_to_string(&file)?.contains(&format!("\"{unit}\"")), "{unit} is not saved");
    }
    ensure!(link.is_symlink() && fs::read_dir(&etc)?.count() == 1, "nothing is left beside it");
    daemon.stop()?;
    Ok(())
}

/// Who becomes another user reads the secrets of that user, and reads them again.
#[test]
fn secrets_belong_to_the_user_that_the_daemon_becomes() -> Result<()> {
    const NOBODY: u32 = 65534;
    let lunette = Lunette::new()?;
    fs::set_permissions(lunette.path(""), fs::Permissions::from_mode(0o755))?;
    let secret = |name: &str, text: &str, owner: u32| -> Result<()> {
        let path = lunette.path(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(std::os::unix::fs::chown(&path, Some(owner), Some(owner))?)
    };
    let account = "accounts = [{ name = \"joe\", secret = { file = \"joe\" } }]";
    let target_name = "iqn.2026-11.dev.lunette:a";
    let target = format!("[[target]]\nname = \"{target_name}\"\nunits = {{ 0 = \"a\" }}\n");
    let rules = |file: &str| {
        let path = lunette.path(file).display().to_string();
        format!(
            "[{{ addresses = [\"127.0.0.0/8\"], chap = {{ accounts = [{{ name = \"joe\", secret = {{ file = \"{path}\" }} }}] }} }}]"
        )
    };
    let unit = "[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n[[portal]]\nlisten = \"127.0.0.1:0\"\n";
    let text = format!("{unit}{target}[[target.access]]\n[target.access.chap]\n{account}\n");
    fs::write(lunette.path("lunette.toml"), format!("[daemon]\nuser = \"nobody\"\n{text}"))?;
    let of = lunette.clone().arg("--config").arg("lunette.toml");
    secret("joe", "the_first_secret", NOBODY)?;
    let daemon = of.start()?;
    let log_in = |secret: &str| -> Result<tools::Output> {
        let url = daemon.iscsi_url(0)?.replace("iscsi://", &format!("iscsi://joe%{secret}@"));
        tools::output("iscsi-readcapacity16", ["-s", &url])
    };
    assert_eq!(lunette.tell(["reload"])?, "0 steps done\n");
    secret("joe", "the_second_one", NOBODY)?;
    let done = lunette.ask(["reload"])?.ok()?;
    assert_eq!(done.stdout, "1 step done\n");
    log_in("the_second_one")?.ok()?;
    log_in("the_first_secret")?.fails()?;
    // One that the user can read no more stays what it is, and everything else goes on.
    secret("joe", "of root only", 0)?;
    let more = "[[unit]]\nname = \"b\"\nstore = \"ram:1M\"\nlun = 1\n";
    fs::write(lunette.path("lunette.toml"), format!("[daemon]\nuser = \"nobody\"\n{text}{more}"))?;
    assert_eq!(lunette.tell(["reload"])?, "1 step done\n");
    daemon.wait_for_log("a secret stays what it was")?;
    log_in("the_second_one")?.ok()?;
    // Also when the rules become others; what nobody has read yet is refused.
    lunette.tell(["target", "change", target_name, "--access", &rules("joe")])?;
    log_in("the_second_one")?.ok()?;
    secret("unread", "of root, too", 0)?;
    let refused = lunette.ask(["target", "change", target_name, "--access", &rules("unread")])?.fails()?;
    assert!(refused.stderr.contains("unread: Permission denied"), "{refused}");
    log_in("the_second_one")?.ok()?;
    daemon.stop()?;
    let daemon = of.start()?;
    daemon.wait_for_log("a secret stays what it is now")?;
    daemon.stop()?;
    Ok(())
}

/// A value of `/proc/PID/status`.
fn status(of: &Path, key: &str) -> Result<String> {
    let text = fs::read_to_string(of.join("status"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {key} in {}", of.display()))?.trim().to_owned())
}

#[test]
fn no_thread_has_rights_that_it_does_not_need() -> Result<()> {
    let lunette = Lunette::new()?.iscsi();
    let file = lunette.file("disk.img", 1 << 20)?;
    let mut daemon = lunette.lu(format!("disk:{},w", file.display())).start()?;
    tools::output("qemu-io", ["-f", "raw", "-c", "write 0 64k", "-c", "flush", &daemon.iscsi_url(0)?])?
        .ok()?;
    let tasks = Path::new("/proc").join(daemon.pid().to_string()).join("task");
    let mut reactors = 0;
    for task in fs::read_dir(tasks)? {
        let task = task?.path();
        assert_eq!(status(&task, "Seccomp")?, "2");
        assert_eq!(status(&task, "NoNewPrivs")?, "1");
        assert_eq!(status(&task, "CapAmb")?, "0".repeat(16));
        let name = status(&task, "Name")?;
        if let Some(number) = name.strip_prefix("lunette-").and_then(|rest| rest.parse::<u16>().ok()) {
            assert_eq!(status(&task, "CapEff")?, "0".repeat(16), "reactor {number}");
            reactors += 1;
        }
    }
    let printed = daemon.printed();
    let expected =
        if reactors == 1 { ": 1 reactor on ".into() } else { format!(": {reactors} reactors on ") };
    assert!(reactors > 0 && printed.contains(&expected), "{reactors} were looked at: {printed}");
    daemon.stop()?;
    Ok(())
}

/// The process that opens for a daemon.
fn opener_of(daemon: u32) -> Result<PathBuf> {
    let processes = fs::read_dir("/proc")?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut children =
        processes.filter(|process| status(process, "PPid").is_ok_and(|pid| pid == daemon.to_string()));
    let opener = children.find(|child| status(child, "Name").is_ok_and(|name| name == "lunette-opener"));
    opener.context("there is no opener")
}

/// strace holds the reactor back, which waits for a read itself (`inline=on`).
#[test]
fn a_reactor_that_hangs_is_told_with_where_it_is() -> Result<()> {
    tools::need(["strace"])?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 1 << 20)?;
    let lunette = lunette
        .lu(format!("disk:{},w,inline=on", file.display()))
        .vhost_user("vm.sock")
        .arg("--confine=off")
        .arg("--io=epoll")
        .arg("--reactors=1");
    let mut daemon = Manager::new(&lunette)?.watch(400_000).manage(&lunette).start()?;
    let mut guest = ScsiDriver::connect(&lunette.path("vm.sock"), &Options::default())?;
    let read = Command::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    while guest.execute(0, &read, &[], 512)?.status != 0 {}
    let injection = Injection::begin(daemon.pid(), Some(&file), "preadv2:delay_enter=100000000")?;
    let slow = guest.send(0, &read, &[], 512)?;
    daemon.wait_for_log("where it is: ")?;
    daemon.wait_for_log("State: ")?;
    drop(injection);
    daemon.wait_for_log("all reactors answer again")?;
    ensure!(guest.wait_for(0, slow)?.status == 0);
    daemon.stop()?;
    Ok(())
}

#[test]
fn another_user_serves_the_devices_that_root_has_allowed() -> Result<()> {
    const NOBODY: u32 = 65534;
    let lunette = Lunette::new()?.iscsi();
    let image = lunette.file("image", 8 << 20)?;
    fs::set_permissions(&image, fs::Permissions::from_mode(0o600))?;
    let device = LoopDevice::on(&image)?;
    fs::set_permissions(lunette.path(""), fs::Permissions::from_mode(0o755))?;
    // Below a directory that only root may search.
    let private = lunette.path("private");
    fs::create_dir(&private)?;
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700))?;
    let hidden = private.join("hidden.img");
    fs::File::create(&hidden)?.set_len(1 << 20)?;
    let lunette = lunette
        .allow_only([Path::new(device.path()), &private])
        .lu(format!("disk:{},w", device.path()))
        .lu(format!("disk:{},w", hidden.display()))
        .arg("--user")
        .arg("nobody")
        .arg("--control-admin-group")
        .arg("daemon");
    let mut daemon = lunette.start()?;
    // It was given away by a right that is gone by now.
    assert_ne!(fs::metadata(lunette.path("state/control.sock"))?.gid(), NOBODY);
    let process = Path::new("/proc").join(daemon.pid().to_string());
    assert_eq!(status(&process, "Uid")?, format!("{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(&process, set)?, "0".repeat(16), "{set}");
    }
    let opener = opener_of(daemon.pid())?;
    assert_eq!(status(&opener, "Seccomp")?, "2");
    let url = daemon.iscsi_url(0)?;
    let commands = ["-f", "raw", "-c", "write -P 7 1M 64k", "-c", "flush", "-c", "discard 2M 64k"];
    tools::output("qemu-io", commands.iter().copied().chain([&*url]))?.ok()?;
    assert_eq!(fs::read(&image)?[1 << 20..][..65536], [7; 65536]);
    tools::output("qemu-io", ["-f", "raw", "-c", "write -P 8 0 4k", "-c", "flush", &daemon.iscsi_url(1)?])?
        .ok()?;
    assert_eq!(fs::read(&hidden)?[..4096], [8; 4096]);
    daemon.stop()?;
    tools::wait_until("the end of the opener", || Ok(!opener.exists()))?;
    let daemon = lunette.start()?;
    daemon.kill()?;
    // Nothing of it has the device any more.
    tools::wait_until("the device", || Ok(lunette.start().and_then(|daemon| daemon.stop()).is_ok()))?;
    let file = lunette.file("of-root.img", 1 << 20)?;
    let said = lunette.lu(format!("disk:{},w", file.display())).refused()?;
    ensure!(said.stderr.contains("outside"), "{said}");
    Ok(())
}

#[test]
fn root_does_not_do_what_the_user_says_whom_it_becomes() -> Result<()> {
    const NOBODY: u32 = 65534;
    let lunette = Lunette::new()?;
    fs::set_permissions(lunette.path(""), fs::Permissions::from_mode(0o755))?;
    let file = lunette.path("lunette.toml");
    fs::write(
        &file,
        "[daemon]\nuser = \"nobody\"\n\n[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\nlun = 0\n\n[[portal]]\nlisten = \"127.0.0.1:0\"\n",
    )?;
    chown(&file, Some(NOBODY), None)?;
    let lunette = lunette.arg("--config").arg(&file);
    let said = lunette.refused()?;
    for part in ["says what root does before it becomes the user 65534", "--allow-path"] {
        assert!(said.stderr.contains(part), "{said}");
    }
    assert!(!lunette.path("state").exists(), "nothing was done so far");
    chown(&file, Some(0), None)?;
    lunette.start()?.stop()?;
    Ok(())
}
