//! From one daemon to the next, and what nobody can use.

use super::document::{self, Document, VERSION};
use super::*;
use crate::custodian::{Custodian, Kept, StandIn};
use crate::inherited::GivenSockets;
use crate::stop::Deadline;
use lunette_engine::UnitState;
use lunette_transport_vhost_user::{HandedConnection, HandedExport, Record, Role};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// What a custodian has when `left` is given to it.
fn kept(left: Left, given: &GivenSockets) -> Kept {
    let stand_in = StandIn::listen(getpid(), rustix::process::geteuid().as_raw()).unwrap();
    let mut custodian = Custodian::heir(stand_in.path()).unwrap();
    std::thread::scope(|scope| {
        let collect = scope.spawn(|| stand_in.collect(&pidfd_open(getpid(), PidfdFlags::empty()).unwrap()));
        give(left, given, &mut custodian, 0).unwrap();
        collect.join().unwrap().unwrap().unwrap()
    })
}

/// What is there of an export when a process was killed.
pub(crate) fn killed(export: &str) -> Handed {
    let guest = json!({
        "version": VERSION, "export": export, "descriptors": {}, "record": { "drained": false }
    });
    Handed::read(vec![("g0".into(), document::write(&guest).unwrap())])
}

fn memory(text: &str) -> OwnedFd {
    let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
    (&file).write_all(text.as_bytes()).unwrap();
    file.into()
}

fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    let [one, other] = [one.as_fd(), other.as_fd()].map(|fd| rustix::fs::fstat(fd).unwrap().st_ino);
    one == other
}

#[test]
fn what_one_leaves_the_next_finds() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (portal, given_portal) = (tcp(), tcp());
    let key = ("127.0.0.1:0".parse().unwrap(), 1);
    let mut given = GivenSockets::default();
    given.add("portal", &given_portal.try_clone().unwrap().into()).unwrap();
    let listener = UnixListener::bind(folder.path().join("vm.sock")).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let shared = memory("of the guest");
    // Two regions in one file.
    let fds = [(Role::Socket, ours.try_clone().unwrap().into())]
        .into_iter()
        .chain([0, 1].map(|region| (Role::Memory(region), shared.try_clone().unwrap())));
    let connection = HandedConnection { record: Record::default(), fds: fds.collect() };
    let export = |listener: Option<&UnixListener>, connection| LeftExport {
        is_connected: listener.is_none(),
        nexuses: BTreeMap::new(),
        handed: HandedExport {
            listener: listener.map(|listener| listener.try_clone().unwrap().into()),
            file: listener.map(|_| (1, 2)),
            connection,
        },
    };
    let disk = memory("of a disk");
    let left = Left {
        units: [("naa.1".to_owned(), UnitState::default())].into(),
        terms: [("naa.1".to_owned(), 3)].into(),
        memories: [("ram".to_owned(), Memory { file: disk.try_clone().unwrap(), size: 9, record: None })]
            .into(),
        portals: vec![(key, portal.try_clone().unwrap()), ((key.0, 2), given_portal.try_clone().unwrap())],
        exports: [
            ("/vm.sock".to_owned(), export(Some(&listener), None)),
            ("fd:7".to_owned(), export(None, Some(connection))),
        ]
        .into(),
        ..Left::default()
    };
    let kept = kept(left, &given);
    assert!(kept.iter().all(|(name, _)| is_kept(name)));
    let mut handed = Handed::read(kept);
    assert!(handed.is_planned());
    let [(name, socket)] = <[_; 1]>::try_from(handed.given()).unwrap();
    assert!(name == "portal" && is_same(socket, given_portal));
    assert!(is_same(handed.portal(&key).unwrap(), portal));
    assert!(handed.portal(&(key.0, 2)).is_none(), "it was given");
    let (socket, file) = handed.listener("/vm.sock").unwrap();
    assert!(is_same(socket, listener) && file == (1, 2) && handed.listener("/vm.sock").is_none());
    let [(name, socket)] = <[_; 1]>::try_from(handed.connected()).unwrap();
    assert!(name == "fd:7" && is_same(&socket, &ours) && handed.nexuses("fd:7").is_empty());
    let connection = handed.connection("fd:7").unwrap();
    for role in [Role::Memory(0), Role::Memory(1)] {
        assert!(is_same(&connection.fds[&role], &shared));
    }
    assert!(is_same(&connection.fds[&Role::Socket], &ours));
    let (file, size) = handed.memory("ram").unwrap();
    assert!(is_same(file, disk) && size == 9 && handed.memory("other").is_none());
    assert!(handed.unit("naa.1").is_some() && handed.unit("naa.1").is_none());
    assert_eq!((handed.term("naa.1"), handed.term("naa.2")), (Some(3), None));
    drop((connection, socket, ours, handed));
    let mut end = [0];
    assert_eq!(std::io::Read::read(&mut &theirs, &mut end).unwrap(), 0, "nobody has it any more");
}

