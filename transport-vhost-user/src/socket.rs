//! The Unix socket: bytes and descriptors in and out, without waiting.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// What one receive came to.
pub(crate) enum Received {
    /// This many bytes, and the descriptors beside them.
    Bytes(usize, Vec<OwnedFd>),
    /// Descriptors were lost, because too many are open. These are left.
    Truncated(Vec<OwnedFd>),
    /// The peer has closed the connection.
    End,
    /// Nothing has come yet.
    Nothing,
}

/// Most descriptors that Linux lets anybody send at a time. With room for all of them none is closed by the kernel, which
/// would do that on our time.
const MOST_FDS: usize = 253;

/// Receives into `buffer`.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Ok(Received::Nothing),
        Err(Errno::INTR) => return receive(socket, buffer),
        Err(error) => return Err(error.into()),
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<OwnedFd> = rights.flatten().collect();
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Ok(Received::Truncated(fds));
    }
    match received.bytes {
        0 => Ok(Received::End),
        bytes => Ok(Received::Bytes(bytes, fds)),
    }
}

/// Sends what the socket has room for, and a descriptor beside the first byte; returns how many bytes that was.
pub(crate) fn transmit(socket: impl AsFd, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = match fd {
        None => send(&socket, bytes, flags),
        Some(fd) => {
            let fds = [fd.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags)
        }
    };
    match sent {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN) => Ok(0),
        Err(Errno::INTR) => transmit(socket, bytes, fd),
        Err(error) => Err(error.into()),
    }
}

/// Whether the peer has closed the connection, even if there are bytes left to receive.
pub(crate) fn has_ended(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
    let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().intersects(ended)
}
