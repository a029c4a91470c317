use crate::client::{Client, READ, TARGET, WRITE, cdb, lun_of, pattern, settings};
use crate::rig::{Rig, disk, stuck_disk, target_of};
use lunette_iscsi::Error as ProtocolError;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::LoginStatus;
use lunette_transport_iscsi::EntityOptions;
use lunette_transport_iscsi::limits::CONNECTION_BUFFERS;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Without digests, so that what is made up here is looked at.
fn plain_settings(number: u8) -> Settings {
    let parameters = Parameters { header_digest: false, data_digest: false, ..Parameters::PREFERRED };
    Settings { parameters, ..settings(number) }
}

fn bad_client(rig: &Rig, number: u8) -> Client {
    Client::ready(rig.address(), plain_settings(number))
}

/// Sends `bytes` and reads until the target closes or says no more.
fn throw(mut socket: TcpStream, bytes: &[u8]) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let _ = socket.write_all(bytes);
    let mut buffer = [0; 4096];
    while socket.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

#[test]
fn noise_instead_of_a_login_harms_nobody() {
    let mut rig = Rig::new();
    let mut good = rig.client(1);
    let mut random = Random(0x5eed);
    for round in 0..60 {
        let length = 1 + random.next() as usize % 5000;
        let mut bytes = random.bytes(length);
        if round % 2 == 0 {
            // A login request in form.
            bytes[0] = 0x43;
            bytes.iter_mut().skip(4).take(3).for_each(|byte| *byte = 0);
        }
        throw(TcpStream::connect(rig.address()).unwrap(), &bytes);
        good.write(0, pattern(round, 512));
        assert_eq!(good.read(0, 1), pattern(round, 512));
    }
    drop(good);
    rig.wait_for_connections(0);
    assert!(rig.stop());
}

