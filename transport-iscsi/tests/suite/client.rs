//! An initiator on a blocking socket.

use lunette_iscsi::initiator::{CommandRequest, Event, Initiator, Settings, TaskManagementRequest};
use lunette_iscsi::pdu::{
    AsyncEvent, LogoutReason, LogoutResult, RejectReason, TaskAttribute, TaskManagementFunction,
    TaskManagementResult,
};
use lunette_iscsi::target::Residual;
use lunette_iscsi::{Error, Outbox, Payload, Piece};
use std::collections::HashMap;
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};

pub(crate) const TARGET: &str = "iqn.2026-11.dev.lunette:test";
pub(crate) const LUN: [u8; 8] = [0; 8];

pub(crate) fn lun_of(number: u8) -> [u8; 8] {
    [0, number, 0, 0, 0, 0, 0, 0]
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: u8,
    pub(crate) sense: Vec<u8>,
    pub(crate) residual: Residual,
    pub(crate) data: Vec<u8>,
}

impl Ended {
    /// Sense key, additional sense code and qualifier.
    pub(crate) fn sense_code(&self) -> (u8, u8, u8) {
        (self.sense[2] & 0xf, self.sense[12], self.sense[13])
    }
}

/// An asynchronous message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) event: AsyncEvent,
    pub(crate) lun: [u8; 8],
    pub(crate) parameters: [u16; 3],
    pub(crate) data: Vec<u8>,
}

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    pub(crate) initiator: Initiator,
    pub(crate) out: Outbox,
    payloads: HashMap<u64, Vec<u8>>,
    writes: HashMap<u32, (u64, Vec<u8>)>,
    reads: HashMap<u32, Vec<u8>>,
    pub(crate) ended: HashMap<u32, Ended>,
    pub(crate) managed: HashMap<u32, TaskManagementResult>,
    pub(crate) texts: Vec<String>,
    pub(crate) rejects: Vec<RejectReason>,
    pub(crate) messages: Vec<Message>,
    pub(crate) logged_in: bool,
    pub(crate) logged_out: Option<LogoutResult>,
    /// R2Ts are not answered.
    pub(crate) lazy: bool,
    pub(crate) requests: usize,
    /// The tags of the last R2T: of the task and of the transfer.
    pub(crate) requested: (u32, u32),
    next_token: u64,
}

/// The settings of initiator port `number`.
pub(crate) fn settings(number: u8) -> Settings {
    Settings {
        initiator_name: format!("iqn.2024-01.example:initiator{number}"),
        target_name: TARGET.to_owned(),
        isid: [0x80, 0, 0, 0, 0, number],
        ..Settings::default()
    }
}

/// READ(10) or WRITE(10) of blocks of 512 bytes.
pub(crate) fn cdb(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

pub(crate) const READ: u8 = 0x28;
pub(crate) const WRITE: u8 = 0x2a;

pub(crate) fn pattern(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(seed | 1).wrapping_add(n >> 9) ^ seed) as u8).collect()
}

impl Client {
    /// Connects and begins a login.
    pub(crate) fn connect(address: SocketAddr, settings: Settings) -> Self {
        Self::over(TcpStream::connect(address).unwrap(), settings)
    }

    /// Begins a login on a connection.
    pub(crate) fn over(socket: TcpStream, settings: Settings) -> Self {
        socket.set_nodelay(true).unwrap();
        let mut out = Outbox::default();
        Self {
            socket,
            initiator: Initiator::new(settings, &mut out),
            out,
            payloads: HashMap::new(),
            writes: HashMap::new(),
            reads: HashMap::new(),
            ended: HashMap::new(),
            managed: HashMap::new(),
            texts: Vec::new(),
            rejects: Vec::new(),
            messages: Vec::new(),
            logged_in: false,
            logged_out: None,
            lazy: false,
            requests: 0,
            requested: (0, 0),
            next_token: 0,
        }
    }

    /// Logs in and takes the unit attention of a new nexus.
    pub(crate) fn ready(address: SocketAddr, settings: Settings) -> Self {
        let mut client = Self::connect(address, settings);
        client.until(|client| client.logged_in);
        let test_unit_ready = client.run(&[0; 6], 0, None);
        assert_eq!(test_unit_ready.sense_code(), (6, 0x29, 0));
        client
    }

