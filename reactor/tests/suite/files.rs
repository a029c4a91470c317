//! File operations.

use crate::support::*;
use lunette_reactor::{Io, Options, Reactors};
use lunette_store::{Cx, FileOp, IoError, IoResult, Lane, Memory, Seg, Sg, Submit};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};

on_both!(
    many_segments_are_moved_in_order,
    reading_past_the_end_is_short,
    direct_reads_end_where_the_file_ends,
    durable_writes_sync_and_allocate,
    errors_are_reported,
    trivial_operations_are_done_at_once,
    more_operations_than_fit_into_the_queues,
    full_when_all_slots_are_taken,
    stop_waits_for_what_is_under_way,
    a_lane_keeps_the_order,
    lanes_are_bounded_and_stop_waits_for_them,
    a_stalled_lane_leaves_room_for_others,
    a_wide_lane_goes_on_beside_what_stalls,
);

fn temporary(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

enum Kind {
    Read,
    Write { durable: bool },
}

/// Moves `bytes` in segments of the given lengths; returns the result and what then stands in memory.
fn move_bytes(
    reactors: &Reactors,
    fd: RawFd,
    kind: Kind,
    offset: u64,
    lengths: &[usize],
    bytes: &[u8],
) -> (IoResult, Vec<u8>) {
    let (tell, told) = channel();
    let (lengths, bytes) = (lengths.to_vec(), bytes.to_vec());
    on_first(reactors, move |cx| {
        let memory = Rc::new(Memory::from_bytes(&bytes));
        let mut at = 0;
        let segs: Vec<Seg> = lengths
            .iter()
            .map(|&length| {
                at += length;
                memory.seg().part(at - length, length)
            })
            .collect();
        let report = move |result| tell.send((result, memory.to_vec())).unwrap();
        let again = report.clone();
        let sink = listen(cx, move |_, result, _| report(result));
        let list = Sg::new(&segs);
        let op = match kind {
            Kind::Read => FileOp::Read { fd, offset, to: list },
            Kind::Write { durable } => FileOp::Write { fd, offset, from: list, durable },
        };
        if let Some(result) = cx.file(op, to(sink, 0)).done() {
            again(result);
        }
    });
    next(&told)
}

fn run(reactors: &Reactors, op: impl FnOnce() -> FileOp<'static> + Send + 'static) -> IoResult {
    let (tell, told) = channel();
    let submitted = on_first(reactors, move |cx| {
        let sink = reporter(cx, tell);
        cx.file(op(), to(sink, 0))
    });
    submitted.done().unwrap_or_else(|| next(&told).1)
}

fn many_segments_are_moved_in_order(io: Io) {
    let reactors = start(io, 1);
    let file = temporary(&[]);
    let lengths: Vec<usize> = (0..3000).map(|n| n % 23).collect();
    let bytes = pattern(lengths.iter().sum());
    let fd = file.as_raw_fd();
    let write = Kind::Write { durable: false };
    let (written, _) = move_bytes(&reactors, fd, write, 777, &lengths, &bytes);
    assert_eq!(written, Ok(bytes.len() as u64));
    let mut found = vec![0; bytes.len()];
    file.read_exact_at(&mut found, 777).unwrap();
    assert_eq!(found, bytes);

    let lengths: Vec<usize> = lengths.into_iter().rev().collect();
    let empty = vec![0; bytes.len()];
    let (read, found) = move_bytes(&reactors, fd, Kind::Read, 777, &lengths, &empty);
    assert_eq!(read, Ok(bytes.len() as u64));
    assert_eq!(found, bytes);
}

fn reading_past_the_end_is_short(io: Io) {
    let reactors = start(io, 1);
    let bytes = pattern(5000);
    let file = temporary(&bytes);
    for lengths in [&[4096][..], &[1, 2, 4093], &[0, 4095, 0, 1]] {
        let (read, found) = move_bytes(&reactors, file.as_raw_fd(), Kind::Read, 1000, lengths, &[9; 4096]);
        assert_eq!(read, Err(IoError::Short { moved: 4000 }));
        assert_eq!(found[..4000], bytes[1000..]);
        assert_eq!(found[4000..], [9; 96]);
    }
    let (read, _) = move_bytes(&reactors, file.as_raw_fd(), Kind::Read, 9999, &[1], &[0]);
    assert_eq!(read, Err(IoError::Short { moved: 0 }));
}

fn direct_reads_end_where_the_file_ends(io: Io) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("direct");
    let bytes = pattern(3 * 4096 + 100);
    std::fs::write(&path, &bytes).unwrap();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path);
    let Ok(file) = opened else {
        eprintln!("this file system has no O_DIRECT");
        return;
    };
    let reactors = start(io, 1);
    let (read, found) = move_bytes(&reactors, file.as_raw_fd(), Kind::Read, 4096, &[8192, 4096], &[0; 12288]);
    assert_eq!(read, Err(IoError::Short { moved: 8292 }));
    assert_eq!(found[..8292], bytes[4096..]);
    let write = Kind::Write { durable: true };
    let (written, _) = move_bytes(&reactors, file.as_raw_fd(), write, 0, &[4096, 4096], &[7; 8192]);
    assert_eq!(written, Ok(8192));
    let found = std::fs::read(&path).unwrap();
    assert_eq!(found[..8192], [7; 8192]);
    assert_eq!(found[8192..], bytes[8192..]);
}

