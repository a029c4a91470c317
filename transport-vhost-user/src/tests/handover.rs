//! A connection goes on in another process: another export with reactors and targets of its own stands for that.

use super::recovery::{settle, version};
use super::rings::{ALL, options, read_10, submit};
use super::{Rig, TEST_UNIT_READY};
use crate::testing::front_end::FrontEnd;
use crate::testing::held::{held, release, release_some, wait_held};
use crate::{HandedConnection, HandedExport, Options, Record, Role, Snapshot, VhostUserExport};
use lunette_guest::ring::Form;
use lunette_guest::{Command, Error, GuestMemory, InFlight, Monitor, Options as GuestOptions, ScsiDriver};
use lunette_reactor::Io;
use lunette_store::ReactorId;
use lunette_vhost_user::{Features, Reply};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

const QUEUES: u16 = 4;
const SIZE: u16 = 16;
pub(super) const LAYOUTS: [Features; 2] = [ALL, ALL.union(Features::RING_PACKED)];

pub(super) fn set(features: Features) -> GuestOptions {
    let mut options = options(features, Form::Chained, SIZE, 4);
    (options.request_queues, options.room) = (2, 1024);
    options
}

/// A guest whose driver has seen the unit attention of its start.
fn begin(rig: &Rig, features: Features) -> (ScsiDriver, InFlight) {
    let (memory, options) = (GuestMemory::with_size(4 << 20).unwrap(), set(features));
    let mut monitor = Monitor::connect(&rig.socket, memory, &options.wanted).unwrap();
    let notes = monitor.session.begin_notes(QUEUES, SIZE).unwrap().unwrap();
    let mut driver = ScsiDriver::new(monitor, &options).unwrap();
    driver.start().unwrap();
    assert_eq!(driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap().status, 2);
    (driver, notes)
}

pub(super) fn begin_hand_over(rig: &Rig) -> mpsc::Receiver<HandedExport> {
    let (tell, told) = mpsc::channel();
    rig.export.as_ref().unwrap().begin_hand_over(move |handed| drop(tell.send(handed)));
    told
}

pub(super) fn snapshot(rig: &Rig) -> HandedConnection {
    let (tell, told) = mpsc::channel();
    rig.export.as_ref().unwrap().snapshot(move |handed| tell.send(handed).unwrap());
    match told.recv().unwrap() {
        Snapshot::Connection(connection) => *connection,
        other => panic!("{other:?}"),
    }
}

/// As it comes out of another process.
pub(super) fn through_text(mut handed: HandedConnection) -> HandedConnection {
    handed.record = serde_json::from_str(&serde_json::to_string(&handed.record).unwrap()).unwrap();
    handed
}

/// Has another rig go on. `from` is the rig whose nexuses go along.
pub(super) fn go_on(rig: &mut Rig, from: Option<&Rig>, handed: HandedConnection) {
    rig.export.take().unwrap().stop();
    let nexuses = from.map(|from| from.export.as_ref().unwrap().nexuses()).unwrap_or_default();
    let export = VhostUserExport::new(Options::new(&rig.socket), rig.targets.clone());
    let export = export.with_nexuses(nexuses).with_connection(through_text(handed));
    rig.export = Some(export.start(rig.reactors.poster(), &[ReactorId(0), ReactorId(1)]).unwrap());
}