#[test]
fn what_is_of_no_use_is_done_without() {
    let sealed = |value: &serde_json::Value| document::write(value).unwrap();
    let useless = [
        memory(r#"{"version": 1}"#),
        File::open("/dev/zero").unwrap().into(),
        UnixStream::pair().unwrap().0.into(),
        sealed(&json!({ "version": VERSION + 1 })),
        sealed(&json!({})),
        sealed(&json!("no")),
        sealed(&json!({ "version": VERSION, "units": { "naa.1": 7 } })),
    ];
    for file in useless {
        let mut handed = Handed::read(vec![("state".into(), file.try_clone().unwrap()), ("g1".into(), file)]);
        assert!(!handed.is_planned() && handed.guests.is_empty());
        assert!(handed.given().is_empty() && handed.sessions().is_empty() && handed.connected().is_empty());
    }
    // One part is wrong, or what it is about has not come.
    let state = json!({
        "version": VERSION, "later": true,
        "portals": [{ "listen": "127.0.0.1:1", "number": 0, "descriptor": "d9" }],
        "exports": { "a": { "nexuses": { "300": {} }, "is_connected": true, "listener": null } },
        "sessions": [{ "descriptor": "d0", "state": { "session": 7 } }],
        "given": [["control", "d9"]],
    });
    let socket: OwnedFd = UnixStream::pair().unwrap().0.into();
    let mut handed = Handed::read(vec![("state".into(), sealed(&state)), ("d0".into(), socket)]);
    assert!(handed.is_planned());
    assert!(handed.portal(&("127.0.0.1:1".parse().unwrap(), 0)).is_none());
    assert!(handed.given().is_empty() && handed.sessions().is_empty() && handed.connected().is_empty());
    assert!(handed.nexuses("a").is_empty() && handed.connection("a").is_none());
}

#[test]
fn what_nobody_wants_is_closed_at_once() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let _handed = Handed::read(vec![("d0".to_owned(), ours.into())]);
    assert_eq!(std::io::Read::read(&mut theirs, &mut [0]).unwrap(), 0);
}

#[test]
fn what_would_be_out_of_date_is_kept_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let guest = |export: &str, drained: bool, socket: &str| {
        let record = json!({ "drained": drained });
        let descriptors = json!({ "s": socket });
        document::write(
            &json!({ "version": VERSION, "export": export, "descriptors": descriptors, "record": record }),
        )
        .unwrap()
    };
    let socket = || OwnedFd::from(UnixStream::pair().unwrap().0);
    let kept = vec![
        ("state".to_owned(), document::write(&json!({ "version": VERSION })).unwrap()),
        ("g3".to_owned(), guest("stopped", true, "d1")),
        ("g5".to_owned(), guest("killed", false, "d2")),
        // The process died before it took the older record back.
        ("g4".to_owned(), guest("killed", false, "d9")),
        ("d1".to_owned(), socket()),
        ("d2".to_owned(), socket()),
        ("d9".to_owned(), socket()),
    ];
    let handed = Handed::read(kept);
    let told = std::thread::scope(|scope| {
        let hear = scope.spawn(|| {
            let mut told = Vec::new();
            let mut bytes = [0; 100];
            while !told.iter().any(|text: &String| text == "BARRIER=1") {
                let length = manager.recv(&mut bytes).unwrap();
                told.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
            told
        });
        handed.settle_with(Custodian::heir(&path).unwrap()).unwrap();
        hear.join().unwrap()
    });
    let forgotten: Vec<_> =
        told.iter().filter_map(|text| text.strip_prefix("FDSTOREREMOVE=1\nFDNAME=")).collect();
    assert_eq!(forgotten, ["state", "g3", "g4", "d1", "d9"]);
}

#[test]
fn documents_are_sealed_and_what_is_missing_has_a_value() {
    let file = document::write(&json!({ "version": VERSION })).unwrap();
    assert!(File::from(file.try_clone().unwrap()).write_all(b"x").is_err());
    assert!(document::read::<Document>(file).unwrap().units.is_empty());
}

#[test]
fn sockets_of_a_service_manager_are_told_from_what_it_keeps() {
    for name in ["state", "g0", "g12", "d7"] {
        assert!(is_kept(name), "{name}");
    }
    for name in ["control", "lunette.socket", "g", "d", "dx", "d1.sock", "states", ""] {
        assert!(!is_kept(name), "{name}");
    }
}

