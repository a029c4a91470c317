//! A target that an initiator logs in to and talks to as it pleases.

mod grammar;
mod observer;

use crate::input::Input;
use grammar::Grammar;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{AsyncEvent, BHS, LogoutResult, NO_TAG, TaskManagementResult};
use lunette_iscsi::target::{
    Accepted, Admission, AsyncMessage, Command, Connection, Directory, Event, Identity, Login, Portal,
    Refusal, Residual, Response, SecurityMethod, SecurityStep, Session, SessionInfo, SessionType, Settings,
    TargetRecord, TaskId,
};
use lunette_iscsi::{Error, Outbox, Payload, Piece, text};
use observer::Observer;
use std::collections::{HashMap, HashSet};
use std::io::IoSlice;
use std::ops::{ControlFlow, Range};

const TARGET: &str = "iqn.2026-11.dev.lunette:fuzz";
/// What every read returns, as often as it takes.
const DATA: &[u8; 4096] = &[0x5a; 4096];
/// The most that answers one PDU, in a data segment: some lists of targets.
const SEGMENT: usize = 1 << 14;
/// The most a command moves.
const LONGEST: u32 = 4 * DATA.len() as u32;

/// A login and a session. PDUs are mostly well formed, with fields from small sets and sometimes wrong bytes, and are cut
/// anywhere; some input is no PDU at all. A small device answers at once, later or never.
///
/// The status and command numbers that come back are in order, all limits that were agreed on are kept, each command is
/// answered at most once, and answers are in proportion to what came in.
pub fn iscsi_target(data: &[u8]) {
    let mut input = Input::new(data);
    let mut target = Target::new(&mut input);
    while !input.is_empty() && target.is_open() {
        target.step(&mut input);
    }
    target.finish();
}

/// How far the connection has come.
enum Phase {
    Login(Box<Login>),
    Full(Box<Accepted>),
    Closed,
}

/// A command that the device works on.
struct Running {
    tag: u32,
    read: u32,
    write: u32,
    /// What it moves.
    moves: u32,
    status: u8,
    received: Received,
    held: bool,
    /// The device answers when it is told to.
    slow: bool,
}

/// Which data has come.
#[derive(Default)]
struct Received(Vec<Range<u32>>);

impl Received {
    /// Everything before this place.
    fn prefix(&self) -> u32 {
        self.0.first().map_or(0, |first| if first.start == 0 { first.end } else { 0 })
    }

    fn add(&mut self, new: Range<u32>) {
        assert!(
            self.0.iter().all(|old| old.end <= new.start || new.end <= old.start),
            "each byte comes once"
        );
        self.0.push(new);
        self.0.sort_by_key(|range| range.start);
        self.0.dedup_by(|next, before| {
            let joins = before.end == next.start;
            before.end = if joins { next.end } else { before.end };
            joins
        });
    }
}

struct Target {
    phase: Phase,
    directory: Targets,
    out: Outbox,
    running: HashMap<TaskId, Running>,
    /// Payloads that the outbox has not given back.
    payloads: HashSet<u64>,
    token: u64,
    grammar: Grammar,
    observer: Observer,
}

