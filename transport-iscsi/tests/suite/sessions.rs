use crate::client::{Client, LUN, READ, TARGET, WRITE, cdb, pattern, settings};
use crate::rig::{Rig, stuck_disk, target};
use lunette_iscsi::Error as ProtocolError;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::pdu::{LoginStatus, TaskManagementFunction as Function, TaskManagementResult as Answer};
use lunette_iscsi::target::SessionType;
use lunette_store::{ReactorId, held};
use lunette_transport_iscsi::{EntityOptions, Portal, PortalOptions, SessionChange};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

pub(crate) fn discovery() -> Settings {
    Settings { session_type: SessionType::Discovery, target_name: String::new(), ..settings(1) }
}

#[test]
fn discovery_names_the_address_that_was_reached() {
    let rig = Rig::new();
    let mut client = Client::connect(rig.address(), discovery());
    client.until(|client| client.logged_in);
    client.initiator.text(b"SendTargets=All\0", &mut client.out).unwrap();
    client.until(|client| !client.texts.is_empty());
    let expected = format!("TargetName={}\0TargetAddress={},1\0", rig.target.name(), rig.address());
    assert_eq!(client.texts, [expected]);
    client.command(&[0; 6], 0, None);
    client.until(|client| !client.rejects.is_empty());
    assert_eq!(rig.target.session_count(), 0);
    client.log_out();
}

#[test]
fn an_unknown_target_is_refused() {
    let rig = Rig::new();
    let wrong = Settings { target_name: "iqn.2026-11.dev.lunette:other".to_owned(), ..settings(1) };
    let mut client = Client::connect(rig.address(), wrong);
    client.send();
    let error = client.receive().unwrap_err();
    assert_eq!(error, ProtocolError::LoginRefused(LoginStatus::NOT_FOUND));
    client.until_closed();
    rig.wait_for_connections(0);
}

#[test]
fn who_observes_sessions_is_told_of_each() {
    let rig = Rig::new();
    let (tell, told) = channel();
    rig.entity.observe(move |event| {
        let what = match event.what {
            SessionChange::Begun => "begun".to_owned(),
            SessionChange::Ended(why) => format!("ended: {why}"),
            SessionChange::Refused(why) => format!("refused: {why}"),
        };
        let target = event.target.map(str::to_owned);
        tell.send((what, event.initiator.to_owned(), target, event.tsih)).unwrap();
    });
    let mut client = rig.client(1);
    client.log_out();
    let (what, initiator, target, tsih) = told.recv().unwrap();
    assert_eq!((what.as_str(), initiator), ("begun", settings(1).initiator_name));
    assert!(target.as_deref() == Some(TARGET) && tsih != 0, "{target:?} {tsih}");
    assert_eq!(told.recv().unwrap(), ("ended: logged out".into(), settings(1).initiator_name, target, tsih));
    let wrong = Settings { target_name: "iqn.2026-11.dev.lunette:other".to_owned(), ..settings(1) };
    let mut client = Client::connect(rig.address(), wrong);
    client.send();
    client.receive().unwrap_err();
    let (what, _, target, tsih) = told.recv().unwrap();
    assert!(what.starts_with("refused: "), "{what}");
    assert_eq!((target.as_deref(), tsih), (Some("iqn.2026-11.dev.lunette:other"), 0));
}

#[test]
fn an_address_in_use_is_named() {
    let rig = Rig::new();
    let error = Portal::start(rig.address(), PortalOptions::default(), &rig.entity, &rig.reactors)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with(&format!("cannot listen on {}: Address already in use", rig.address())),
        "{error}"
    );
}

#[test]
fn a_session_is_replaced_when_its_initiator_port_logs_in_again() {
    let mut rig = Rig::faulty("delay:20");
    let mut old = rig.client(1);
    let mut bystander = rig.client(2);
    for _ in 0..5 {
        old.command(&cdb(READ, 0, 8), 4096, None);
        old.send();
        let mut new = rig.client(1);
        old.until_closed();
        assert_eq!(rig.target.session_count(), 2);
        assert_eq!(new.read(0, 1), [0; 512]);
        old = new;
    }
    assert_eq!(bystander.read(0, 1), [0; 512]);
    drop(old);
    drop(bystander);
    rig.wait_for_connections(0);
    assert!(rig.stop());
}

