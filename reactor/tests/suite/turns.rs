//! Messages, completions, timers and the order between them.

use crate::support::*;
use lunette_reactor::{Backend, Io, Options, Poll, Reactors};
use lunette_store::{
    Cx, IoError, IoId, IoResult, Lane, Post, ReactorId, Sink, SinkId, local, local_or_insert,
};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

on_both!(
    messages_arrive_in_order,
    messages_wake_sleepers,
    completions_come_after_the_caller_and_in_order,
    deferred_calls_come_last,
    timers_fire_in_order_and_never_early,
    cancelled_timers_are_silent,
    an_unregistered_sink_hears_nothing_and_its_id_is_not_reused,
    blocking_work_runs_elsewhere,
    blocking_threads_are_bounded,
    a_stalled_lane_holds_up_no_call_elsewhere,
    locals_belong_to_one_reactor,
    all_are_asked_and_none_is_waited_for_longer_than_said,
    work_and_rest_are_told_apart,
    pollers_are_asked_while_awake_and_before_sleep,
    stop_runs_what_was_posted_before_and_drops_the_rest,
    stop_waits_for_blocking_work,
    busy_sinks_starve_nobody,
);

const MS: Duration = Duration::from_millis(1);

#[test]
fn the_backend_says_what_it_is() {
    let epoll = start(Io::Epoll, 2);
    assert_eq!(epoll.backend(), &Backend::Epoll { refused: None });
    assert_eq!(epoll.backend().to_string(), "epoll");
    assert_eq!(epoll.count(), 2);
    let auto = Reactors::start(&Options::default()).unwrap();
    assert!(auto.count() >= 1);
    match auto.backend() {
        Backend::IoUring => assert_eq!(auto.backend().to_string(), "io_uring"),
        Backend::Epoll { refused } => assert!(refused.is_some()),
    }
}

fn messages_arrive_in_order(io: Io) {
    let reactors = start(io, 2);
    let poster = reactors.poster();
    let (tell, told) = channel();
    for n in 0..5000 {
        let tell = tell.clone();
        poster.post(ReactorId(n % 2), Box::new(move |cx| tell.send((cx.reactor(), n)).unwrap()));
    }
    poster.post(ReactorId(9), Box::new(|_| panic!("there is no such reactor")));
    drop(tell);
    let heard: Vec<_> = told.iter().collect();
    for id in [ReactorId(0), ReactorId(1)] {
        let numbers: Vec<u16> = heard.iter().filter(|(at, _)| *at == id).map(|(_, n)| *n).collect();
        assert_eq!(numbers, (id.0..5000).step_by(2).collect::<Vec<_>>());
    }
}

/// Sends a message back and forth between two reactors, each of which sleeps in between, and then to itself.
fn messages_wake_sleepers(io: Io) {
    fn hop(poster: Arc<dyn Post>, left: u16, tell: Sender<()>) {
        let to = ReactorId(left.min(1000) % 2);
        let again = poster.clone();
        poster.post(
            to,
            Box::new(move |_| match left {
                0 => tell.send(()).unwrap(),
                _ => hop(again, left - 1, tell),
            }),
        );
    }
    let reactors = start(io, 2);
    let (tell, told) = channel();
    hop(reactors.poster(), 3000, tell);
    next(&told);
}

fn completions_come_after_the_caller_and_in_order(io: Io) {
    let reactors = start(io, 1);
    let (tell, told) = channel();
    on_first(&reactors, move |cx| {
        let busy = Rc::new(RefCell::new(()));
        let state = busy.clone();
        let sink = listen(cx, move |token, result, cx| {
            let _held = state.borrow_mut();
            tell.send((token, result)).unwrap();
            if token < 2000 {
                cx.complete(to(SinkId(0), token + 1), Err(IoError::Aborted));
            }
        });
        assert_eq!(sink, SinkId(0));
        let _held = busy.borrow_mut();
        cx.complete(to(sink, 1000), Ok(3));
        cx.complete(to(sink, 5000), Ok(4));
    });
    assert_eq!(next(&told), (1000, Ok(3)));
    assert_eq!(next(&told), (5000, Ok(4)));
    for token in 1001..=2000 {
        assert_eq!(next(&told), (token, Err(IoError::Aborted)));
    }
}

