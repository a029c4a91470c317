//! Virtual machines that move between two exports with one unit, while their requests go on.

use super::*;
use lunette_guest::migration::{Log, Migration};
use lunette_guest::verify::Verifier;
use lunette_guest::{Error as GuestError, Session};
use lunette_vhost_user::{StateDirection, VringAddress};
use std::os::fd::OwnedFd;

/// The state of a device that is as it is at its start.
const NO_STATE: &[u8] = br#"{"version":1,"vhost-user-scsi":{}}"#;

/// Two exports, as of two processes.
struct Ends {
    rig: Rig,
    there: PathBuf,
    _export: Handle,
}

impl Ends {
    fn new(store: Arc<dyn Backing>) -> Self {
        let rig = Rig::new(Io::Auto, store);
        let there = rig.socket.with_file_name("there.sock");
        let export = start(&rig.reactors, &there, &rig.targets);
        Self { rig, there, _export: export }
    }
}

/// Copies the virtual machine while it works, and stops it.
fn copy(load: &mut Verifier) -> Migration {
    let ranges = load.device_ranges();
    let migration = Migration::begin(&mut load.driver.monitor, ranges).unwrap();
    for _ in 0..5 {
        load.run(200).unwrap();
        assert!(migration.round(&load.driver.monitor).unwrap() > 0);
    }
    load.stop().unwrap();
    migration
}

#[test]
fn what_the_log_says_makes_the_copy_the_same_and_requests_go_on() {
    for packed in [false, true] {
        let ends = Ends::new(Arc::new(Ram::new(1 << 20).unwrap()));
        let mut load = Verifier::connect(&ends.rig.socket, packed).unwrap();
        load.run(300).unwrap();
        let migration = copy(&mut load);
        let behind = migration.differing(&load.driver.monitor).unwrap();
        assert!(!behind.is_empty(), "there is something to copy at last");
        migration.round(&load.driver.monitor).unwrap();
        assert_eq!(migration.differing(&load.driver.monitor).unwrap(), Vec::<u64>::new());
        let state = load.driver.monitor.session.save_state().unwrap();
        let wanted = Verifier::options(packed).wanted;
        let (old, left) =
            migration.finish(&mut load.driver.monitor, &ends.there, &wanted, Some(&state)).unwrap();
        let as_left = left.read(0, 1 << 16).unwrap();
        load.resume().unwrap();
        load.run(300).unwrap();
        load.finish().unwrap();
        // No unit attention, and nothing comes late where it was before.
        assert!(load.is_ready().unwrap());
        assert!(load.verified() > 300, "{}", load.verified());
        assert_eq!(left.read(0, 1 << 16).unwrap(), as_left);
        drop(old);
    }
}

#[test]
fn used_descriptors_of_packed_rings_are_logged() {
    let rig = Rig::ram(Io::Auto);
    let mut guest = Verifier::connect(&rig.socket, true).unwrap();
    let log = Log::new(&guest.driver.monitor.memory).unwrap();
    log.begin(&mut guest.driver.monitor).unwrap();
    let areas = guest.driver.monitor.queue(2).ring().areas().clone();
    // The device's event suppression, which is in the same page, is marked elsewhere.
    let address = VringAddress {
        index: 2,
        flags: VringAddress::LOG,
        descriptor: areas.descriptors.user_address(),
        used: areas.device.user_address(),
        available: areas.driver.user_address(),
        log: 1 << 40,
    };
    guest.driver.monitor.session.done(|frontend| frontend.set_vring_addr(address)).unwrap();
    log.take();
    guest.run(100).unwrap();
    guest.finish().unwrap();
    guest.driver.stop(0).unwrap();
    let page = areas.descriptors.address() / 4096;
    assert!(log.take().contains(&page));
}

#[test]
fn a_migration_that_fails_goes_on_where_it_was() {
    let ends = Ends::new(Arc::new(Ram::new(1 << 20).unwrap()));
    let mut load = Verifier::connect(&ends.rig.socket, false).unwrap();
    for _ in 0..3 {
        let migration = copy(&mut load);
        migration.round(&load.driver.monitor).unwrap();
        let state = load.driver.monitor.session.save_state().unwrap();
        // The other end takes the state, or what comes there as one, and hears no more.
        let mut there = Session::connect(&ends.there).unwrap();
        there.negotiate(&Verifier::options(false).wanted).unwrap();
        there.load_state(&state).unwrap();
        assert!(matches!(there.load_state(&state[1..]), Err(GuestError::Refused(_))));
        drop(there);
        load.driver.monitor.log(false).unwrap();
        load.resume().unwrap();
        load.run(200).unwrap();
        assert!(migration.is_quiet(), "what is not logged any more");
    }
    load.finish().unwrap();
    assert!(load.is_ready().unwrap());
}