    pub(crate) fn send(&mut self) {
        let wire = self.wire();
        self.socket.write_all(&wire).unwrap();
    }

    /// Takes what is to be sent.
    pub(crate) fn wire(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        for piece in self.out.pieces() {
            match piece {
                Piece::Bytes(bytes) => wire.extend(bytes),
                Piece::Payload { token, range } => {
                    wire.extend(&self.payloads[&token][range.start as usize..range.end as usize]);
                }
            }
        }
        self.out.clear(|token| drop(self.payloads.remove(&token)));
        wire
    }

    /// Receives once. False: the target has closed the connection.
    pub(crate) fn receive(&mut self) -> Result<bool, Error> {
        let mut buffer = vec![0; 1 << 18];
        let count = self.socket.read(&mut buffer).unwrap_or(0);
        self.take(&buffer[..count])?;
        Ok(count > 0)
    }

    /// Sends and receives until `done`.
    pub(crate) fn until(&mut self, done: impl Fn(&Self) -> bool) {
        self.send();
        while !done(self) {
            assert!(self.receive().unwrap(), "the target closed the connection");
            self.send();
        }
    }

    /// Receives until the target closes the connection.
    pub(crate) fn until_closed(&mut self) {
        while self.receive().unwrap() {}
    }

    /// Queues a command.
    pub(crate) fn command(&mut self, cdb: &[u8], read_length: u32, write: Option<Vec<u8>>) -> u32 {
        self.try_command(cdb, read_length, write).expect("the command window is open")
    }

    pub(crate) fn try_command(
        &mut self,
        cdb: &[u8],
        read_length: u32,
        write: Option<Vec<u8>>,
    ) -> Option<u32> {
        self.command_at(LUN, cdb, read_length, write)
    }

    /// Queues a command to a logical unit.
    pub(crate) fn command_at(
        &mut self,
        lun: [u8; 8],
        cdb: &[u8],
        read_length: u32,
        write: Option<Vec<u8>>,
    ) -> Option<u32> {
        self.command_as(TaskAttribute::SIMPLE, lun, cdb, read_length, write)
    }

    /// Queues a command with a task attribute.
    pub(crate) fn command_as(
        &mut self,
        attribute: TaskAttribute,
        lun: [u8; 8],
        cdb: &[u8],
        read_length: u32,
        write: Option<Vec<u8>>,
    ) -> Option<u32> {
        let token = self.next_token;
        self.next_token += 1;
        let chunks = [IoSlice::new(write.as_deref().unwrap_or_default())];
        let payload = Payload::new(token, &chunks);
        let request = CommandRequest {
            lun,
            attribute,
            priority: 0,
            cdb,
            read_length,
            write: write.as_ref().map(|_| &payload),
            immediate: false,
        };
        let tag = self.initiator.command(&request, &mut self.out)?;
        self.reads.insert(tag, vec![0; read_length as usize]);
        if let Some(data) = write {
            self.payloads.insert(token, data.clone());
            self.writes.insert(tag, (token, data));
        }
        Some(tag)
    }

    /// Carries a command out.
    pub(crate) fn run(&mut self, cdb: &[u8], read_length: u32, write: Option<Vec<u8>>) -> Ended {
        let tag = self.command(cdb, read_length, write);
        self.finish(tag)
    }

    /// Carries a command out that reads from another LUN than 0.
    pub(crate) fn run_at(&mut self, lun: u8, cdb: &[u8], read_length: u32) -> Ended {
        let tag = self.command_at(lun_of(lun), cdb, read_length, None).expect("the command window is open");
        self.finish(tag)
    }

    /// The LUNs that REPORT LUNS tells.
    pub(crate) fn luns(&mut self) -> Vec<u8> {
        let report_luns = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        let list = self.run(&report_luns, 256, None).data;
        let length = u32::from_be_bytes([list[0], list[1], list[2], list[3]]) as usize;
        list[8..8 + length].chunks(8).map(|lun| lun[1]).collect()
    }

    /// Waits for the end of a command.
    pub(crate) fn finish(&mut self, tag: u32) -> Ended {
        self.until(|client| client.ended.contains_key(&tag));
        self.ended.remove(&tag).unwrap()
    }