fn durable_writes_sync_and_allocate(io: Io) {
    let reactors = start(io, 1);
    let file = temporary(&pattern(16384));
    let fd = file.as_raw_fd();
    let write = Kind::Write { durable: true };
    let (written, _) = move_bytes(&reactors, fd, write, 0, &[100, 412], &[5; 512]);
    assert_eq!(written, Ok(512));
    assert_eq!(run(&reactors, move || FileOp::Sync { fd }), Ok(0));
    let grow = move || FileOp::Allocate { fd, mode: 0, offset: 16384, length: 4096 };
    assert_eq!(run(&reactors, grow), Ok(0));
    assert_eq!(file.metadata().unwrap().len(), 20480);
    let punch = move || FileOp::Allocate {
        fd,
        mode: libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        offset: 4096,
        length: 4096,
    };
    assert_eq!(run(&reactors, punch), Ok(0));
    let mut found = [1; 4096];
    file.read_exact_at(&mut found, 4096).unwrap();
    assert_eq!(found, [0; 4096]);
}

fn errors_are_reported(io: Io) {
    let reactors = start(io, 1);
    let read_only = File::open("/proc/self/exe").unwrap();
    let write = Kind::Write { durable: false };
    let (written, _) = move_bytes(&reactors, read_only.as_raw_fd(), write, 0, &[4], &[1; 4]);
    assert_eq!(written, Err(IoError::Os(libc::EBADF)));
    let bad = || FileOp::Sync { fd: 1 << 30 };
    assert_eq!(run(&reactors, bad), Err(IoError::Os(libc::EBADF)));
    let bad = || FileOp::Sync { fd: -1 };
    assert_eq!(run(&reactors, bad), Err(IoError::Os(libc::EBADF)));
}

fn trivial_operations_are_done_at_once(io: Io) {
    let reactors = start(io, 1);
    let file = temporary(&[]);
    let fd = file.as_raw_fd();
    let answers = on_first(&reactors, move |cx| {
        let sink = listen(cx, |_, _, _| panic!("told of a submission that was done"));
        let memory = Memory::zeroed(2);
        let segs = [memory.seg()];
        let none = FileOp::Read { fd, offset: u64::MAX >> 1, to: Sg::empty() };
        let beyond = FileOp::Read { fd, offset: u64::MAX, to: Sg::new(&segs) };
        let never = FileOp::Allocate { fd, mode: 0, offset: 1, length: u64::MAX >> 1 };
        [none, beyond, never].map(|op| cx.file(op, to(sink, 0)))
    });
    let out = Submit::Done(Err(IoError::OutOfRange));
    assert_eq!(answers, [Submit::Done(Ok(0)), out, out]);
}

