//! Sessions that take more than they need leave enough for others.

use crate::client::{Client, READ, WRITE, cdb, pattern, settings};
use crate::rig::Rig;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_store::ReactorId;
use lunette_store::pool::Pool;
use lunette_transport_iscsi::EntityOptions;
use lunette_transport_iscsi::limits::{
    CONNECTION_BUFFERS, LEAST_SHARE, REACTOR_BUFFERS, SHARED_BUFFERS, UNSOLICITED_BUFFERS,
};
use std::io::Write;
use std::time::Duration;

const MIB: usize = 1 << 20;

fn in_use(rig: &Rig) -> usize {
    rig.reactors.call(ReactorId(0), |cx| Pool::of(cx, || unreachable!()).in_use()).unwrap()
}

/// Waits until nearly all of so many bytes are in use.
fn wait_until_taken(rig: &Rig, bytes: usize) {
    while in_use(rig) < bytes * 9 / 10 {
        std::thread::yield_now();
    }
}

/// A target that ends nobody's session for being slow.
fn unhurried() -> Rig {
    let idle_time = Duration::from_secs(24 * 60 * 60);
    Rig::with(EntityOptions { idle_time, ..EntityOptions::default() }, None, 1)
}

/// A session without digests.
fn plain(rig: &Rig, number: u8) -> Client {
    let parameters = Parameters { header_digest: false, data_digest: false, ..Parameters::PREFERRED };
    Client::ready(rig.address(), Settings { parameters, ..settings(number) })
}

/// Lengths for which a session has buffers in any case.
const SMALL: &[usize] = &[512, 4096, LEAST_SHARE];
/// Lengths for which others have to leave some.
const LARGE: &[usize] = &[MIB / 2, MIB];

/// Writes and reads in these sizes; nothing is answered with BUSY.
fn work(good: &mut Client, lengths: &[usize]) {
    for (round, length) in (0..20).zip(lengths.iter().copied().cycle()) {
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
    let rig = unhurried();
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
    wait_until_taken(&rig, SHARED_BUFFERS);
    work(&mut good, SMALL);
    assert!(in_use(&rig) < REACTOR_BUFFERS);
    drop(greedy);
    work(&mut good, SMALL);
    drop(good);
    ends_well(rig);
}

/// WRITE(10) of 256 KiB that are to come without R2T, but do not.
fn announce(bad: &mut Client) {
    bad.command(&cdb(WRITE, 0, 512), 0, Some(vec![0; MIB / 4]));
    let mut command: [u8; 48] = *bad.wire().first_chunk().unwrap();
    // Not final, and no data segment.
    command[1] &= 0x7f;
    command[5..8].fill(0);
    bad.socket.write_all(&command).unwrap();
}

#[test]
fn who_announces_data_and_sends_none() {
    let rig = unhurried();
    let mut good = rig.client(0);
    // The first five could have all.
    const MANY: u8 = 8;
    let greedy: Vec<_> = (1..=MANY)
        .map(|number| {
            let mut bad = plain(&rig, number);
            (0..127).for_each(|_| announce(&mut bad));
            bad
        })
        .collect();
    wait_until_taken(&rig, UNSOLICITED_BUFFERS);
    work(&mut good, LARGE);
    assert!(in_use(&rig) <= UNSOLICITED_BUFFERS);
    drop(greedy);
    drop(good);
    ends_well(rig);
}

#[test]
fn who_is_asked_for_data_and_sends_none() {
    let rig = unhurried();
    let parameters = Parameters { initial_r2t: true, immediate_data: false, ..Parameters::PREFERRED };
    let client = |number| Client::ready(rig.address(), Settings { parameters, ..settings(number) });
    let mut good = client(0);
    // Together they could have all.
    const MANY: u8 = (SHARED_BUFFERS / CONNECTION_BUFFERS) as u8 + 1;
    let greedy: Vec<_> = (1..=MANY)
        .map(|number| {
            let mut bad = client(number);
            bad.lazy = true;
            for _ in 0..CONNECTION_BUFFERS / MIB {
                bad.command(&cdb(WRITE, 0, 2048), 0, Some(vec![0; MIB]));
            }
            bad.send();
            bad
        })
        .collect();
    wait_until_taken(&rig, SHARED_BUFFERS);
    work(&mut good, LARGE);
    assert!(in_use(&rig) < SHARED_BUFFERS);
    drop(greedy);
    drop(good);
    ends_well(rig);
}
