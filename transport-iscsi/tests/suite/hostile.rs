use crate::client::{Client, READ, cdb, pattern, settings};
use crate::rig::Rig;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
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

/// A session without digests, so that what is made up here is looked at.
fn bad_client(rig: &Rig, number: u8) -> Client {
    let parameters = Parameters { header_digest: false, data_digest: false, ..Parameters::PREFERRED };
    Client::ready(rig.address(), Settings { parameters, ..settings(number) })
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

/// What is to be sent is bounded even when its receiver does not take it.
#[test]
fn pings_without_end_are_not_taken_without_end() {
    let rig = Rig::new();
    let mut bad = bad_client(&rig, 1);
    bad.socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // NOP-Out, immediate, with a task tag and 4 KiB that are to come back.
    let mut ping = [0; 48 + 4096];
    ping[..8].copy_from_slice(&[0x40, 0x80, 0, 0, 0, 0, 0x10, 0]);
    ping[20..24].fill(0xff);
    let many = ping.repeat(256);
    let sent = (0..128).take_while(|_| bad.socket.write_all(&many).is_ok()).count();
    assert!(sent < 128, "{sent} MiB of pings were taken");
    assert_eq!(rig.client(2).read(0, 1), [0; 512]);
}