fn more_operations_than_fit_into_the_queues(io: Io) {
    const COUNT: usize = 1000;
    let reactors = start(io, 1);
    let bytes = pattern(COUNT);
    let file = temporary(&bytes);
    let fd = file.as_raw_fd();
    let (tell, told) = channel();
    on_first(&reactors, move |cx| {
        let memory = Rc::new(Memory::zeroed(COUNT));
        let target = memory.clone();
        let sink = listen(cx, move |token, result, _| {
            let mut byte = [0];
            Sg::new(&[memory.seg()]).copy_out(token, &mut byte);
            tell.send((token, result, byte[0])).unwrap();
        });
        for n in 0..COUNT {
            let segs = [target.seg().part(n, 1)];
            let op = FileOp::Read { fd, offset: n as u64, to: Sg::new(&segs) };
            assert_eq!(cx.file(op, to(sink, n as u64)), Submit::Queued);
        }
    });
    let mut heard: Vec<_> = (0..COUNT).map(|_| next(&told)).collect();
    heard.sort_unstable_by_key(|(token, ..)| *token);
    for (n, (token, result, byte)) in heard.into_iter().enumerate() {
        assert_eq!((token, result, byte), (n as u64, Ok(1), bytes[n]));
    }
    reactors.stop();
    assert!(told.recv().is_err(), "one completion each");
}

fn full_when_all_slots_are_taken(io: Io) {
    let reactors = Reactors::start(&Options { file_operations: 2, ..options(io, 1) }).unwrap();
    let file = temporary(b"x");
    let fd = file.as_raw_fd();
    let (tell, told) = channel();
    let answers = on_first(&reactors, move |cx| {
        let sink = listen(cx, move |token, _, cx| {
            let again = FileOp::Sync { fd };
            let id = to(lunette_store::SinkId(u32::MAX), 0);
            let _ = tell.send((token, cx.file(again, id)));
        });
        [0, 1, 2].map(|token| cx.file(FileOp::Sync { fd }, to(sink, token)))
    });
    // Where threads do it, one descriptor is not given all slots.
    assert_eq!((answers[0], answers[2]), (Submit::Queued, Submit::Full));
    assert_eq!(next(&told).1, Submit::Queued, "a slot is free in its own completion");
}

fn stop_waits_for_what_is_under_way(io: Io) {
    const LENGTH: usize = 1 << 20;
    const COUNT: u64 = 16;
    let reactors = start(io, 1);
    let file = temporary(&[]);
    let fd = file.as_raw_fd();
    on_first(&reactors, move |cx| {
        let memory = Memory::from_bytes(&[3; LENGTH]);
        let segs = [memory.seg()];
        // The sink owns the memory, and only the reactor owns the sink.
        let sink = listen(cx, move |_, _, _| assert_eq!(memory.len(), LENGTH));
        for n in 0..COUNT {
            let op = FileOp::Write { fd, offset: n * LENGTH as u64, from: Sg::new(&segs), durable: false };
            assert_eq!(cx.file(op, to(sink, n)), Submit::Queued);
        }
    });
    reactors.stop();
    let mut found = vec![0; LENGTH];
    for n in 0..COUNT {
        file.read_exact_at(&mut found, n * LENGTH as u64).unwrap();
        assert!(found.iter().all(|byte| *byte == 3));
    }
}

fn a_lane_keeps_the_order(io: Io) {
    const COUNT: u64 = 1000;
    let reactors = start(io, 1);
    let file = temporary(&[]);
    let fd = file.as_raw_fd();
    let (tell, told) = channel();
    on_first(&reactors, move |cx| {
        let memory = Rc::new(Memory::from_bytes(&pattern(COUNT as usize + 8)));
        let source = memory.clone();
        let lane = Lane::new();
        let sink = listen(cx, move |token, result, _| {
            assert_eq!(memory.len(), COUNT as usize + 8);
            let _ = tell.send((token, result));
        });
        for n in 0..COUNT {
            // Each writes what the one before it wrote, and a byte more; in odd pieces.
            let segs = [source.seg().part(n as usize, 3), source.seg().part(n as usize + 3, 5)];
            let from = Sg::new(&segs);
            let write = FileOp::Write { fd, offset: 0, from, durable: n == COUNT / 2 };
            let op = if n % 100 == 99 { FileOp::Sync { fd } } else { write };
            assert_eq!(cx.file_in(&lane, op, to(sink, n)), Submit::Queued);
        }
        let segs = [source.seg()];
        let refused = FileOp::Write { fd: -1, offset: 0, from: Sg::new(&segs), durable: false };
        assert_eq!(cx.file_in(&lane, refused, to(sink, COUNT)), Submit::Queued);
        let empty = FileOp::Write { fd, offset: 0, from: Sg::empty(), durable: false };
        assert_eq!(cx.file_in(&lane, empty, to(sink, COUNT)), Submit::Done(Ok(0)));
    });
    for n in 0..COUNT {
        assert_eq!(next(&told), (n, Ok(if n % 100 == 99 { 0 } else { 8 })));
    }
    assert_eq!(next(&told), (COUNT, Err(IoError::Os(libc::EBADF))));
    let mut found = [0; 8];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found, pattern(COUNT as usize + 8)[COUNT as usize - 2..][..8]);
}

