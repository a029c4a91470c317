//! A target and an initiator over in-memory pipes that deliver random pieces.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod plain;
pub mod scramble;

use std::cell::Cell;
use std::collections::HashMap;
use std::io::IoSlice;
use std::ops::ControlFlow;

use lunette_iscsi::initiator::{self, CommandRequest, Initiator};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{LoginStatus, LogoutResult, TaskAttribute, TaskManagementResult};
use lunette_iscsi::target::{
    Accepted, Admission, DataError, Directory, Event, Identity, Login, Portal, Refusal, Residual, Response,
    SessionInfo, SessionType, Settings, TargetRecord, TaskId,
};
use lunette_iscsi::{Error, Outbox, Payload, Piece};
use scramble::Scrambler;

pub const INITIATOR: &str = "iqn.2024-01.example:initiator";
pub const TARGET: &str = "iqn.2024-01.example:disk";
pub const OTHER: &str = "iqn.2024-01.example:tape";

/// Small random numbers from a seed (xorshift).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

/// Two targets; refuses what `refuse` says.
#[derive(Default)]
pub struct Targets {
    pub refuse: Option<Refusal>,
    pub admission: Option<Admission>,
    pub sessions: u16,
    pub extra: usize,
    /// How many targets were shown.
    pub shown: Cell<usize>,
    /// TSIH and CID of a session that connections may join.
    pub open: Option<(u16, u16, Parameters)>,
}

impl Directory for Targets {
    fn admit(&mut self, identity: Identity<'_>) -> Result<Admission, Refusal> {
        if let Some(refusal) = self.refuse.clone() {
            return Err(refusal);
        }
        let known = [TARGET, OTHER].contains(&identity.info.target_name.as_str());
        if identity.info.session_type == SessionType::Normal && !known {
            return Err(Refusal::new(LoginStatus::NOT_FOUND, "no such target"));
        }
        Ok(self.admission.take().unwrap_or(Admission { group_tag: 1, ..Admission::default() }))
    }

    fn open(&mut self, _: Identity<'_>) -> Result<u16, Refusal> {
        self.sessions += 1;
        Ok(self.sessions)
    }

    fn join(&mut self, identity: Identity<'_>) -> Result<Parameters, Refusal> {
        match self.open {
            Some((tsih, cid, parameters)) if tsih == identity.info.tsih && cid == identity.cid => {
                Ok(parameters)
            }
            Some((tsih, ..)) if tsih == identity.info.tsih => {
                Err(Refusal::new(LoginStatus::TOO_MANY_CONNECTIONS, "one connection is enough"))
            }
            _ => Err(Refusal::new(LoginStatus::NO_SUCH_SESSION, "no such session")),
        }
    }

    fn targets(
        &self,
        _: &SessionInfo,
        wanted: Option<&str>,
        show: &mut dyn FnMut(TargetRecord<'_>) -> ControlFlow<()>,
    ) {
        let show = &mut |name: &str, portals: &[Portal]| {
            self.shown.update(|shown| shown + 1);
            show(TargetRecord { name, portals })
        };
        let portals = ["10.0.0.1:3260", "[fd00::1]:3260"];
        let portals = portals.map(|address| Portal { address: address.parse().unwrap(), group_tag: 1 });
        let extra = (0..self.extra).map(|number| format!("{TARGET}.{number}"));
        let names = [TARGET.to_owned(), OTHER.to_owned()].into_iter().chain(extra);
        for name in names.filter(|name| wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(name))) {
            let portals = if name == OTHER { &portals[..1] } else { &portals };
            if show(&name, portals).is_break() {
                return;
            }
        }
    }
}

/// Bytes a test device reads for a command.
pub fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| seed ^ (index as u8) ^ (index >> 8) as u8).collect()
}

/// A CDB the test device obeys: the seed of what it reads, how much it moves, and its status.
pub fn cdb(seed: u8, moves: u32, status: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[1] = seed;
    cdb[2] = status;
    cdb[4..8].copy_from_slice(&moves.to_be_bytes());
    cdb
}

