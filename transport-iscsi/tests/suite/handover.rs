//! Sessions that go on in another process: here with other reactors, another entity and another logical unit, on the same store.

use crate::client::{Client, READ, TARGET, WRITE, cdb, lun_of, pattern, settings};
use crate::rig::{Rig, SIZE, stuck_disk, target, target_of, unit};
use crate::sessions::{discovery, release};
use lunette_engine::LogicalUnit;
use lunette_iscsi::Error as ProtocolError;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{AsyncEvent, LoginStatus};
use lunette_scsi::AdditionalSense;
use lunette_store::{Backing, ReactorId, held, ram::Ram};
use lunette_transport_iscsi::{
    AccessControl, AccessRule, EntityOptions, HandedSession, HandedState, NetworkEntity, Portal,
    PortalOptions, RestingSession, TargetOptions,
};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const RESERVE: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const RESERVATION_CONFLICT: u8 = 0x18;
/// Far longer than it takes.
const LONG: Duration = Duration::from_secs(60);

/// A process, and what it serves as LUN 0.
struct Process {
    rig: Rig,
    unit: Arc<LogicalUnit>,
    store: Arc<dyn Backing>,
}

/// What there is when one process has handed over, and the next is to go on.
struct Between {
    handed: Vec<RestingSession>,
    before: Process,
}

impl Process {
    fn new() -> Self {
        Self::serving(EntityOptions::default(), &[])
    }

    /// With further units.
    fn serving(options: EntityOptions, others: &[Arc<LogicalUnit>]) -> Self {
        let store: Arc<dyn Backing> = Arc::new(Ram::new(SIZE).unwrap());
        let unit = unit(1, store.clone());
        let units: Vec<_> = [&unit].into_iter().chain(others).cloned().collect();
        Self { rig: Rig::serving(options, target_of(TARGET, &[1], &units), 2), unit, store }
    }

    /// Hands its sessions over, and has the others end.
    fn hand_over(self, within: Duration) -> Between {
        let handed = self.rig.entity.hand_over(within, &self.rig.reactors);
        Between { handed, before: self }
    }
}

/// The way to another process.
fn carried(session: RestingSession) -> HandedSession {
    let HandedSession { socket, state } = session.hand_over();
    let state: HandedState = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
    HandedSession { socket, state }
}

impl Between {
    /// The next process, before it goes on with the sessions.
    fn next(&self, access: AccessControl) -> Process {
        let Process { rig, unit: before, store } = &self.before;
        let unit = unit(1, store.clone());
        let state = serde_json::to_vec(&before.hand_over(Duration::ZERO, Duration::ZERO)).unwrap();
        unit.take_over(serde_json::from_slice(&state).unwrap(), Duration::ZERO, Duration::ZERO).unwrap();
        let reactors = lunette_reactor::Options { reactors: 2, pin: false, ..Default::default() };
        let reactors = lunette_reactor::Reactors::start(&reactors).unwrap();
        let entity = NetworkEntity::new(EntityOptions::default());
        let target = entity.add(TargetOptions { access, ..target(TARGET, &[1], &unit) }).unwrap();
        entity.hold();
        let socket = rig.portal().share().unwrap();
        let portal = Some(Portal::adopt(socket, PortalOptions::default(), &entity, &reactors).unwrap());
        Process { rig: Rig { entity, target, portal, reactors }, unit, store: store.clone() }
    }

    /// The end of the process before.
    fn end(mut self) {
        assert_eq!(self.before.rig.target.session_count(), 0);
        assert!(self.before.rig.stop());
    }

    /// The next process goes on with all sessions; that before it ends.
    fn go_on(self) -> Process {
        self.go_on_in_order(0)
    }

    /// The same; the session of this handle is the last.
    fn go_on_in_order(mut self, last: u16) -> Process {
        let next = self.next(AccessControl::default());
        let mut handed: Vec<_> = std::mem::take(&mut self.handed).into_iter().map(carried).collect();
        handed.sort_by_key(|session| session.state.info().tsih == last);
        let count = handed.len();
        assert_eq!(next.rig.entity.resume(handed, &next.rig.reactors), count);
        self.end();
        next
    }
}

fn attention(client: &mut Client) -> Option<(u8, u8, u8)> {
    let ended = client.run(&[0; 6], 0, None);
    (ended.status != 0).then(|| ended.sense_code())
}