fn deferred_calls_come_last(io: Io) {
    let reactors = start(io, 1);
    let (tell, told) = channel();
    on_first(&reactors, move |cx| {
        let sink = listen(cx, move |token, result, cx| {
            tell.send((token, result)).unwrap();
            match token {
                1 => {
                    cx.defer(to(SinkId(0), 90));
                    cx.complete(to(SinkId(0), 2), Ok(0));
                }
                2 => cx.complete(to(SinkId(0), 3), Ok(0)),
                90 => cx.defer(to(SinkId(0), 92)),
                _ => (),
            }
        });
        cx.complete(to(sink, 1), Ok(0));
        cx.defer(to(sink, 91));
    });
    let order: Vec<u64> = (0..6).map(|_| next(&told).0).collect();
    assert_eq!(order, [1, 2, 3, 91, 90, 92]);
}

fn timers_fire_in_order_and_never_early(io: Io) {
    let reactors = start(io, 1);
    let (tell, told) = channel();
    on_first(&reactors, move |cx| {
        let set = cx.now();
        let sink = listen(cx, move |token, result, cx| {
            assert_eq!(result, Ok(0));
            tell.send((token, cx.now() - set)).unwrap();
        });
        for ms in [20u32, 3, 11, 0, 3] {
            cx.timer(MS * ms, to(sink, ms.into()));
        }
        cx.timer(Duration::MAX, to(sink, 0));
    });
    for ms in [0, 3, 3, 11, 20] {
        let (token, after) = next(&told);
        assert_eq!(token, ms);
        assert!(after >= MS * ms as u32);
    }
}

fn cancelled_timers_are_silent(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    on_first(&reactors, move |cx| {
        cx.timer(MS, to(sink, 1));
        cx.timer(2 * MS, to(sink, 1));
        cx.timer(MS, to(sink, 2));
        cx.timer(3 * MS, to(sink, 3));
        cx.cancel(to(sink, 1));
        // Due, but cancelled by what comes before it in the same turn.
        cx.timer(Duration::ZERO, to(sink, 4));
        cx.cancel(to(sink, 4));
    });
    assert_eq!(until(&told, 3), [2]);
}

fn an_unregistered_sink_hears_nothing_and_its_id_is_not_reused(io: Io) {
    let reactors = start(io, 1);
    let (gone, silent) = ear(&reactors);
    let (tell, told) = channel();
    on_first(&reactors, move |cx| {
        cx.complete(to(gone, 1), Ok(0));
        cx.defer(to(gone, 2));
        cx.timer(Duration::ZERO, to(gone, 3));
        cx.blocking(Box::new(|| Ok(0)), to(gone, 4));
        cx.unregister(gone);
        let heir = reporter(cx, tell);
        assert_ne!(gone, heir);
        cx.blocking(Box::new(|| Ok(5)), to(heir, 5));
        cx.timer(5 * MS, to(heir, 6));
    });
    let mut heard = [next(&told), next(&told)];
    heard.sort_unstable_by_key(|(token, _)| *token);
    assert_eq!(heard, [(5, Ok(5)), (6, Ok(0))]);
    assert!(silent.recv().is_err());
}

fn blocking_work_runs_elsewhere(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let (release, wait) = channel::<()>();
    let (name, named) = channel();
    on_first(&reactors, move |cx| {
        let work = move || {
            name.send(std::thread::current().name().map(str::to_owned)).unwrap();
            wait.recv().unwrap();
            Err(IoError::NoSpace)
        };
        cx.blocking(Box::new(work), to(sink, 1));
    });
    // The reactor goes on meanwhile.
    assert_eq!(on_first(&reactors, |cx| cx.reactor()), FIRST);
    assert_eq!(next(&named).as_deref(), Some("lunette-calls"));
    release.send(()).unwrap();
    assert_eq!(next(&told), (1, Err(IoError::NoSpace)));
}