#[test]
fn noise_in_a_session_harms_nobody_else() {
    let mut rig = Rig::new();
    let mut good = rig.client(1);
    let mut random = Random(0xbad);
    for round in 0..120u32 {
        let mut bad = bad_client(&rig, 2);
        bad.command(&cdb(READ, 0, 8), 4096, None);
        bad.send();
        let mut bytes = Vec::new();
        for _ in 0..20 {
            // A header of a known kind, mostly with a length that follows, and random fields.
            let mut header = random.bytes(48);
            header[0] = [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x40, 0x41, 0x42, 0x44]
                [random.next() as usize % 11];
            header[4] = if random.next().is_multiple_of(8) { random.next() as u8 } else { 0 };
            let length = random.next() as usize % 3000;
            header[5..8].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
            if random.next().is_multiple_of(2) {
                // A CmdSN inside the window.
                header[24..28].copy_from_slice(&(3 + random.next() as u32 % 8).to_be_bytes());
            }
            if random.next().is_multiple_of(2) {
                header[8..16].fill(0);
                // TEST UNIT READY, READ(10), WRITE(10).
                let opcode = [0x00, 0x28, 0x2a][random.next() as usize % 3];
                header[32..48].copy_from_slice(&[opcode, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
            }
            bytes.extend(header);
            bytes.extend(random.bytes(length.next_multiple_of(4)));
        }
        throw(bad.socket, &bytes);
        let lba = 1000 + round;
        good.write_retrying(lba, pattern(round, 512));
    }
    drop(good);
    rig.wait_for_connections(0);
    assert!(rig.stop());
}

/// NOP-Out, immediate, with a task tag and 4 KiB that are to come back.
fn pings(count: usize) -> Vec<u8> {
    let mut ping = [0; 48 + 4096];
    ping[..8].copy_from_slice(&[0x40, 0x80, 0, 0, 0, 0, 0x10, 0]);
    ping[20..24].fill(0xff);
    ping.repeat(count)
}

/// What is to be sent is bounded even when its receiver does not take it.
#[test]
fn pings_without_end_are_not_taken_without_end() {
    let rig = Rig::new();
    let mut bad = bad_client(&rig, 1);
    bad.socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let many = pings(256);
    let sent = (0..128).take_while(|_| bad.socket.write_all(&many).is_ok()).count();
    assert!(sent < 128, "{sent} MiB of pings were taken");
    assert_eq!(rig.client(2).read(0, 1), [0; 512]);
}

/// Neither is it without bound for all together.
#[test]
fn who_occupies_the_most_memory_goes_first() {
    const MANY: u8 = 60;
    let rig = Rig::with(EntityOptions::default(), None, 1);
    let mut good = rig.client(0);
    let mut bad: Vec<_> = (1..=MANY).map(|number| bad_client(&rig, number).socket).collect();
    bad.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let pings = pings(64);
    let mut sent = vec![0; bad.len()];
    // As much of whole pings as each connection takes.
    while rig.portal().connection_count() > usize::from(MANY) {
        for (socket, sent) in bad.iter_mut().zip(&mut sent) {
            while let Ok(count @ 1..) = socket.write(&pings[*sent..]) {
                *sent = (*sent + count) % pings.len();
            }
        }
        good.write(0, pattern(1, 512));
    }
    assert_eq!(good.read(0, 1), pattern(1, 512));
    drop(bad);
    rig.wait_for_connections(1);
    assert_eq!(good.read(0, 1), pattern(1, 512));
}

/// The last answer arrives although more was sent than is read.
#[test]
fn who_is_refused_hears_why() {
    let stop_time = Duration::from_secs(600);
    let rig = Rig::with(EntityOptions { stop_time, ..EntityOptions::default() }, None, 1);
    let wrong = Settings { target_name: "iqn.2026-11.dev.lunette:other".to_owned(), ..settings(1) };
    let mut client = Client::connect(rig.address(), wrong);
    let mut wire = client.wire();
    wire.extend(vec![0; 300 << 10]);
    client.socket.write_all(&wire).unwrap();
    rig.wait_for_connections(0);
    for _ in 0..2 {
        client.socket.write_all(&vec![0; 300 << 10]).unwrap();
    }
    let error = client.receive().unwrap_err();
    assert_eq!(error, ProtocolError::LoginRefused(LoginStatus::NOT_FOUND));
    assert_eq!(client.socket.read(&mut [0; 100]).unwrap(), 0);
}

/// Commands that never end have all buffers.
#[test]
fn a_command_that_finds_no_buffer_for_long_is_turned_back() {
    let options = EntityOptions {
        idle_time: Duration::from_millis(20),
        silence_time: Duration::from_secs(1),
        ..EntityOptions::default()
    };
    let rig = Rig::with(options, Some("torn:0"), 1);
    for number in 0..7 {
        let mut client = bad_client(&rig, number);
        for _ in 0..20 {
            client.command(&cdb(WRITE, 0, 2048), 0, Some(vec![1; 1 << 20]));
        }
        client.until(|client| client.requests == 20);
        // What was sent before has come.
        client.run(&[0; 6], 0, None);
    }
    let mut good = rig.client(20);
    let ended = good.run(&cdb(READ, 0, 65535), 65535 * 512, None);
    assert_eq!(ended.status, 8, "BUSY");
    assert_eq!(good.read(0, 8), [0; 4096]);
}

/// Commands of one logical unit, which never end, have all buffers of their session.
#[test]
fn a_stuck_unit_does_not_starve_the_others_of_its_session() {
    let options = EntityOptions {
        idle_time: Duration::from_millis(20),
        silence_time: Duration::from_secs(2),
        ..EntityOptions::default()
    };
    let units = [disk(1, None), stuck_disk(2)];
    let rig = Rig::serving(options, target_of(TARGET, &[1], &units), 1);
    let mut client = rig.client(1);
    client.run_at(1, &[0; 6], 0);
    let stuck: Vec<_> = (0..CONNECTION_BUFFERS as u32 / (1 << 20) + 8)
        .map(|n| client.command_at(lun_of(1), &cdb(READ, n * 2048, 2048), 1 << 20, None).unwrap())
        .collect();
    for round in 0..20 {
        let data = pattern(round, 64 << 10);
        client.write(round * 128, data.clone());
        assert!(client.read(round * 128, 128) == data);
    }
    let data = pattern(20, 1 << 20);
    client.write(0, data.clone());
    // All at once, while there are buffers for one.
    let reads: Vec<_> = (0..8).map(|_| client.command(&cdb(READ, 0, 2048), 1 << 20, None)).collect();
    for read in reads {
        let ended = client.finish(read);
        assert!(ended.status == 0 && ended.data == data);
    }
    assert_eq!(client.run_at(1, &[0; 6], 0).status, 0, "it needs no buffer");
    assert_eq!(client.finish(stuck[CONNECTION_BUFFERS >> 20]).status, 8, "BUSY");
}
