use crate::client::{Client, LUN, READ, TARGET, WRITE, cdb, pattern, settings};
use crate::rig::{self, Rig};
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{TaskManagementFunction as Function, TaskManagementResult as Answer};
use lunette_iscsi::target::{Residual, Settings as TargetSettings};
use lunette_store::ReactorId;
use lunette_store::pool::Pool;
use lunette_transport_iscsi::limits::{CONNECTION_BUFFERS, REACTOR_BUFFERS};
use lunette_transport_iscsi::{EntityOptions, TargetOptions};
use std::io::{Read, Write};

fn parameters(bits: u32) -> Parameters {
    let bit = |n: u32| bits >> n & 1 != 0;
    Parameters {
        initial_r2t: bit(0),
        immediate_data: bit(1),
        header_digest: bit(2),
        data_digest: bit(3),
        ..Parameters::PREFERRED
    }
}

/// Writes and reads back in lengths around every limit, several commands at once.
fn exercise(client: &mut Client) {
    let lengths = [1u16, 2, 7, 8, 9, 128, 129, 500, 2047, 2050];
    let mut lba = 0;
    let mut sent = Vec::new();
    for (n, blocks) in lengths.into_iter().enumerate() {
        let data = pattern(n as u32, usize::from(blocks) * 512);
        sent.push((client.command(&cdb(WRITE, lba, blocks), 0, Some(data.clone())), lba, blocks, data));
        lba += u32::from(blocks);
    }
    for (tag, ..) in &sent {
        assert_eq!(client.finish(*tag).status, 0);
    }
    let read = |&(_, lba, blocks, ref data): &(u32, u32, u16, Vec<u8>), client: &mut Client| {
        (client.command(&cdb(READ, lba, blocks), u32::from(blocks) * 512, None), data.clone())
    };
    let reads: Vec<_> = sent.iter().map(|written| read(written, client)).collect();
    for (tag, data) in reads {
        let ended = client.finish(tag);
        assert_eq!((ended.status, ended.residual), (0, Residual::Exact));
        assert!(ended.data == data, "other bytes than were written");
    }
}

/// XDWRITEREAD(10) with and without R2T, and when the initiator does not say that it is bidirectional.
#[test]
fn bidirectional_commands_move_data_both_ways() {
    const XDWRITEREAD: u8 = 0x53;
    let rig = Rig::new();
    for bits in 0..4 {
        let settings = Settings { parameters: parameters(bits), ..settings(1) };
        let mut client = Client::ready(rig.address(), settings);
        let (old, new) = (pattern(1, 300 * 512), pattern(2, 300 * 512));
        client.write(5, old.clone());
        let ended = client.run(&cdb(XDWRITEREAD, 5, 300), 300 * 512, Some(new.clone()));
        assert_eq!((ended.status, ended.residual), (0, Residual::Exact), "{:?}", ended.sense);
        assert!(ended.data.iter().zip(old.iter().zip(&new)).all(|(both, (old, new))| *both == old ^ new));
        assert!(client.read(5, 300) == new);
        let nothing = client.run(&cdb(XDWRITEREAD, 5, 1), 512, None);
        assert_eq!(
            (nothing.status, nothing.residual),
            (0, Residual::Underflow(512)),
            "nothing to combine with"
        );
        let written = client.run(&cdb(XDWRITEREAD, 5, 1), 0, Some(vec![7; 512]));
        assert_eq!((written.status, written.residual), (0, Residual::Exact));
        assert_eq!(client.read(5, 1), [7; 512]);
        client.log_out();
    }
}

#[test]
fn every_byte_arrives_with_every_mix_of_parameters() {
    let rig = Rig::new();
    for bits in 0..16 {
        let settings = Settings { parameters: parameters(bits), ..settings(1) };
        let mut client = Client::ready(rig.address(), settings);
        let agreed = client.initiator.parameters();
        assert_eq!((agreed.initial_r2t, agreed.immediate_data), (bits & 1 != 0, bits & 2 != 0));
        exercise(&mut client);
        client.log_out();
    }
}

