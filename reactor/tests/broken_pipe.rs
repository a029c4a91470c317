//! A program that has left SIGPIPE as the system made it. A process of its own, for it would end.

use lunette_reactor::{Options, Reactors};
use lunette_store::{Cx, IoError, IoId, IoResult, Lane, ReactorId, Sink};
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};

/// Sends on what it is told.
struct Forward(Sender<IoResult>);

impl Sink for Forward {
    fn complete(&self, _: u64, result: IoResult, _: &mut dyn Cx) {
        self.0.send(result).unwrap();
    }
}

/// As a front end makes it that hands over a pipe and closes the other end.
fn write_to_a_broken_pipe() -> IoResult {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let written = rustix::io::write(&writer, &[1]);
    written.map(|bytes| bytes as u64).map_err(|error| IoError::Os(error.raw_os_error()))
}

#[test]
fn calls_may_write_to_broken_pipes() {
    // SAFETY: the default action takes no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let reactors = Reactors::start(&Options { reactors: 1, ..Options::default() }).unwrap();
    let (tell, told) = channel();
    let call = move |cx: &mut dyn Cx| {
        let sink = cx.register(Rc::new(Forward(tell)));
        cx.blocking_in(&Lane::new(), Box::new(write_to_a_broken_pipe), IoId { sink, token: 0 });
        cx.blocking(Box::new(write_to_a_broken_pipe), IoId { sink, token: 1 });
    };
    reactors.call(ReactorId(0), call);
    for result in told.iter().take(2) {
        assert_eq!(result, Err(IoError::Os(libc::EPIPE)));
    }
}