    pub(crate) fn read(&mut self, lba: u32, blocks: u16) -> Vec<u8> {
        let ended = self.run(&cdb(READ, lba, blocks), u32::from(blocks) * 512, None);
        assert_eq!((ended.status, ended.residual), (0, Residual::Exact), "{:?}", ended.sense);
        ended.data
    }

    pub(crate) fn write(&mut self, lba: u32, data: Vec<u8>) {
        let blocks = (data.len() / 512) as u16;
        let ended = self.run(&cdb(WRITE, lba, blocks), 0, Some(data));
        assert_eq!((ended.status, ended.residual), (0, Residual::Exact), "{:?}", ended.sense);
    }

    /// Writes and reads back, whatever others do to the unit: takes unit attentions as they come.
    pub(crate) fn write_retrying(&mut self, lba: u32, data: Vec<u8>) {
        while self.run(&cdb(WRITE, lba, 1), 0, Some(data.clone())).status != 0 {}
        let read = loop {
            let ended = self.run(&cdb(READ, lba, 1), 512, None);
            if ended.status == 0 {
                break ended.data;
            }
            assert_eq!(ended.sense_code().0, 6);
        };
        assert!(read == data);
    }

    /// Queues an immediate task management function.
    pub(crate) fn manage(&mut self, function: TaskManagementFunction, lun: [u8; 8], referenced: u32) -> u32 {
        let request = TaskManagementRequest {
            function,
            lun,
            referenced_task_tag: referenced,
            ref_cmd_sn: 0,
            immediate: true,
        };
        self.initiator.task_management(&request, &mut self.out).unwrap()
    }

    /// Carries a task management function out.
    pub(crate) fn managed(
        &mut self,
        function: TaskManagementFunction,
        lun: [u8; 8],
        referenced: u32,
    ) -> TaskManagementResult {
        let tag = self.manage(function, lun, referenced);
        self.until(|client| client.managed.contains_key(&tag));
        self.managed[&tag]
    }

    pub(crate) fn log_out(&mut self) {
        self.initiator.logout(LogoutReason::CLOSE_SESSION, &mut self.out).unwrap();
        self.until(|client| client.logged_out.is_some());
        assert_eq!(self.logged_out, Some(LogoutResult::CLOSED));
        self.until_closed();
    }

    fn take(&mut self, mut input: &[u8]) -> Result<(), Error> {
        loop {
            let received = self.initiator.receive(input, &mut self.out)?;
            input = &input[received.used..];
            let mut request = None;
            match received.event {
                None => return Ok(()),
                Some(Event::LoggedIn) => self.logged_in = true,
                Some(Event::Data { tag, offset, bytes }) => {
                    let data = self.reads.get_mut(&tag).unwrap();
                    data[offset as usize..][..bytes.len()].copy_from_slice(bytes);
                }
                Some(Event::Request { tag, transfer_tag, offset, length }) => {
                    request = Some((tag, transfer_tag, offset, length));
                }
                Some(Event::Finished { tag, response }) => {
                    self.writes.remove(&tag);
                    let ended = Ended {
                        status: response.status,
                        sense: response.sense.to_vec(),
                        residual: response.residual,
                        data: self.reads.remove(&tag).unwrap(),
                    };
                    self.ended.insert(tag, ended);
                }
                Some(Event::TaskManagement { tag, result, .. }) => drop(self.managed.insert(tag, result)),
                Some(Event::Text { text, .. }) => self.texts.push(String::from_utf8(text.to_vec()).unwrap()),
                Some(Event::Rejected { reason, .. }) => self.rejects.push(reason),
                Some(Event::LoggedOut(result)) => self.logged_out = Some(result),
                Some(Event::Message { event, lun, parameters, data }) => {
                    self.messages.push(Message { event, lun, parameters, data: data.to_vec() });
                }
                Some(Event::Pong { .. }) => {}
            }
            if let Some((tag, transfer_tag, offset, length)) = request {
                self.requests += 1;
                self.requested = (tag, transfer_tag);
                if !self.lazy {
                    let (token, data) = &self.writes[&tag];
                    let chunks = [IoSlice::new(data)];
                    let payload = Payload::new(*token, &chunks);
                    let range = (offset, length);
                    assert!(self.initiator.send_data(tag, transfer_tag, range, &payload, &mut self.out));
                }
            }
        }
    }
}
