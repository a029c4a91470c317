//! Units that may be served by one of two processes go where the rings of their virtual machine run.

use super::handover::{LAYOUTS, begin_hand_over, clear, frozen, noting, set, snapshot, through_text};
use super::*;
use crate::testing::front_end::ALL_PROTOCOL;
use crate::{DeviceState, Given, HandedConnection, Lease, Taken};
use lunette_guest::{Command, ScsiDriver, Session};
use lunette_vhost_user::{Config, ConfigFlags, LogArea, ProtocolFeatures};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

const FEATURES: Features = Features::VERSION_1.union(Features::EVENT_IDX).union(Features::PROTOCOL_FEATURES);

pub(super) enum Asked {
    /// Whether it goes on.
    Take(bool, Taken),
    Give(DeviceState, Given),
}

/// Passes on what it is asked.
pub(super) struct Fake {
    asked: Mutex<Sender<Asked>>,
    refusal: Mutex<Option<&'static str>>,
    term: Mutex<u64>,
}

impl Lease for Fake {
    fn check(&self) -> Result<(), String> {
        self.refusal.lock().unwrap().map_or(Ok(()), |why| Err(why.to_owned()))
    }

    fn terms(&self) -> BTreeMap<String, u64> {
        [("disk".to_owned(), *self.term.lock().unwrap())].into()
    }

    fn take(&self, goes_on: bool, done: Taken) {
        self.asked.lock().unwrap().send(Asked::Take(goes_on, done)).unwrap();
    }

    fn give(&self, state: DeviceState, done: Given) {
        self.asked.lock().unwrap().send(Asked::Give(state, done)).unwrap();
    }
}

pub(super) struct Leased {
    pub(super) rig: Rig,
    lease: Arc<Fake>,
    pub(super) asked: Receiver<Asked>,
}

impl Leased {
    fn new() -> Self {
        Self::keeping_notes(false)
    }

    pub(super) fn keeping_notes(keep_notes: bool) -> Self {
        let mut rig = Rig::ram(Io::Auto);
        rig.export.take().unwrap().stop();
        let (sender, asked) = channel();
        let lease =
            Arc::new(Fake { asked: Mutex::new(sender), refusal: Mutex::new(None), term: Mutex::new(7) });
        let options = Options { keep_notes, ..Options::new(&rig.socket) };
        let export = VhostUserExport::new(options, rig.targets.clone()).with_lease(lease.clone());
        rig.export = Some(export.start(rig.reactors.poster(), &[ReactorId(0), ReactorId(1)]).unwrap());
        Self { rig, lease, asked }
    }

    /// Goes on with what another process had.
    pub(super) fn resuming(handed: HandedConnection) -> Self {
        let mut leased = Self::new();
        leased.rig.export.take().unwrap().stop();
        let export = VhostUserExport::new(Options::new(&leased.rig.socket), leased.rig.targets.clone());
        let export = export.with_connection(through_text(handed)).with_lease(leased.lease.clone());
        let reactors = [ReactorId(0), ReactorId(1)];
        leased.rig.export = Some(export.start(leased.rig.reactors.poster(), &reactors).unwrap());
        leased
    }

    fn taken(&self) -> Taken {
        self.taken_by().1
    }

    /// Whether the machine goes on, too.
    pub(super) fn taken_by(&self) -> (bool, Taken) {
        match self.asked.recv().unwrap() {
            Asked::Take(goes_on, done) => (goes_on, done),
            Asked::Give(..) => panic!("given up"),
        }
    }

    pub(super) fn given(&self) -> (DeviceState, Given) {
        match self.asked.recv().unwrap() {
            Asked::Give(state, done) => (state, done),
            Asked::Take(..) => panic!("asked for"),
        }
    }

    fn is_asked(&self) -> bool {
        // What was decided before is on its way no more.
        held(&self.rig.reactors, 0);
        self.asked.try_recv().is_ok()
    }
}

fn log(front: &mut FrontEnd, on: bool) -> bool {
    let features = if on { FEATURES | Features::LOG_ALL } else { FEATURES };
    let message = front.protocol.set_features(features);
    matches!(front.ask(message), Some(Reply::Ack { success: true, .. }))
}

