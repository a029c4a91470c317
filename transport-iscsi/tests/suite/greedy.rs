//! Sessions that take more than they need leave enough for others.

use crate::client::{Client, READ, WRITE, cdb, pattern, settings};
use crate::rig::Rig;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_store::ReactorId;
use lunette_store::pool::Pool;
use lunette_transport_iscsi::EntityOptions;
use lunette_transport_iscsi::limits::{REACTOR_BUFFERS, SHARED_BUFFERS, UNSOLICITED_BUFFERS};
use std::io::Write;

const MIB: usize = 1 << 20;

fn in_use(rig: &Rig) -> usize {
    rig.reactors.call(ReactorId(0), |cx| Pool::of(cx, || unreachable!()).in_use()).unwrap()
}

/// A session without digests.
fn plain(rig: &Rig, number: u8) -> Client {
    let parameters = Parameters { header_digest: false, data_digest: false, ..Parameters::PREFERRED };
    Client::ready(rig.address(), Settings { parameters, ..settings(number) })
}

/// Writes and reads in several sizes; nothing is answered with BUSY.
fn work(good: &mut Client) {
    for round in 0..20u32 {
        let length = [512, 4096, 65536][round as usize % 3];
        let data = pattern(round, length);
        good.write(round * 128, data.clone());
        assert!(good.read(round * 128, (length / 512) as u16) == data);
    }
}

fn ends_well(mut rig: Rig) {
    rig.wait_for_connections(0);
    assert_eq!(in_use(&rig), 0);
    assert!(rig.stop());
}

#[test]
fn who_reads_much_and_takes_nothing() {
    let rig = Rig::with(EntityOptions::default(), None, 1);
    let mut good = rig.client(0);
    // Each holds at least what is sent before nothing more is received.
    let greedy: Vec<_> = (1..=64)
        .map(|number| {
            let mut bad = plain(&rig, number);
            for n in 0..60 {
                bad.command(&cdb(READ, n * 2048, 2048), MIB as u32, None);
            }
            bad.send();
            bad
        })
        .collect();
    while in_use(&rig) < SHARED_BUFFERS * 9 / 10 {
        std::thread::yield_now();
    }
    work(&mut good);
    assert!(in_use(&rig) < REACTOR_BUFFERS);
    drop(greedy);
    work(&mut good);
    drop(good);
    ends_well(rig);
}

/// WRITE(10) of 1 MiB of which 256 KiB are to come without R2T, but do not.
fn announce(bad: &mut Client) {
    bad.command(&cdb(WRITE, 0, 2048), 0, Some(vec![0; MIB]));
    let mut command: [u8; 48] = *bad.wire().first_chunk().unwrap();
    // Not final, and no data segment.
    command[1] &= 0x7f;
    command[5..8].fill(0);
    bad.socket.write_all(&command).unwrap();
}

#[test]
fn who_announces_data_and_sends_none() {
    let rig = Rig::with(EntityOptions::default(), None, 1);
    let mut good = rig.client(0);
    let greedy: Vec<_> = (1..=12)
        .map(|number| {
            let mut bad = plain(&rig, number);
            (0..127).for_each(|_| announce(&mut bad));
            bad
        })
        .collect();
    while in_use(&rig) < UNSOLICITED_BUFFERS * 9 / 10 {
        std::thread::yield_now();
    }
    work(&mut good);
    assert!(in_use(&rig) <= SHARED_BUFFERS + 12 * 65536);
    drop(greedy);
    work(&mut good);
    drop(good);
    ends_well(rig);
}
