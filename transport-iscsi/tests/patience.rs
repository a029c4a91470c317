//! How long initiators may take. In a process of its own, whose log is its own: it says why a session has ended.

#[path = "suite/client.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod client;
mod log;
#[path = "suite/rig.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod rig;

use client::{Client, READ, WRITE, cdb, settings};
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_transport_iscsi::EntityOptions;
use rig::Rig;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketType, connect, socket};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::Receiver;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

/// The lines that have been read, and those to come.
static LOG: LazyLock<Mutex<(Vec<String>, Receiver<String>)>> =
    LazyLock::new(|| Mutex::new((Vec::new(), log::listen())));

/// Without digests, so that what is made up here is looked at.
fn plain_settings(number: u8) -> Settings {
    let parameters = Parameters { header_digest: false, data_digest: false, ..Parameters::PREFERRED };
    Settings { parameters, ..settings(number) }
}

fn bad_client(rig: &Rig, number: u8) -> Client {
    Client::ready(rig.address(), plain_settings(number))
}

/// A target with little patience. Whoever sends nothing at all has a second and a half.
fn hasty() -> Rig {
    LazyLock::force(&LOG);
    let idle_time = Duration::from_millis(500);
    let silence_time = Duration::from_secs(1);
    Rig::with(EntityOptions { idle_time, silence_time, ..EntityOptions::default() }, None, 1)
}

/// How often something is tried that should be noticed by then.
const TRIES: usize = 5000;
const PAUSE: Duration = Duration::from_millis(2);

/// Calls `send` again and again until the target closes the connection.
fn until_closed(rig: &Rig, mut send: impl FnMut() -> bool) {
    let closed = (0..TRIES).any(|_| {
        std::thread::sleep(PAUSE);
        !send()
    });
    assert!(closed, "the session is still there");
    rig.wait_for_connections(0);
}

/// Why the session of initiator `number` has ended.
fn reason(number: u8) -> String {
    let (lines, log) = &mut *LOG.lock().unwrap();
    loop {
        let of_it = lines.iter().find(|line| line.contains(&format!("example:initiator{number}\"")));
        if let Some((_, reason)) = of_it.and_then(|line| line.split_once("iSCSI session ended: ")) {
            return reason.to_owned();
        }
        lines.extend(log.recv().ok().filter(|line| line.contains("session ended")));
    }
}

#[test]
fn a_pdu_that_comes_byte_by_byte_ends_the_session() {
    let rig = hasty();
    let mut bad = bad_client(&rig, 1);
    // NOP-Out, immediate, with 256 KiB of data.
    let mut ping = [0; 48];
    ping[..8].copy_from_slice(&[0x40, 0x80, 0, 0, 0, 4, 0, 0]);
    bad.socket.write_all(&ping).unwrap();
    until_closed(&rig, || bad.socket.write_all(&[0]).is_ok());
    assert!(reason(1).starts_with("a PDU has begun and does not end"), "{}", reason(1));
}

/// The next R2T: task tag, transfer tag.
fn request_to_transfer(socket: &mut TcpStream) -> [u8; 8] {
    loop {
        let mut header = [0; 48];
        socket.read_exact(&mut header).unwrap();
        assert_eq!(header[4..8], [0; 4], "without data");
        if header[0] == 0x31 {
            return *header[16..].first_chunk().unwrap();
        }
    }
}

#[test]
fn data_that_comes_byte_by_byte_ends_the_session() {
    let rig = hasty();
    let mut bad = bad_client(&rig, 2);
    bad.lazy = true;
    bad.command(&cdb(WRITE, 0, 4096), 0, Some(vec![1; 2 << 20]));
    bad.send();
    let tags = request_to_transfer(&mut bad.socket);
    let mut sent = 0u32;
    until_closed(&rig, || {
        // Four bytes of what is asked for, behind the 256 KiB that came unasked.
        let mut data = [0; 52];
        data[0] = 0x05;
        data[7] = 4;
        data[16..24].copy_from_slice(&tags);
        data[36..40].copy_from_slice(&sent.to_be_bytes());
        data[40..44].copy_from_slice(&((256 << 10) + 4 * sent).to_be_bytes());
        sent += 1;
        bad.socket.write_all(&data).is_ok()
    });
    assert!(reason(2).starts_with("the data of a command does not come"), "{}", reason(2));
}

#[test]
fn commands_that_leave_one_out_end_the_session() {
    let rig = hasty();
    let mut bad = bad_client(&rig, 3);
    bad.command(&[0; 6], 0, None);
    bad.wire();
    bad.command(&[0; 6], 0, None);
    until_closed(&rig, || {
        // Pings are answered.
        let wire = bad.wire();
        bad.socket.write_all(&wire).is_ok() && bad.receive().unwrap()
    });
    assert!(reason(3).starts_with("commands that were sent before others do not come"), "{}", reason(3));
}

#[test]
fn answers_that_are_not_taken_end_the_session() {
    let rig = hasty();
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    set_socket_recv_buffer_size(&socket, 16 << 10).unwrap();
    connect(&socket, &rig.address()).unwrap();
    let mut bad = Client::over(socket.into(), plain_settings(4));
    bad.until(|client| client.logged_in);
    // More than the kernel keeps, and less than what keeps the target from receiving.
    for _ in 0..39 {
        bad.command(&cdb(READ, 0, 200), 100 << 10, None);
    }
    bad.send();
    // NOP-Out, immediate, that asks for nothing: a sign of life.
    let mut sign = [0; 48];
    sign[..2].copy_from_slice(&[0x40, 0x80]);
    sign[16..24].fill(0xff);
    until_closed(&rig, || bad.socket.write_all(&sign).is_ok() && rig.portal().connection_count() > 0);
    assert!(reason(4).starts_with("the initiator takes what is sent to it too slowly"), "{}", reason(4));
}