/// What the test device moves; never much, whatever the CDB says.
fn moves(cdb: &[u8; 16]) -> u32 {
    u32::from_be_bytes([cdb[4], cdb[5], cdb[6], cdb[7]]).min(100_000)
}

#[derive(Default)]
struct Running {
    cdb: [u8; 16],
    tag: u32,
    read: u32,
    write: u32,
    data: Vec<u8>,
    held: bool,
}

/// The target's end: machines and a test device.
pub struct TargetEnd {
    pub login: Option<Login>,
    pub accepted: Option<Box<Accepted>>,
    pub targets: Targets,
    pub out: Outbox,
    running: HashMap<TaskId, Running>,
    payloads: HashMap<u64, Vec<u8>>,
    next_token: u64,
    /// Tags in the order in which their commands were delivered.
    pub delivered: Vec<u32>,
    /// Tags of those that came whole.
    pub whole: Vec<u32>,
    /// Data written, by task tag.
    pub written: HashMap<u32, Vec<u8>>,
    pub failures: Vec<DataError>,
    pub pongs: Vec<u32>,
    /// Do not answer commands.
    pub lazy: bool,
    pub error: Option<Error>,
    pub logged_out: bool,
}

impl TargetEnd {
    pub fn new(settings: Settings) -> Self {
        Self {
            login: Some(Login::new(settings)),
            accepted: None,
            targets: Targets::default(),
            out: Outbox::default(),
            running: HashMap::new(),
            payloads: HashMap::new(),
            next_token: 0,
            delivered: Vec::new(),
            whole: Vec::new(),
            written: HashMap::new(),
            failures: Vec::new(),
            pongs: Vec::new(),
            lazy: false,
            error: None,
            logged_out: false,
        }
    }

    pub fn receive(&mut self, mut input: &[u8]) {
        if self.error.is_some() {
            return;
        }
        if let Err(error) = self.try_receive(&mut input) {
            self.error = Some(error);
        }
    }

    fn try_receive(&mut self, input: &mut &[u8]) -> Result<(), Error> {
        if let Some(login) = &mut self.login {
            let progress = login.receive(&mut self.targets, input, &mut self.out)?;
            *input = &input[progress.used..];
            let Some(accepted) = progress.accepted else { return Ok(()) };
            self.accepted = Some(accepted);
            self.login = None;
        }
        let mut accepted = self.accepted.take().unwrap();
        let result = self.full_feature(&mut accepted, input);
        self.accepted = Some(accepted);
        result
    }

    fn full_feature(&mut self, accepted: &mut Accepted, input: &mut &[u8]) -> Result<(), Error> {
        let Accepted { connection, session } = accepted;
        loop {
            let expected = connection.expected_payload(session);
            let received = connection.receive(session, &self.targets, input, &mut self.out)?;
            *input = &input[received.used..];
            match received.event {
                None => return Ok(()),
                Some(Event::Command(command)) => {
                    assert!(command.task.index() < session.slots());
                    let running = Running {
                        cdb: *command.cdb,
                        tag: command.tag,
                        read: command.read_length,
                        write: command.write_length,
                        data: vec![0; (command.write_length as usize).min(100_000)],
                        held: command.held,
                    };
                    if command.whole {
                        self.whole.push(command.tag);
                    }
                    let task = command.task;
                    let held = running.held;
                    assert!(self.running.insert(task, running).is_none());
                    if !held {
                        self.start(accepted_parts(connection, session), task);
                    }
                }
                Some(Event::Deliver(task)) => {
                    let running = self.running.get_mut(&task).expect("delivered tasks are open");
                    assert!(std::mem::take(&mut running.held));
                    self.start(accepted_parts(connection, session), task);
                }
                Some(Event::Payload { task, offset, bytes }) => {
                    if let Some((expected_task, expected_offset, left)) = expected {
                        assert_eq!((expected_task, expected_offset), (task, offset));
                        assert!(bytes.len() <= left);
                    }
                    if let Some(running) = self.running.get_mut(&task) {
                        let start = (offset as usize).min(running.data.len());
                        let end = (start + bytes.len()).min(running.data.len());
                        running.data[start..end].copy_from_slice(&bytes[..end - start]);
                    }
                }
                Some(Event::DataComplete(task)) => self.finish(accepted_parts(connection, session), task),
                Some(Event::DataFailed { task, error }) => {
                    self.failures.push(error);
                    self.running.remove(&task);
                    let (key, code, qualifier) = error.sense();
                    let sense = [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0];
                    let response = Response { status: 2, sense: &sense, ..Response::default() };
                    assert!(connection.respond(session, task, &response, None, &mut self.out));
                }
                Some(Event::TaskManagement(function)) => {
                    if let Some(task) = function.referenced {
                        self.running.remove(&task);
                        assert!(session.discard(task));
                    }
                    let result = TaskManagementResult::COMPLETE;
                    assert!(connection.finish_task_management(
                        session,
                        function.task,
                        result,
                        [1, 2, 3],
                        &mut self.out
                    ));
                }
                Some(Event::Pong { tag }) => self.pongs.push(tag),
                Some(Event::Logout { tag, .. }) => {
                    connection.finish_logout(session, tag, LogoutResult::CLOSED, &mut self.out);
                    self.logged_out = true;
                }
            }
        }
    }