fn set_log(front: &mut FrontEnd) {
    let message = front.protocol.set_log_base(LogArea { size: 4096, offset: 0 }, memfd(4096));
    front.done(message);
}

#[test]
fn rings_wait_for_the_units_which_go_when_the_last_has_stopped() {
    let leased = Leased::new();
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    let mut first = front.start(2, 0, 16);
    let mut second = front.start(3, 0x1_0000, 16);
    let (goes_on, take) = leased.taken_by();
    assert!(!goes_on);
    // One that is stopped before has never begun.
    front.offer_command(&second, 0, DATA + 0x2_0000, &TEST_UNIT_READY, &[], 0);
    assert_eq!(front.stop(3), 0);
    assert!(second.used_up(&front.guest));
    front.restart(&second, 0);
    take(Ok(None));
    front.command(&mut first, &TEST_UNIT_READY, &[], 0);
    assert_eq!(front.used(&mut second).0, 0);
    // Without a log nobody can go on elsewhere.
    front.stop(2);
    front.stop(3);
    assert!(!leased.is_asked());
    front.restart(&first, 1);
    assert_eq!(front.command(&mut first, &TEST_UNIT_READY, &[], 0).status, 0);
    set_log(&mut front);
    assert!(log(&mut front, true));
    front.restart(&second, 1);
    front.stop(2);
    assert!(!leased.is_asked());
    let message = front.protocol.get_vring_base(3);
    front.send(message);
    let (state, give) = leased.given();
    assert_eq!(state.nexuses.len(), 1);
    assert!(!front.has_reply(), "before the units are given up");
    give(Ok(()));
    assert!(matches!(front.reply(), Some(Reply::VringBase(base)) if base.num == 1));
    // The migration has failed, and the machine goes on.
    front.restart(&second, 1);
    assert!(log(&mut front, false));
    front.offer_command(&second, 0, DATA, &TEST_UNIT_READY, &[], 0);
    let (goes_on, take) = leased.taken_by();
    assert!(goes_on);
    assert!(second.used_up(&front.guest));
    take(Ok(Some(state)));
    assert_eq!(front.used(&mut second).0, 0);
    assert_eq!(front.result(DATA, 0, 0).status, 0, "no power-on");
    // They go with the virtual machine, whatever has become of it.
    drop(front);
    leased.given().1(Ok(()));
}

#[test]
fn units_that_cannot_be_had_are_asked_for_again() {
    let leased = Leased::new();
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 16);
    front.offer_command(&ring, 0, DATA, &TEST_UNIT_READY, &[], 0);
    for _ in 0..2 {
        leased.taken()(Err("another host has them".to_owned()));
        front.share();
        assert!(ring.used_up(&front.guest));
    }
    leased.taken()(Ok(None));
    assert_eq!(front.used(&mut ring).0, 0);
    // And what cannot be given up stays.
    set_log(&mut front);
    assert!(log(&mut front, true));
    let message = front.protocol.get_vring_base(2);
    front.send(message);
    leased.given().1(Err("the disk is full".to_owned()));
    assert!(matches!(front.reply(), Some(Reply::VringBase(base)) if base.num == 1));
    front.restart(&ring, 1);
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    drop(front);
    leased.given().1(Ok(()));
}

#[test]
fn units_in_use_by_others_keep_their_virtual_machine() {
    let leased = Leased::new();
    *leased.lease.refusal.lock().unwrap() = Some("LUN 0 is in use by iqn.2024-01.org.example:b");
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 16);
    leased.taken()(Ok(None));
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    set_log(&mut front);
    assert!(!log(&mut front, true));
    // It is as if nobody had asked.
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    front.stop(2);
    assert!(!leased.is_asked());
    let (_reader, writer) = std::io::pipe().unwrap();
    let save = lunette_vhost_user::StateDirection::Save;
    let message = front.protocol.set_device_state_fd(save, writer.into());
    assert!(matches!(front.ask(message), Some(Reply::MoveState { success: false, .. })));
    *leased.lease.refusal.lock().unwrap() = None;
    assert!(log(&mut front, true));
    // Whoever does not want to know goes on, and is answered by what keeps the units.
    assert!(log(&mut front, false));
    *leased.lease.refusal.lock().unwrap() = Some("it is in use");
    front.protocol.want_acks(false);
    let message = front.protocol.set_features(FEATURES | Features::LOG_ALL);
    front.send(message);
    let message = front.protocol.get_features();
    assert!(matches!(front.ask(message), Some(Reply::Features(_))));
    drop(front);
    leased.given().1(Ok(()));
}

