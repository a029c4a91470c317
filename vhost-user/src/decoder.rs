//! From a byte stream with descriptors beside it to whole messages.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use zerocopy::FromBytes;

use crate::error::Error;
use crate::message::{Flags, HEADER_SIZE, Header, MAX_FDS, MAX_PAYLOAD, Message};

/// Puts messages together from pieces as `recvmsg` delivers them.
///
/// Descriptors belong to the last message of which a byte has come. A sender attaches them to the first byte of a
/// message, and the kernel ends a read after the piece that carried descriptors, so this is right as long as each
/// message is sent by itself. To be right in every case, read at most [`wanted`](Self::wanted) bytes at a time.
///
/// After an error the stream cannot be followed any more.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Descriptors, each with the offset in `bytes` at which its message starts, in rising order.
    fds: VecDeque<(usize, OwnedFd)>,
}

impl Decoder {
    /// An empty decoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what one `recvmsg` delivered. Descriptors beyond [`MAX_FDS`] in one message are closed.
    pub fn feed(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) {
        self.bytes.extend_from_slice(bytes);
        if fds.is_empty() {
            return;
        }
        let start = self.last_message();
        let held = self.fds.iter().filter(|(offset, _)| *offset == start).count();
        let room = MAX_FDS.saturating_sub(held);
        self.fds.extend(fds.into_iter().take(room).map(|fd| (start, fd)));
    }

    /// The next whole message, or `None` until more bytes have come.
    ///
    /// To be called until it returns `None` before more is fed, so that no more than one message is ever held.
    pub fn next_message(&mut self) -> Result<Option<Message>, Error> {
        let Some((header, size)) = self.header_at(0)? else {
            return Ok(None);
        };
        let end = HEADER_SIZE + size;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let payload = self.bytes[HEADER_SIZE..end].to_vec();
        self.bytes.drain(..end);
        Ok(Some(Message {
            request: header.request,
            flags: Flags(header.flags),
            payload,
            fds: self.take_fds(end),
        }))
    }

    /// How many bytes are missing to the end of the header, or of the payload once the header is known. At least 1
    /// after [`next_message`](Self::next_message) has returned `None`.
    pub fn wanted(&self) -> usize {
        let have = self.bytes.len();
        match self.header_at(0) {
            Ok(Some((_, size))) => (HEADER_SIZE + size).saturating_sub(have),
            _ => HEADER_SIZE.saturating_sub(have),
        }
    }

    /// The bytes of the message that has not come whole. [Fed](Self::feed) to another decoder together with the
    /// [descriptors](Self::begun_fds) they make it go on with that message.
    pub fn begun(&self) -> &[u8] {
        &self.bytes
    }

    /// The descriptors of the message that has not come whole.
    pub fn begun_fds(&self) -> impl Iterator<Item = &OwnedFd> {
        self.fds.iter().map(|(_, fd)| fd)
    }

    /// The header at an offset, if it is whole, and the payload size that it announces.
    fn header_at(&self, offset: usize) -> Result<Option<(Header, usize)>, Error> {
        let Ok((header, _)) = Header::read_from_prefix(&self.bytes[offset..]) else {
            return Ok(None);
        };
        let version = Flags(header.flags).version();
        if version != Flags::VERSION {
            return Err(Error::Version(version));
        }
        match header.size as usize {
            size if size <= MAX_PAYLOAD => Ok(Some((header, size))),
            _ => Err(Error::Oversized(header.size)),
        }
    }

    /// Where the last message starts of which a byte has come.
    fn last_message(&self) -> usize {
        let mut start = 0;
        while let Ok(Some((_, size))) = self.header_at(start) {
            let next = start + HEADER_SIZE + size;
            if next >= self.bytes.len() {
                break;
            }
            start = next;
        }
        start
    }

