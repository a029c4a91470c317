//! Sockets that somebody else has made: descriptors, systemd's socket activation, a manager that starts back ends.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lunette_e2e::daemon::{self, Lunette, to_inherit};
use lunette_e2e::tools::{self, LIMIT};

/// Asks the back end at the other end of `socket` for its features (vhost-user GET_FEATURES) and expects VIRTIO_F_VERSION_1.
fn serves(mut socket: &UnixStream) -> Result<()> {
    socket.set_read_timeout(Some(LIMIT))?;
    for word in [1_u32, 1, 0] {
        socket.write_all(&word.to_ne_bytes())?;
    }
    let mut reply = [0; 20];
    socket.read_exact(&mut reply).context("there is no reply")?;
    let (header, features) = reply.split_at(12);
    assert_eq!(header[..4], 1_u32.to_ne_bytes());
    assert_eq!(features[4] & 1, 1, "{features:?}");
    Ok(())
}

/// Adds `--fd`.
fn with<'a>(lunette: &Lunette<'a>, descriptor: &Arc<OwnedFd>) -> Lunette<'a> {
    let number = descriptor.as_raw_fd().to_string();
    lunette.clone().arg("--fd").arg(number).inherits(Arc::clone(descriptor))
}

fn refuses<const N: usize>(lunette: &Lunette<'_>, words: [&str; N]) -> Result<()> {
    let said = lunette.refused()?;
    for word in words {
        assert!(said.stderr.contains(word), "{word:?} is not said: {said}");
    }
    Ok(())
}

#[test]
fn a_connected_descriptor_is_served_until_it_ends() -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = to_inherit(theirs)?;
    let daemon = with(&Lunette::new()?.lu("disk:ram:1M"), &theirs).start()?;
    drop(theirs);
    assert!(!daemon.printed().contains("iSCSI"), "{}", daemon.printed());
    serves(&ours)?;
    serves(&ours)?;
    drop(ours);
    daemon.ended()?;
    Ok(())
}

#[test]
fn what_else_is_served_outlives_a_connected_descriptor() -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = to_inherit(theirs)?;
    let lunette = Lunette::new()?.lu("disk:ram:1M").vhost_user("vm.sock");
    let mut daemon = with(&lunette, &theirs).start()?;
    serves(&ours)?;
    drop(ours);
    daemon.wait_for_log("disconnected")?;
    serves(&UnixStream::connect(lunette.path("vm.sock"))?)?;
    daemon.alive()?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_listening_descriptor_is_served_like_a_path() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M");
    let path = lunette.path("vm.sock");
    let listener = to_inherit(UnixListener::bind(&path)?)?;
    let daemon = with(&lunette, &listener).start()?;
    assert!(daemon.printed().contains(&format!("path={}", path.display())), "{}", daemon.printed());
    for _ in 0..2 {
        serves(&UnixStream::connect(&path)?)?;
    }
    daemon.stop()?;
    assert!(path.exists(), "it is not the daemon's to remove");
    Ok(())
}

#[test]
fn other_descriptors_are_refused() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M");
    refuses(&lunette.clone().arg("--fd=999999"), ["--fd 999999", "not open"])?;
    refuses(&with(&lunette, &to_inherit(fs::File::open("/dev/null")?)?), ["is no socket"])?;
    refuses(&with(&lunette, &to_inherit(TcpListener::bind("127.0.0.1:0")?)?), ["no Unix stream socket"])?;
    let (datagrams, _other) = UnixDatagram::pair()?;
    refuses(&with(&lunette, &to_inherit(datagrams)?), ["no Unix stream socket"])?;
    let (one, _other) = UnixStream::pair()?;
    let one = to_inherit(one)?;
    refuses(&with(&with(&lunette, &one), &one), ["given twice"])
}

#[test]
fn a_socket_has_the_mode_and_owner_asked_for() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M");
    let path = lunette.path("vm.sock");
    for (options, expected) in [
        ("", (0o600, 0, 0)),
        (",owner=:12346", (0o660, 0, 12346)),
        (",mode=0606,owner=daemon:12346", (0o606, 1, 12346)),
    ] {
        let daemon =
            lunette.clone().arg("--vhost-user").arg(format!("{}{options}", path.display())).start()?;
        let data = fs::symlink_metadata(&path)?;
        assert_eq!((data.mode() & 0o777, data.uid(), data.gid()), expected, "{options}");
        serves(&UnixStream::connect(&path)?)?;
        daemon.stop()?;
        assert!(!path.exists());
    }
    let given = lunette.arg("--vhost-user").arg(format!("{},owner=12345", path.display()));
    tools::need(["setpriv"])?;
    refuses(&given.wrapped(["setpriv", "--bounding-set=-chown"]), ["cannot set the owner", "vm.sock"])?;
    assert!(!path.exists(), "a refusal leaves nothing behind");
    Ok(())
}