#[test]
fn small_segments_and_bursts_work_too() {
    let small = Parameters {
        max_recv_data_segment_length: 512,
        max_burst_length: 4096,
        first_burst_length: 1536,
        max_outstanding_r2t: 1,
        ..Parameters::PREFERRED
    };
    for (target, initiator) in
        [(small, Parameters::PREFERRED), (Parameters::PREFERRED, small), (small, small)]
    {
        let settings = Settings { parameters: initiator, ..settings(1) };
        let wanted = TargetSettings { parameters: target, ..TargetSettings::default() };
        let options = TargetOptions { settings: wanted, ..rig::target(TARGET, &[1], &rig::disk(1, None)) };
        let rig = Rig::serving(EntityOptions::default(), options, 1);
        exercise(&mut Client::ready(rig.address(), settings));
    }
}

#[test]
fn slow_stores_see_the_same_bytes() {
    let rig = Rig::faulty("delay:2");
    exercise(&mut rig.client(1));
}

#[test]
fn residuals_are_told() {
    let rig = Rig::new();
    let mut client = rig.client(1);
    client.write(0, pattern(5, 1024));
    let short = client.run(&cdb(READ, 0, 1), 1000, None);
    assert_eq!((short.status, short.residual), (0, Residual::Underflow(488)));
    let long = client.run(&cdb(READ, 0, 2), 512, None);
    assert_eq!((long.residual, &long.data), (Residual::Overflow(512), &pattern(5, 1024)[..512].to_vec()));
    let none = client.run(&cdb(READ, 0, 2), 0, None);
    assert_eq!(none.residual, Residual::Overflow(1024));
    let more = client.run(&cdb(WRITE, 0, 1), 0, Some(vec![9; 2000]));
    assert_eq!((more.status, more.residual), (0, Residual::Underflow(1488)));
    assert_eq!(client.read(0, 2)[..513], [&[9; 512][..], &pattern(5, 1024)[512..513]].concat());
}

#[test]
fn sense_data_comes_with_the_status() {
    let rig = Rig::faulty("eio:512000");
    let mut client = rig.client(1);
    let beyond = client.run(&cdb(READ, u32::MAX, 1), 512, None);
    assert_eq!((beyond.status, beyond.sense_code()), (2, (5, 0x21, 0)));
    assert_eq!(beyond.residual, Residual::Underflow(512));
    let failed = client.run(&cdb(READ, 1000, 8), 4096, None);
    assert_eq!((failed.status, failed.sense_code()), (2, (3, 0x11, 0)));
    let failed = client.run(&cdb(WRITE, 1000, 600), 0, Some(vec![0; 600 * 512]));
    assert_eq!((failed.status, failed.sense_code().0), (2, 3));
    let unknown = client.run(&[0xff; 16], 0, None);
    assert_eq!((unknown.status, unknown.sense_code()), (2, (5, 0x20, 0)));
}

/// A session that sends data without being asked for it, and a write that fails before its data: its wire bytes are
/// split after the command.
fn failing_write(rig: &Rig) -> (Client, u32, Vec<u8>) {
    let parameters = Parameters { immediate_data: false, header_digest: false, ..Parameters::PREFERRED };
    let mut client = Client::ready(rig.address(), Settings { parameters, ..settings(1) });
    let tag = client.command(&cdb(WRITE, u32::MAX, 128), 0, Some(vec![7; 64 << 10]));
    let mut command = client.wire();
    let data = command.split_off(48);
    client.socket.write_all(&command).unwrap();
    (client, tag, data)
}

/// RFC 7143 11.4.2.
#[test]
fn a_write_that_fails_early_is_answered_when_its_data_has_come() {
    let rig = Rig::new();
    let (mut client, tag, data) = failing_write(&rig);
    assert_eq!(client.run(&[0; 6], 0, None).status, 0);
    assert!(client.ended.is_empty(), "answered before its data has come");
    client.socket.write_all(&data).unwrap();
    let ended = client.finish(tag);
    assert_eq!((ended.status, ended.sense_code()), (2, (5, 0x21, 0)));
    client.write(0, pattern(1, 512));
}

#[test]
fn a_write_that_failed_early_can_be_aborted() {
    let rig = Rig::new();
    for function in [Function::ABORT_TASK, Function::ABORT_TASK_SET] {
        let (mut client, tag, data) = failing_write(&rig);
        assert_eq!(client.managed(function, LUN, tag), Answer::COMPLETE);
        client.socket.write_all(&data).unwrap();
        client.write(0, pattern(1, 512));
        assert!(client.ended.is_empty());
    }
}

