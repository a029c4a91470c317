//! Descriptors that become ready.

use crate::support::*;
use lunette_reactor::Io;
use lunette_store::{Interest, IoError, SinkId};
use rustix::event::{EventfdFlags, eventfd};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc::channel;

on_both!(
    tells_each_time_a_descriptor_becomes_ready,
    tells_what_was_ready_before,
    tells_when_there_is_room_again,
    tells_of_the_peers_end,
    reader_and_writer_share_a_descriptor,
    what_cannot_be_watched_is_refused,
    a_cancelled_watch_is_silent,
    a_watch_cancelled_in_the_same_batch_is_silent,
    a_closed_descriptor_number_can_be_watched_again,
    unregistering_ends_watches,
    stop_lets_go_of_the_descriptors,
    many_events_in_one_turn,
);

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK).unwrap()
}

fn signal(event: &OwnedFd) {
    rustix::io::write(event, &1u64.to_ne_bytes()).unwrap();
}

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

fn watch(reactors: &lunette_reactor::Reactors, fd: i32, interest: Interest, sink: SinkId, token: u64) {
    on_first(reactors, move |cx| cx.watch(fd, interest, to(sink, token)));
}

fn tells_each_time_a_descriptor_becomes_ready(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let event = event();
    watch(&reactors, event.as_raw_fd(), Interest::Readable, sink, 4);
    for _ in 0..20 {
        signal(&event);
        assert_eq!(next(&told), (4, Ok(0)));
    }
    let (a, mut b) = pair();
    watch(&reactors, a.as_raw_fd(), Interest::Readable, sink, 5);
    let mut bytes = [0; 16];
    for _ in 0..20 {
        b.write_all(b"hello").unwrap();
        assert_eq!(next(&told), (5, Ok(0)));
        assert_eq!((&a).read(&mut bytes).unwrap(), 5);
    }
}

fn tells_what_was_ready_before(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let event = event();
    signal(&event);
    watch(&reactors, event.as_raw_fd(), Interest::Readable, sink, 1);
    assert_eq!(next(&told), (1, Ok(0)));
    let (a, _b) = pair();
    watch(&reactors, a.as_raw_fd(), Interest::Writable, sink, 2);
    assert_eq!(next(&told), (2, Ok(0)));
}

fn fill(stream: &mut UnixStream) {
    while stream.write(&[0; 4096]).is_ok() {}
}

fn drain(stream: &mut UnixStream) {
    while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}

fn tells_when_there_is_room_again(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let (mut a, mut b) = pair();
    fill(&mut a);
    watch(&reactors, a.as_raw_fd(), Interest::Writable, sink, 1);
    for _ in 0..3 {
        drain(&mut b);
        assert_eq!(next(&told), (1, Ok(0)));
        fill(&mut a);
    }
}

fn tells_of_the_peers_end(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let (a, b) = pair();
    watch(&reactors, a.as_raw_fd(), Interest::Readable, sink, 1);
    drop(b);
    assert_eq!(next(&told), (1, Ok(0)));
    assert_eq!((&a).read(&mut [0]).unwrap(), 0);
}

fn reader_and_writer_share_a_descriptor(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let (mut a, mut b) = pair();
    fill(&mut a);
    let fd = a.as_raw_fd();
    watch(&reactors, fd, Interest::Readable, sink, 1);
    watch(&reactors, fd, Interest::Writable, sink, 2);
    b.write_all(b"x").unwrap();
    until(&told, 1);
    drain(&mut b);
    until(&told, 2);
    on_first(&reactors, move |cx| cx.cancel(to(sink, 2)));
    b.write_all(b"x").unwrap();
    until(&told, 1);
}

fn what_cannot_be_watched_is_refused(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let file = tempfile::tempfile().unwrap();
    watch(&reactors, 1 << 30, Interest::Readable, sink, 1);
    assert_eq!(next(&told), (1, Err(IoError::Os(libc::EBADF))));
    watch(&reactors, file.as_raw_fd(), Interest::Readable, sink, 2);
    assert_eq!(next(&told), (2, Err(IoError::Os(libc::EPERM))));
    let device = std::fs::File::open("/dev/null").unwrap();
    watch(&reactors, device.as_raw_fd(), Interest::Readable, sink, 3);
    assert_eq!(next(&told), (3, Err(IoError::Os(libc::EPERM))));
}