#[test]
fn a_connection_takes_the_place_of_one_of_its_session() {
    let rig = Rig::faulty("delay:20");
    let mut old = rig.client(1);
    let (session, agreed) = (old.initiator.tsih(), *old.initiator.parameters());
    let join = |joins, cid| Client::connect(rig.address(), Settings { joins, cid, ..settings(1) });
    for (tsih, cid, status) in
        [(session, 1, LoginStatus::TOO_MANY_CONNECTIONS), (session + 1, 0, LoginStatus::NO_SUCH_SESSION)]
    {
        let mut refused = join(Some((tsih, agreed)), cid);
        refused.send();
        let error = loop {
            match refused.receive() {
                Ok(_) => refused.send(),
                Err(error) => break error,
            }
        };
        assert_eq!(error, ProtocolError::LoginRefused(status));
    }
    for _ in 0..3 {
        old.command(&cdb(READ, 0, 8), 4096, None);
        old.send();
        let mut new = join(Some((session, agreed)), 0);
        new.until(|client| client.logged_in);
        old.until_closed();
        assert_eq!((new.initiator.tsih(), rig.target.session_count()), (session, 1));
        assert_eq!(new.initiator.parameters(), &agreed);
        assert_eq!(new.run(&cdb(READ, 0, 1), 512, None).sense_code(), (6, 0x29, 0), "the nexus was lost");
        let first = new.run(&cdb(READ, 0, 1), 512, None);
        assert_eq!(first.data, [0; 512]);
        old = new;
    }
    drop(old);
    rig.wait_for_connections(0);
    assert_eq!(rig.target.session_count(), 0);
}

#[test]
fn many_logins_at_once_leave_one_session_per_initiator_port() {
    let rig = Rig::new();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let rig = &rig;
            scope.spawn(move || {
                for _ in 0..25 {
                    let mut client = Client::connect(rig.address(), settings(thread % 2));
                    client.send();
                    // Another thread may have replaced this session by now.
                    while !client.logged_in && client.receive().unwrap() {
                        client.send();
                    }
                }
            });
        }
    });
    rig.wait_for_connections(0);
    assert_eq!(rig.target.session_count(), 0);
    assert_eq!(rig.client(1).read(0, 1), [0; 512]);
}

#[test]
fn many_sessions_work_side_by_side() {
    let mut rig = Rig::new();
    std::thread::scope(|scope| {
        for number in 0..40u8 {
            let rig = &rig;
            scope.spawn(move || {
                let mut client = rig.client(number);
                for round in 0..10 {
                    let data = pattern(u32::from(number) + round, 64 << 10);
                    client.write(u32::from(number) * 128, data.clone());
                    assert!(client.read(u32::from(number) * 128, 128) == data);
                }
                client.log_out();
            });
        }
    });
    assert_eq!(rig.target.session_count(), 0);
    assert!(rig.stop());
}

#[test]
fn a_connection_that_is_cut_leaves_nothing_behind() {
    let mut rig = Rig::faulty("delay:50");
    for number in 0..10 {
        let mut client = rig.client(number);
        for n in 0..20 {
            client.command(&cdb(READ, n, 64), 64 * 512, None);
            client.command(&cdb(WRITE, n, 1000), 0, Some(vec![0; 512_000]));
        }
        client.lazy = true;
        client.send();
        drop(client);
    }
    rig.wait_for_connections(0);
    assert_eq!(rig.target.session_count(), 0);
    assert!(rig.stop());
}

#[test]
fn logging_out_with_commands_in_flight_ends_them() {
    let rig = Rig::faulty("delay:30");
    let mut client = rig.client(1);
    for n in 0..20 {
        client.command(&cdb(READ, n, 8), 4096, None);
    }
    client.log_out();
    rig.wait_for_connections(0);
}

#[test]
fn nobody_reaches_a_portal_that_has_ended() {
    let rig = Rig::with(EntityOptions::default(), None, 1);
    let address = rig.address();
    let (begin, first) = channel::<()>();
    let (go_on, second) = channel::<()>();
    let wait_for = |told: Receiver<()>| {
        rig.reactors.poster().post(ReactorId(0), Box::new(move |_| _ = told.recv()));
    };
    wait_for(first);
    // In one turn with what follows.
    rig.portal().begin_stop(&rig.reactors);
    wait_for(second);
    drop(begin);
    Rig::wait_for_end(rig.portal());
    assert!(TcpStream::connect(address).is_err());
    TcpListener::bind(address).unwrap();
    drop(go_on);
}

#[test]
fn a_login_that_takes_too_long_is_cut() {
    let rig = Rig::with(
        EntityOptions { login_time: Duration::from_millis(30), ..EntityOptions::default() },
        None,
        1,
    );
    let mut socket = TcpStream::connect(rig.address()).unwrap();
    assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0);
    rig.wait_for_connections(0);
}

fn pinging(silence_time: Duration) -> Rig {
    Rig::with(
        EntityOptions { idle_time: Duration::from_millis(20), silence_time, ..EntityOptions::default() },
        None,
        1,
    )
}

#[test]
fn a_session_that_answers_pings_lives_on() {
    let rig = pinging(EntityOptions::default().silence_time);
    let mut client = rig.client(1);
    for _ in 0..5 {
        assert!(client.receive().unwrap(), "a ping, which the machine answers");
        client.send();
    }
    assert_eq!(client.read(0, 1), [0; 512]);
}

#[test]
fn a_session_that_does_not_answer_pings_ends() {
    let rig = pinging(Duration::from_millis(20));
    let mut client = Client::connect(rig.address(), settings(1));
    client.until(|client| client.logged_in);
    client.until_closed();
    rig.wait_for_connections(0);
    assert_eq!(rig.target.session_count(), 0);
}