impl Target {
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
            max_outstanding_r2t: 1 + input.below(4) as u32,
            data_pdu_in_order: input.flag(),
            data_sequence_in_order: input.flag(),
            ..Parameters::PREFERRED
        };
        let command_window = input.pick(&[1, 2, 4, 16, 128]);
        let mut target = Self {
            phase: Phase::Login(Box::new(Login::new(Settings {
                parameters,
                command_window,
                ..Settings::default()
            }))),
            directory: Targets { secret: input.one_in(8), sessions: 0 },
            out: Outbox::default(),
            running: HashMap::new(),
            payloads: HashSet::new(),
            token: 0,
            grammar: Grammar::new(parameters.max_recv_data_segment_length),
            observer: Observer::new(command_window),
        };
        if !input.one_in(4) {
            let login = target.grammar.plain_login(input);
            target.feed(&login);
        }
        target
    }

    fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Closed)
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(64) {
            0 if input.one_in(4) => {
                let length = input.below(300);
                self.feed(input.bytes(length));
            }
            1..12 => self.go_on(input),
            12..20 => {
                let count = input.below(1 << 10);
                self.send(count);
            }
            20 => self.call(input),
            _ => {
                let mut pdu = match &self.phase {
                    Phase::Login(_) => self.grammar.login(input),
                    _ => self.grammar.pdu(&mut self.observer, input),
                };
                if input.one_in(64) {
                    let at = input.below(pdu.len().min(BHS + 16));
                    pdu[at] ^= input.u8();
                }
                let (head, tail) = pdu.split_at(input.below(pdu.len()));
                self.feed(head);
                self.feed(tail);
            }
        }
        if self.out.len() > 1 << 16 {
            self.send(usize::MAX);
        }
    }

    /// Hands bytes to the machine and carries out what it asks for.
    fn feed(&mut self, bytes: &[u8]) {
        let before = self.out.len();
        let moved = self.token;
        if self.receive(bytes).is_err() {
            self.phase = Phase::Closed;
        }
        // Every PDU that comes in is answered by at most a few headers and one data segment.
        let answers = bytes.len() / BHS + 2;
        let payloads = (self.token - moved) as usize * 2 * LONGEST as usize;
        let bound = answers * (SEGMENT + 16 * BHS) + payloads;
        let answered = self.out.len().saturating_sub(before);
        assert!(answered <= bound, "{answered} bytes for {}", bytes.len());
    }

    fn receive(&mut self, mut input: &[u8]) -> Result<(), Error> {
        if let Phase::Login(login) = &mut self.phase {
            let progress = login.receive(&mut self.directory, input, &mut self.out)?;
            input = &input[progress.used..];
            let Some(accepted) = progress.accepted else { return Ok(()) };
            let (digests, agreed) = (accepted.connection.digests(), *accepted.session.parameters());
            self.grammar.logged_in(digests, &agreed);
            self.send(usize::MAX);
            self.observer.logged_in(digests, &agreed);
            self.phase = Phase::Full(accepted);
        }
        // The device needs both.
        let Phase::Full(mut accepted) = std::mem::replace(&mut self.phase, Phase::Closed) else {
            return Ok(());
        };
        let open = self.full_feature(&mut accepted, input)?;
        if open {
            let tasks: HashSet<_> = accepted.session.tasks().collect();
            assert_eq!(tasks, self.running.keys().copied().collect(), "tasks of the session and the device");
            assert!(tasks.len() <= accepted.session.slots());
            self.phase = Phase::Full(accepted);
        }
        Ok(())
    }

    /// Returns whether the connection stays.
    fn full_feature(&mut self, accepted: &mut Accepted, mut input: &[u8]) -> Result<bool, Error> {
        let Accepted { connection, session } = accepted;
        loop {
            let expected = connection.expected_payload(session);
            let received = connection.receive(session, &self.directory, input, &mut self.out)?;
            input = &input[received.used..];
            match received.event {
                None => return Ok(true),
                Some(Event::Command(command)) => {
                    let task = self.take(command, session);
                    self.start(connection, session, task);
                }
                Some(Event::Deliver(task)) => {
                    // A task management function that was held has been answered already.
                    if let Some(running) = self.running.get_mut(&task) {
                        assert!(std::mem::take(&mut running.held));
                        self.start(connection, session, task);
                    }
                }
                Some(Event::Payload { task, offset, bytes }) => {
                    if let Some((expected, at, left)) = expected {
                        assert_eq!((expected, at), (task, offset));
                        assert!(bytes.len() <= left);
                    }
                    let running = self.running.get_mut(&task).expect("data of an open command");
                    let in_order = session.parameters().data_pdu_in_order;
                    assert!(!in_order || offset == running.received.prefix(), "data in order");
                    let end = offset + bytes.len() as u32;
                    running.received.add(offset..end);
                    assert!(end <= running.write, "no more data than announced");
                    self.observer.received(running.tag, running.received.prefix());
                }
                Some(Event::DataComplete(task)) => {
                    let running = self.running.get_mut(&task).expect("data of an open command");
                    assert!(!running.held && running.received.prefix() >= running.moves.min(running.write));
                    self.finish_unless_slow(connection, session, task);
                }
                Some(Event::DataFailed { task, error }) => {
                    let running = self.running.remove(&task).expect("data of an open command");
                    self.observer.answered(running.tag);
                    let (key, code, qualifier) = error.sense();
                    let sense = [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0];
                    let response = Response { status: 2, sense: &sense, ..Response::default() };
                    assert!(connection.respond(session, task, &response, None, &mut self.out));
                }
                Some(Event::TaskManagement(function)) => {
                    if let Some(task) = function.referenced {
                        let running = self.running.remove(&task).expect("an open command");
                        self.observer.aborted(running.tag);
                        assert!(session.discard(task) && !session.discard(task));
                    }
                    let result = TaskManagementResult::COMPLETE;
                    assert!(connection.finish_task_management(
                        session,
                        function.task,
                        result,
                        [0; 3],
                        &mut self.out
                    ));
                }
                Some(Event::Pong { tag }) => assert_ne!(tag, NO_TAG),
                Some(Event::Logout { tag, .. }) => {
                    connection.finish_logout(session, tag, LogoutResult::CLOSED, &mut self.out);
                    return Ok(false);
                }
            }
        }
    }

    /// A new command: the first bytes of its CDB say what the device does.
    fn take(&mut self, command: Command<'_>, session: &Session) -> TaskId {
        assert!(command.task.index() < session.slots());
        assert!(command.unsolicited_length <= command.write_length);
        let [slow, status, length @ ..] = *command.cdb;
        let moves = u32::from(u16::from_le_bytes([length[0], length[1]])).min(LONGEST);
        let running = Running {
            tag: command.tag,
            read: command.read_length,
            write: command.write_length,
            moves: if status % 4 == 1 { command.write_length.min(LONGEST) } else { moves },
            status: if status % 4 == 2 { 2 } else { 0 },
            received: Received::default(),
            held: command.held,
            slow: slow % 4 == 0,
        };
        self.observer.command(running.tag, running.read, running.write);
        assert!(self.running.insert(command.task, running).is_none(), "a name that is in use");
        assert!(self.running.len() <= session.slots());
        command.task
    }

    fn start(&mut self, connection: &mut Connection, session: &mut Session, task: TaskId) {
        let running = &self.running[&task];
        if running.held {
            return;
        }
        if running.write == 0 || connection.request_data(session, task, running.moves, &mut self.out) {
            self.finish_unless_slow(connection, session, task);
        }
    }

    fn finish_unless_slow(&mut self, connection: &mut Connection, session: &mut Session, task: TaskId) {
        if !self.running[&task].slow {
            self.respond(connection, session, task);
        }
    }

    /// A slow command is answered, whether its data is there or not.
    fn go_on(&mut self, input: &mut Input<'_>) {
        let Phase::Full(mut accepted) = std::mem::replace(&mut self.phase, Phase::Closed) else { return };
        let mut started: Vec<TaskId> =
            self.running.iter().filter(|(_, running)| !running.held).map(|(task, _)| *task).collect();
        started.sort_by_key(|task| task.index());
        if !started.is_empty() {
            self.respond(&mut accepted.connection, &mut accepted.session, input.pick(&started));
        }
        self.phase = Phase::Full(accepted);
    }

    fn respond(&mut self, connection: &mut Connection, session: &mut Session, task: TaskId) {
        let running = self.running.remove(&task).expect("an open command");
        let residual = |expected: u32| match expected {
            0 => Residual::Exact,
            _ if running.moves < expected => Residual::Underflow(expected - running.moves),
            _ if running.moves > expected => Residual::Overflow(running.moves - expected),
            _ => Residual::Exact,
        };
        let both = running.read > 0 && running.write > 0;
        let response = Response {
            status: running.status,
            sense: if running.status == 2 { &[0x70, 0, 5] } else { &[] },
            status_qualifier: u16::from(running.status & 1),
            residual: residual(if running.write > 0 { running.write } else { running.read }),
            read_residual: if both { residual(running.read) } else { Residual::Exact },
            target_failure: false,
        };
        let chunks = [IoSlice::new(DATA); LONGEST as usize / DATA.len()];
        let whole = running.moves as usize / DATA.len();
        let tail = &DATA[..running.moves as usize % DATA.len()];
        let mut chunks = chunks[..whole].to_vec();
        chunks.push(IoSlice::new(tail));
        if running.read > 0 && running.moves > 4096 {
            // In two steps.
            let first = self.payload();
            let payload = Payload::new(first, &chunks[..1]);
            assert!(connection.send_data(session, task, &payload, &mut self.out));
            chunks.remove(0);
        }
        self.observer.answered(running.tag);
        let last = self.payload();
        let payload = Payload::new(last, &chunks);
        assert!(connection.respond(session, task, &response, Some(&payload), &mut self.out));
        let again = connection.respond(session, task, &response, None, &mut self.out);
        assert!(!again, "a command is answered once");
    }

    fn payload(&mut self) -> u64 {
        self.token += 1;
        self.payloads.insert(self.token);
        self.token
    }

    /// The target says something by itself.
    fn call(&mut self, input: &mut Input<'_>) {
        let Phase::Full(accepted) = &mut self.phase else { return };
        let Accepted { connection, session } = &mut **accepted;
        if input.flag() {
            connection.ping(session, input.u32() & 0xff, &mut self.out);
        } else {
            let message =
                AsyncMessage { event: AsyncEvent(input.u8()), lun: [0; 8], parameters: [0; 3], sense: DATA };
            connection.notify(session, &message, &mut self.out);
        }
    }

    /// The initiator reads some of the answers.
    fn send(&mut self, most: usize) {
        let count = most.min(self.out.len());
        let mut wire = Vec::with_capacity(count);
        for piece in self.out.pieces() {
            match piece {
                Piece::Bytes(bytes) => wire.extend(bytes),
                Piece::Payload { token, range } => {
                    assert!(self.payloads.contains(&token), "payload that was given back");
                    wire.resize(wire.len() + range.len(), DATA[0]);
                }
            }
            if wire.len() >= count {
                break;
            }
        }
        wire.truncate(count);
        assert_eq!(wire.len(), count, "as many bytes as the outbox says");
        let payloads = &mut self.payloads;
        self.out.advance(count, |token| assert!(payloads.remove(&token), "given back once"));
        self.observer.receive(&wire);
    }

    fn finish(mut self) {
        self.send(usize::MAX);
        assert!(self.out.is_empty() && self.payloads.is_empty());
        self.observer.finish();
    }
}

