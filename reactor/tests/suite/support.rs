//! What the tests share: reactors of each kind, and sinks that report to the test's thread.

use lunette_reactor::{Io, Options, Poll, Reactors};
use lunette_store::{Cx, IoId, IoResult, ReactorId, Sink, SinkId};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Runs each function over io_uring (where there is one) and over epoll.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod uring { $(#[test] fn $name() { super::$name(lunette_reactor::Io::Auto) })* }
        mod epoll { $(#[test] fn $name() { super::$name(lunette_reactor::Io::Epoll) })* }
    };
}
pub(crate) use on_both;

/// What a sink was told.
pub(crate) type Heard = (u64, IoResult);

/// Only a guard against hanging for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const FIRST: ReactorId = ReactorId(0);

pub(crate) fn options(io: Io, reactors: u16) -> Options {
    Options { reactors, io, poll: Poll::Never, ..Options::default() }
}

pub(crate) fn start(io: Io, reactors: u16) -> Reactors {
    Reactors::start(&options(io, reactors)).unwrap()
}

/// Runs `work` on the first reactor.
pub(crate) fn on_first<T: Send + 'static>(
    reactors: &Reactors,
    work: impl FnOnce(&mut dyn Cx) -> T + Send + 'static,
) -> T {
    reactors.call(FIRST, work).unwrap()
}

/// A sink made of a function.
pub(crate) struct Call<F>(F);

impl<F: Fn(u64, IoResult, &mut dyn Cx)> Sink for Call<F> {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        self.0(token, result, cx);
    }
}

pub(crate) fn listen(cx: &mut dyn Cx, f: impl Fn(u64, IoResult, &mut dyn Cx) + 'static) -> SinkId {
    cx.register(Rc::new(Call(f)))
}

/// Registers a sink on the first reactor that reports everything it hears.
pub(crate) fn ear(reactors: &Reactors) -> (SinkId, Receiver<Heard>) {
    let (tell, told) = channel();
    let sink = on_first(reactors, move |cx| reporter(cx, tell));
    (sink, told)
}

pub(crate) fn reporter(cx: &mut dyn Cx, tell: Sender<Heard>) -> SinkId {
    listen(cx, move |token, result, _| {
        let _ = tell.send((token, result));
    })
}

pub(crate) fn to(sink: SinkId, token: u64) -> IoId {
    IoId { sink, token }
}

pub(crate) fn next<T>(told: &Receiver<T>) -> T {
    told.recv_timeout(PATIENCE).expect("an event")
}

/// Waits until `token` is heard; others before it are returned.
pub(crate) fn until(told: &Receiver<Heard>, token: u64) -> Vec<u64> {
    let mut before = Vec::new();
    loop {
        match next(told).0 {
            heard if heard == token => return before,
            other => before.push(other),
        }
    }
}