/// `lunette` below systemd-socket-activate, which waits for somebody to connect before it starts the daemon.
fn activated<'a>(lunette: &Lunette<'a>, arguments: &[&str]) -> Result<Lunette<'a>> {
    let program = tools::program("systemd-socket-activate")?.display().to_string();
    let state = format!("--setenv=LUNETTE_STATE_DIR={}", lunette.path("state").display());
    let notify = format!("--setenv=NOTIFY_SOCKET={}", lunette.path("notify").display());
    Ok(lunette.clone().wrapped([program.as_str(), &state, &notify].iter().chain(arguments)))
}

/// Connects as soon as somebody listens.
fn first_connection(path: PathBuf) -> std::thread::JoinHandle<Result<UnixStream>> {
    std::thread::spawn(move || {
        tools::wait_until("a listener", || Ok(UnixStream::connect(&path).is_ok()))?;
        Ok(UnixStream::connect(&path)?)
    })
}

fn told(manager: &UnixDatagram) -> Result<String> {
    let mut text = [0; 256];
    let length = manager.recv(&mut text).context("the service manager is told nothing")?;
    Ok(String::from_utf8_lossy(&text[..length]).trim().to_owned())
}

#[test]
fn systemd_can_pass_sockets_and_is_told_how_things_are() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M");
    let (path, address) = (lunette.path("vm.sock"), format!("127.0.0.1:{}", tools::free_port()?));
    let manager = UnixDatagram::bind(lunette.path("notify"))?;
    manager.set_read_timeout(Some(LIMIT))?;
    let listen = ["--listen", &path.display().to_string(), "--listen", &address, "--fdname=vm1:portal"];
    let first = first_connection(path.clone());
    let daemon = activated(&lunette, &listen)?.start()?;
    assert!(told(&manager)?.starts_with("READY=1\n"));
    drop(first.join().expect("the thread does not panic")?);
    serves(&UnixStream::connect(&path)?)?;
    let url = daemon.iscsi_url(0)?;
    assert!(url.contains(&address), "{url}");
    let size = tools::output("iscsi-readcapacity16", ["-s", &url])?.ok()?;
    assert_eq!(size.stdout.trim(), (1 << 20).to_string());
    for name in ["`vm1`", "`portal`"] {
        assert!(daemon.log().contains(name), "{}", daemon.log());
    }
    daemon.stop()?;
    assert!(told(&manager)?.starts_with("STOPPING=1\n"));
    assert!(path.exists(), "it is not the daemon's to remove");
    Ok(())
}

#[test]
fn other_sockets_of_systemd_are_refused() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M");
    let path = lunette.path("datagrams").display().to_string();
    let address = path.clone();
    let sender = std::thread::spawn(move || {
        tools::wait_until("a datagram socket", || {
            Ok(UnixDatagram::unbound()?.send_to(b"wake up", &address).is_ok())
        })
    });
    refuses(
        &activated(&lunette, &["--datagram", "--listen", &path, "--fdname=odd"])?,
        ["`odd`", "neither a Unix"],
    )?;
    sender.join().expect("the thread does not panic")
}

#[test]
fn the_units_are_what_systemd_understands() -> Result<()> {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let folder = tools::temp_dir()?;
    let program = daemon::binary()?.display().to_string();
    let mut analyze = tools::command("systemd-analyze")?;
    analyze.args(["verify", "--man=no"]);
    for name in ["lunette.service", "lunette.socket", "lunette-control.socket"] {
        let text = fs::read_to_string(packaging.join(name))?.replace("/usr/bin/lunette", &program);
        fs::write(folder.path().join(name), text)?;
        analyze.arg(folder.path().join(name));
    }
    let said = tools::run(&mut analyze, LIMIT)?.ok()?;
    assert!(!said.text().contains("lunette"), "{said}");
    Ok(())
}

/// As a manager does it: by the name of the descriptor file, which is not `lunette`.
#[test]
fn under_the_name_of_a_back_end_it_needs_no_subcommand_and_serves_no_network() -> Result<()> {
    let lunette = Lunette::new()?;
    let program = lunette.path("lunette-vhost-user-scsi");
    symlink(daemon::binary()?, &program)?;
    let mut command = tools::command("env")?;
    command.arg(format!("LUNETTE_STATE_DIR={}", lunette.path("state").display())).arg(program);
    let mut process = tools::Guarded::spawn(&command)?;
    let stdout = tools::Capture::of(process.child().stdout.take().context("stdout is piped")?);
    let socket = lunette.path("state/vhost-user.sock");
    tools::wait_until("the daemon", || Ok(stdout.text().contains("ready\n")))?;
    assert!(!stdout.text().contains("iSCSI"), "{}", stdout.text());
    serves(&UnixStream::connect(socket)?)?;
    process.signal(rustix::process::Signal::TERM)?;
    let status = tools::wait(process.child(), std::time::Instant::now() + Duration::from_secs(60))?;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    Ok(())
}
