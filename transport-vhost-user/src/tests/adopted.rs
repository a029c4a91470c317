//! Sockets that somebody else has made.

use super::*;
use crate::{Access, Endpoint};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;

/// Exports the rig's targets once more. The receiver is told of the end.
fn export(rig: &Rig, endpoint: Endpoint) -> (Handle, mpsc::Receiver<()>) {
    let (tell, told) = mpsc::channel();
    let export = VhostUserExport::new(Options::with(endpoint), rig.targets.clone());
    let export = export.when_ended(move || tell.send(()).unwrap());
    (export.start(rig.reactors.poster(), &[ReactorId(1)]).unwrap(), told)
}

fn works(front: &mut FrontEnd) {
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
}

#[test]
fn a_listening_socket_is_served_and_left_where_it_is() {
    let rig = Rig::ram(Io::Auto);
    let path = rig.socket.with_extension("adopted");
    let listener = UnixListener::bind(&path).unwrap();
    // The first waits already.
    let stream = UnixStream::connect(&path).unwrap();
    let (handle, told) = export(&rig, Endpoint::adopt(listener.into()).unwrap());
    assert_eq!(handle.name(), path.display().to_string());
    let mut front = FrontEnd::ready_over(stream, MEMORY);
    works(&mut front);
    drop(front);
    works(&mut FrontEnd::ready(&path, MEMORY));
    assert!(told.try_recv().is_err(), "the end of a connection is not that of the export");
    handle.stop();
    told.recv().unwrap();
    assert!(path.exists(), "the file is not ours");
}

#[test]
fn a_connected_socket_is_served_until_it_ends() {
    let rig = Rig::ram(Io::Auto);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (handle, told) = export(&rig, Endpoint::adopt(ours.into()).unwrap());
    let mut front = FrontEnd::ready_over(theirs, MEMORY);
    works(&mut front);
    assert!(told.try_recv().is_err());
    drop(front);
    told.recv().unwrap();
    handle.stop();
}

#[test]
fn a_connected_socket_can_be_stopped_from_our_side() {
    let rig = Rig::ram(Io::Auto);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (handle, told) = export(&rig, Endpoint::adopt(ours.into()).unwrap());
    let mut front = FrontEnd::ready_over(theirs, MEMORY);
    works(&mut front);
    handle.stop();
    told.recv().unwrap();
    assert!(front.is_closed());
}

#[test]
fn a_path_gets_the_mode_that_was_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::ram(Io::Auto);
    let path = rig.socket.with_extension("group");
    let access = Access { mode: 0o660, ..Access::default() };
    let (handle, _told) = export(&rig, Endpoint::Path { path: path.clone(), access });
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    works(&mut FrontEnd::ready(&path, MEMORY));
    handle.stop();
}
