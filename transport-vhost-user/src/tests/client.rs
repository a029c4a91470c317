//! Front ends that listen, and are connected to.

use super::*;
use crate::{Endpoint, ExportEvent};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{self, Receiver};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Connected,
    Disconnected,
    Unreachable(String),
    Reached,
}

impl Told {
    /// What is told of connections, not of what is agreed on over them.
    fn of(event: ExportEvent<'_>) -> Option<Self> {
        match event {
            ExportEvent::Connected => Some(Self::Connected),
            ExportEvent::Disconnected(_) => Some(Self::Disconnected),
            ExportEvent::Unreachable(why) => Some(Self::Unreachable(why.to_owned())),
            ExportEvent::Reached => Some(Self::Reached),
            ExportEvent::Agreed => None,
        }
    }
}

/// Exports the rig's targets once more, to whoever listens at `path`, and tells what happens.
fn export(rig: &Rig, path: &Path, user: Option<u32>) -> (Handle, Receiver<Told>) {
    let (tell, told) = mpsc::channel();
    let endpoint = Endpoint::Client { path: path.to_owned(), user };
    let export = VhostUserExport::new(Options::with(endpoint), rig.targets.clone())
        .observed(move |event| Told::of(event).into_iter().for_each(|told| drop(tell.send(told))));
    (export.start(rig.reactors.poster(), &[ReactorId(1)]).unwrap(), told)
}

/// The next that is told, but for attempts that fail.
fn next(told: &Receiver<Told>) -> Told {
    told.iter().find(|one| !matches!(one, Told::Unreachable(_))).unwrap()
}

/// Waits for an attempt that fails with `part` in what is said of it.
fn wait_for(told: &Receiver<Told>, part: &str) {
    assert!(told.iter().any(|one| matches!(one, Told::Unreachable(why) if why.contains(part))));
}

fn accept(listener: &UnixListener) -> FrontEnd {
    FrontEnd::ready_over(listener.accept().unwrap().0, MEMORY)
}

fn works(front: &mut FrontEnd) {
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
}

#[test]
fn front_ends_are_waited_for_and_connected_to_again_and_again() {
    for io in BOTH {
        let rig = Rig::ram(io);
        let path = rig.socket.with_extension("theirs");
        let (handle, told) = export(&rig, &path, None);
        assert_eq!(handle.name(), path.display().to_string());
        wait_for(&told, "has not made its socket");
        drop(UnixListener::bind(&path).unwrap());
        wait_for(&told, "nobody listens");
        for _ in 0..3 {
            std::fs::remove_file(&path).unwrap();
            let listener = UnixListener::bind(&path).unwrap();
            // A monitor lives longer than one of its connections.
            for _ in 0..2 {
                let mut front = accept(&listener);
                works(&mut front);
                assert_eq!([next(&told), next(&told)], [Told::Reached, Told::Connected]);
                drop(front);
                assert_eq!(next(&told), Told::Disconnected);
            }
        }
        handle.stop();
        assert!(path.exists(), "the file is not ours");
    }
}

#[test]
fn who_says_nothing_is_no_front_end() {
    let rig = Rig::ram(Io::Auto);
    let path = rig.socket.with_extension("theirs");
    let listener = UnixListener::bind(&path).unwrap();
    let (handle, told) = export(&rig, &path, None);
    for _ in 0..3 {
        drop(listener.accept().unwrap());
        assert_eq!(told.recv(), Ok(Told::Reached));
        assert!(matches!(told.recv(), Ok(Told::Unreachable(why)) if why.contains("said nothing")));
    }
    let mut front = accept(&listener);
    works(&mut front);
    assert_eq!([next(&told), next(&told)], [Told::Reached, Told::Connected]);
    handle.stop();
    assert!(front.is_closed());
    assert_eq!(next(&told), Told::Disconnected);
}

#[test]
fn who_is_not_the_owner_is_told_nothing() {
    let rig = Rig::ram(Io::Auto);
    let path = rig.socket.with_extension("theirs");
    let listener = UnixListener::bind(&path).unwrap();
    let other = rustix::process::geteuid().as_raw() + 1;
    let (handle, told) = export(&rig, &path, Some(other));
    wait_for(&told, "the `owner`");
    handle.stop();
    listener.set_nonblocking(true).unwrap();
    while let Ok((mut stream, _)) = listener.accept() {
        assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0);
    }
}

#[test]
fn an_export_can_be_stopped_whatever_it_waits_for() {
    let rig = Rig::ram(Io::Auto);
    let path = rig.socket.with_extension("theirs");
    // Before the first attempt, and between two.
    export(&rig, &path, None).0.stop();
    let (handle, told) = export(&rig, &path, None);
    wait_for(&told, "has not made its socket");
    handle.stop();
    // A front end that does not accept, and one that does not speak.
    let listener = UnixListener::bind(&path).unwrap();
    for accepts in [false, true] {
        let (handle, told) = export(&rig, &path, None);
        assert_eq!(next(&told), Told::Reached);
        let accepted = accepts.then(|| listener.accept().unwrap());
        handle.stop();
        assert_eq!(told.recv().ok(), None, "it was never there");
        drop((accepted, (!accepts).then(|| listener.accept().unwrap())));
    }
}

/// While one is under way, on a thread that is held up.
#[test]
fn an_attempt_that_comes_too_late_is_given_up() {
    let rig = Rig::ram(Io::Auto);
    let path = rig.socket.with_extension("theirs");
    let (handle, told) = export(&rig, &path, None);
    wait_for(&told, "has not made its socket");
    let (release, wait) = mpsc::channel::<()>();
    handle.aside().post(move || wait.recv().unwrap_or_default());
    while !handle.is_calling() {
        std::thread::yield_now();
    }
    let listener = UnixListener::bind(&path).unwrap();
    handle.begin_stop();
    drop(release);
    handle.stop();
    assert!(told.iter().all(|one| matches!(one, Told::Unreachable(_))));
    listener.set_nonblocking(true).unwrap();
    while let Ok((mut stream, _)) = listener.accept() {
        assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0);
    }
}

/// A connection goes on in another process, which connects when that has ended.
#[test]
fn what_was_handed_over_is_connected_to_again() {
    let (old, new) = (Rig::ram(Io::Auto), Rig::ram(Io::Auto));
    let path = old.socket.with_extension("theirs");
    let listener = UnixListener::bind(&path).unwrap();
    let (handle, told) = export(&old, &path, None);
    let mut front = accept(&listener);
    works(&mut front);
    assert_eq!([next(&told), next(&told)], [Told::Reached, Told::Connected]);
    let (tell, handed) = mpsc::channel();
    handle.begin_hand_over(move |handed| drop(tell.send(handed)));
    let handed = handed.recv().unwrap();
    assert!(handed.listener.is_none());
    handle.stop();
    let endpoint = Endpoint::Client { path, user: None };
    let export = VhostUserExport::new(Options::with(endpoint), new.targets.clone());
    let export = export.with_connection(handed.connection.unwrap());
    let handle = export.start(new.reactors.poster(), &[ReactorId(1)]).unwrap();
    let message = front.protocol.get_features();
    assert!(front.ask(message).is_some());
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it has a front end");
    listener.set_nonblocking(false).unwrap();
    drop(front);
    works(&mut accept(&listener));
    handle.stop();
}
