//! An initiator whose target answers as it pleases.

mod answers;

use crate::input::Input;
use lunette_iscsi::chap::{Algorithm, Challenge, Credentials, InitiatorChap, Secret};
use lunette_iscsi::digest::Digests;
use lunette_iscsi::initiator::{CommandRequest, Event, Initiator, Settings, TaskManagementRequest};
use lunette_iscsi::limits::MAX_TEXT_RESPONSE;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{
    BHS, DataOut, Header, LoginRequest, LogoutReason, NO_TAG, NopOut, Opcode, Stage, TaskAttribute,
    TaskManagementFunction,
};
use lunette_iscsi::target::{
    Admission, Directory, Identity, Login, Refusal, Residual, SessionInfo, SessionType, TargetRecord,
};
use lunette_iscsi::{Outbox, Payload, Piece, target};
use std::collections::{HashMap, HashSet};
use std::io::IoSlice;
use std::ops::ControlFlow;

/// Bytes of all that is written.
static DATA: [u8; 4096] = [0xa5; 4096];
/// Requests that are open at once.
const OPEN: usize = 8;

/// Has an initiator log in, send commands and whatever else, and believe nothing of what the target says.
///
/// Data stays within what a command expects and comes once, a command that has ended well has got what its residual count
/// says, each request is answered once, and what the initiator sends keeps to what was agreed on.
pub fn iscsi_initiator(data: &[u8]) {
    let mut input = Input::new(data);
    let mut session = Session::new(&mut input);
    while !input.is_empty() && !session.over {
        session.step(&mut input);
    }
    session.finish();
}

/// A request that is not answered.
#[derive(Clone, Copy, Default)]
struct Open {
    answer: u8,
    read: u32,
    write: u32,
    token: Option<u64>,
    /// Data-In that the owner got.
    got: u32,
    /// What the target has sent for it, and asked for.
    sent: u32,
    asked: u32,
    data_sn: u32,
    data_in: bool,
}

struct Session {
    initiator: Initiator,
    out: Outbox,
    open: HashMap<u32, Open>,
    /// Payloads that the outbox has not given back.
    payloads: HashSet<u64>,
    token: u64,
    /// An honest login, if the target begins with one.
    login: Option<Login>,
    logged_in: bool,
    over: bool,
    digests: Digests,
    /// The longest data segments either side takes.
    segments: (u32, u32),
    stat_sn: u32,
    cmd_sn: u32,
    transfer_tag: u32,
    /// What the initiator has sent and is not looked at.
    sent: Vec<u8>,
}

impl Session {
    fn new(input: &mut Input<'_>) -> Self {
        let lengths = [512, 1024, 1500, 4096];
        let parameters = Parameters {
            header_digest: input.one_in(4),
            data_digest: input.one_in(4),
            initial_r2t: input.flag(),
            immediate_data: !input.one_in(4),
            max_recv_data_segment_length: input.pick(&lengths),
            max_burst_length: input.pick(&lengths),
            first_burst_length: input.pick(&lengths),
            data_pdu_in_order: input.flag(),
            data_sequence_in_order: input.flag(),
            ..Parameters::PREFERRED
        };
        let settings = Settings {
            initiator_name: "iqn.2026-11.example:me".into(),
            target_name: "iqn.2026-11.example:disk".into(),
            session_type: if input.one_in(8) { SessionType::Discovery } else { SessionType::Normal },
            first_stage: if input.flag() { Stage::SECURITY } else { Stage::OPERATIONAL },
            negotiate: !input.one_in(8),
            chap: input.one_in(4).then(|| chap(input.flag())),
            joins: input.one_in(16).then_some((1, Parameters::DEFAULT)),
            parameters,
            ..Settings::default()
        };
        let honest = settings.chap.is_none() && settings.joins.is_none() && !input.one_in(4);
        let offer =
            target::Settings { parameters, command_window: input.pick(&[1, 4, 64]), ..Default::default() };
        let mut out = Outbox::default();
        let mut session = Self {
            initiator: Initiator::new(settings, &mut out),
            out,
            open: HashMap::new(),
            payloads: HashSet::new(),
            token: 0,
            login: honest.then(|| Login::new(offer)),
            logged_in: false,
            over: false,
            digests: Digests::default(),
            segments: (8192, 8192),
            stat_sn: 0,
            cmd_sn: 1,
            transfer_tag: 0,
            sent: Vec::new(),
        };
        session.log_in(parameters.max_recv_data_segment_length);
        session
    }