#[test]
fn initiators_notice_a_pause_at_most() {
    for digests in [false, true] {
        let parameters = Parameters { header_digest: digests, data_digest: digests, ..Parameters::PREFERRED };
        let mut process = Process::new();
        let address = process.rig.address();
        let connect = |number| Client::ready(address, Settings { parameters, ..settings(number) });
        let mut clients: Vec<_> = (0..6).map(connect).collect();
        let mut tags = Vec::new();
        for round in 0..4 {
            let place = |number: usize| number as u32 * 256;
            let data = |number: usize| pattern(round + number as u32, 100 << 10);
            for (number, client) in clients.iter_mut().enumerate() {
                client.write(place(number), data(number));
                client.command(&cdb(READ, place(number), 200), 200 * 512, None);
                client.send();
            }
            let between = process.hand_over(LONG);
            assert_eq!(between.handed.len(), 6);
            // Nobody is there, and they go on.
            for (number, client) in clients.iter_mut().enumerate() {
                tags.push(client.command(&cdb(READ, place(number), 200), 200 * 512, None));
                client.send();
            }
            process = between.go_on();
            for ((number, client), tag) in clients.iter_mut().enumerate().zip(tags.drain(..)) {
                let ended = client.finish(tag);
                assert!(ended.status == 0 && ended.data == data(number), "{:?}", ended.sense);
                client.until(|client| client.ended.len() == 1);
                let (_, before) = client.ended.drain().next().unwrap();
                assert!(before.status == 0 && before.data == data(number));
                assert_eq!(attention(client), None);
                assert!(client.messages.is_empty() && client.rejects.is_empty());
            }
        }
        let sessions = process.rig.entity.sessions(&process.rig.reactors);
        let handles: Vec<_> = sessions.iter().map(|session| session.tsih).collect();
        let known: Vec<_> = clients.iter().map(|client| client.initiator.tsih()).collect();
        assert_eq!(handles, known);
        assert_eq!(process.rig.entity.loads(), [3, 3]);
        let mut new = connect(9);
        assert!(!known.contains(&new.initiator.tsih()));
        assert_eq!(process.rig.portal().connection_count(), 7);
        clients.iter_mut().chain([&mut new]).for_each(Client::log_out);
        process.rig.wait_for_connections(0);
    }
}

