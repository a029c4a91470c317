//! The command line of `serve`: what it exports, what it says, what it refuses, how it ends.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use anyhow::Result;
use lunette_e2e::daemon::{Daemon, Lunette, allocated};
use lunette_e2e::netns::Netns;
use lunette_e2e::tools;

/// Starts a daemon that must refuse, and checks that it says each of `words`.
fn refuses<const N: usize>(lunette: &Lunette<'_>, words: [&str; N]) -> Result<()> {
    let said = lunette.refused()?;
    for word in words {
        assert!(said.stderr.contains(word), "{word:?} is not said: {said}");
    }
    assert!(!said.text().contains("panicked"), "{said}");
    assert!(!said.stdout.contains("ready"), "{said}");
    Ok(())
}

#[test]
fn without_arguments_it_serves_a_thin_disk() -> Result<()> {
    // In a namespace the default port is free.
    let netns = Netns::new()?;
    let lunette = Lunette::new()?.inside(&netns);
    let daemon = lunette.start()?;
    let url = daemon.iscsi_url(0)?;
    assert_eq!(url, "iscsi://127.0.0.1:3260/iqn.2026-11.dev.lunette:default/0");
    let mut size = netns.command("iscsi-readcapacity16")?;
    let size = tools::run(size.args(["-s", &url]), tools::LIMIT)?.ok()?;
    assert_eq!(size.stdout.trim(), (1_u64 << 30).to_string());
    for hint in ["vhost-user-scsi-pci", "iscsiadm", "memory-backend-memfd"] {
        let printed = daemon.printed();
        assert!(printed.contains(hint), "{hint} is not printed: {printed}");
    }
    let files: Vec<_> =
        fs::read_dir(lunette.path("state"))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let disk = files.iter().find(|file| fs::metadata(file).is_ok_and(|data| data.len() == 1 << 30));
    let disk = disk.unwrap_or_else(|| panic!("no disk among {files:?}"));
    assert!(allocated(disk)? < 1 << 20, "the disk is not thin");
    daemon.stop()?;
    Ok(())
}

#[test]
fn unusable_stores_are_refused_by_name() -> Result<()> {
    let lunette = Lunette::new()?.iscsi();
    let lu = |text: &str| lunette.clone().lu(text);
    refuses(&lu("disk:/no/such/disk.img,w"), ["/no/such/disk.img", "does not exist"])?;
    let odd = lunette.file("odd.img", 1000)?.display().to_string();
    refuses(&lu(&format!("disk:{odd},w")), ["odd.img", "512"])?;
    let home = lunette.path("").display().to_string();
    refuses(&lu(&format!("disk:{home},w")), [&home])?;
    let disk = lunette.file("disk.img", 1 << 20)?.display().to_string();
    refuses(&lu(&format!("disk:{disk},w")).lu(format!("disk:{disk},w")), [&disk])?;
    refuses(&lu(&format!("disk:{disk},w")).lu(format!("disk:{disk},r")), [&disk])?;
    Ok(())
}

#[test]
fn bad_notation_is_refused_with_its_place() -> Result<()> {
    let lunette = Lunette::new()?.iscsi();
    for (text, word) in [
        ("floppy:/dev/fd0", "floppy"),
        ("disk", "disk"),
        ("disk:ram:64Q", "64Q"),
        ("disk:ram:64M,w,colour=red", "colour"),
        ("disk:ram:64M,w,block=520", "520"),
        ("disk:ram:64M,w,direct=perhaps", "perhaps"),
        ("disk:ram:64M,w,lun=99999", "99999"),
        ("disk:ram:64M,w,target=256", "256"),
        // Nothing that is asked for is hidden.
        ("disk:ram:64M,w,target=3", "--vhost-user"),
        ("disk:ram:99999999999999999999G", "99999999999999999999G"),
    ] {
        refuses(&lunette.clone().lu(text), [word])?;
    }
    let twice = lunette.clone().lu("disk:ram:1M,lun=3").lu("disk:ram:1M,lun=3");
    refuses(&twice, ["3"])?;
    let lunette = lunette.vhost_user("vm.sock");
    let twice = lunette.lu("disk:ram:1M,target=5,lun=3").lu("disk:ram:1M,target=5,lun=3");
    refuses(&twice, ["target=5,lun=3"])
}

#[test]
fn a_store_in_use_is_refused_unless_all_only_read() -> Result<()> {
    let one = Lunette::new()?;
    let disk = one.file("disk.img", 1 << 20)?.display().to_string();
    let serve = |access| Ok::<_, anyhow::Error>(Lunette::new()?.lu(format!("disk:{disk},{access}")).iscsi());
    let writer = serve("w")?.start()?;
    refuses(&serve("w")?, [&disk])?;
    refuses(&serve("r")?, [&disk])?;
    writer.stop()?;
    let reader = serve("r")?.start()?;
    let other = serve("r")?.start()?;
    refuses(&serve("w")?, [&disk])?;
    other.stop()?;
    reader.stop()?;
    serve("w")?.start()?.stop()?;
    Ok(())
}

#[test]
fn an_address_in_use_is_refused() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let lunette = Lunette::new()?.lu("disk:ram:1M");
    let on_port = lunette.clone().arg("--iscsi").arg(&address);
    refuses(&on_port, [&address, "in use"])?;
    let _listener = UnixListener::bind(lunette.path("vm.sock"))?;
    let on_socket = lunette.vhost_user("vm.sock");
    refuses(&on_socket, ["vm.sock", "in use"])
}

#[test]
fn a_socket_that_a_killed_daemon_left_is_taken_over() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M").vhost_user("vm.sock");
    lunette.start()?.kill()?;
    assert!(lunette.path("vm.sock").exists());
    lunette.start()?.stop()?;
    assert!(!lunette.path("vm.sock").exists(), "a gentle end removes the socket");
    Ok(())
}

/// The serial number and the designators of a logical unit, as its VPD pages give them.
fn identity(daemon: &Daemon, lun: u32) -> Result<String> {
    let url = daemon.iscsi_url(lun)?;
    let mut pages = String::new();
    for page in ["128", "131"] {
        let said = tools::output("iscsi-inq", ["-e", "1", "-c", page, &url])?.ok()?;
        pages.push_str(&said.stdout);
    }
    Ok(pages)
}

#[test]
fn identities_stay_when_order_and_path_change() -> Result<()> {
    let lunette = Lunette::new()?.iscsi();
    let a = lunette.file("a.img", 1 << 20)?;
    let b = lunette.file("b.img", 1 << 20)?;
    let lu = |file: &std::path::Path| format!("disk:{},w", file.display());
    let daemon = lunette.clone().lu(lu(&a)).lu(lu(&b)).start()?;
    let before = (identity(&daemon, 0)?, identity(&daemon, 1)?);
    assert_ne!(before.0, before.1);
    daemon.stop()?;

    let moved = lunette.path("moved.img");
    fs::rename(&a, &moved)?;
    let daemon = lunette.clone().lu(lu(&b)).lu(lu(&moved)).start()?;
    assert_eq!((identity(&daemon, 1)?, identity(&daemon, 0)?), before);
    daemon.stop()?;
    Ok(())
}

/// SIGTERM in the middle of a client's writes: what is in flight ends, what was acknowledged is
/// there, the status is 0.
#[test]
fn it_ends_gently_under_load() -> Result<()> {
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w,fault=delay:20", file.display())).iscsi();
    let mut daemon = lunette.start()?;
    let _bench = daemon.load(&file)?;
    daemon.stop()?;
    lunette.start()?.stop()?;
    Ok(())
}
