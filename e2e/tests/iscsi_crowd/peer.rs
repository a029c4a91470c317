//! An initiator on a socket that never blocks.

use anyhow::{Context, Result, bail};
use lunette_iscsi::initiator::{CommandRequest, Event, Initiator, Settings};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{LogoutReason, TaskAttribute};
use lunette_iscsi::{Outbox, Payload, Piece};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

/// WRITE(10) and READ(10) of blocks of 512 bytes.
pub(crate) const WRITE: u8 = 0x2a;
pub(crate) const READ: u8 = 0x28;

pub(crate) struct Peer {
    pub(crate) socket: TcpStream,
    pub(crate) initiator: Initiator,
    pub(crate) out: Outbox,
    /// Bytes to be sent, those before `sent` are.
    wire: Vec<u8>,
    sent: usize,
    /// What the command that is under way writes, and what the last one has read.
    pub(crate) written: Vec<u8>,
    pub(crate) read: Vec<u8>,
    /// The status of the command that has ended.
    pub(crate) ended: Option<u8>,
    pub(crate) logged_in: bool,
    pub(crate) logged_out: bool,
    /// The target has closed the connection.
    pub(crate) closed: bool,
    /// R2Ts are not answered; this is the last: task tag, transfer tag, offset, length.
    pub(crate) lazy: bool,
    pub(crate) asked: Option<(u32, u32, u32, u32)>,
}

/// Whose session.
pub(crate) fn settings(name: &str, target: &str, digests: bool) -> Settings {
    let parameters = Parameters { header_digest: digests, data_digest: digests, ..Parameters::PREFERRED };
    Settings {
        initiator_name: format!("iqn.2026-11.org.example:{name}"),
        target_name: target.to_owned(),
        parameters,
        ..Settings::default()
    }
}

/// A connection from one of the addresses of this host.
pub(crate) fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((from, 0)))?;
    connect(&socket, &to)?;
    let socket = TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

impl Peer {
    /// Connects and begins a login.
    pub(crate) fn connect(from: Ipv4Addr, to: SocketAddr, settings: Settings) -> Result<Self> {
        let mut out = Outbox::default();
        Ok(Self {
            socket: connect_from(from, to)?,
            initiator: Initiator::new(settings, &mut out),
            out,
            wire: Vec::new(),
            sent: 0,
            written: Vec::new(),
            read: Vec::new(),
            ended: None,
            logged_in: false,
            logged_out: false,
            closed: false,
            lazy: false,
            asked: None,
        })
    }

    /// Begins a command on LUN 0, which reads so much or writes [`written`](Self::written).
    pub(crate) fn begin(&mut self, cdb: &[u8], read_length: u32) -> Option<u32> {
        self.ended = None;
        self.read = vec![0; read_length as usize];
        let chunks = [IoSlice::new(&self.written)];
        let payload = Payload::new(0, &chunks);
        let writes = !self.written.is_empty();
        let request = CommandRequest {
            lun: [0; 8],
            attribute: TaskAttribute::SIMPLE,
            cdb,
            read_length,
            write: writes.then_some(&payload),
            immediate: false,
            priority: 0,
        };
        self.initiator.command(&request, &mut self.out)
    }

    pub(crate) fn begin_logout(&mut self) -> Result<()> {
        let tag = self.initiator.logout(LogoutReason::CLOSE_SESSION, &mut self.out);
        tag.map(drop).context("no room for a logout")
    }

    /// Takes the bytes that are to be sent.
    pub(crate) fn take_wire(&mut self) -> Vec<u8> {
        self.encode();
        let wire = self.wire.split_off(self.sent);
        self.wire.clear();
        self.sent = 0;
        wire
    }

    fn encode(&mut self) {
        for piece in self.out.pieces() {
            match piece {
                Piece::Bytes(bytes) => self.wire.extend(bytes),
                Piece::Payload { range, .. } => {
                    self.wire.extend(&self.written[range.start as usize..range.end as usize]);
                }
            }
        }
        self.out.clear(|_| ());
    }

    /// Sends and receives what is possible now. Returns whether that was anything.
    pub(crate) fn pump(&mut self) -> Result<bool> {
        let mut buffer = [0; 32 << 10];
        let sent = self.flush()?;
        let mut received = false;
        while !self.closed {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(count) => {
                    received = true;
                    self.take(&buffer[..count])?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent || received)
    }

    fn flush(&mut self) -> Result<bool> {
        self.encode();
        let before = self.sent;
        while self.sent < self.wire.len() {
            match self.socket.write(&self.wire[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(self.sent > before),
                Err(error) => return Err(error.into()),
            }
        }
        self.wire.clear();
        self.sent = 0;
        Ok(before < self.sent)
    }

    fn take(&mut self, mut input: &[u8]) -> Result<()> {
        loop {
            let received = self.initiator.receive(input, &mut self.out)?;
            input = &input[received.used..];
            match received.event {
                None => return Ok(()),
                Some(Event::LoggedIn) => self.logged_in = true,
                Some(Event::LoggedOut(_)) => self.logged_out = true,
                Some(Event::Data { offset, bytes, .. }) => {
                    let place = self.read.get_mut(offset as usize..).and_then(|to| to.get_mut(..bytes.len()));
                    place.context("data beyond what was asked for")?.copy_from_slice(bytes);
                }
                Some(Event::Finished { response, .. }) => self.ended = Some(response.status),
                Some(Event::Request { tag, transfer_tag, offset, length }) => {
                    self.asked = Some((tag, transfer_tag, offset, length));
                }
                Some(Event::Rejected { reason, .. }) => bail!("rejected: {reason:?}"),
                Some(_) => {}
            }
            if !self.lazy {
                self.answer();
            }
        }
    }

    /// Sends what was asked for.
    pub(crate) fn answer(&mut self) {
        let Some((tag, transfer_tag, offset, length)) = self.asked.take() else { return };
        let chunks = [IoSlice::new(&self.written)];
        let payload = Payload::new(0, &chunks);
        self.initiator.send_data(tag, transfer_tag, (offset, length), &payload, &mut self.out);
    }
}

/// READ(10) or WRITE(10).
pub(crate) fn cdb(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}