    /// The descriptors of the message at the front, which ended at `end`.
    fn take_fds(&mut self, end: usize) -> Vec<OwnedFd> {
        let count = self.fds.iter().take_while(|(offset, _)| *offset == 0).count();
        let taken = self.fds.drain(..count).map(|(_, fd)| fd).collect();
        for (offset, _) in &mut self.fds {
            *offset -= end;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::pipe;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// A descriptor, and the inode by which to know it again.
    fn fd() -> (OwnedFd, u64) {
        let (reader, _) = pipe().unwrap();
        let fd = OwnedFd::from(reader);
        let inode = inode(&fd);
        (fd, inode)
    }

    fn inode(fd: &OwnedFd) -> u64 {
        File::from(fd.try_clone().unwrap()).metadata().unwrap().ino()
    }

    fn message(request: u32, length: usize) -> Vec<u8> {
        Message::request(request, vec![request as u8; length]).into_parts().0
    }

    #[test]
    fn a_message_may_come_split_at_every_byte() {
        let bytes = [message(1, 0), message(2, 5)].concat();
        for split in 0..=bytes.len() {
            let mut decoder = Decoder::new();
            let mut requests = Vec::new();
            for piece in [&bytes[..split], &bytes[split..]] {
                decoder.feed(piece, Vec::new());
                while let Some(message) = decoder.next_message().unwrap() {
                    assert!(message.payload.iter().all(|&byte| byte == 2));
                    requests.push((message.request, message.payload.len()));
                }
            }
            assert_eq!(requests, [(1, 0), (2, 5)]);
            assert_eq!(decoder.wanted(), HEADER_SIZE);
        }
    }

    #[test]
    fn wanted_never_reaches_into_the_next_message() {
        let bytes = [message(1, 3), message(2, 0), message(3, 40)].concat();
        let mut decoder = Decoder::new();
        let (mut at, mut ends) = (0, Vec::new());
        while at < bytes.len() {
            let wanted = decoder.wanted();
            decoder.feed(&bytes[at..at + wanted], Vec::new());
            at += wanted;
            if decoder.next_message().unwrap().is_some() {
                ends.push(at);
            }
        }
        assert_eq!(ends, [15, 27, 79]);
    }

    #[test]
    fn descriptors_belong_to_the_last_message_begun() {
        let (first, second, third) = (message(1, 8), message(2, 8), message(3, 8));
        let (fd, known) = fd();
        let mut decoder = Decoder::new();
        decoder.feed(&first[..4], Vec::new());
        decoder.feed(&[&first[4..], &second, &third[..1]].concat(), vec![fd]);
        decoder.feed(&third[1..], Vec::new());
        assert!(decoder.next_message().unwrap().unwrap().fds.is_empty());
        assert!(decoder.next_message().unwrap().unwrap().fds.is_empty());
        let third = decoder.next_message().unwrap().unwrap();
        assert_eq!((third.request, third.fds.iter().map(inode).collect()), (3, vec![known]));
    }

    #[test]
    fn descriptors_in_pieces_stay_with_their_message_in_order() {
        let bytes = message(1, 8);
        let (a, b) = (fd(), fd());
        let mut decoder = Decoder::new();
        decoder.feed(&bytes[..1], vec![a.0]);
        decoder.feed(&bytes[1..], vec![b.0]);
        decoder.feed(&message(2, 0), Vec::new());
        let message = decoder.next_message().unwrap().unwrap();
        assert_eq!(message.fds.iter().map(inode).collect::<Vec<_>>(), [a.1, b.1]);
        assert!(decoder.next_message().unwrap().unwrap().fds.is_empty());
    }

    #[test]
    fn surplus_descriptors_are_closed() {
        let mut decoder = Decoder::new();
        let bytes = message(1, 8);
        decoder.feed(&bytes[..1], (0..MAX_FDS).map(|_| fd().0).collect());
        let (reader, mut writer) = pipe().unwrap();
        decoder.feed(&bytes[1..], vec![reader.into()]);
        assert_eq!(decoder.next_message().unwrap().unwrap().fds.len(), MAX_FDS);
        let error = std::io::Write::write(&mut writer, b"x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_bad_header_ends_the_stream() {
        let mut decoder = Decoder::new();
        let mut bytes = message(1, 0);
        bytes[4..8].copy_from_slice(&2u32.to_ne_bytes());
        decoder.feed(&bytes, Vec::new());
        assert_eq!(decoder.next_message().unwrap_err(), Error::Version(2));
        assert_eq!(decoder.next_message().unwrap_err(), Error::Version(2));

        let mut decoder = Decoder::new();
        let mut bytes = message(1, 0);
        bytes[8..12].copy_from_slice(&4097u32.to_ne_bytes());
        decoder.feed(&bytes, Vec::new());
        assert_eq!(decoder.next_message().unwrap_err(), Error::Oversized(4097));
    }
}