    fn start(&mut self, accepted: Parts<'_>, task: TaskId) {
        let running = &self.running[&task];
        self.delivered.push(running.tag);
        let moves = moves(&running.cdb);
        if self.lazy {
            return;
        }
        if running.write == 0 || accepted.0.request_data(accepted.1, task, moves, &mut self.out) {
            self.finish(accepted, task);
        }
    }

    fn finish(&mut self, (connection, session): Parts<'_>, task: TaskId) {
        let mut running = self.running.remove(&task).unwrap();
        let moves = moves(&running.cdb);
        let difference = |expected: u32| match expected {
            0 => Residual::Exact,
            expected if moves < expected => Residual::Underflow(expected - moves),
            expected if moves > expected => Residual::Overflow(moves - expected),
            _ => Residual::Exact,
        };
        let bidirectional = running.read > 0 && running.write > 0;
        let response = Response {
            status: running.cdb[2],
            residual: difference(if running.write > 0 { running.write } else { running.read }),
            read_residual: if bidirectional { difference(running.read) } else { Residual::Exact },
            ..Response::default()
        };
        if running.write > 0 {
            running.data.truncate(moves as usize);
            self.written.insert(running.tag, running.data);
        }
        if running.read == 0 {
            assert!(connection.respond(session, task, &response, None, &mut self.out));
            return;
        }
        let data = pattern(running.cdb[1], moves as usize);
        let token = self.next_token;
        self.next_token += 1;
        let (head, tail) = data.split_at(data.len() / 3);
        let chunks = [IoSlice::new(head), IoSlice::new(tail)];
        let payload = Payload::new(token, &chunks);
        // Every second command sends its data in two steps.
        if token % 2 == 1 {
            assert!(connection.send_data(session, task, &Payload::new(token, &chunks[..1]), &mut self.out));
            self.payloads.insert(token, head.to_vec());
            let token = self.next_token;
            self.next_token += 1;
            assert!(connection.respond(
                session,
                task,
                &response,
                Some(&Payload::new(token, &chunks[1..])),
                &mut self.out
            ));
            self.payloads.insert(token, tail.to_vec());
            return;
        }
        assert!(connection.respond(session, task, &response, Some(&payload), &mut self.out));
        self.payloads.insert(token, data);
    }

    pub fn send(&mut self, random: &mut Random) -> Vec<u8> {
        drain(&mut self.out, &mut self.payloads, random)
    }

    /// Payloads the outbox still needs.
    pub fn payloads(&self) -> usize {
        self.payloads.len()
    }
}

type Parts<'a> = (&'a mut lunette_iscsi::target::Connection, &'a mut lunette_iscsi::target::Session);

fn accepted_parts<'a>(
    connection: &'a mut lunette_iscsi::target::Connection,
    session: &'a mut lunette_iscsi::target::Session,
) -> Parts<'a> {
    (connection, session)
}