#[test]
fn a_session_that_withholds_data_ends_although_it_answers_pings() {
    let rig = pinging(Duration::from_secs(1));
    let mut client = rig.client(1);
    client.lazy = true;
    client.command(&cdb(WRITE, 0, 2048), 0, Some(vec![1; 2048 * 512]));
    client.send();
    for _ in 0..10_000 {
        if !client.receive().unwrap() {
            return rig.wait_for_connections(0);
        }
        client.send();
    }
    panic!("the session is still there");
}

/// A target whose store is stuck, and a session that has begun to write there.
fn stuck(options: EntityOptions) -> (Rig, Client) {
    stuck_in(options, |client| client.command(&cdb(WRITE, 0, 8), 0, Some(vec![1; 4096])))
}

/// A target whose store is stuck, and a session that has begun `command` there.
fn stuck_in(options: EntityOptions, command: impl FnOnce(&mut Client) -> u32) -> (Rig, Client) {
    let rig = Rig::serving(options, target(TARGET, &[1], &stuck_disk(1)), 2);
    let mut client = rig.client(1);
    command(&mut client);
    client.send();
    while (0..2).all(|n| rig.reactors.call(ReactorId(n), |cx| held::count(cx)).unwrap() == 0) {
        std::thread::yield_now();
    }
    (rig, client)
}

/// Sends both requests of a login.
fn knock(client: &mut Client) {
    client.send();
    assert!(client.receive().unwrap() && !client.out.is_empty());
    client.send();
}

/// Ends what the store holds.
pub(crate) fn release(rig: &Rig) {
    for n in 0..2 {
        let complete = |cx: &mut dyn lunette_store::Cx| {
            while let Some(operation) = held::take(0, cx) {
                cx.complete(operation.id, Ok(operation.range.1));
            }
        };
        rig.reactors.call(ReactorId(n), complete).unwrap();
    }
}

/// Its buffer is the target's own, and stays with the store.
#[test]
fn a_read_that_is_stuck_keeps_no_session_and_no_function() {
    let read = |client: &mut Client| client.command(&cdb(READ, 0, 8), 4096, None);
    let (rig, mut old) = stuck_in(EntityOptions::default(), read);
    let mut new = rig.client(1);
    old.until_closed();
    rig.wait_for_connections(1);
    let stuck = read(&mut new);
    assert_eq!(new.managed(Function::ABORT_TASK, LUN, stuck), Answer::COMPLETE);
    assert_eq!(new.managed(Function::ABORT_TASK, LUN, stuck), Answer::NO_TASK);
    read(&mut new);
    assert_eq!(new.managed(Function::LOGICAL_UNIT_RESET, LUN, u32::MAX), Answer::COMPLETE);
    new.log_out();
    rig.wait_for_connections(0);
    let held =
        || (0..2).map(|n| rig.reactors.call(ReactorId(n), |cx| held::count(cx)).unwrap()).sum::<usize>();
    assert_eq!(held(), 3, "the store has them still");
    release(&rig);
    assert_eq!(held(), 0);
    rig.client(1);
}

#[test]
fn who_waits_for_a_stuck_session_leaves_when_he_is_replaced_or_gone() {
    for joins in [false, true] {
        let (rig, mut old) = stuck(EntityOptions::default());
        let session = (old.initiator.tsih(), *old.initiator.parameters());
        let connect = |joins: bool| {
            let joins = joins.then_some(session);
            let mut client = Client::connect(rig.address(), Settings { joins, ..settings(1) });
            knock(&mut client);
            client
        };
        for _ in 0..5 {
            let new = connect(joins);
            old.until_closed();
            old = new;
        }
        rig.wait_for_connections(2);
        assert_eq!(rig.entity.loads().iter().sum::<usize>(), 2);
        drop(old);
        rig.wait_for_connections(1);
        let mut new = connect(false);
        new.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(!new.receive().unwrap() && !new.logged_in, "what was begun is not over");
        new.socket.set_read_timeout(None).unwrap();
        release(&rig);
        new.until(|client| client.logged_in);
        rig.wait_for_connections(1);
        assert_eq!(new.run(&[0; 6], 0, None).sense_code(), (6, 0x29, 0));
        drop(new);
        rig.wait_for_connections(0);
        assert_eq!(rig.target.session_count(), 0);
    }
}

#[test]
fn nobody_waits_for_a_stuck_session_for_longer_than_a_login_may_take() {
    let login_time = Duration::from_secs(1);
    let (rig, mut old) = stuck(EntityOptions { login_time, ..EntityOptions::default() });
    let mut new = Client::connect(rig.address(), settings(1));
    knock(&mut new);
    old.until_closed();
    new.until_closed();
    assert!(!new.logged_in);
    rig.wait_for_connections(1);
    release(&rig);
    rig.wait_for_connections(0);
}
