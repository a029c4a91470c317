//! Threads that give up rights when they begin. This is for a whole process, so it is a test program of its own.

use lunette_reactor::{Options, Reactors, ThreadKind, Workers, confine_threads, settle_threads};
use lunette_store::{IoId, ReactorId, SinkId};
use std::sync::Mutex;
use std::sync::mpsc::channel;

static ENTERED: Mutex<Vec<(ThreadKind, Option<String>)>> = Mutex::new(Vec::new());

fn enter(kind: ThreadKind) {
    let name = std::thread::current().name().map(str::to_owned);
    ENTERED.lock().unwrap().push((kind, name));
}

#[test]
fn each_thread_says_what_it_is_before_it_works() {
    confine_threads(enter).unwrap();
    assert!(confine_threads(enter).is_err(), "once is enough");
    let reactors = Reactors::start(&Options { reactors: 1, ..Options::default() }).unwrap();
    settle_threads();
    let (tell, told) = channel();
    let blocking = tell.clone();
    reactors.call(ReactorId(0), move |cx| {
        let work = move || {
            blocking.send(()).unwrap();
            Ok(0)
        };
        cx.blocking(Box::new(work), IoId { sink: SinkId(0), token: 0 });
    });
    told.recv().unwrap();
    let workers = Workers::new("worker", 1);
    workers.run(Box::new(move || tell.send(()).unwrap()));
    told.recv().unwrap();
    let entered = ENTERED.lock().unwrap();
    let expected = [
        (ThreadKind::Reactor, "lunette-0"),
        (ThreadKind::Nursery, "lunette-threads"),
        (ThreadKind::Blocking, "lunette-calls"),
        (ThreadKind::Worker, "worker"),
    ];
    assert_eq!(*entered, expected.map(|(kind, name)| (kind, Some(name.to_owned()))));
}
