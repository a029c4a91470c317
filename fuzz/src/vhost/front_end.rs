//! The front end's side of the socket.

use lunette_vhost_user::{Decoder, Frontend, Message, Reply};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Most descriptors that are sent at a time; more than a message may carry.
const MOST_FDS: usize = 64;

/// A connection to an export. Nothing here waits.
pub(super) struct FrontEnd {
    stream: UnixStream,
    decoder: Decoder,
    pub(super) protocol: Frontend,
    /// The daemon has closed the connection.
    pub(super) closed: bool,
    /// Sends nothing but messages as they should be, so each reply is known.
    pub(super) tidy: bool,
    /// The last messages have stopped all queues.
    stops: bool,
}

impl FrontEnd {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
            protocol: Frontend::new(),
            closed: false,
            tidy: true,
            stops: false,
        }
    }

    pub(super) fn send(&mut self, message: Message) {
        let (bytes, fds) = message.into_parts();
        self.send_bytes(&bytes, &fds);
    }

    /// Sends bytes with descriptors beside them; what there is no room for is lost.
    pub(super) fn send_bytes(&mut self, bytes: &[u8], fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().take(MOST_FDS).map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, flags);
        self.tidy &= sent == Ok(bytes.len());
        self.stops = false;
    }

    /// The messages that have come.
    pub(super) fn messages(&mut self) -> Vec<Message> {
        let mut buffer = [0; 4096];
        while !self.closed {
            match recv(&self.stream, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.closed = true,
                Ok((count, _)) => self.decoder.feed(&buffer[..count], Vec::new()),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => self.closed = true,
            }
        }
        let next = || self.decoder.next_message().expect("a message that can be understood");
        std::iter::from_fn(next).collect()
    }

    /// Takes the replies that have come, whatever they are.
    pub(super) fn take_replies(&mut self) {
        for message in self.messages() {
            self.tidy &= self.protocol.receive(message).is_ok();
        }
    }

    /// Stops `queues` queues, all that there are.
    pub(super) fn stop(&mut self, queues: usize) {
        for index in 0..queues as u32 {
            let message = self.protocol.get_vring_base(index);
            self.send(message);
        }
        self.stops = true;
    }

    /// The device has said that all queues have stopped.
    pub(super) fn has_stopped(&self) -> bool {
        self.stops && self.tidy && !self.closed && !self.protocol.is_waiting()
    }

    /// The replies that have come, to messages of [`protocol`](Self::protocol) only.
    pub(super) fn replies(&mut self) -> Vec<Reply> {
        let messages = self.messages();
        let receive = |message| self.protocol.receive(message).expect("a reply to what was asked");
        messages.into_iter().map(receive).collect()
    }
}