/// More data is asked for than a connection's buffers hold, and none of it is taken for a while.
#[test]
fn a_slow_reader_gets_everything_in_bounded_memory() {
    let rig = Rig::with(EntityOptions::default(), None, 1);
    let mut client = rig.client(1);
    let data = pattern(11, 2 << 20);
    client.write(0, data.clone());
    let count = 3 * CONNECTION_BUFFERS / (2 << 20);
    let tags: Vec<_> = (0..count).map(|_| client.command(&cdb(READ, 0, 4096), 2 << 20, None)).collect();
    client.send();
    let mut other = rig.client(2);
    for n in 0..50 {
        other.write(n, pattern(n, 512));
        let used = rig.reactors.call(ReactorId(0), |cx| Pool::of(cx, || unreachable!()).in_use()).unwrap();
        assert!(used <= CONNECTION_BUFFERS + (1 << 20), "{used} bytes of buffers");
    }
    let first = other.read(0, 50);
    for tag in tags {
        let ended = client.finish(tag);
        assert_eq!(ended.status, 0);
        assert!(ended.data[50 * 512..] == data[50 * 512..], "other bytes than were written");
    }
    assert_eq!(client.read(0, 50), first);
    client.log_out();
    other.log_out();
    rig.wait_for_connections(0);
    let used = rig.reactors.call(ReactorId(0), |cx| Pool::of(cx, || unreachable!()).in_use());
    assert_eq!(used, Some(0), "all buffers came back");
    const { assert!(CONNECTION_BUFFERS < REACTOR_BUFFERS) };
}

/// The same for data-out that comes by R2T: more commands than there are buffers, all at once.
#[test]
fn writes_beyond_the_buffers_wait_for_their_turn() {
    let rig = Rig::with(EntityOptions::default(), None, 1);
    let mut client = rig.client(1);
    let count = 3 * CONNECTION_BUFFERS / (2 << 20);
    let data: Vec<_> = (0..4).map(|n| pattern(n, 2 << 20)).collect();
    let lba = |n: usize| (n % 4 * 4096) as u32;
    let command = |n: usize| (cdb(WRITE, lba(n), 4096), data[n % 4].clone());
    let tags: Vec<_> =
        (0..count).map(command).map(|(cdb, data)| client.command(&cdb, 0, Some(data))).collect();
    for tag in tags {
        assert_eq!(client.finish(tag).status, 0);
    }
    for (n, data) in data.iter().enumerate() {
        assert!(client.read(lba(n), 4096) == *data);
    }
}

/// No answer comes before the end of what the initiator sends unasked, also if the command does not want it.
#[test]
fn data_that_nobody_wants_is_waited_for() {
    let rig = Rig::new();
    let parameters = Parameters { header_digest: false, data_digest: false, ..Parameters::PREFERRED };
    let mut client = Client::ready(rig.address(), Settings { parameters, ..settings(1) });
    let tag = client.command(&[0; 6], 0, Some(vec![0; 4096]));
    let mut command: [u8; 48] = *client.wire().first_chunk().unwrap();
    // Not final, and no data segment.
    command[1] &= 0x7f;
    command[5..8].fill(0);
    // NOP-Out, immediate.
    let mut ping = [0; 48];
    ping[..2].copy_from_slice(&[0x40, 0x80]);
    ping[16..24].copy_from_slice(&[0x77, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    ping[24..28]
        .copy_from_slice(&(u32::from_be_bytes(*command[24..].first_chunk().unwrap()) + 1).to_be_bytes());
    // Data-Out, final.
    let mut data = [0; 48 + 4096];
    data[..8].copy_from_slice(&[0x05, 0x80, 0, 0, 0, 0, 0x10, 0]);
    data[16..20].copy_from_slice(&tag.to_be_bytes());
    data[20..24].fill(0xff);
    let mut answer = [0; 48];
    client.socket.write_all(&[command, ping].concat()).unwrap();
    client.socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 0x20, "NOP-In");
    client.socket.write_all(&data).unwrap();
    client.socket.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], answer[3]), (0x21, 0), "SCSI Response, GOOD");
}