/// QEMU's device has a configuration space of its own.
#[test]
fn a_monitor_that_would_not_survive_a_refusal_gets_none() {
    let leased = Leased::new();
    *leased.lease.refusal.lock().unwrap() = Some("LUN 0 is in use by iqn.2024-01.org.example:b");
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    let known = ALL_PROTOCOL - ProtocolFeatures::CONFIG;
    let message = front.protocol.set_protocol_features(known);
    front.done(message);
    let mut ring = front.start(2, 0, 16);
    leased.taken()(Ok(None));
    set_log(&mut front);
    assert!(log(&mut front, true));
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    let message = front.protocol.get_vring_base(2);
    front.send(message);
    // Who has refused keeps them.
    leased.given().1(Err("LUN 0 is in use".to_owned()));
    assert!(matches!(front.reply(), Some(Reply::VringBase(base)) if base.num == 1));
    front.restart(&ring, 1);
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    // It is asked once more when it has gone.
    let message = front.protocol.get_vring_base(2);
    front.send(message);
    leased.given().1(Err("LUN 0 is in use".to_owned()));
    assert!(matches!(front.reply(), Some(Reply::VringBase(_))));
    drop(front);
    leased.given().1(Err("LUN 0 is in use".to_owned()));
}

#[test]
fn what_is_left_of_a_driver_is_not_for_the_next_one() {
    let leased = Leased::new();
    let mut session = Session::connect(&leased.rig.socket).unwrap();
    session.negotiate(&lunette_guest::Wanted::default()).unwrap();
    let as_made = session.config(20, 8).unwrap();
    drop(session);
    let wanted = Config { offset: 20, flags: ConfigFlags::WRITABLE, bytes: vec![0; 8] };
    let of_a_former = || DeviceState { sizes: Some((252, 16)), ..DeviceState::default() };
    for (base, applies) in [(0, false), (7, true)] {
        let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
        let _ring = front.go_on(2, 0, 16, base);
        leased.taken()(Ok(Some(of_a_former())));
        assert!(!leased.is_asked());
        let message = front.protocol.get_config(&wanted);
        let Some(Reply::Config(Some(config))) = front.ask(message) else { panic!() };
        assert_eq!(config.bytes != as_made, applies);
        drop(front);
        leased.given().1(Ok(()));
    }
}

#[test]
fn a_state_is_not_saved_of_units_that_stay() {
    let leased = Leased::new();
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    let _ring = front.start(2, 0, 16);
    leased.taken()(Ok(None));
    front.stop(2);
    for (given, saves) in [(Err("the disk is full".to_owned()), false), (Ok(()), true)] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let save = lunette_vhost_user::StateDirection::Save;
        let message = front.protocol.set_device_state_fd(save, writer.into());
        assert!(matches!(front.ask(message), Some(Reply::MoveState { success: true, .. })));
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        let message = front.protocol.check_device_state();
        front.send(message);
        leased.given().1(given);
        assert!(matches!(front.reply(), Some(Reply::Ack { success, .. }) if success == saves));
    }
}

#[test]
fn a_state_that_comes_when_rings_run_is_refused() {
    let leased = Leased::new();
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    let (reader, writer) = std::io::pipe().unwrap();
    let load = lunette_vhost_user::StateDirection::Load;
    let message = front.protocol.set_device_state_fd(load, reader.into());
    assert!(matches!(front.ask(message), Some(Reply::MoveState { success: true, .. })));
    let mut ring = front.start(2, 0, 16);
    leased.taken()(Ok(None));
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    rustix::io::write(&writer, br#"{"version":1,"vhost-user-scsi":{}}"#).unwrap();
    drop(writer);
    let message = front.protocol.check_device_state();
    assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })));
    drop(front);
    leased.given().1(Ok(()));
}