/// One target; perhaps it asks for a password.
struct Targets {
    secret: bool,
    sessions: u16,
}

impl Directory for Targets {
    fn admit(&mut self, identity: Identity<'_>) -> Result<Admission, Refusal> {
        let info = identity.info;
        if info.session_type == SessionType::Normal && info.target_name != TARGET {
            return Err(Refusal::new(lunette_iscsi::pdu::LoginStatus::NOT_FOUND, "no such target"));
        }
        let methods: Vec<Box<dyn SecurityMethod>> =
            if self.secret { vec![Box::new(Secret::default())] } else { Vec::new() };
        Ok(Admission { group_tag: 1, alias: "alias".into(), methods, settings: None })
    }

    fn open(&mut self, _: Identity<'_>) -> Result<u16, Refusal> {
        self.sessions += 1;
        assert_eq!(self.sessions, 1, "a login opens one session");
        Ok(self.sessions)
    }

    fn targets(
        &self,
        _: &SessionInfo,
        wanted: Option<&str>,
        show: &mut dyn FnMut(TargetRecord<'_>) -> ControlFlow<()>,
    ) {
        let portals = ["10.0.0.1:3260", "[fd00::1]:3260"];
        let portals =
            portals.map(|address| Portal { address: address.parse().expect("an address"), group_tag: 1 });
        let others = (0..40).map(|number| format!("{TARGET}.{number}"));
        for name in std::iter::once(TARGET.to_owned()).chain(others) {
            let is_wanted = wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(&name));
            if is_wanted && show(TargetRecord { name: &name, portals: &portals }).is_break() {
                return;
            }
        }
    }
}

/// Two steps; the second must bring the right answer.
#[derive(Default)]
struct Secret {
    asked: bool,
}

impl SecurityMethod for Secret {
    fn name(&self) -> &'static str {
        "CHAP"
    }

    fn has_key(&self, key: &str) -> bool {
        key.starts_with("CHAP_")
    }

    fn step(&mut self, keys: &[(&str, &str)], out: &mut Vec<u8>) -> SecurityStep {
        if !std::mem::replace(&mut self.asked, true) {
            text::push(out, "CHAP_A", "5");
            return SecurityStep::Continue;
        }
        if keys.contains(&("CHAP_R", "0x01")) {
            SecurityStep::Passed { name: "somebody".into() }
        } else {
            SecurityStep::Failed("another response")
        }
    }
}
