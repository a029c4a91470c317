//! Sockets on which the last word has been said.
//!
//! A socket that is closed with unread input, or that gets some afterwards, resets the connection: the peer's next call fails,
//! and it may never see the answer that was sent before, a refused login or a Reject. So what it sends is taken in until it
//! has closed its side, but not for long, not without end, and not for many.

use crate::limits::{LINGERING, LINGERING_BYTES};
use crate::local::Local;
use lunette_store::{Cx, Interest, IoId, IoResult, Sink, SinkId};
use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

struct Linger {
    socket: RefCell<TcpStream>,
    /// Bytes that are taken in yet.
    left: Cell<usize>,
    sink: Cell<SinkId>,
    local: Rc<Local>,
}

const READABLE: u64 = 0;
const LATE: u64 = 1;

/// Closes a socket on which nothing more is sent when the peer has closed its side, or after `most`.
pub(crate) fn linger(socket: TcpStream, most: Duration, local: &Rc<Local>, cx: &mut dyn Cx) {
    if local.lingering.get() >= LINGERING {
        return;
    }
    local.lingering.update(|count| count + 1);
    let fd = socket.as_raw_fd();
    let linger = Rc::new(Linger {
        socket: RefCell::new(socket),
        left: Cell::new(LINGERING_BYTES),
        sink: Cell::new(SinkId(0)),
        local: local.clone(),
    });
    let sink = cx.register(linger.clone());
    linger.sink.set(sink);
    cx.watch(fd, Interest::Readable, IoId { sink, token: READABLE });
    cx.timer(most, IoId { sink, token: LATE });
}

impl Linger {
    /// Takes in what there is. False: that was all.
    fn drain(&self) -> bool {
        let mut buffer = self.local.receive.borrow_mut();
        loop {
            match self.socket.borrow_mut().read(&mut buffer) {
                Ok(count) if count == 0 || count >= self.left.get() => return false,
                Ok(count) => self.left.update(|left| left - count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

impl Sink for Linger {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        if token == LATE || result.is_err() || !self.drain() {
            cx.unregister(self.sink.get());
            self.local.lingering.update(|count| count - 1);
        }
    }
}