    /// The honest login, to its end.
    fn log_in(&mut self, segment: u32) {
        let Some(mut login) = self.login.take() else { return };
        loop {
            let request = self.send();
            let mut answers = Outbox::default();
            let progress = login.receive(&mut Anyone, &request, &mut answers).expect("an honest initiator");
            let mut wire = Vec::new();
            for piece in answers.pieces() {
                let Piece::Bytes(bytes) = piece else { panic!("payload in a login") };
                wire.extend(bytes);
            }
            self.stat_sn = u32::from_be_bytes(wire[24..28].try_into().expect("four bytes")) + 1;
            self.feed(&wire, &mut Input::new(&[]));
            if progress.accepted.is_some() {
                assert!(self.logged_in, "both see the end of the login");
                self.segments = (self.initiator.parameters().max_recv_data_segment_length, segment);
                self.cmd_sn = 1;
                return;
            }
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        if !self.logged_in {
            let answer = self.login_answer(input);
            self.send();
            return self.feed(&answer, input);
        }
        match input.below(32) {
            0 => {
                let length = input.below(300);
                self.feed(input.bytes(length), input);
            }
            1..12 if self.open.len() < OPEN => self.ask(input),
            1..16 => drop(self.send()),
            _ => {
                let mut pdu = self.answer(input);
                if input.one_in(32) {
                    let place = input.below(pdu.len().min(BHS));
                    pdu[place] ^= input.u8();
                }
                self.feed(&pdu, input);
            }
        }
    }

    /// The owner asks for something.
    fn ask(&mut self, input: &mut Input<'_>) {
        let out = &mut self.out;
        let opened = match input.below(8) {
            0 => {
                let text = b"X-a=1\0".repeat(input.pick(&[1, 200]));
                self.initiator.text(&text, out).map(|tag| (tag, Opcode::TEXT_RESPONSE))
            }
            1 => {
                let length = input.below(512);
                self.initiator.ping(&DATA[..length], out).map(|tag| (tag, Opcode::NOP_IN))
            }
            2 => {
                let request = TaskManagementRequest {
                    function: TaskManagementFunction(input.u8() & 15),
                    lun: [0; 8],
                    referenced_task_tag: input.u8().into(),
                    ref_cmd_sn: 0,
                    immediate: input.flag(),
                };
                let tag = self.initiator.task_management(&request, out);
                tag.map(|tag| (tag, Opcode::TASK_MANAGEMENT_RESPONSE))
            }
            3 if input.one_in(16) => {
                let tag = self.initiator.logout(LogoutReason::CLOSE_SESSION, out);
                tag.map(|tag| (tag, Opcode::LOGOUT_RESPONSE))
            }
            _ => return self.command(input),
        };
        if let Some((tag, answer)) = opened {
            let known = self.open.insert(tag, Open { answer: answer.0, ..Open::default() });
            assert!(known.is_none(), "a tag is open once");
        }
    }

    fn command(&mut self, input: &mut Input<'_>) {
        let lengths = [0, 1, 512, 513, 2048, 4096];
        let (read, write) = (input.pick(&lengths), input.pick(&lengths));
        let chunks = [IoSlice::new(&DATA[..write as usize])];
        let payload = Payload::new(self.token, &chunks);
        let request = CommandRequest {
            lun: [0; 8],
            attribute: TaskAttribute::SIMPLE,
            priority: input.u8() & 15,
            cdb: &[0; 32][..input.pick(&[6, 16, 32])],
            read_length: read,
            write: (write > 0).then_some(&payload),
            immediate: input.one_in(8),
        };
        let Some(tag) = self.initiator.command(&request, &mut self.out) else { return };
        let token = (write > 0).then_some(self.token);
        self.payloads.extend(token);
        self.token += 1;
        let (answer, unasked) = (Opcode::SCSI_RESPONSE.0, self.unasked(write));
        let open = Open { answer, read, write, token, asked: unasked, ..Open::default() };
        assert!(self.open.insert(tag, open).is_none(), "a tag is open once");
    }

    /// What comes of a write without R2T.
    fn unasked(&self, write: u32) -> u32 {
        let agreed = self.initiator.parameters();
        let first = agreed.first_burst_length.min(write);
        match (agreed.initial_r2t, agreed.immediate_data) {
            (false, _) => first,
            (true, true) => first.min(agreed.max_recv_data_segment_length),
            (true, false) => 0,
        }
    }

    /// Shows bytes to the initiator, and looks at what it makes of them.
    fn feed(&mut self, bytes: &[u8], input: &mut Input<'_>) {
        let mut rest = bytes;
        let before = self.out.len();
        let mut requests = Vec::new();
        loop {
            let received = match self.initiator.receive(rest, &mut self.out) {
                Ok(received) => received,
                Err(_) => {
                    self.over = true;
                    return;
                }
            };
            rest = &rest[received.used..];
            let Some(event) = received.event else { break };
            match event {
                Event::LoggedIn => {
                    assert!(!std::mem::replace(&mut self.logged_in, true), "once");
                }
                Event::Data { tag, offset, bytes } => {
                    let open = self.open.get_mut(&tag).expect("data of an open command");
                    assert!(offset as usize + bytes.len() <= open.read as usize);
                    open.got += bytes.len() as u32;
                    assert!(open.got <= open.read, "data comes once");
                }
                Event::Request { tag, transfer_tag, offset, length } => {
                    let open = &self.open[&tag];
                    assert!(length > 0 && transfer_tag != NO_TAG);
                    assert!(offset.checked_add(length).is_some_and(|end| end <= open.write));
                    requests.push((tag, transfer_tag, offset, length));
                }
                Event::Finished { tag, response } => {
                    let open = self.open.remove(&tag).expect("an open command");
                    let both = open.read > 0 && open.write > 0;
                    let missing = match if both { response.read_residual } else { response.residual } {
                        Residual::Underflow(missing) if open.read > 0 => missing,
                        _ => 0,
                    };
                    let well = response.status == 0 && !response.target_failure;
                    assert!(!well || open.got + missing == open.read, "{} + {missing}", open.got);
                    assert!(response.sense.len() <= usize::from(u16::MAX));
                    requests.retain(|request| request.0 != tag);
                }
                Event::Text { tag, text } => {
                    assert_eq!(self.open.remove(&tag).map(|open| open.answer), Some(Opcode::TEXT_RESPONSE.0));
                    assert!(text.len() <= MAX_TEXT_RESPONSE);
                    let _ = lunette_iscsi::discovery::targets(text);
                }
                Event::Pong { tag, .. } => {
                    assert_eq!(self.open.remove(&tag).map(|open| open.answer), Some(Opcode::NOP_IN.0));
                }
                Event::TaskManagement { tag, .. } => {
                    self.open.remove(&tag).expect("a function");
                    let initiator = &self.initiator;
                    self.open.retain(|&tag, _| initiator.is_open(tag));
                    requests.retain(|request| self.open.contains_key(&request.0));
                }
                Event::LoggedOut(_) => {
                    let left = |open: &Open| open.answer != Opcode::LOGOUT_RESPONSE.0;
                    let initiator = &self.initiator;
                    self.open.retain(|&tag, open| left(open) || initiator.is_open(tag));
                }
                Event::Rejected { .. } | Event::Message { .. } => {}
            }
        }
        assert!(self.out.len() - before.min(self.out.len()) <= 8 * bytes.len() + 9000, "in proportion");
        for (tag, transfer_tag, offset, length) in requests {
            if input.one_in(8) {
                continue;
            }
            let Open { write, token, .. } = self.open[&tag];
            let chunks = [IoSlice::new(&DATA[..write as usize])];
            let payload = Payload::new(token.expect("a write"), &chunks);
            assert!(self.initiator.send_data(tag, transfer_tag, (offset, length), &payload, &mut self.out));
        }
        if self.logged_in && self.digests == Digests::default() {
            let agreed = self.initiator.parameters();
            self.digests = Digests { header: agreed.header_digest, data: agreed.data_digest };
            self.segments.0 = agreed.max_recv_data_segment_length;
        }
    }

    /// What the initiator has to say.
    fn send(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        for piece in self.out.pieces() {
            match piece {
                Piece::Bytes(bytes) => wire.extend(bytes),
                Piece::Payload { token, range } => {
                    assert!(self.payloads.contains(&token), "payload that was given back");
                    wire.extend(&DATA[range.start as usize..range.end as usize]);
                }
            }
        }
        let payloads = &mut self.payloads;
        self.out.clear(|token| assert!(payloads.remove(&token), "given back once"));
        self.sent.extend_from_slice(&wire);
        self.look();
        wire
    }

    /// Checks the PDUs that the initiator has sent.
    fn look(&mut self) {
        let mut rest = self.sent.as_slice();
        while let Some(header) = rest.first_chunk::<BHS>() {
            let common: &Header = header.as_ref();
            let length = common.data_segment_length.get();
            let login = common.opcode.kind() == Opcode::LOGIN_REQUEST;
            let digests = if login { Digests::default() } else { self.digests };
            assert!(length <= if login { 8192 } else { self.segments.0.max(512) }, "{length}");
            match common.opcode.kind() {
                Opcode::LOGIN_REQUEST => {
                    let login: &LoginRequest = header.as_ref();
                    assert!(login.opcode.is_immediate() && login.version_min == 0);
                }
                Opcode::DATA_OUT => {
                    let data: &DataOut = header.as_ref();
                    assert!(data.buffer_offset.get() + length <= DATA.len() as u32);
                }
                Opcode::NOP_OUT => {
                    let nop: &NopOut = header.as_ref();
                    assert!(nop.task_tag.get() != NO_TAG || nop.opcode.is_immediate());
                }
                Opcode::SCSI_COMMAND
                | Opcode::TASK_MANAGEMENT_REQUEST
                | Opcode::TEXT_REQUEST
                | Opcode::LOGOUT_REQUEST => {}
                other => panic!("an initiator never sends {other}"),
            }
            let mut total = BHS + usize::from(common.total_ahs_length) * 4;
            total += if digests.header { 4 } else { 0 } + (length as usize).next_multiple_of(4);
            total += if digests.data && length > 0 { 4 } else { 0 };
            rest = rest.get(total..).expect("whole PDUs");
        }
        assert!(rest.is_empty(), "whole PDUs");
        self.sent.clear();
    }

    fn finish(mut self) {
        self.send();
        let held: HashSet<u64> = self.open.values().filter_map(|open| open.token).collect();
        assert!(self.over || self.payloads == held, "payloads of open commands alone are kept");
    }
}

fn chap(mutual: bool) -> InitiatorChap {
    let credentials = |name: &str, secret: &[u8]| Credentials {
        name: name.into(),
        secret: Secret::new(secret.to_vec()).expect("a secret"),
    };
    let challenge = Challenge { identifier: 3, bytes: [3; Challenge::LENGTH] };
    let expected = mutual.then(|| (credentials("target", b"what the target knows"), challenge));
    InitiatorChap::new(Algorithm::ALL.to_vec(), credentials("me", b"what the initiator knows"), expected)
}

/// Lets everyone in.
struct Anyone;

impl Directory for Anyone {
    fn admit(&mut self, _: Identity<'_>) -> Result<Admission, Refusal> {
        Ok(Admission::default())
    }

    fn open(&mut self, _: Identity<'_>) -> Result<u16, Refusal> {
        Ok(1)
    }

    fn targets(
        &self,
        _: &SessionInfo,
        _: Option<&str>,
        _: &mut dyn FnMut(TargetRecord<'_>) -> ControlFlow<()>,
    ) {
    }
}