/// A state that was left in a term of its unit.
const OF_TERM_6: &[u8] = br#"{"version":1,"vhost-user-scsi":{"terms":{"disk":6,"other":1}}}"#;

/// Loads [`OF_TERM_6`] in another term of the units, with which this comes. Returns whether that counts, and what is left then.
fn load_in(leased: &Leased, term: u64, came: DeviceState) -> (bool, DeviceState) {
    *leased.lease.term.lock().unwrap() = term;
    let socket = leased.rig.socket.clone();
    let loading = std::thread::spawn(move || {
        let mut session = Session::connect(&socket).unwrap();
        session.negotiate(&lunette_guest::Wanted::default()).unwrap();
        let loaded = session.load_state(OF_TERM_6).is_ok();
        (session, loaded)
    });
    leased.taken()(Ok(Some(came)));
    let (session, loaded) = loading.join().unwrap();
    drop(session);
    let (state, give) = leased.given();
    give(Ok(()));
    (loaded, state)
}

#[test]
fn a_state_is_loaded_again_until_rings_have_run() {
    let leased = Leased::new();
    let (loaded, mut left) = load_in(&leased, 7, DeviceState::default());
    assert!(loaded);
    for term in [8, 9] {
        let (loaded, again) = load_in(&leased, term, left);
        assert!(loaded, "nobody has begun to use the units");
        left = again;
    }
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    *leased.lease.term.lock().unwrap() = 10;
    let _ring = front.go_on(2, 0, 16, 7);
    leased.taken()(Ok(Some(left)));
    assert!(!leased.is_asked());
    drop(front);
    let (left, give) = leased.given();
    give(Ok(()));
    assert!(!load_in(&leased, 11, left).0);
}

/// Who had the units in between has run and left nothing.
#[test]
fn a_state_that_was_of_use_once_is_not_for_ever() {
    let leased = Leased::new();
    let mut session = Session::connect(&leased.rig.socket).unwrap();
    session.negotiate(&lunette_guest::Wanted::default()).unwrap();
    let aside = |mut session: Session, ask: fn(&mut Session) -> bool| {
        std::thread::spawn(move || {
            let done = ask(&mut session);
            (session, done)
        })
    };
    let load = |session: &mut Session| session.load_state(OF_TERM_6).is_ok();
    let loading = aside(session, load);
    leased.taken()(Ok(None));
    let (session, loaded) = loading.join().unwrap();
    assert!(loaded);
    let saving = aside(session, |session| session.save_state().is_ok());
    leased.given().1(Ok(()));
    let (session, saved) = saving.join().unwrap();
    assert!(saved);
    *leased.lease.term.lock().unwrap() = 9;
    let loading = aside(session, load);
    leased.taken()(Ok(None));
    // Since it was saved, the machine may go on elsewhere.
    let (left, give) = leased.given();
    give(Ok(()));
    let (session, loaded) = loading.join().unwrap();
    assert!(!loaded, "the unit was served elsewhere since");
    drop(session);
    assert!(!load_in(&leased, 10, left).0);
}

#[test]
fn a_state_of_before_rings_have_run_is_refused() {
    let leased = Leased::new();
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 16);
    leased.taken()(Ok(None));
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.stop(2);
    let (reader, writer) = std::io::pipe().unwrap();
    let load = lunette_vhost_user::StateDirection::Load;
    let message = front.protocol.set_device_state_fd(load, reader.into());
    assert!(matches!(front.ask(message), Some(Reply::MoveState { success: true, .. })));
    rustix::io::write(&writer, OF_TERM_6).unwrap();
    drop(writer);
    let message = front.protocol.check_device_state();
    assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })));
    drop(front);
    leased.given().1(Ok(()));
}

