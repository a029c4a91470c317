//! The socket of a vhost-user session: sends requests with their descriptors, reads replies.

use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lunette_vhost_user::{Decoder, Frontend, MAX_FDS, Message, Reply};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A session as the front end sees it.
pub(crate) struct Session {
    stream: UnixStream,
    frontend: Frontend,
    decoder: Decoder,
}

impl Session {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot connect to the vhost-user socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream, frontend: Frontend::new(), decoder: Decoder::new() })
    }

    /// Sends the request that `build` makes; its reply, or `None` if it has none. A refusal is an error.
    pub(crate) fn send(&mut self, build: impl FnOnce(&mut Frontend) -> Message) -> Result<Option<Reply>> {
        let (bytes, fds) = build(&mut self.frontend).into_parts();
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            bail!("too many descriptors for one message");
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)
            .context("cannot send to the daemon")?;
        if sent != bytes.len() {
            bail!("the socket took {sent} of {} bytes", bytes.len());
        }
        if !self.frontend.is_waiting() {
            return Ok(None);
        }
        let reply = self.read()?;
        match self.frontend.receive(reply)? {
            Reply::Ack { request, success: false } => bail!("the daemon refuses {request}"),
            reply => Ok(Some(reply)),
        }
    }

    fn read(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let mut bytes = vec![0; self.decoder.wanted()];
            let count = self.stream.read(&mut bytes).context("no reply from the daemon")?;
            if count == 0 {
                bail!("the daemon has closed the connection");
            }
            self.decoder.feed(&bytes[..count], Vec::new());
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