fn blocking_threads_are_bounded(io: Io) {
    let reactors = Reactors::start(&Options { blocking_threads: 2, ..options(io, 1) }).unwrap();
    let (sink, told) = ear(&reactors);
    // Each pair of calls needs two threads at once; a third thread would break a pair apart.
    let barrier = Arc::new(Barrier::new(2));
    on_first(&reactors, move |cx| {
        for n in 0..40 {
            let barrier = barrier.clone();
            let work = move || {
                barrier.wait();
                Ok(rustix::thread::gettid().as_raw_nonzero().get() as u64)
            };
            cx.blocking(Box::new(work), to(sink, n));
        }
    });
    let threads: HashSet<u64> = (0..40).map(|_| next(&told).1.unwrap()).collect();
    assert_eq!(threads.len(), 2);
}

fn a_stalled_lane_holds_up_no_call_elsewhere(io: Io) {
    let reactors = start(io, 1);
    let (sink, told) = ear(&reactors);
    let (release, wait) = channel::<()>();
    on_first(&reactors, move |cx| {
        // No thread is shared, however many lanes there are.
        let stalled = Lane::new();
        let others: Vec<Lane> = (0..300).map(|_| Lane::new()).collect();
        let stall = move || wait.recv().map(|()| 1).map_err(|_| IoError::Gone);
        cx.blocking_in(&stalled, Box::new(stall), to(sink, 1));
        cx.blocking_in(&stalled, Box::new(|| Ok(2)), to(sink, 2));
        for (n, other) in (3..).zip(&others) {
            cx.blocking_in(other, Box::new(move || Ok(n)), to(sink, n));
        }
        cx.blocking(Box::new(|| Ok(1000)), to(sink, 1000));
    });
    let mut heard: Vec<_> = (0..301).map(|_| next(&told)).collect();
    heard.sort_unstable_by_key(|(token, _)| *token);
    assert!(heard.iter().map(|(token, _)| *token).eq((3..303).chain([1000])));
    release.send(()).unwrap();
    assert_eq!([next(&told), next(&told)], [(1, Ok(1)), (2, Ok(2))]);
}

fn locals_belong_to_one_reactor(io: Io) {
    let reactors = start(io, 2);
    let count = |cx: &mut dyn Cx| {
        let counter = local_or_insert(cx, |_| Rc::new(Cell::new(0u32)));
        counter.set(counter.get() + 1);
        counter.get()
    };
    assert_eq!(on_first(&reactors, count), 1);
    assert_eq!(on_first(&reactors, count), 2);
    assert_eq!(reactors.call(ReactorId(1), count), Some(1));
    assert!(on_first(&reactors, |cx| local::<String>(cx).is_none()));
}

fn work_and_rest_are_told_apart(io: Io) {
    let reactors = start(io, 2);
    let work = 20 * MS;
    reactors.call(ReactorId(0), move |cx| while cx.time() < cx.now() + work {});
    assert!(reactors.call(ReactorId(1), |cx| cx.time() >= cx.now()).unwrap());
    // It tells of a turn after the next.
    (0..3).for_each(|_| assert_eq!(reactors.call(ReactorId(0), |_| ()), Some(())));
    let loads = reactors.loads();
    assert_eq!(loads.len(), 2);
    assert!(loads[0].busy >= work, "{loads:?}");
    assert_eq!(loads[0].spinning.max(loads[1].spinning), Duration::ZERO, "they do not spin");
}

fn all_are_asked_and_none_is_waited_for_longer_than_said(io: Io) {
    let reactors = start(io, 3);
    let ask = |most| reactors.call_all_within(most, || |cx: &mut dyn Cx| cx.reactor().0);
    assert_eq!(ask(Duration::from_secs(3600)), [Some(0), Some(1), Some(2)]);
    let (release, wait) = channel::<()>();
    let (tell, told) = channel();
    let stall = move |_: &mut dyn Cx| {
        tell.send(()).unwrap();
        let _ = wait.recv();
    };
    reactors.poster().post(ReactorId(1), Box::new(stall));
    told.recv().unwrap();
    assert_eq!(ask(MS)[1], None);
    drop(release);
    assert_eq!(ask(Duration::from_secs(3600)), [Some(0), Some(1), Some(2)]);
}

/// Reports what it is asked, and has work the first `work` times.
struct Poller {
    tell: Sender<&'static str>,
    work: Cell<u32>,
}

impl Sink for Poller {
    fn complete(&self, _: u64, _: IoResult, _: &mut dyn Cx) {}

    fn poll(&self, _: &mut dyn Cx) -> bool {
        let left = self.work.get();
        self.work.set(left.saturating_sub(1));
        let _ = self.tell.send("poll");
        left > 0
    }

