//! What is served changes while initiators use it: by the control socket, and by a changed file.

use std::fs;

use anyhow::{Context, Result, ensure};
use lunette_e2e::checks;
use lunette_e2e::control::Control;
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::tools::{self, Guarded};
use lunette_e2e::uml::Uml;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

fn hang_up(daemon: &mut Daemon) -> Result<()> {
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw).context("it has no number")?;
    Ok(kill_process(pid, Signal::HUP)?)
}

fn size_of(url: &str) -> Result<String> {
    let said = tools::output("iscsi-readcapacity16", ["-s", url])?.ok()?;
    Ok(said.stdout.trim().to_owned())
}

const FILE: &str = r#"
[[unit]]
name = "busy"
store = "busy.img"

[[unit]]
name = "other"
store = "ram:8M"

[[portal]]
listen = "127.0.0.1:0"

[[target]]
name = "iqn.2026-11.dev.lunette:default"
units = { 0 = "busy", 1 = "other" }
"#;

#[test]
fn only_what_differs_changes_under_the_load_of_an_initiator() -> Result<()> {
    let lunette = Lunette::new()?;
    let busy = lunette.file("busy.img", 64 << 20)?;
    let path = lunette.path("lunette.toml");
    fs::write(&path, FILE)?;
    let lunette = lunette.arg("--config").arg(&path);
    let mut daemon = lunette.start()?;
    let mut control = Control::of(&lunette)?;
    let (mut bench, target) = (daemon.load(&busy)?, "iqn.2026-11.dev.lunette:default");

    // By the control socket.
    let new = json!({ "name": "new", "store": lunette.path("new.img"), "size": "16M" });
    let created = control.call("unit.create", new.clone())?;
    assert_eq!(created["created"], true);
    assert_eq!(control.call("unit.create", new)?["created"], false);
    let attach = json!({ "name": target, "unit": "new" });
    assert_eq!(control.call("target.attach", attach)?["lun"], 2);
    assert_eq!(size_of(&daemon.iscsi_url(2)?)?, (16 << 20).to_string());
    control.call("unit.resize", json!({ "name": "new", "size": "32M", "wait": true }))?;
    assert_eq!(size_of(&daemon.iscsi_url(2)?)?, (32 << 20).to_string());
    assert_eq!(control.call("control.status", json!({}))?["unsaved"], true);
    control.call("config.save", json!({}))?;

    // A changed file, and one that cannot be.
    let saved = fs::read_to_string(&path)?;
    fs::write(&path, saved.replace("ram:8M", "ram:12M").replace("2 = \"new\"", "7 = \"new\""))?;
    hang_up(&mut daemon)?;
    daemon.wait_for_log("the configuration was applied")?;
    assert_eq!(size_of(&daemon.iscsi_url(1)?)?, (12 << 20).to_string());
    assert_eq!(size_of(&daemon.iscsi_url(7)?)?, (32 << 20).to_string());
    tools::output("iscsi-readcapacity16", ["-s", &daemon.iscsi_url(2)?])?.fails()?;
    let good = control.call("config.show", json!({}))?;
    let missing = "\n[[unit]]\nname = \"no\"\nstore = \"no/such.img\"\n";
    for (text, part) in [
        (format!("{}{missing}", saved.replace("ram:8M", "ram:16M")), "/no/such.img"),
        ("[[unit]\n".to_owned(), "lunette.toml:1:"),
    ] {
        fs::write(&path, text)?;
        hang_up(&mut daemon)?;
        daemon.wait_for_log(part)?;
    }
    assert_eq!(control.call("config.show", json!({}))?, good, "nothing has changed");
    let failure = control.ask("config.reload", json!({ "wait": true }))?.unwrap_err();
    assert!(
        failure["message"].as_str().is_some_and(|message| message.contains("lunette.toml:1:")),
        "{failure}"
    );

    // All of this has disturbed nobody, and can be taken away again.
    control.call("target.detach", json!({ "name": target, "unit": "new" }))?;
    control.call("unit.delete", json!({ "name": "new" }))?;
    let again = control.call("unit.create", json!({ "name": "new", "store": lunette.path("new.img") }))?;
    assert_eq!((&again["serial"], &again["size"]), (&created["serial"], &json!(32 << 20)));
    assert!(bench.child().try_wait()?.is_none(), "the client goes on");
    drop(bench);
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_smaller_size_that_nobody_waits_for_takes_nothing_away() -> Result<()> {
    let lunette = Lunette::new()?;
    let image = lunette.file("stuck.img", 8 << 20)?;
    let path = lunette.path("lunette.toml");
    let text = FILE.replace("busy.img\"", "stuck.img\"\nfault = \"delay:3600000\"").replace("busy", "stuck");
    fs::write(&path, text)?;
    let lunette = lunette.arg("--config").arg(&path);
    let daemon = lunette.start()?;
    let mut control = Control::of(&lunette)?;
    let url = daemon.iscsi_url(0)?;
    let mut reader = tools::command("qemu-img")?;
    let reader = Guarded::spawn(reader.args(["bench", "-f", "raw", "-c", "1"]).arg(&url))?;
    tools::wait_until("a read that does not end", || {
        let told = control.call("stats.show", json!({ "unit": "stuck" }))?;
        let commands = told["units"][0]["total"]["commands"].as_object().context("they are counted")?;
        Ok(commands.keys().any(|name| name.starts_with("READ(")))
    })?;
    let smaller = json!({ "name": "stuck", "size": "4M", "shrink": true });
    let job = control.call("unit.resize", smaller)?["job"].clone();
    tools::wait_until("the smaller size", || Ok(size_of(&url)? == (4 << 20).to_string()))?;
    assert_eq!(fs::metadata(&image)?.len(), 8 << 20, "the read is still under way");
    control.call("job.cancel", json!({ "job": job }))?;
    let ended = control.call("job.wait", json!({ "job": job }))?;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(size_of(&url)?, (8 << 20).to_string());
    assert_eq!(fs::metadata(&image)?.len(), 8 << 20);
    drop(reader);
    daemon.kill()
}

#[test]
fn another_instance_begins_with_what_this_one_shows() -> Result<()> {
    let lunette = Lunette::new()?.iscsi().lu("disk:ram:8M,name=a").vhost_user("vm.sock");
    let daemon = lunette.start()?;
    let mut control = Control::of(&lunette)?;
    control.call("unit.create", json!({ "name": "b", "store": lunette.path("b.img"), "size": "4M" }))?;
    let vm = lunette.path("vm.sock");
    control.call("export.attach", json!({ "name": vm, "unit": "b", "at": "3:9" }))?;
    control.call("export.rename", json!({ "name": vm, "to": "web" }))?;
    let shown = control.call("config.show", json!({}))?;
    daemon.stop()?;
    let file = lunette.path("shown.toml");
    fs::write(&file, shown["toml"].as_str().context("it is a text")?)?;
    let other = Lunette::new()?.arg("--config").arg(&file);
    let daemon = other.start()?;
    assert_eq!(Control::of(&other)?.call("config.show", json!({}))?["toml"], shown["toml"]);
    daemon.stop()?;
    Ok(())
}

/// Also where nothing else changes, and when it is taken back.
#[test]
fn the_daemon_hears_of_what_waits_for_its_next_start() -> Result<()> {
    let lunette = Lunette::new()?;
    let file = lunette.path("lunette.toml");
    fs::write(&file, "[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\nlun = 0\n")?;
    let lunette = lunette.arg("--config").arg(&file);
    let daemon = lunette.start()?;
    let shown = lunette.tell(["show"])?;
    ensure!(shown.contains("[daemon]\n"), "where its stores may be: {shown}");
    fs::write(lunette.path("more.toml"), shown.replace("[daemon]\n", "[daemon]\nreactors = 3\n"))?;
    fs::write(lunette.path("as-before.toml"), &shown)?;
    lunette.ask(["apply", "more.toml"])?.fails()?;
    for (words, waits) in
        [(&["apply", "--except-restart", "more.toml"][..], true), (&["apply", "as-before.toml"], false)]
    {
        let said = lunette.ask(words)?.ok()?;
        assert_eq!(said.stdout.contains("0 steps done; 1 step for the next start"), waits, "{said}");
        lunette.ask(["save"])?.ok()?;
        assert_eq!(fs::read_to_string(&file)?.contains("reactors = 3"), waits);
    }
    daemon.stop()?;
    Ok(())
}

/// Disks come to a guest that is at work, grow, and go.
#[test]
fn a_guest_sees_disks_come_and_go() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?.lu("disk:ram:64M,name=busy").vhost_user("vm.sock").vhost_user("other.sock");
    let mut daemon = lunette.start()?;
    let mut control = Control::of(&lunette)?;
    let (vm, other) = (lunette.path("vm.sock"), lunette.path("other.sock"));
    let mut guest = Uml::new().vhost_user_scsi(&vm).boot()?;
    let busy = "(while dd if=/dev/urandom of=$(disk 0) bs=64k count=64 oflag=direct; do :; done; echo > /tmp/failed) 2>&1 &";
    guest.check(busy)?;
    for round in 0..3 {
        let unit = format!("new{round}");
        control.call("unit.create", json!({ "name": unit, "store": "ram:16M" }))?;
        let at = control.call("export.attach", json!({ "name": vm, "unit": unit }))?["at"].clone();
        assert_eq!(at, (round + 1).to_string());
        let lun = round + 1;
        guest.check(&format!("test $(blockdev --getsize64 $(disk {lun})) = 16777216"))?;
        guest.check(&format!("dd if=/dev/urandom of=$(disk {lun}) bs=1M count=8 oflag=direct"))?;
        control.call("unit.resize", json!({ "name": unit, "size": "24M", "wait": true }))?;
        guest.check(&format!(
            "d=$(disk {lun}); until test $(blockdev --getsize64 $d) = 25165824; do sleep 0.1; done"
        ))?;
    }
    control.call("unit.move", json!({ "unit": "new0", "from": vm, "to": other }))?;
    control.call("unit.delete", json!({ "name": "new1", "detach": true }))?;
    guest
        .check("while ls -d /sys/class/scsi_device/*:*:[12]/device/block 2>/dev/null; do sleep 0.1; done")?;
    guest.check("blockdev --getsize64 $(disk 3) && test ! -e /tmp/failed")?;
    guest.power_off()?;
    daemon.alive()?;
    daemon.stop()?;
    Ok(())
}
