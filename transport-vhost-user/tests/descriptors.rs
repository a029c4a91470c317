//! A process without descriptors. One of its own, for all of it shares the limit.

use lunette_engine::TargetPort;
use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_scsi::Protocol;
use lunette_store::ReactorId;
use lunette_transport_vhost_user::{Options, VhostUserExport};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Sends on each line of the log.
struct Log(Sender<String>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// GET_FEATURES, and how long the reply is.
const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
const REPLY: usize = 20;

#[test]
fn connections_are_accepted_when_there_are_descriptors_again() {
    let (tell, log) = channel();
    tracing_subscriber::fmt().with_writer(move || Log(tell.clone())).init();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.sock");
    let reactors = Reactors::start(&ReactorOptions { reactors: 1, ..ReactorOptions::default() }).unwrap();
    let port = TargetPort::new("test", 1, Protocol::NONE, BTreeMap::new());
    let export = VhostUserExport::new(Options::new(&path), [(0, port)].into());
    let export = export.start(reactors.poster(), &[ReactorId(0)]).unwrap();
    reactors.call(ReactorId(0), |_| ()).unwrap();

    let front = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    connect(&front, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let said = log.iter().find(|line| line.contains("cannot accept a connection")).unwrap();
    assert!(said.contains("Too many open files"), "{said}");
    setrlimit(Resource::Nofile, limit).unwrap();

    let mut front = UnixStream::from(front);
    front.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    front.write_all(&GET_FEATURES).unwrap();
    front.read_exact(&mut [0; REPLY]).unwrap();
    drop(front);
    export.stop();
}