#[test]
fn what_was_planned_is_gone_on_with_once() {
    let export = |connection| LeftExport {
        is_connected: false,
        nexuses: BTreeMap::new(),
        handed: HandedExport { listener: None, file: None, connection },
    };
    let connection = || {
        let fds = [(Role::Socket, OwnedFd::from(UnixStream::pair().unwrap().0))].into();
        let record = serde_json::from_value(json!({ "drained": true })).unwrap();
        HandedConnection { record, fds }
    };
    let left = || Left { exports: [("vm".to_owned(), export(Some(connection())))].into(), ..Left::default() };
    let copies = |kept: &Kept| -> Kept {
        kept.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect()
    };
    let kept = kept(left(), &GivenSockets::default());
    // A process that could not start has not gone on.
    for _ in 0..2 {
        let handed = Handed::read(copies(&kept));
        assert!(handed.is_planned() && handed.guests.len() == 1);
    }
    Handed::read(copies(&kept)).begin();
    let handed = Handed::read(copies(&kept));
    assert!(!handed.is_planned() && handed.guests.is_empty());
    // The mark has not come, or the document.
    for missing in ["d0", "state"] {
        let mut kept = kept_anew(left());
        kept.retain(|(name, _)| name != missing);
        let handed = Handed::read(kept);
        assert!(!handed.is_planned() && handed.guests.is_empty(), "{missing}");
    }
}

fn kept_anew(left: Left) -> Kept {
    kept(left, &GivenSockets::default())
}

#[test]
fn a_connection_without_one_of_its_descriptors_is_not_gone_on_with() {
    for (role, name, comes) in [("k0", "d1", true), ("k0", "d2", false), ("later", "d1", false)] {
        let guest = json!({
            "version": VERSION, "export": "vm", "descriptors": { "s": "d0", role: name }, "record": {}
        });
        let socket = || OwnedFd::from(UnixStream::pair().unwrap().0);
        let kept = vec![
            ("g0".to_owned(), document::write(&guest).unwrap()),
            ("d0".to_owned(), socket()),
            ("d1".to_owned(), socket()),
        ];
        assert_eq!(Handed::read(kept).connection("vm").is_some(), comes, "{role} {name}");
    }
}

#[test]
fn what_is_kept_against_kills_stays_until_it_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let kept = recorder::Kept { record: "g0".to_owned(), descriptors: Vec::new() };
    let books = recorder::Books::new(Custodian::heir(&path).unwrap(), [("vm".to_owned(), kept)].into(), 1);
    let recorder = Recorder::start(books);
    let mut books = recorder.end().unwrap();
    assert!(recorder.end().is_none());
    assert_eq!(books.custodian().1, 1, "the number of the next record");
    manager.set_nonblocking(true).unwrap();
    let mut bytes = [0; 100];
    assert!(manager.recv(&mut bytes).is_err());
    manager.set_nonblocking(false).unwrap();
    std::thread::scope(|scope| {
        let clearing = scope.spawn(|| books.clear(Deadline::after(Duration::from_secs(1000))));
        let length = manager.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"FDSTOREREMOVE=1\nFDNAME=g0");
        let length = manager.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"BARRIER=1");
        clearing.join().unwrap();
    });
}

#[test]
fn what_finds_no_room_does_not_take_it_from_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let socket = || OwnedFd::from(UnixStream::pair().unwrap().0);
    let left = || {
        let connection = |count: u16| {
            let fds = (0..count).map(|region| (Role::Memory(region), memory(&region.to_string())));
            let fds = fds.chain([(Role::Socket, socket())]).collect();
            Some(HandedConnection { record: Record::default(), fds })
        };
        let export = |connection| LeftExport {
            is_connected: false,
            nexuses: BTreeMap::new(),
            handed: HandedExport { listener: None, file: None, connection },
        };
        let exports = [("a", connection(1)), ("b", connection(9)), ("c", connection(1))];
        let exports = exports.map(|(name, connection)| (name.to_owned(), export(connection)));
        Left { exports: exports.into(), ..Left::default() }
    };
    // The document and its mark, whose room stays free even when it is there, and three for each small one.
    let place = std::os::unix::net::SocketAddr::from_pathname(&path).unwrap();
    let mut custodian = Custodian::connect(&place, Some(2 + 3 + 3 + 1)).unwrap();
    let told = std::thread::scope(|scope| {
        let hear = scope.spawn(|| {
            let mut told = Vec::new();
            let mut bytes = [0; 100];
            while !told.iter().any(|text: &String| text == "BARRIER=1") {
                let length = manager.recv(&mut bytes).unwrap();
                told.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
            told
        });
        give(left(), &GivenSockets::default(), &mut custodian, 0).unwrap();
        hear.join().unwrap()
    });
    let stored =
        |text: &String| text.strip_prefix("FDSTORE=1\nFDNAME=")?.split('\n').next().map(str::to_owned);
    let mut kept: Vec<_> = told.iter().filter_map(stored).collect();
    let forgotten: Vec<_> =
        told.iter().filter_map(|text| text.strip_prefix("FDSTOREREMOVE=1\nFDNAME=")).collect();
    kept.retain(|name| !forgotten.contains(&name.as_str()));
    assert_eq!(kept.len(), 8, "{kept:?}");
    for name in ["g0", "g2", "state"] {
        assert!(kept.contains(&name.to_owned()), "{name} {kept:?}");
    }
}