fn a_cancelled_watch_is_silent(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let (event, other) = (event(), event());
    watch(&reactors, event.as_raw_fd(), Interest::Readable, sink, 1);
    signal(&event);
    assert_eq!(next(&told), (1, Ok(0)));
    let fd = event.as_raw_fd();
    on_first(&reactors, move |cx| {
        cx.watch(fd, Interest::Readable, to(sink, 1));
        cx.cancel(to(sink, 1));
    });
    signal(&event);
    // A later event of another watch has come through, so the first would have, too.
    watch(&reactors, other.as_raw_fd(), Interest::Readable, sink, 2);
    signal(&other);
    assert_eq!(until(&told, 2), []);
}

fn a_watch_cancelled_in_the_same_batch_is_silent(io: Io) {
    let reactors = start(io, 1);
    let (tell, told) = channel();
    let (a, b) = (event(), event());
    signal(&a);
    signal(&b);
    let (fd_a, fd_b) = (a.as_raw_fd(), b.as_raw_fd());
    on_first(&reactors, move |cx| {
        let me = Rc::new(Cell::new(SinkId(0)));
        let sink = me.clone();
        me.set(listen(cx, move |token, _, cx| {
            tell.send(token).unwrap();
            if token < 2 {
                cx.cancel(to(sink.get(), 1 - token));
                cx.timer(std::time::Duration::ZERO, to(sink.get(), 7));
            }
        }));
        cx.watch(fd_a, Interest::Readable, to(me.get(), 0));
        cx.watch(fd_b, Interest::Readable, to(me.get(), 1));
    });
    let first = next(&told);
    assert!(first < 2);
    while next(&told) != 7 {}
    reactors.stop();
    assert!(told.iter().all(|token| token != 1 - first));
}

fn a_closed_descriptor_number_can_be_watched_again(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    for round in 0..50 {
        let (mut ours, peer) = pair();
        let fd = peer.as_raw_fd();
        let peer = on_first(&reactors, move |cx| {
            cx.watch(fd, Interest::Readable, to(sink, 2 * round));
            cx.cancel(to(sink, 2 * round));
            drop(peer);
            let event = event();
            let fd = event.as_raw_fd();
            cx.watch(fd, Interest::Readable, to(sink, 2 * round + 1));
            event
        });
        signal(&peer);
        assert_eq!(until(&told, 2 * round + 1), []);
        on_first(&reactors, move |cx| {
            cx.cancel(to(sink, 2 * round + 1));
            drop(peer);
        });
        while told.try_recv().is_ok() {}
        // The peer is closed for good: no watch holds it.
        ours.set_nonblocking(false).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }
}

fn unregistering_ends_watches(io: Io) {
    let reactors = start(io, 1);
    let (gone, silent) = ear(&reactors);
    let (a, mut b) = pair();
    let fd = a.as_raw_fd();
    watch(&reactors, fd, Interest::Readable, gone, 1);
    on_first(&reactors, move |cx| {
        cx.unregister(gone);
        drop(a);
        cx.watch(fd, Interest::Readable, to(gone, 2));
    });
    b.set_nonblocking(false).unwrap();
    assert_eq!(b.read(&mut [0]).unwrap(), 0, "closed");
    assert!(silent.recv().is_err(), "the sink was dropped and never told");
}

fn stop_lets_go_of_the_descriptors(io: Io) {
    let reactors = start(io, 1);
    let (sink, _told) = ear(&reactors);
    let (a, b) = pair();
    watch(&reactors, a.as_raw_fd(), Interest::Readable, sink, 1);
    reactors.stop();
    drop(a);
    assert_eq!((&b).read(&mut [0]).unwrap(), 0, "nobody else holds the other end");
}

fn many_events_in_one_turn(io: Io) {
    const COUNT: u64 = 700;
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let events: Vec<OwnedFd> = (0..COUNT).map(|_| event()).collect();
    let fds: Vec<i32> = events.iter().map(AsRawFd::as_raw_fd).collect();
    on_first(&reactors, move |cx| {
        for (n, fd) in fds.into_iter().enumerate() {
            cx.watch(fd, Interest::Readable, to(sink, n as u64));
        }
    });
    for _ in 0..3 {
        // The reactor is kept from looking until all are ready.
        let events: Vec<OwnedFd> = events.iter().map(|e| e.try_clone().unwrap()).collect();
        on_first(&reactors, move |_| events.iter().for_each(signal));
        let mut missing: std::collections::HashSet<u64> = (0..COUNT).collect();
        while !missing.is_empty() {
            missing.remove(&next(&told).0);
        }
        while told.try_recv().is_ok() {}
    }
}