pub(super) fn status(driver: &mut ScsiDriver, queue: u16) -> u8 {
    driver.execute(queue, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap().status
}

/// The rig's export has left its socket's file to others.
pub(super) fn clear(rig: &Rig) {
    let _ = std::fs::remove_file(&rig.socket);
}

#[test]
fn nobody_is_served_before_the_export_is_opened() {
    let (old, mut new) = (Rig::held(), Rig::held());
    let (mut driver, _notes) = begin(&old, LAYOUTS[0]);
    let handed = begin_hand_over(&old).recv().unwrap().connection.unwrap();
    submit(&mut driver, 0, 0, &read_10(0));
    driver.flush(0).unwrap();
    new.export.take().unwrap().stop();
    let export = VhostUserExport::new(Options::new(&new.socket), new.targets.clone());
    let export = export.with_nexuses(old.export.as_ref().unwrap().nexuses());
    let export = export.with_connection(through_text(handed));
    let reactors = [ReactorId(0), ReactorId(1)];
    let (handle, opening) = export.prepare(new.reactors.poster(), &reactors).unwrap();
    (0..100).for_each(|n| new.reactors.call(ReactorId(n % 2), |_| ()).unwrap());
    assert_eq!(held(&new.reactors, 0), 0);
    opening.open();
    wait_held(&new.reactors, 0);
    release(&new.reactors, 0, 0x33);
    assert_eq!(driver.wait_for(0, 0).unwrap().status, 0);
    new.export = Some(handle);
    clear(&old);
}

#[test]
fn what_has_begun_ends_and_the_rest_is_taken_by_the_next() {
    for features in LAYOUTS {
        let (old, mut new) = (Rig::held(), Rig::held());
        let (mut driver, _notes) = begin(&old, features);
        submit(&mut driver, 0, 0, &read_10(0));
        driver.flush(0).unwrap();
        wait_held(&old.reactors, 0);
        let handed = begin_hand_over(&old);
        // The queue of the other reactor has heard when nothing is left to be told.
        (0..4).for_each(|n| old.reactors.call(ReactorId(n % 2), |_| ()).unwrap());
        submit(&mut driver, 0, 1, &read_10(1));
        driver.flush(0).unwrap();
        assert!(handed.try_recv().is_err());
        release(&old.reactors, 0, 0x11);
        let handed = handed.recv().unwrap();
        assert!(handed.listener.is_some() && old.socket.exists());
        let connection = handed.connection.unwrap();
        go_on(&mut new, Some(&old), connection);
        wait_held(&new.reactors, 0);
        assert_eq!(held(&old.reactors, 0), 0);
        release(&new.reactors, 0, 0x22);
        for (slot, byte) in [(0, 0x11), (1, 0x22)] {
            let ended = driver.wait_for(0, slot).unwrap();
            assert_eq!((ended.response, ended.status), (0, 0));
            assert_eq!(driver.data(0, slot).bytes(0, 512), [byte; 512]);
        }
        // No unit attention, on any queue; and messages are understood.
        assert_eq!((status(&mut driver, 0), status(&mut driver, 1)), (0, 0));
        driver.stop(0).unwrap();
        driver.restart(0).unwrap();
        assert_eq!(status(&mut driver, 0), 0);
        clear(&old);
    }
}

/// Those of before do not say which rings have come to rest, but their notes are true.
#[test]
fn an_older_record_is_gone_on_with_by_its_notes() {
    for features in LAYOUTS {
        let (old, mut new) = (Rig::held(), Rig::ram(Io::Auto));
        let (mut driver, _notes) = begin(&old, features);
        assert_eq!([0, 0, 0], [0, 0, 1].map(|queue| status(&mut driver, queue)));
        let mut handed = begin_hand_over(&old).recv().unwrap().connection.unwrap();
        let mut record = serde_json::to_value(&handed.record).unwrap();
        assert!(record.as_object_mut().unwrap().remove("rested").is_some());
        handed.record = serde_json::from_value(record).unwrap();
        go_on(&mut new, Some(&old), handed);
        assert_eq!((status(&mut driver, 0), status(&mut driver, 1)), (0, 0));
        clear(&old);
    }
}

#[test]
fn a_message_that_has_come_in_part_is_read_to_its_end() {
    let (old, mut new) = (Rig::ram(Io::Auto), Rig::ram(Io::Auto));
    let (mut driver, _notes) = begin(&old, ALL);
    let handed = begin_hand_over(&old);
    let mut connection = handed.recv().unwrap().connection.unwrap();
    let message = driver.monitor.session.frontend().get_queue_num();
    driver.monitor.session.send(message).unwrap();
    // As if the first process had read so much of it.
    let mut part = [0; 5];
    rustix::io::read(&connection.fds[&Role::Socket], &mut part).unwrap();
    connection.record.unread = part.to_vec();
    go_on(&mut new, Some(&old), connection);
    let reply = driver.monitor.session.reply().unwrap();
    assert!(matches!(reply, Reply::Queues(queues) if queues == u64::from(crate::MAX_REQUEST_QUEUES) + 2));
    assert_eq!(status(&mut driver, 0), 0);
    clear(&old);
}

#[test]
fn after_a_kill_each_command_is_answered_once() {
    for features in LAYOUTS {
        let (old, mut new) = (noting(Rig::held()), Rig::held());
        let (mut driver, notes) = begin(&old, features);
        (0..3).for_each(|slot| submit(&mut driver, 0, slot, &read_10(slot)));
        driver.flush(0).unwrap();
        while held(&old.reactors, 0) != 3 {
            std::thread::yield_now();
        }
        assert_eq!(release_some(&old.reactors, 0, 2), 1);
        let ended = driver.wait(0).unwrap().slot;
        let mut handed = snapshot(&old);
        handed.fds.insert(Role::Notes, copy(&notes));
        freeze_ledger(&mut handed);
        // Who is dead takes nothing from the rings any more.
        let _left = begin_hand_over(&old);
        (0..4).for_each(|n| old.reactors.call(ReactorId(n % 2), |_| ()).unwrap());
        go_on(&mut new, None, handed);
        let left: Vec<u16> = (0..3).filter(|slot| *slot != ended).collect();
        // As after a power loss: the oldest is told of it.
        let first = driver.wait_for(0, left[0]).unwrap();
        assert_eq!((first.response, first.status), (0, 2));
        wait_held(&new.reactors, 0);
        assert_eq!(held(&new.reactors, 0), 1);
        release(&new.reactors, 0, 0x33);
        let second = driver.wait_for(0, left[1]).unwrap();
        assert_eq!((second.response, second.status), (0, 0));
        assert_eq!(driver.outstanding(0), 0);
        assert_eq!(status(&mut driver, 0), 0);
        release(&old.reactors, 0, 0);
        clear(&old);
    }
}

#[test]
fn who_is_killed_in_the_midst_of_a_hand_over_leaves_rings_that_go_on() {
    for features in LAYOUTS {
        let (old, mut new) = (noting(Rig::held()), Rig::held());
        let (mut driver, notes) = begin(&old, features);
        status(&mut driver, 1);
        submit(&mut driver, 0, 0, &read_10(0));
        driver.flush(0).unwrap();
        wait_held(&old.reactors, 0);
        // What there is of it is from before. The ring of the other reactor has come to rest, and this one has not.
        let mut handed = snapshot(&old);
        let left = begin_hand_over(&old);
        (0..4).for_each(|n| old.reactors.call(ReactorId(n % 2), |_| ()).unwrap());
        assert!(left.try_recv().is_err());
        handed.fds.insert(Role::Notes, copy(&notes));
        freeze_ledger(&mut handed);
        go_on(&mut new, None, handed);
        let first = driver.wait_for(0, 0).unwrap();
        assert_eq!((first.response, first.status), (0, 2), "as after a power loss");
        submit(&mut driver, 1, 0, &read_10(0));
        driver.flush(1).unwrap();
        wait_held(&new.reactors, 1);
        release(&new.reactors, 1, 0x55);
        assert_eq!(driver.wait_for(1, 0).unwrap().status, 0);
        assert_eq!((status(&mut driver, 0), status(&mut driver, 1)), (0, 0));
        release(&old.reactors, 0, 0);
        clear(&old);
    }
}

/// The notes as they are when the process dies.
fn copy(notes: &InFlight) -> OwnedFd {
    let fd = crate::testing::memfd(notes.area.mmap_size);
    let mut bytes = vec![0; notes.area.mmap_size as usize];
    File::from(notes.fd.try_clone().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
    File::from(fd.try_clone().unwrap()).write_all_at(&bytes, 0).unwrap();
    fd
}

#[test]
fn who_does_not_wait_for_a_connection_gets_the_socket_alone() {
    let (old, mut new) = (Rig::held(), Rig::ram(Io::Auto));
    let (mut driver, notes) = begin(&old, ALL);
    submit(&mut driver, 0, 0, &read_10(0));
    driver.flush(0).unwrap();
    wait_held(&old.reactors, 0);
    let handed = begin_hand_over(&old);
    // The other rings have come to rest.
    settle(&old);
    assert_eq!([0, 1, 2, 3].map(|queue| version(&notes, queue)), [1; 4]);
    old.export.as_ref().unwrap().begin_stop();
    let HandedExport { listener, file, connection } = handed.recv().unwrap();
    assert!(connection.is_none());
    release(&old.reactors, 0, 0x11);
    assert!(matches!(driver.monitor.session.queues(), Err(Error::Closed | Error::System { .. })));
    assert_eq!([0, 1, 2, 3].map(|queue| version(&notes, queue)), [0; 4], "stopped as by any end");
    let listener = std::os::unix::net::UnixListener::from(listener.unwrap());
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::symlink_metadata(&old.socket).unwrap());
    let (device, number) = file.unwrap();
    assert_eq!(number, inode());
    // The file of another socket is left alone: this one cannot be listened at any more.
    new.export.take().unwrap().stop();
    for (file, stays) in [((device, number + 1), false), ((device, number), true)] {
        let export = VhostUserExport::new(Options::new(&old.socket), new.targets.clone());
        let export = export.with_listener(listener.try_clone().unwrap(), file);
        let started = export.start(new.reactors.poster(), &[ReactorId(0), ReactorId(1)]);
        match (started, stays) {
            (Err(crate::Error::InUse(_)), false) => {}
            (Ok(export), true) => new.export = Some(export),
            _ => panic!("{file:?}"),
        }
        assert_eq!(number, inode());
    }
    drop(listener);
    let mut next = ScsiDriver::connect(&old.socket, &set(ALL)).unwrap();
    next.start().unwrap();
    status(&mut next, 0);
    assert_eq!(status(&mut next, 0), 0);
    new.export.take().unwrap().stop();
    assert!(!old.socket.exists(), "it is its own");
}

/// A rig whose export notes what is in flight by itself.
pub(super) fn noting(mut rig: Rig) -> Rig {
    rig.export.take().unwrap().stop();
    let options = Options { keep_notes: true, ..Options::new(&rig.socket) };
    let export = VhostUserExport::new(options, rig.targets.clone());
    rig.export = Some(export.start(rig.reactors.poster(), &[ReactorId(0), ReactorId(1)]).unwrap());
    rig
}

/// The notes of a snapshot are those of the moment: the process that has written them lives on in this test.
pub(super) fn frozen(mut handed: HandedConnection) -> HandedConnection {
    let notes = handed.fds.remove(&Role::Notes).unwrap();
    let area = handed.record.notes.unwrap();
    handed.fds.insert(Role::Notes, copy(&InFlight { area, fd: notes }));
    freeze_ledger(&mut handed);
    handed
}

/// The same of what says which agreement is in force.
fn freeze_ledger(handed: &mut HandedConnection) {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let before = File::from(handed.fds.remove(&Role::Ledger).unwrap());
    let mut bytes = [0; 8];
    before.read_exact_at(&mut bytes, 0).unwrap();
    let now = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
    now.write_all_at(&bytes, 0).unwrap();
    fcntl_add_seals(&now, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    handed.fds.insert(Role::Ledger, now.into());
}

#[test]
fn after_a_kill_a_front_end_that_keeps_no_notes_is_served_on() {
    for features in LAYOUTS {
        let (old, mut new) = (noting(Rig::held()), Rig::held());
        let mut driver = ScsiDriver::connect(&old.socket, &set(features)).unwrap();
        driver.start().unwrap();
        status(&mut driver, 0);
        (0..2).for_each(|slot| submit(&mut driver, 0, slot, &read_10(slot)));
        driver.flush(0).unwrap();
        while held(&old.reactors, 0) != 2 {
            std::thread::yield_now();
        }
        let handed = frozen(snapshot(&old));
        let _left = begin_hand_over(&old);
        (0..4).for_each(|n| old.reactors.call(ReactorId(n % 2), |_| ()).unwrap());
        go_on(&mut new, None, handed);
        let first = driver.wait(0).unwrap();
        assert_eq!((first.response, first.status), (0, 2), "as after a power loss");
        wait_held(&new.reactors, 0);
        release(&new.reactors, 0, 0x44);
        let second = driver.wait(0).unwrap();
        assert_eq!((second.response, second.status), (0, 0));
        assert_eq!(driver.outstanding(0), 0);
        release(&old.reactors, 0, 0);
        clear(&old);
    }
}

/// Nobody goes on with what was recorded `before`, of what there is `now`.
fn is_out_of_date(old: &Rig, driver: &mut ScsiDriver, mut before: HandedConnection, now: HandedConnection) {
    let mut new = Rig::ram(Io::Auto);
    for role in [Role::Notes, Role::Ledger] {
        before.fds.insert(role, now.fds[&role].try_clone().unwrap());
    }
    // Nobody else has the connection.
    drop((now, begin_hand_over(old).recv().unwrap()));
    go_on(&mut new, None, before);
    assert!(matches!(driver.monitor.session.queues(), Err(Error::Closed | Error::System { .. })));
    clear(old);
}

#[test]
fn what_has_changed_in_the_moment_of_the_death_is_closed() {
    let old = noting(Rig::ram(Io::Auto));
    let mut driver = ScsiDriver::connect(&old.socket, &set(ALL)).unwrap();
    driver.start().unwrap();
    status(&mut driver, 0);
    let before = snapshot(&old);
    driver.stop(0).unwrap();
    driver.restart(0).unwrap();
    let now = frozen(snapshot(&old));
    is_out_of_date(&old, &mut driver, before, now);
}

#[test]
fn it_is_the_same_where_the_front_end_keeps_the_notes() {
    let old = noting(Rig::ram(Io::Auto));
    let (mut driver, _notes) = begin(&old, ALL);
    let before = snapshot(&old);
    driver.stop(0).unwrap();
    driver.restart(0).unwrap();
    let now = frozen(snapshot(&old));
    is_out_of_date(&old, &mut driver, before, now);
}

#[test]
fn whoever_dies_within_a_message_is_not_gone_on_with() {
    let (old, mut new) = (noting(Rig::ram(Io::Auto)), Rig::ram(Io::Auto));
    let mut front_end = UnixStream::connect(&old.socket).unwrap();
    let snapshot = || {
        let (tell, told) = mpsc::channel();
        old.export.as_ref().unwrap().snapshot(move |snapshot| tell.send(snapshot).unwrap());
        told.recv().unwrap()
    };
    let before = loop {
        if let Snapshot::Connection(connection) = snapshot() {
            break *connection;
        }
    };
    // The beginning of a question: nothing changes.
    front_end.write_all(&[1, 0, 0, 0, 1]).unwrap();
    while !matches!(snapshot(), Snapshot::Unsettled) {}
    let before = frozen(before);
    drop(begin_hand_over(&old).recv().unwrap());
    go_on(&mut new, None, before);
    assert_eq!(front_end.read(&mut [0]).unwrap(), 0);
    clear(&old);
}

#[test]
fn a_connection_at_rest_is_gone_on_with_once() {
    let (old, mut new, mut third) = (noting(Rig::ram(Io::Auto)), Rig::ram(Io::Auto), Rig::ram(Io::Auto));
    let (mut driver, _notes) = begin(&old, ALL);
    let handed = begin_hand_over(&old).recv().unwrap().connection.unwrap();
    let fds = handed.fds.iter().map(|(role, fd)| (*role, fd.try_clone().unwrap())).collect();
    let again = HandedConnection { record: handed.record.clone(), fds };
    go_on(&mut new, Some(&old), handed);
    assert_eq!(status(&mut driver, 0), 0);
    new.export.take().unwrap().stop();
    go_on(&mut third, None, again);
    assert!(matches!(driver.monitor.session.queues(), Err(Error::Closed | Error::System { .. })));
    clear(&old);
}

#[test]
fn a_broken_ring_stays_broken_until_it_is_started_anew() {
    let (mut old, size) = (Rig::ram(Io::Auto), 16);
    let mut front = FrontEnd::ready(&old.socket, super::MEMORY);
    let (broken, mut whole) = (front.start(2, 0, size), front.start(3, 0x1_0000, size));
    front.command(&mut whole, &TEST_UNIT_READY, &[], 0);
    // More than there is room for.
    broken.ring.set_available_index(&front.guest, 1000);
    broken.kick();
    broken.wait_broken();
    let _ = rustix::io::read(broken.error(), &mut [0; 8]);
    // It looks well by now.
    broken.ring.set_available_index(&front.guest, 0);
    // From one to the next, and on.
    for _ in 0..2 {
        let mut new = Rig::ram(Io::Auto);
        let connection = begin_hand_over(&old).recv().unwrap().connection.unwrap();
        go_on(&mut new, Some(&old), connection);
        clear(&old);
        assert_eq!(front.command(&mut whole, &TEST_UNIT_READY, &[], 0).status, 0);
        let message = front.protocol.set_vring_enable(2, true);
        front.done(message);
        front.offer_command(&broken, 1, super::DATA + 0x2_0000, &TEST_UNIT_READY, &[], 0);
        assert_eq!(front.command(&mut whole, &TEST_UNIT_READY, &[], 0).status, 0);
        assert_eq!(broken.ring.used_index(&front.guest), 0);
        broken.ring.set_available_index(&front.guest, 0);
        old = new;
    }
    assert!(!broken.is_broken(), "it was told of that already");
    assert_eq!(front.stop(2), 0);
    let mut again = front.start(2, 0, size);
    assert_eq!(front.command(&mut again, &TEST_UNIT_READY, &[], 0).status, 0);
}

#[test]
fn what_cannot_be_gone_on_with_is_closed() {
    type Spoil = fn(&mut HandedConnection);
    let spoilt: [Spoil; 8] = [
        |handed| handed.record.unread = vec![0; 1 << 20],
        |handed| handed.record.sizes = Some((96, 0)),
        |handed| drop(handed.fds.remove(&Role::Memory(0))),
        |handed| drop(handed.fds.remove(&Role::Notes)),
        |handed| handed.record.agreement = Some(7),
        |handed| drop(handed.fds.insert(Role::Kick(2), crate::testing::memfd(8))),
        |handed| drop(handed.fds.insert(Role::Memory(0), crate::testing::memfd(8))),
        |handed| {
            handed.record.notes = None;
            handed.fds.remove(&Role::Notes);
            handed.record.drained = false;
        },
    ];
    for spoil in spoilt {
        let (old, mut new) = (Rig::ram(Io::Auto), Rig::ram(Io::Auto));
        let (mut driver, _notes) = begin(&old, ALL);
        let mut connection = begin_hand_over(&old).recv().unwrap().connection.unwrap();
        spoil(&mut connection);
        go_on(&mut new, Some(&old), connection);
        assert!(matches!(driver.monitor.session.queues(), Err(Error::Closed | Error::System { .. })));
        // The next one is served.
        let mut next = ScsiDriver::connect(&new.socket, &set(ALL)).unwrap();
        next.start().unwrap();
        status(&mut next, 0);
        assert_eq!(status(&mut next, 0), 0);
        clear(&old);
    }
    assert_eq!(serde_json::from_str::<Record>(r#"{"later": 1}"#).unwrap(), Record::default());
}