#[test]
fn a_virtual_machine_whose_daemon_was_killed_goes_on() {
    let old = noting(Rig::held());
    let mut driver = ScsiDriver::connect(&old.socket, &set(LAYOUTS[0])).unwrap();
    driver.start().unwrap();
    driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
    let handed = frozen(snapshot(&old));
    assert!(handed.record.backend.vrings.iter().all(|vring| vring.base == 0), "it says nothing");
    let mut leased = Leased::resuming(handed);
    let (goes_on, take) = leased.taken_by();
    assert!(goes_on);
    take(Ok(None));
    leased.rig.export.take().unwrap().begin_stop();
    leased.given().1(Ok(()));
}

#[test]
fn who_hands_over_waits_for_units_that_are_on_their_way() {
    let leased = Leased::new();
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    let _ring = front.go_on(2, 0, 16, 7);
    let take = leased.taken();
    let handed = begin_hand_over(&leased.rig);
    assert!(!leased.is_asked() && handed.try_recv().is_err());
    take(Ok(Some(DeviceState { sizes: Some((252, 16)), ..DeviceState::default() })));
    let (state, give) = leased.given();
    assert_eq!(state.sizes, Some((252, 16)), "what came with them goes along");
    give(Ok(()));
    assert!(handed.recv().unwrap().connection.is_some());
    clear(&leased.rig);
}

#[test]
fn a_state_is_loaded_when_the_units_are_there() {
    let leased = Leased::new();
    let wanted = lunette_guest::Wanted::default();
    let connect = || {
        let mut session = Session::connect(&leased.rig.socket).unwrap();
        session.negotiate(&wanted).unwrap();
        assert!(session.protocol_features().contains(ProtocolFeatures::DEVICE_STATE));
        session
    };
    let not_had = Err("another host has them".to_owned());
    let left = DeviceState { sizes: Some((252, 16)), ..DeviceState::default() };
    let had = || Ok(Some(left.clone()));
    let no_cdb = br#"{"version":1,"vhost-user-scsi":{"sizes":[96,0],"terms":{"disk":6}}}"#;
    for (answer, term, state, loads) in [
        (not_had, 7, OF_TERM_6, false),
        (had(), 7, OF_TERM_6, true),
        (had(), 6, OF_TERM_6, false),
        (had(), 8, OF_TERM_6, false),
        (had(), 7, no_cdb, false),
    ] {
        let (mut session, has_them) = (connect(), answer.is_ok());
        *leased.lease.term.lock().unwrap() = term;
        let loading = std::thread::spawn(move || {
            let loaded = session.load_state(state);
            (session, loaded.is_ok())
        });
        // Those that are on their way here are asked for once more.
        leased.taken()(Err("another host has them".to_owned()));
        leased.taken()(answer);
        let (session, loaded) = loading.join().unwrap();
        assert_eq!(loaded, loads);
        drop(session);
        if has_them {
            // What came with them goes along with them again, unless something newer was loaded.
            let (state, give) = leased.given();
            assert_eq!(state.sizes == left.sizes, !loads);
            assert_eq!(state.terms["disk"], term);
            give(Ok(()));
        }
    }
    // What is saved is given up before that is said.
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    let ring = front.start(2, 0, 16);
    leased.taken()(Ok(None));
    front.stop(2);
    assert!(!leased.is_asked());
    let (mut reader, writer) = std::io::pipe().unwrap();
    let save = lunette_vhost_user::StateDirection::Save;
    let message = front.protocol.set_device_state_fd(save, writer.into());
    assert!(matches!(front.ask(message), Some(Reply::MoveState { success: true, .. })));
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    let message = front.protocol.check_device_state();
    front.send(message);
    let (_, give) = leased.given();
    assert!(!front.has_reply());
    give(Ok(()));
    assert!(matches!(front.reply(), Some(Reply::Ack { success: true, .. })));
    drop((front, ring));
    // There is nothing to give up any more.
    let mut front = FrontEnd::ready(&leased.rig.socket, MEMORY);
    front.share();
    assert!(!leased.is_asked());
}
