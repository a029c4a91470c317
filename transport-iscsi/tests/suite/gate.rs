//! Bounds on connections and logins.

use crate::access::{ADA, policy};
use crate::client::{Client, TARGET, settings};
use crate::rig::{Rig, disk, target};
use crate::targets::refusal;
use lunette_iscsi::Error as ProtocolError;
use lunette_iscsi::chap::Algorithm;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::pdu::LoginStatus;
use lunette_transport_iscsi::{AccessControl, AccessRule, EntityOptions, LoginLimits, TargetOptions};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

fn rig(logins: LoginLimits) -> Rig {
    Rig::with(EntityOptions { logins, ..EntityOptions::default() }, None, 2)
}

/// A connection from another address of this host.
fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
    connect(&socket, &to).unwrap();
    socket.into()
}

fn log_in(client: &mut Client) {
    client.until(|client| client.logged_in);
}

/// Whether the target lets a login from this address come to its end.
fn is_let_in(last: u8, rig: &Rig) -> bool {
    let mut client = Client::over(connect_from(last, rig.address()), settings(100 + last));
    client.send();
    while !client.logged_in {
        if !client.receive().unwrap() {
            return false;
        }
        client.send();
    }
    true
}

fn wait_for_end(mut socket: &TcpStream) {
    assert!(socket.read(&mut [0]).is_ok_and(|count| count == 0), "the target did not close the connection");
}

#[test]
fn logins_that_are_not_finished_keep_nobody_out() {
    let mut rig = rig(LoginLimits { logins: 6, logins_of_address: 4, ..LoginLimits::default() });
    let mut good = rig.client(1);
    // Four of one address, one of another, and a session of the first.
    let silent: Vec<_> = (0..4).map(|_| connect_from(2, rig.address())).collect();
    let other = connect_from(3, rig.address());
    assert!(is_let_in(2, &rig), "in place of the oldest of the same address");
    wait_for_end(&silent[0]);
    let mut slow = Client::over(connect_from(4, rig.address()), settings(4));
    let more = [connect_from(2, rig.address()), connect_from(5, rig.address())];
    wait_for_end(&silent[1]);
    assert!(is_let_in(6, &rig), "in place of the oldest of the address with the most");
    wait_for_end(&silent[2]);
    log_in(&mut slow);
    assert_eq!(good.read(0, 1), [0; 512]);
    drop((silent, other, more, slow, good));
    rig.wait_for_connections(0);
    assert!(rig.stop());
}

#[test]
fn an_address_has_so_many_connections() {
    let rig = rig(LoginLimits { connections: 8, ..LoginLimits::default() });
    let mut clients: Vec<_> = (0..4).map(|number| rig.client(number)).collect();
    assert!(!is_let_in(1, &rig));
    assert!(is_let_in(2, &rig));
    clients.pop().unwrap().log_out();
    rig.wait_for_connections(3);
    rig.client(4);
}

#[test]
fn an_address_that_logs_in_too_often_is_refused() {
    let rig = rig(LoginLimits { burst: 5, rate: 1, ..LoginLimits::default() });
    assert!((0..5).all(|_| is_let_in(2, &rig)));
    // What is paid back meanwhile does not matter, as long as logins do not take seconds.
    assert!((0..1000).any(|_| !is_let_in(2, &rig)));
    assert!(is_let_in(3, &rig));
}

/// Asks for Ada's proof. One failure costs more than is paid back in days, and the third is too much.
fn guarded() -> Rig {
    const DEAR: u32 = 1_000_000;
    let logins = LoginLimits { burst: 5 * DEAR / 2, rate: 1, failure_weight: DEAR, ..LoginLimits::default() };
    let chap = Some(policy(&[ADA], &Algorithm::ALL));
    let access = AccessControl { rules: vec![AccessRule { chap, ..AccessRule::default() }] };
    let target = TargetOptions { access, ..target(TARGET, &[1], &disk(1, None)) };
    Rig::serving(EntityOptions { logins, ..EntityOptions::default() }, target, 1)
}

/// Whether a wrong proof was looked at; otherwise the connection was closed.
fn is_looked_at(mut client: Client) -> bool {
    // It may be closed already.
    let wire = client.wire();
    if client.socket.write_all(&wire).is_err() {
        return false;
    }
    match client.receive() {
        Err(error) => {
            assert_eq!(error, ProtocolError::LoginRefused(LoginStatus::AUTHENTICATION_FAILURE));
            true
        }
        Ok(open) => {
            assert!(!open);
            false
        }
    }
}

#[test]
fn a_failed_proof_counts_as_many_logins() {
    let rig = guarded();
    for guess in 0..6 {
        let client = Client::over(connect_from(2, rig.address()), settings(1));
        assert_eq!(is_looked_at(client), guess < 3, "guess {guess}");
        // Its failure counts before the next one begins.
        rig.wait_for_connections(0);
    }
    assert!(is_looked_at(Client::over(connect_from(3, rig.address()), settings(1))));
}

#[test]
fn guesses_cannot_be_prepared() {
    let rig = guarded();
    let connect = |_| Client::over(connect_from(2, rig.address()), settings(1));
    let prepared: Vec<_> = (0..6).map(connect).collect();
    rig.wait_for_connections(6);
    for (guess, client) in prepared.into_iter().enumerate() {
        assert_eq!(is_looked_at(client), guess < 3, "guess {guess}");
    }
}

#[test]
fn an_initiator_has_so_many_sessions() {
    let rig = rig(LoginLimits { sessions_of_initiator: 2, ..LoginLimits::default() });
    let port = |port: u8| Settings { isid: [0x80, 0, 0, 0, 0, port], ..settings(1) };
    let from = |number| Client::connect(rig.address(), port(number));
    let (mut first, mut second) = (from(1), from(2));
    log_in(&mut first);
    log_in(&mut second);
    assert_eq!(refusal(rig.address(), port(3)), LoginStatus::OUT_OF_RESOURCES);
    // The same initiator port again, and another initiator.
    log_in(&mut from(2));
    second.until_closed();
    assert_eq!(rig.client(7).read(0, 1), [0; 512]);
}