/// Sends a random part of an outbox.
fn drain(out: &mut Outbox, payloads: &mut HashMap<u64, Vec<u8>>, random: &mut Random) -> Vec<u8> {
    let mut wire = Vec::new();
    let scale = random.below(18);
    let limit = 1 + random.below(1 << scale);
    for piece in out.pieces() {
        match piece {
            Piece::Bytes(bytes) => wire.extend(bytes),
            Piece::Payload { token, range } => {
                wire.extend(&payloads[&token][range.start as usize..range.end as usize]);
            }
        }
        if wire.len() >= limit {
            break;
        }
    }
    wire.truncate(limit);
    out.advance(wire.len(), |token| assert!(payloads.remove(&token).is_some(), "released twice"));
    wire
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub status: u8,
    pub sense: Vec<u8>,
    pub residual: Residual,
    pub read_residual: Residual,
    pub data: Vec<u8>,
}

/// Both ends.
pub struct Pair {
    pub target: TargetEnd,
    pub initiator: Initiator,
    pub out: Outbox,
    pub payloads: HashMap<u64, Vec<u8>>,
    writes: HashMap<u32, (u64, Vec<u8>)>,
    reads: HashMap<u32, Vec<u8>>,
    pub ended: HashMap<u32, Ended>,
    pub logged_in: bool,
    pub logged_out: Option<LogoutResult>,
    pub texts: Vec<String>,
    pub pongs: Vec<Vec<u8>>,
    pub management: Vec<(u32, TaskManagementResult)>,
    pub rejects: Vec<(lunette_iscsi::pdu::RejectReason, Vec<u8>)>,
    pub messages: Vec<(lunette_iscsi::pdu::AsyncEvent, Vec<u8>)>,
    pub error: Option<Error>,
    pub random: Random,
    /// To the target, and from it.
    pub scramblers: Option<[Scrambler; 2]>,
    next_token: u64,
}

impl Pair {
    pub fn new(target: Settings, initiator: initiator::Settings, seed: u64) -> Self {
        let mut out = Outbox::default();
        Self {
            target: TargetEnd::new(target),
            initiator: Initiator::new(initiator, &mut out),
            out,
            payloads: HashMap::new(),
            writes: HashMap::new(),
            reads: HashMap::new(),
            ended: HashMap::new(),
            logged_in: false,
            logged_out: None,
            texts: Vec::new(),
            pongs: Vec::new(),
            management: Vec::new(),
            rejects: Vec::new(),
            messages: Vec::new(),
            error: None,
            random: Random(seed | 1),
            scramblers: None,
            next_token: 0,
        }
    }

    /// From now on data comes in any order within its sequences.
    pub fn scramble(&mut self) {
        let digests = self.target.accepted.as_ref().unwrap().connection.digests();
        self.scramblers =
            Some([3, 5].map(|factor| Scrambler::new(digests, self.random.0.wrapping_mul(factor))));
    }

    /// A pair after a login with these parameters of both.
    pub fn logged_in(target: Parameters, initiator: Parameters) -> Self {
        let settings = Settings { parameters: target, ..Settings::default() };
        let mut pair = Self::new(settings, initiator_settings(initiator), 7);
        pair.run();
        assert_eq!((pair.logged_in, pair.error, pair.target.error), (true, None, None));
        pair
    }