fn lanes_are_bounded_and_stop_waits_for_them(io: Io) {
    const LENGTH: usize = 1 << 20;
    let reactors = Reactors::start(&Options { file_operations: 8, ..options(io, 1) }).unwrap();
    let file = temporary(&[]);
    let fd = file.as_raw_fd();
    let answers = on_first(&reactors, move |cx| {
        let memory = Memory::from_bytes(&[3; LENGTH]);
        let segs = [memory.seg()];
        // The sink owns the memory, and only the reactor owns the sink.
        let sink = listen(cx, move |_, _, _| assert_eq!(memory.len(), LENGTH));
        let lane = Lane::new();
        [0, 1, 2, 3, 4].map(|n: u64| {
            let from = Sg::new(&segs);
            let op = FileOp::Write { fd, offset: n * LENGTH as u64, from, durable: false };
            cx.file_in(&lane, op, to(sink, n))
        })
    });
    reactors.stop();
    assert_eq!(answers[..4], [Submit::Queued; 4]);
    assert_eq!(answers[4], Submit::Full);
    let mut found = vec![0; 4 * LENGTH];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found.iter().all(|byte| *byte == 3));
}

/// A call that lasts until the test releases it.
fn stall() -> (impl FnOnce() -> IoResult + Send, Sender<()>) {
    let (release, wait) = channel::<()>();
    (move || wait.recv().map(|()| 0).map_err(|_| IoError::Gone), release)
}

fn a_stalled_lane_leaves_room_for_others(io: Io) {
    const MOST: u64 = 256;
    let file_operations = 2 * MOST as u32;
    let reactors = Reactors::start(&Options { file_operations, ..options(io, 1) }).unwrap();
    let file = temporary(&[]);
    let fd = file.as_raw_fd();
    let (sink, told) = ear(&reactors);
    let (call, release) = stall();
    let (stalled, other) = on_first(&reactors, move |cx| {
        let lane = Lane::new();
        cx.blocking_in(&lane, Box::new(call), to(sink, 0));
        let sync = |cx: &mut dyn Cx, lane, n| cx.file_in(lane, FileOp::Sync { fd }, to(sink, n));
        let stalled: Vec<Submit> = (1..=MOST + 1).map(|n| sync(cx, &lane, n)).collect();
        (stalled, sync(cx, &Lane::new(), 1000))
    });
    assert_eq!(stalled[..MOST as usize], [Submit::Queued; MOST as usize]);
    assert_eq!((stalled[MOST as usize], other), (Submit::Full, Submit::Queued));
    assert_eq!(next(&told), (1000, Ok(0)));
    release.send(()).unwrap();
    assert_eq!(until(&told, MOST), (0..MOST).collect::<Vec<_>>());
}

fn a_wide_lane_goes_on_beside_what_stalls(io: Io) {
    let reactors = start(io, 1);
    let file = temporary(b"x");
    let fd = file.as_raw_fd();
    let (sink, told) = ear(&reactors);
    let (call, release) = stall();
    on_first(&reactors, move |cx| {
        let lane = Lane::wide();
        cx.blocking_in(&lane, Box::new(call), to(sink, 1));
        assert_eq!(cx.file_in(&lane, FileOp::Sync { fd }, to(sink, 2)), Submit::Queued);
    });
    assert_eq!(next(&told), (2, Ok(0)));
    release.send(()).unwrap();
    assert_eq!(next(&told), (1, Ok(0)));
}