    fn before_sleep(&self, _: &mut dyn Cx) -> bool {
        let _ = self.tell.send("before sleep");
        false
    }
}

fn pollers_are_asked_while_awake_and_before_sleep(io: Io) {
    for poll in [Poll::Never, Poll::Adaptive, Poll::Always] {
        let reactors = Reactors::start(&Options { poll, ..options(io, 1) }).unwrap();
        let (tell, told) = channel();
        let sink = on_first(&reactors, move |cx| {
            let sink = cx.register(Rc::new(Poller { tell, work: Cell::new(10) }));
            cx.poll_while_awake(sink, true);
            sink
        });
        for _ in 0..11 {
            assert_eq!(next(&told), "poll");
        }
        if poll == Poll::Always {
            for _ in 0..1000 {
                assert_eq!(next(&told), "poll");
            }
        } else {
            while next(&told) != "before sleep" {}
        }
        on_first(&reactors, move |cx| cx.poll_while_awake(sink, false));
        while told.try_recv().is_ok() {}
        on_first(&reactors, |_| ());
        reactors.stop();
        assert_eq!(told.iter().count(), 0);
    }
}

/// Counts its drops.
struct Dropped(Sender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

fn stop_runs_what_was_posted_before_and_drops_the_rest(io: Io) {
    let reactors = start(io, 1);
    let poster = reactors.poster();
    let (tell, told) = channel();
    let (again, late) = (poster.clone(), Dropped(tell.clone()));
    for _ in 0..1000 {
        let tell = tell.clone();
        poster.post(FIRST, Box::new(move |_| tell.send("ran").unwrap()));
    }
    reactors.stop();
    again.post(FIRST, Box::new(move |_| late.0.send("ran").unwrap()));
    drop(tell);
    let heard: Vec<_> = told.iter().collect();
    assert_eq!(heard.len(), 1001);
    assert!(heard[..1000].iter().all(|what| *what == "ran"));
    assert_eq!(heard[1000], "dropped");
}

fn stop_waits_for_blocking_work(io: Io) {
    let reactors = start(io, 1);
    let (tell, told) = channel();
    let (release, wait) = channel::<()>();
    let dropped = Dropped(tell.clone());
    on_first(&reactors, move |cx| {
        let sink = listen(cx, move |_, _, _| dropped.0.send("told").unwrap());
        let work = move || {
            wait.recv().unwrap();
            tell.send("done").unwrap();
            Ok(0)
        };
        cx.blocking(Box::new(work), to(sink, 1));
        cx.timer(Duration::MAX, to(sink, 2));
    });
    let stopping = std::thread::spawn(move || reactors.stop());
    release.send(()).unwrap();
    stopping.join().unwrap();
    // The sink is dropped only after the work has ended, and may or may not have been told.
    let heard: Vec<_> = told.iter().collect();
    assert_eq!(heard.first(), Some(&"done"));
    assert_eq!(heard.last(), Some(&"dropped"));
}

fn busy_sinks_starve_nobody(io: Io) {
    let reactors = start(io, 1);
    let (tell, told) = channel();
    on_first(&reactors, move |cx| {
        let sink = listen(cx, move |token, _, cx| {
            let _ = tell.send((token, Ok(0)));
            let again = IoId { sink: SinkId(0), token };
            match token {
                0 => cx.timer(Duration::ZERO, again),
                1 => cx.defer(again),
                _ => cx.complete(again, Ok(0)),
            }
        });
        (0..1000).for_each(|token| cx.complete(to(sink, token), Ok(0)));
    });
    for kind in [0, 1, 2, 0, 1, 2] {
        until(&told, kind);
    }
    on_first(&reactors, |_| ());
    reactors.stop();
}

/// Not a test of its own: the process that [`a_panic_on_a_reactor_ends_the_process`] watches die.
#[test]
#[ignore = "run by another test"]
fn panic_on_a_reactor() {
    let reactors = start(Io::Auto, 1);
    reactors.call(FIRST, |_| -> () { panic!("as intended") });
}

#[test]
fn a_panic_on_a_reactor_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "turns::panic_on_a_reactor", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
    assert!(String::from_utf8_lossy(&output.stderr).contains("as intended"));
}
