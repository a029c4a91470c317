//! A front end over a real socket, for tests: sends messages, owns a guest with rings, and waits for used buffers.

use super::{DriverRing, Guest, USER, region};
use crate::socket::{self, Received};
use lunette_vhost_user::{Decoder, Features, Frontend, Message, ProtocolFeatures, Reply, VringAddress};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const ALL_PROTOCOL: ProtocolFeatures = ProtocolFeatures::MQ
    .union(ProtocolFeatures::REPLY_ACK)
    .union(ProtocolFeatures::CONFIG)
    .union(ProtocolFeatures::BACKEND_REQ)
    .union(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(ProtocolFeatures::RESET_DEVICE)
    .union(ProtocolFeatures::INFLIGHT_SHMFD)
    .union(ProtocolFeatures::LOG_SHMFD)
    .union(ProtocolFeatures::DEVICE_STATE);

/// A ring and its eventfds.
pub(crate) struct Vring {
    pub(crate) index: u16,
    pub(crate) ring: DriverRing,
    kick: OwnedFd,
    call: OwnedFd,
    error: OwnedFd,
    /// The next used entry to look at.
    used: u16,
}

pub(crate) struct FrontEnd {
    socket: OwnedFd,
    decoder: Decoder,
    pub(crate) protocol: Frontend,
    pub(crate) guest: Guest,
    /// Where commands go: the first bytes of their address.
    pub(crate) unit: [u8; 4],
    /// The task attribute of commands: 0 SIMPLE, 1 ORDERED.
    pub(crate) attribute: u8,
}

fn wait_readable(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

fn is_readable(fd: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

impl FrontEnd {
    /// Connects, with `size` bytes of guest memory that the device does not know yet.
    pub(crate) fn connect(path: &Path, size: u64) -> Self {
        Self::over(UnixStream::connect(path).unwrap(), size)
    }

    fn over(stream: UnixStream, size: u64) -> Self {
        let (protocol, guest, unit) = (Frontend::new(), Guest::new(size), [1, 0, 0x40, 0]);
        Self { socket: stream.into(), decoder: Decoder::new(), protocol, guest, unit, attribute: 0 }
    }

    /// Connects, negotiates, shares the memory.
    pub(crate) fn ready(path: &Path, size: u64) -> Self {
        Self::ready_over(UnixStream::connect(path).unwrap(), size)
    }

    /// Negotiates and shares the memory over a connection.
    pub(crate) fn ready_over(stream: UnixStream, size: u64) -> Self {
        let mut front = Self::over(stream, size);
        front.negotiate(
            Features::VERSION_1 | Features::EVENT_IDX | Features::INDIRECT_DESC | Features::PROTOCOL_FEATURES,
        );
        front.share();
        front
    }

    pub(crate) fn negotiate(&mut self, features: Features) {
        let message = self.protocol.get_features();
        assert!(
            matches!(self.ask(message), Some(Reply::Features(offered)) if offered.contains(Features::VERSION_1))
        );
        let message = self.protocol.get_protocol_features();
        assert!(
            matches!(self.ask(message), Some(Reply::ProtocolFeatures(offered)) if offered == ALL_PROTOCOL)
        );
        let message = self.protocol.set_protocol_features(ALL_PROTOCOL);
        self.done(message);
        let message = self.protocol.set_owner();
        self.done(message);
        let message = self.protocol.set_features(features);
        self.done(message);
    }

    pub(crate) fn share(&mut self) {
        let (size, fd) = (self.guest.size, self.guest.fd.try_clone().unwrap());
        let message = self.protocol.set_mem_table([(region(0, size, 0), fd)]);
        self.done(message);
    }

    /// Sends a message and waits for its reply; `None` when the device closes the connection.
    pub(crate) fn ask(&mut self, message: Message) -> Option<Reply> {
        self.send(message);
        self.reply()
    }

    /// Sends a message that has to succeed.
    pub(crate) fn done(&mut self, message: Message) {
        let request = message.request;
        match self.ask(message) {
            Some(Reply::Ack { success: true, .. }) => {}
            other => panic!("request {request}: {other:?}"),
        }
    }

    pub(crate) fn send(&mut self, message: Message) {
        let (bytes, fds) = message.into_parts();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let sent = sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
        // A device that has closed the connection is found by the missing reply.
        if let Ok(sent) = sent {
            assert_eq!(sent, bytes.len());
        }
    }

    pub(crate) fn reply(&mut self) -> Option<Reply> {
        loop {
            if let Some(message) = self.decoder.next_message().unwrap() {
                return Some(self.protocol.receive(message).unwrap());
            }
            assert!(wait_readable(&self.socket), "no reply");
            let mut buffer = vec![0; self.decoder.wanted()];
            match socket::receive(&self.socket, &mut buffer) {
                Ok(Received::Bytes(count, fds)) => self.decoder.feed(&buffer[..count], fds),
                Ok(Received::Nothing) => {}
                Ok(Received::End | Received::Truncated(_)) | Err(_) => return None,
            }
        }
    }

    /// Whether the device has sent something, or closed the connection.
    pub(crate) fn has_reply(&self) -> bool {
        is_readable(&self.socket)
    }

    /// Ends the connection, and keeps the guest.
    pub(crate) fn hang_up(&self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap();
    }

    /// Waits until the device has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.protocol = Frontend::new();
        let message = self.protocol.get_features();
        self.ask(message).is_none()
    }

    /// Starts and enables a ring at guest address `at`.
    pub(crate) fn start(&mut self, index: u16, at: u64, size: u16) -> Vring {
        self.start_at(DriverRing::new(at, size), index, 0)
    }

    /// The same with a ring in which `used` chains were used before.
    pub(crate) fn go_on(&mut self, index: u16, at: u64, size: u16, used: u16) -> Vring {
        let ring = DriverRing::new(at, size);
        ring.set_available_index(&self.guest, used);
        self.guest.write(ring.used + 2, &used.to_le_bytes());
        self.start_at(ring, index, used)
    }

    fn start_at(&mut self, ring: DriverRing, index: u16, used: u16) -> Vring {
        let vring = Vring { index, ring, kick: event(), call: event(), error: event(), used };
        self.restart(&vring, used);
        vring
    }

    /// Sets a ring up and starts it at `base`.
    pub(crate) fn restart(&mut self, vring: &Vring, base: u16) {
        let (index, byte, ring) = (u32::from(vring.index), vring.index as u8, vring.ring);
        let address = vring.address(None);
        let copy = |fd: &OwnedFd| Some(fd.try_clone().unwrap());
        let messages = [
            self.protocol.set_vring_num(index, u32::from(ring.size)),
            self.protocol.set_vring_base(index, u32::from(base)),
            self.protocol.set_vring_addr(address),
            self.protocol.set_vring_err(byte, copy(&vring.error)),
            self.protocol.set_vring_call(byte, copy(&vring.call)),
            self.protocol.set_vring_kick(byte, copy(&vring.kick)),
            self.protocol.set_vring_enable(index, true),
        ];
        for message in messages {
            self.done(message);
        }
    }

    /// Stops a ring; where it stood.
    pub(crate) fn stop(&mut self, index: u16) -> u32 {
        let message = self.protocol.get_vring_base(u32::from(index));
        match self.ask(message) {
            Some(Reply::VringBase(state)) => state.num,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the next used buffer: head and length.
    pub(crate) fn used(&self, vring: &mut Vring) -> (u32, u32) {
        let Vring { ring, call, used, .. } = vring;
        loop {
            let _ = rustix::io::read(&*call, &mut [0; 8]);
            if ring.used_index(&self.guest) != *used {
                let entry = ring.used_entry(&self.guest, *used);
                *used = used.wrapping_add(1);
                ring.set_used_event(&self.guest, *used);
                return entry;
            }
            ring.set_used_event(&self.guest, *used);
            if ring.used_index(&self.guest) == *used {
                assert!(wait_readable(&*call), "no buffer was used");
            }
        }
    }

    /// Sends one command and waits for it: written bytes, response bytes.
    pub(crate) fn command(
        &self,
        vring: &mut Vring,
        cdb: &[u8],
        data_out: &[u8],
        data_in: u32,
    ) -> CommandResult {
        self.offer_command(vring, 0, DATA, cdb, data_out, data_in);
        let (head, written) = self.used(vring);
        assert_eq!(head, 0);
        self.result(DATA, written, data_in)
    }

    /// Makes a command available at descriptor `head`, with its buffers at guest address `at` and with the tag `head`.
    pub(crate) fn offer_command(
        &self,
        vring: &Vring,
        head: u16,
        at: u64,
        cdb: &[u8],
        data_out: &[u8],
        data_in: u32,
    ) {
        let mut header = self.unit.to_vec();
        header.resize(8, 0);
        header.extend(u64::from(head).to_le_bytes());
        header.extend([self.attribute, 0, 0]);
        header.extend(cdb);
        header.resize(51, 0);
        self.guest.write(at, &header);
        self.guest.write(at + 0x100, data_out);
        self.guest.write(at + RESPONSE, &[0xee; 108]);
        let mut parts = vec![(at, 51, false)];
        if !data_out.is_empty() {
            parts.push((at + 0x100, data_out.len() as u32, false));
        }
        parts.push((at + RESPONSE, 108, true));
        if data_in > 0 {
            parts.push((at + RESPONSE + 0x100, data_in, true));
        }
        vring.ring.chain(&self.guest, head, &parts);
        vring.ring.offer(&self.guest, head);
        vring.kick();
    }

    pub(crate) fn result(&self, at: u64, written: u32, data_in: u32) -> CommandResult {
        let response = self.guest.read(at + RESPONSE, 108);
        CommandResult {
            written,
            residual: u32::from_le_bytes(response[4..8].try_into().unwrap()),
            status: response[10],
            response: response[11],
            sense: response[12..12 + u32::from_le_bytes(response[..4].try_into().unwrap()) as usize].to_vec(),
            data: self.guest.read(at + RESPONSE + 0x100, data_in as usize),
        }
    }

    /// Sends a control request and waits for its response bytes.
    pub(crate) fn control(&self, vring: &mut Vring, request: &[u8], response: u32) -> Vec<u8> {
        let at = 0x7_0000;
        self.guest.write(at, request);
        let parts = [(at, request.len() as u32, false), (at + 0x100, response, true)];
        vring.ring.chain(&self.guest, 0, &parts);
        vring.ring.offer(&self.guest, 0);
        vring.kick();
        assert_eq!(self.used(vring), (0, response));
        self.guest.read(at + 0x100, response as usize)
    }
}

/// Where a command's buffers are.
pub(crate) const DATA: u64 = 0x8_0000;
/// Where the response is, from there.
pub(crate) const RESPONSE: u64 = 0x8000;

#[derive(Debug, PartialEq)]
pub(crate) struct CommandResult {
    pub(crate) written: u32,
    pub(crate) residual: u32,
    pub(crate) status: u8,
    pub(crate) response: u8,
    pub(crate) sense: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Vring {
    /// Where the ring is, and by which guest address writes to its used ring are logged.
    pub(crate) fn address(&self, log: Option<u64>) -> VringAddress {
        let ring = self.ring;
        VringAddress {
            index: self.index.into(),
            flags: log.map_or(0, |_| VringAddress::LOG),
            descriptor: USER + ring.table,
            used: USER + ring.used,
            available: USER + ring.available,
            log: log.unwrap_or(0),
        }
    }

    pub(crate) fn kick(&self) {
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    pub(crate) fn error(&self) -> &OwnedFd {
        &self.error
    }

    pub(crate) fn call(&self) -> &OwnedFd {
        &self.call
    }

    /// Whether the test has seen all buffers that the device has used.
    pub(crate) fn used_up(&self, guest: &Guest) -> bool {
        self.ring.used_index(guest) == self.used
    }

    /// Waits until the device says that the ring is broken.
    pub(crate) fn wait_broken(&self) {
        assert!(wait_readable(&self.error), "the ring is not broken");
    }

    pub(crate) fn is_broken(&self) -> bool {
        is_readable(&self.error)
    }
}

/// A task management request.
pub(crate) fn tmf(subtype: u32, lun: [u8; 4], tag: u64) -> Vec<u8> {
    let mut bytes = 0u32.to_le_bytes().to_vec();
    bytes.extend(subtype.to_le_bytes());
    bytes.extend(lun);
    bytes.extend([0; 4]);
    bytes.extend(tag.to_le_bytes());
    bytes
}