#[test]
fn sessions_under_load_are_handed_over_again_and_again() {
    let mut process = Process::new();
    let address = process.rig.address();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..4u32 {
            let done = &done;
            scope.spawn(move || {
                let mut client = Client::ready(address, settings(number as u8));
                for round in 0..100 {
                    let data = pattern(number + round, 64 << 10);
                    let lba = number * 128;
                    let write = client.command(&cdb(WRITE, lba, 128), 0, Some(data.clone()));
                    assert_eq!(client.finish(write).status, 0);
                    let tags =
                        [0, 32, 64, 96].map(|at| client.command(&cdb(READ, lba + at, 32), 16384, None));
                    for (tag, part) in tags.into_iter().zip(data.chunks(16384)) {
                        let ended = client.finish(tag);
                        assert!(ended.status == 0 && ended.data == part, "{:?}", ended.sense);
                    }
                }
                client.log_out();
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        process.rig.wait_for_connections(4);
        while process.rig.target.session_count() != 4 {
            std::thread::yield_now();
        }
        while done.load(Ordering::Relaxed) < 4 {
            process = process.hand_over(LONG).go_on();
        }
    });
}

#[test]
fn unit_attentions_are_told_once_and_to_who_has_not_heard() {
    let process = Process::new();
    let (mut a, mut b) = (process.rig.client(1), process.rig.client(2));
    process.unit.establish_attention(AdditionalSense::MODE_PARAMETERS_CHANGED, None);
    assert_eq!(attention(&mut a), Some((6, 0x2a, 1)));
    let process = process.hand_over(LONG).go_on();
    assert_eq!((attention(&mut a), attention(&mut b)), (None, Some((6, 0x2a, 1))));
    assert_eq!((attention(&mut a), attention(&mut b)), (None, None));
    process.rig.client(3);
}

#[test]
fn what_others_cause_until_all_is_at_rest_is_told() {
    let process = Process::new();
    let mut client = process.rig.client(1);
    let between = process.hand_over(LONG);
    between.before.unit.establish_attention(AdditionalSense::MODE_PARAMETERS_CHANGED, None);
    let _next = between.go_on();
    assert_eq!((attention(&mut client), attention(&mut client)), (Some((6, 0x2a, 1)), None));
}

#[test]
fn nobody_is_served_before_all_is_known_of_others() {
    let process = Process::new();
    let mut others: Vec<_> = (1..40).map(|number| process.rig.client(number)).collect();
    let mut last = process.rig.client(40);
    assert_eq!(last.run(&RESERVE, 0, None).status, 0);
    let between = process.hand_over(LONG);
    let write = |client: &mut Client| client.command(&cdb(WRITE, 0, 1), 0, Some(vec![1; 512]));
    let tags: Vec<_> = others.iter_mut().map(write).collect();
    others.iter_mut().for_each(Client::send);
    let _next = between.go_on_in_order(last.initiator.tsih());
    for (client, tag) in others.iter_mut().zip(tags) {
        assert_eq!(client.finish(tag).status, RESERVATION_CONFLICT);
    }
    assert_eq!(last.read(0, 1), [0; 512]);
}

#[test]
fn a_reserve_is_kept_and_ends_with_its_session() {
    let process = Process::new();
    let (mut a, mut b) = (process.rig.client(1), process.rig.client(2));
    assert_eq!(a.run(&RESERVE, 0, None).status, 0);
    let process = process.hand_over(LONG).go_on();
    assert_eq!(b.run(&cdb(READ, 0, 1), 512, None).status, RESERVATION_CONFLICT);
    assert_eq!(a.read(0, 1), [0; 512]);
    a.log_out();
    process.rig.wait_for_connections(1);
    assert_eq!(b.read(0, 1), [0; 512]);
}

#[test]
fn a_request_that_has_come_in_part_goes_on() {
    // In the header, in the data, and within nothing.
    for cut in [20, 48 + 100, 0] {
        let process = Process::new();
        let mut client = process.rig.client(1);
        let data = pattern(7, 4096);
        let tag = client.command(&cdb(WRITE, 0, 8), 0, Some(data.clone()));
        let wire = client.wire();
        assert!(wire.len() > 4096, "with its data");
        client.socket.write_all(&wire[..cut]).unwrap();
        let mut rest = Some(&wire[cut..]);
        let between = std::thread::scope(|scope| {
            let between = scope.spawn(|| process.hand_over(LONG));
            if cut > 48 {
                // It may be waited for.
                client.socket.write_all(rest.take().unwrap()).unwrap();
            }
            between.join().unwrap()
        });
        assert_eq!(between.handed.len(), 1);
        if let Some(rest) = rest {
            client.socket.write_all(rest).unwrap();
        }
        let _next = between.go_on();
        assert_eq!(client.finish(tag).status, 0);
        assert!(client.read(0, 8) == data);
    }
}

#[test]
fn who_is_busy_until_the_deadline_is_asked_to_log_out() {
    let options = EntityOptions { stop_time: Duration::from_millis(50), ..EntityOptions::default() };
    let process = Process::serving(options, &[stuck_disk(2)]);
    let (mut idle, mut busy) = (process.rig.client(1), process.rig.client(2));
    assert_eq!(busy.run_at(1, &[0; 6], 0).sense_code(), (6, 0x29, 0));
    busy.command_at(lun_of(1), &cdb(READ, 0, 8), 4096, None);
    busy.send();
    let count = |n| process.rig.reactors.call(ReactorId(n), |cx| held::count(cx)).unwrap();
    while (0..2).all(|n| count(n) == 0) {
        std::thread::yield_now();
    }
    let between = process.hand_over(Duration::from_millis(50));
    assert_eq!(between.handed.len(), 1);
    busy.until_closed();
    let events: Vec<_> = busy.messages.iter().map(|message| message.event).collect();
    assert_eq!(events, [AsyncEvent::REQUEST_LOGOUT, AsyncEvent::DROP_CONNECTION]);
    release(&between.before.rig);
    between.before.rig.wait_for_connections(0);
    let _next = between.go_on();
    // It sees one unit less.
    assert_eq!(idle.run(&[0; 6], 0, None).sense_code(), (6, 0x3f, 0x0e));
    assert_eq!(idle.read(0, 1), [0; 512]);
}

#[test]
fn logins_and_discovery_are_not_handed_over() {
    let process = Process::new();
    let mut silent = Client::connect(process.rig.address(), settings(1));
    let mut discovery = Client::connect(process.rig.address(), discovery());
    discovery.until(|client| client.logged_in);
    process.rig.wait_for_connections(2);
    let between = process.hand_over(LONG);
    assert_eq!(between.handed.len(), 0);
    silent.until_closed();
    discovery.until_closed();
    between.before.rig.wait_for_connections(0);
    between.go_on().rig.client(1);
}

#[test]
fn portals_accept_nothing_until_sessions_go_on() {
    let between = Process::new().hand_over(LONG);
    let next = between.next(AccessControl::default());
    let mut client = Client::connect(next.rig.address(), settings(1));
    client.send();
    for _ in 0..100 {
        assert_eq!(next.rig.reactors.call(ReactorId(0), |_| ()), Some(()));
        assert_eq!(next.rig.portal().connection_count(), 0);
    }
    assert_eq!(next.rig.entity.resume(Vec::new(), &next.rig.reactors), 0);
    client.until(|client| client.logged_in);
    between.end();
}

#[test]
fn who_is_not_let_in_any_more_is_told_that_the_connection_is_dropped() {
    let process = Process::new();
    let (mut a, mut b) = (process.rig.client(1), process.rig.client(2));
    assert_eq!(b.run(&RESERVE, 0, None).status, 0);
    let mut between = process.hand_over(LONG);
    let initiators = vec![settings(1).initiator_name.parse().unwrap()];
    let rule = AccessRule { initiators, ..AccessRule::default() };
    let next = between.next(AccessControl { rules: vec![rule] });
    let handed: Vec<_> = std::mem::take(&mut between.handed).into_iter().map(carried).collect();
    assert_eq!(next.rig.entity.resume(handed, &next.rig.reactors), 1);
    b.until_closed();
    assert_eq!(b.messages[0].event, AsyncEvent::DROP_CONNECTION);
    assert_eq!(a.read(0, 1), [0; 512], "what the other had reserved is free");
    assert_eq!(next.rig.portal().connection_count(), 1);
    let mut again = Client::connect(next.rig.address(), settings(2));
    again.send();
    let refused = again.receive().unwrap_err();
    assert_eq!(refused, ProtocolError::LoginRefused(LoginStatus::NOT_AUTHORIZED));
    between.end();
}

#[test]
fn what_is_no_session_harms_nobody() {
    let process = Process::new();
    let (mut client, victim) = (process.rig.client(1), process.rig.client(2));
    let mut between = process.hand_over(LONG);
    let next = between.next(AccessControl::default());
    let handed = std::mem::take(&mut between.handed).into_iter();
    let mut handed: Vec<_> = handed.map(RestingSession::hand_over).collect();
    handed.sort_by_key(|session| session.state.info().tsih);
    let [good, victims] = <[HandedSession; 2]>::try_from(handed).unwrap();
    let with = |pointer: &str, value: serde_json::Value| {
        let mut state = serde_json::to_value(&victims.state).unwrap();
        *state.pointer_mut(pointer).unwrap() = value;
        let socket = victims.socket.try_clone().unwrap();
        HandedSession { socket, state: serde_json::from_value(state).unwrap() }
    };
    let copy = |of: &HandedSession| HandedSession {
        socket: of.socket.try_clone().unwrap(),
        state: of.state.clone(),
    };
    let over = |socket| HandedSession { socket, state: victims.state.clone() };
    let (unix, _other) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hostile = vec![
        copy(&good),
        copy(&good),
        with("/session/info/tsih", good.state.info().tsih.into()),
        with("/session/info/tsih", 0.into()),
        with("/session/info/target_name", "iqn.2026-11.dev.lunette:other".into()),
        with("/session/info/initiator_name", "nobody".into()),
        with("/session/info/session_type", "Discovery".into()),
        with("/session/agreed/max_burst_length", 0.into()),
        with("/group_tag", 7.into()),
        over(unix.into()),
        over(listener.into()),
        over(std::fs::File::open("/dev/null").unwrap().into()),
    ];
    assert_eq!(next.rig.entity.resume(hostile, &next.rig.reactors), 1);
    assert_eq!(client.read(0, 1), [0; 512]);
    assert_eq!((next.rig.target.session_count(), next.rig.portal().connection_count()), (1, 1));
    assert_eq!(next.rig.entity.loads().iter().sum::<usize>(), 1);
    let mut state = serde_json::to_value(&victims.state).unwrap();
    state.as_object_mut().unwrap().remove("session");
    assert!(serde_json::from_value::<HandedState>(state).is_err(), "of a version that did not know it");
    drop(victims);
    // Whatever was said to it last, by each of those.
    let mut socket = victim.socket;
    std::io::copy(&mut socket, &mut std::io::sink()).unwrap();
    next.rig.client(2);
    between.end();
}