#[test]
fn the_state_that_a_driver_relies_on_goes_along() {
    let ends = Ends::new(Arc::new(Ram::new(1 << 20).unwrap()));
    let unit = ends.rig.targets[&0].luns().inventory().units()[&0].clone();
    let mut front = FrontEnd::ready(&ends.rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.stop(2);
    unit.establish_attention(lunette_scsi::AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
    drop(front);
    let session = |socket: &Path| {
        let mut session = Session::connect(socket).unwrap();
        session.negotiate(&Verifier::options(false).wanted).unwrap();
        session
    };
    let mut here = session(&ends.rig.socket);
    here.set_config(20, &[252, 0, 0, 0, 16, 0, 0, 0]).unwrap();
    let state = here.save_state().unwrap();
    let mut there = session(&ends.there);
    there.load_state(&state).unwrap();
    assert_eq!(there.config(20, 8).unwrap(), [252, 0, 0, 0, 16, 0, 0, 0]);
    there.set_config(20, &[96, 0, 0, 0, 32, 0, 0, 0]).unwrap();
    drop(there);
    let mut front = FrontEnd::ready(&ends.there, MEMORY);
    let mut ring = front.start(2, 0, 64);
    let sense = front.command(&mut ring, &TEST_UNIT_READY, &[], 0).sense;
    assert_eq!(sense[12..14], [0x2a, 0x09], "and no power-on");
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
}

#[test]
fn states_of_no_use_are_refused_when_asked() {
    let rig = Rig::ram(Io::Auto);
    let mut session = Session::connect(&rig.socket).unwrap();
    session.negotiate(&Verifier::options(false).wanted).unwrap();
    // Nobody has begun.
    assert!(session.done(lunette_vhost_user::Frontend::check_device_state).is_err());
    let no_cdb = br#"{"version":1,"vhost-user-scsi":{"sizes":[96,0]}}"#;
    let no_nexus = br#"{"version":1,"vhost-user-scsi":{"nexuses":{"0":{"units":{"x":5}}}}}"#;
    for wrong in [&b""[..], b"{", b"\xff", br#"{"version":7}"#, no_cdb, no_nexus] {
        assert!(session.load_state(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
    }
    session.load_state(NO_STATE).unwrap();
    let event = || rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    let mut begin = |direction, fd| {
        let reply = session.ask(|frontend| frontend.set_device_state_fd(direction, fd)).unwrap();
        matches!(reply, Some(Reply::MoveState { success: true, fd: None }))
    };
    assert!(!begin(StateDirection::Load, event()));
    // One at a time.
    let (reader, writer) = std::io::pipe().unwrap();
    assert!(begin(StateDirection::Load, reader.into()));
    let (other, _other) = std::io::pipe().unwrap();
    assert!(!begin(StateDirection::Load, other.into()));
    drop(writer);
    assert!(session.done(lunette_vhost_user::Frontend::check_device_state).is_err());
    // Who goes in the midst of it leaves nothing behind.
    let (reader, writer) = std::io::pipe().unwrap();
    assert!(
        session.ask(|frontend| frontend.set_device_state_fd(StateDirection::Load, reader.into())).is_ok()
    );
    drop((session, writer));
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    // Nor is it moved while a ring is started.
    let (reader, _writer) = std::io::pipe().unwrap();
    let message = front.protocol.set_device_state_fd(StateDirection::Save, reader.into());
    assert!(matches!(front.ask(message), Some(Reply::MoveState { success: false, fd: None })));
}

#[test]
fn a_transfer_ends_with_its_connection_whoever_keeps_the_pipe() {
    let rig = Rig::ram(Io::Auto);
    for direction in [StateDirection::Save, StateDirection::Load] {
        let mut session = Session::connect(&rig.socket).unwrap();
        session.negotiate(&Verifier::options(false).wanted).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        while rustix::io::write(&writer, &[b' '; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&writer, false).unwrap();
        let (ours, kept): (OwnedFd, OwnedFd) = match direction {
            StateDirection::Save => (writer.into(), reader.into()),
            StateDirection::Load => (reader.into(), writer.into()),
        };
        session.ask(|frontend| frontend.set_device_state_fd(direction, ours)).unwrap();
        drop(session);
        let mut front = FrontEnd::ready(&rig.socket, MEMORY);
        let mut ring = front.start(2, 0, 64);
        front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        drop((front, kept));
    }
}

#[test]
fn a_transfer_that_is_never_read_holds_nobody_up() {
    let ends = Ends::new(Arc::new(Ram::new(1 << 20).unwrap()));
    let mut session = Session::connect(&ends.rig.socket).unwrap();
    session.negotiate(&Verifier::options(false).wanted).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    // Full before it begins.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    session.ask(|frontend| frontend.set_device_state_fd(StateDirection::Save, writer.into())).unwrap();
    let message = session.frontend().check_device_state();
    session.send(message).unwrap();
    let mut front = FrontEnd::ready(&ends.there, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    drop(reader);
    assert!(matches!(session.reply().unwrap(), Reply::Ack { success: false, .. }), "nobody reads it");
}