    pub fn command(&mut self, cdb: &[u8], read_length: u32, write: Option<Vec<u8>>) -> Option<u32> {
        let token = self.next_token;
        self.next_token += 1;
        let chunks = [IoSlice::new(write.as_deref().unwrap_or_default())];
        let payload = Payload::new(token, &chunks);
        let request = CommandRequest {
            lun: [0, 1, 0, 0, 0, 0, 0, 0],
            attribute: TaskAttribute::SIMPLE,
            priority: 9,
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

    /// Moves bytes until nothing more happens.
    pub fn run(&mut self) {
        let mut idle = 0;
        while idle < 2 {
            let mut to_target = drain(&mut self.out, &mut self.payloads, &mut self.random);
            if let Some([up, _]) = &mut self.scramblers {
                to_target = up.feed(&to_target);
            }
            self.target.receive(&to_target);
            let mut to_initiator = self.target.send(&mut self.random);
            if let Some([_, down]) = &mut self.scramblers {
                to_initiator = down.feed(&to_initiator);
            }
            if self.error.is_none() {
                self.error = self.receive(&to_initiator).err();
            }
            let quiet = to_target.is_empty() && to_initiator.is_empty();
            idle = if quiet && self.out.is_empty() && self.target.out.is_empty() { idle + 1 } else { 0 };
        }
    }

    /// Sends bytes to the target in place of the initiator's; returns the answer.
    pub fn inject(&mut self, wire: &[u8]) -> Vec<u8> {
        self.target.receive(wire);
        let mut answer = Vec::new();
        while !self.target.out.is_empty() {
            answer.extend(self.target.send(&mut self.random));
        }
        answer
    }

    /// As `inject`, and shows the answer to the initiator.
    pub fn inject_and_run(&mut self, wire: &[u8]) {
        let answer = self.inject(wire);
        if let Err(error) = self.receive(&answer) {
            self.error = Some(error);
        }
        self.run();
    }

    fn receive(&mut self, mut input: &[u8]) -> Result<(), Error> {
        use initiator::Event;
        let mut requests = Vec::new();
        loop {
            let received = self.initiator.receive(input, &mut self.out)?;
            input = &input[received.used..];
            match received.event {
                None => return Ok(()),
                Some(Event::LoggedIn) => self.logged_in = true,
                Some(Event::Data { tag, offset, bytes }) => {
                    self.reads.get_mut(&tag).unwrap()[offset as usize..][..bytes.len()]
                        .copy_from_slice(bytes);
                }
                Some(Event::Request { tag, transfer_tag, offset, length }) => {
                    requests.push((tag, transfer_tag, offset, length));
                }
                Some(Event::Finished { tag, response }) => {
                    self.writes.remove(&tag);
                    let ended = Ended {
                        status: response.status,
                        sense: response.sense.to_vec(),
                        residual: response.residual,
                        read_residual: response.read_residual,
                        data: self.reads.remove(&tag).unwrap(),
                    };
                    assert!(self.ended.insert(tag, ended).is_none());
                }
                Some(Event::TaskManagement { tag, result, .. }) => self.management.push((tag, result)),
                Some(Event::Text { text, .. }) => self.texts.push(String::from_utf8(text.to_vec()).unwrap()),
                Some(Event::Pong { data, .. }) => self.pongs.push(data.to_vec()),
                Some(Event::Rejected { reason, header }) => self.rejects.push((reason, header.to_vec())),
                Some(Event::Message { event, data, .. }) => self.messages.push((event, data.to_vec())),
                Some(Event::LoggedOut(result)) => self.logged_out = Some(result),
            }
            for (tag, transfer_tag, offset, length) in requests.drain(..) {
                let (token, data) = &self.writes[&tag];
                let chunks = [IoSlice::new(data)];
                let payload = Payload::new(*token, &chunks);
                assert!(self.initiator.send_data(
                    tag,
                    transfer_tag,
                    (offset, length),
                    &payload,
                    &mut self.out
                ));
            }
        }
    }
}

pub fn initiator_settings(parameters: Parameters) -> initiator::Settings {
    initiator::Settings {
        initiator_name: INITIATOR.into(),
        target_name: TARGET.into(),
        parameters,
        ..initiator::Settings::default()
    }
}

/// A PDU without digests.
pub fn wire(header: impl Into<[u8; 48]>, data: &[u8]) -> Vec<u8> {
    let mut wire = header.into().to_vec();
    wire[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    wire.extend(data);
    wire.resize(wire.len().next_multiple_of(4), 0);
    wire
}

/// Splits bytes of a connection without digests into headers and data.
pub fn split(mut wire: &[u8]) -> Vec<([u8; 48], Vec<u8>)> {
    let mut pdus = Vec::new();
    while let Some((header, rest)) = wire.split_first_chunk::<48>() {
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        pdus.push((*header, rest[..length].to_vec()));
        wire = &rest[length.next_multiple_of(4)..];
    }
    assert!(wire.is_empty());
    pdus
}
