//! The login of one connection (RFC 7143 6.3): security, operational parameters, full-feature phase.

use std::borrow::Cow;

use super::Connection;
use super::directory::{Admission, Directory, Identity, Refusal, SecurityMethod, SecurityStep};
use super::receive::Sink;
use super::session::{Session, SessionInfo, SessionType};
use super::text::{TextExchange, is_name};
use crate::digest::Digests;
use crate::error::Error;
use crate::frame::{Framer, Part};
use crate::limits::{
    DEFAULT_COMMAND_WINDOW, LOGIN_DATA_SEGMENT, MAX_COMMAND_WINDOW, MAX_LOGIN_REQUESTS, MAX_TEXT_REQUEST,
};
use crate::outbox::Outbox;
use crate::params::{Negotiation, Parameters, Phase, is_capped};
use crate::pdu::{LoginRequest, LoginResponse, LoginStatus, Opcode, Stage, flag};
use crate::text::{self, answer};

/// What a target offers in a login.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What we want. Several connections per session and error recovery above level 0 are refused.
    pub parameters: Parameters,
    /// The digests without which no one logs in; they are offered whatever the parameters say.
    pub required_digests: Digests,
    /// Commands an initiator may have open at once, 1 to
    /// [`MAX_COMMAND_WINDOW`](crate::limits::MAX_COMMAND_WINDOW).
    pub command_window: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            parameters: Parameters {
                data_pdu_in_order: false,
                data_sequence_in_order: false,
                ..Parameters::PREFERRED
            },
            required_digests: Digests::default(),
            command_window: DEFAULT_COMMAND_WINDOW,
        }
    }
}

impl Settings {
    /// Within what this crate can do.
    fn within_bounds(self) -> Self {
        let parameters = Parameters {
            header_digest: self.parameters.header_digest || self.required_digests.header,
            data_digest: self.parameters.data_digest || self.required_digests.data,
            max_connections: 1,
            error_recovery_level: 0,
            ..self.parameters
        };
        let command_window = self.command_window.clamp(1, MAX_COMMAND_WINDOW);
        Self { parameters, command_window, ..self }
    }
}

/// A finished login.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, in full-feature phase.
    pub connection: Connection,
    /// The new session.
    pub session: Session,
}

/// What [`Login::receive`] did.
#[derive(Debug)]
pub struct Progress {
    /// Bytes of the input that are done with. Give the rest to the connection once the login is finished.
    pub used: usize,
    /// The result, when the login is finished. Until then more input is needed.
    pub accepted: Option<Box<Accepted>>,
}

/// The target's side of a login.
pub struct Login {
    framer: Framer,
    settings: Settings,
    negotiation: Negotiation,
    stage: Stage,
    /// Fields of the first request that all others repeat.
    first: Option<LoginRequest>,
    info: SessionInfo,
    security: Security,
    /// What the directory let us tell, until it is told.
    announce: Option<Admission>,
    /// Text gathered over requests with the C bit.
    pub(super) text: Vec<u8>,
    requests: u32,
    declared: bool,
    stat_sn: u32,
    /// Why the login was refused.
    reason: Option<Cow<'static, str>>,
}

enum Security {
    /// The initiator must pass one of these; none: it need not.
    Open(Vec<Box<dyn SecurityMethod>>),
    Running(Box<dyn SecurityMethod>),
    Done,
}

impl Security {
    /// Whether a key is for the method that was chosen.
    fn has_key(&self, key: &str) -> bool {
        matches!(self, Self::Running(method) if method.has_key(key))
    }
}

impl Login {
    /// Waits for the first login request.
    pub fn new(settings: Settings) -> Self {
        let settings = settings.within_bounds();
        Self {
            framer: Framer::new(LOGIN_DATA_SEGMENT),
            negotiation: Negotiation::new(settings.parameters).requiring(settings.required_digests),
            settings,
            stage: Stage::SECURITY,
            first: None,
            info: SessionInfo::default(),
            security: Security::Open(Vec::new()),
            announce: None,
            text: Vec::new(),
            requests: 0,
            declared: false,
            stat_sn: 0,
            reason: None,
        }
    }

    /// Takes input; answers go to `out`. After an error the login is over: send what is in `out` and close.
    pub fn receive(
        &mut self,
        directory: &mut dyn Directory,
        input: &[u8],
        out: &mut Outbox,
    ) -> Result<Progress, Error> {
        let mut used = 0;
        loop {
            let (taken, part) = self.framer.step(&input[used..])?;
            used += taken;
            let complete = match part {
                Part::More => return Ok(Progress { used, accepted: None }),
                Part::Header => {
                    let opcode = self.framer.common().opcode;
                    if opcode.kind() != Opcode::LOGIN_REQUEST {
                        return Err(self.unexpected(opcode, out));
                    }
                    self.framer.data_length() == 0
                }
                Part::Data(bytes) => {
                    self.text.extend_from_slice(bytes);
                    false
                }
                Part::End { .. } => true,
            };
            if complete && self.request(directory, out)? {
                return Ok(Progress { used, accepted: Some(Box::new(self.finish())) });
            }
        }
    }

    /// Why the login was refused, if it was; not for the initiator.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Who is logging in where, as far as that is known.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// A PDU that is no login request: the first on a connection gets no answer (RFC 7143 6.3).
    fn unexpected(&mut self, opcode: Opcode, out: &mut Outbox) -> Error {
        if self.first.is_some() {
            let reason = format!("a {} PDU does not belong into a login", opcode.kind());
            self.refuse(Refusal::new(LoginStatus::INVALID_DURING_LOGIN, reason), out);
        }
        Error::Unexpected(opcode.kind())
    }

    /// A request is complete. True: the login is finished.
    fn request(&mut self, directory: &mut dyn Directory, out: &mut Outbox) -> Result<bool, Error> {
        let header: LoginRequest = *self.framer.bhs().as_ref();
        self.process(&header, directory, out).map_err(|refusal| {
            let status = self.refuse(refusal, out);
            Error::LoginRefused(status)
        })
    }

    fn process(
        &mut self,
        header: &LoginRequest,
        directory: &mut dyn Directory,
        out: &mut Outbox,
    ) -> Result<bool, Refusal> {
        let is_first = self.first.is_none();
        if is_first {
            self.stage = stages(header).0;
            self.stat_sn = header.exp_stat_sn.get();
            self.first = Some(*header);
            self.info.isid = header.isid;
            self.info.tsih = header.tsih.get();
        }
        let next = self.check(header)?;
        if header.flags & flag::CONTINUE != 0 {
            self.respond(header, 0, &[], out);
            return Ok(false);
        }
        let text = std::mem::take(&mut self.text);
        let pairs: Vec<_> = text::parse(&text).map_err(|error| wrong(error.to_string()))?.collect();
        if self.info.initiator_name.is_empty() {
            self.identify(&pairs, directory)?;
        }
        let mut answers = Vec::new();
        self.negotiate(&pairs, &mut answers)?;
        let transit = self.announce_and_move(next, &mut answers)?;
        if answers.len() > LOGIN_DATA_SEGMENT as usize {
            return Err(wrong("the request needs more answers than there is room for"));
        }
        let finished = transit == Some(Stage::FULL_FEATURE);
        if finished {
            self.enter_session(directory)?;
        }
        let flags = transit.map_or(0, |next| flag::TRANSIT | next.0);
        self.respond(header, flags, &answers, out);
        self.stage = transit.unwrap_or(self.stage);
        Ok(finished)
    }

    /// All is agreed on: has the directory open a session, or let the connection join one.
    fn enter_session(&mut self, directory: &mut dyn Directory) -> Result<(), Refusal> {
        let parameters = self.negotiation.agreed();
        let required = self.settings.required_digests;
        if required.header && !parameters.header_digest || required.data && !parameters.data_digest {
            return Err(wrong("the initiator does without a digest that is required"));
        }
        let identity = self.identity(&parameters);
        if self.info.tsih == 0 {
            self.info.tsih = directory.open(identity)?;
        } else {
            self.negotiation.join(directory.join(identity)?);
        }
        Ok(())
    }

    fn identity<'a>(&'a self, parameters: &'a Parameters) -> Identity<'a> {
        let cid = self.first.map_or(0, |first| first.cid.get());
        Identity { info: &self.info, cid, parameters }
    }

    /// Checks the fixed fields; returns the stage the initiator wants to move to.
    fn check(&mut self, header: &LoginRequest) -> Result<Option<Stage>, Refusal> {
        let first = self.first.unwrap_or(*header);
        if header.version_min > 0 {
            let reason = format!("the initiator speaks version {} and later", header.version_min);
            return Err(Refusal::new(LoginStatus::UNSUPPORTED_VERSION, reason));
        }
        self.requests += 1;
        let (current, next) = stages(header);
        let transit = header.flags & flag::TRANSIT != 0;
        let more = header.flags & flag::CONTINUE != 0;
        let repeats = (header.isid, header.tsih, header.task_tag, header.cid)
            == (first.isid, first.tsih, first.task_tag, first.cid);
        let legal_stages = [Stage::SECURITY, Stage::OPERATIONAL].contains(&current)
            && (!transit || [Stage::OPERATIONAL, Stage::FULL_FEATURE].contains(&next) && next.0 > current.0);
        let fault = if !repeats {
            "a request does not repeat ISID, TSIH, task tag and CID of the first"
        } else if !legal_stages || current != self.stage || transit && more {
            "a request has the wrong stages"
        } else if self.requests > MAX_LOGIN_REQUESTS {
            "there are too many requests"
        } else if self.text.len() > MAX_TEXT_REQUEST {
            "the text is too long"
        } else {
            return Ok(transit.then_some(next));
        };
        Err(wrong(fault))
    }

    /// Takes the names from the first text and asks the directory.
    fn identify(&mut self, pairs: &[(&str, &str)], directory: &mut dyn Directory) -> Result<(), Refusal> {
        let value = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        let name = |key| match value(key) {
            None => Ok(None),
            Some(name) if is_name(name) => Ok(Some(name.to_ascii_lowercase())),
            Some(_) => Err(wrong(format!("{key} is not an iSCSI name"))),
        };
        let missing =
            |key| Refusal::new(LoginStatus::MISSING_PARAMETER, format!("the initiator does not send {key}"));
        let session_type = match value("SessionType") {
            None | Some("Normal") => SessionType::Normal,
            Some("Discovery") => SessionType::Discovery,
            Some(_) => {
                let reason = "there are normal and discovery sessions only";
                return Err(Refusal::new(LoginStatus::SESSION_TYPE_NOT_SUPPORTED, reason));
            }
        };
        let initiator_name = name("InitiatorName")?.ok_or_else(|| missing("InitiatorName"))?;
        let target_name = match value("TargetName") {
            // A well-formed login names no target that has no proper name: it just does not exist.
            Some(target) if !is_name(target) => {
                return Err(Refusal::new(LoginStatus::NOT_FOUND, "TargetName is not an iSCSI name"));
            }
            _ => name("TargetName")?,
        };
        if session_type == SessionType::Normal && target_name.is_none() {
            return Err(missing("TargetName"));
        }
        self.info = SessionInfo {
            initiator_name,
            initiator_alias: value("InitiatorAlias").unwrap_or_default().to_owned(),
            target_name: target_name.unwrap_or_default(),
            session_type,
            authenticated: None,
            ..self.info
        };
        let mut admission = directory.admit(self.identity(&Parameters::DEFAULT))?;
        if let Some(settings) = admission.settings {
            self.settings = settings.within_bounds();
            self.negotiation =
                Negotiation::new(self.settings.parameters).requiring(self.settings.required_digests);
        }
        self.security = Security::Open(std::mem::take(&mut admission.methods));
        self.announce = Some(admission);
        Ok(())
    }

    /// Answers the keys of one request.
    fn negotiate(&mut self, pairs: &[(&str, &str)], answers: &mut Vec<u8>) -> Result<(), Refusal> {
        let phase = match self.info.session_type {
            _ if self.info.tsih != 0 => Phase::JoiningLogin,
            SessionType::Normal => Phase::Login,
            SessionType::Discovery => Phase::DiscoveryLogin,
        };
        let mut own_keys = Vec::new();
        let is_last = |pair: &&(&str, &str)| is_capped(pair.0);
        let ordered = pairs.iter().filter(|pair| !is_last(pair)).chain(pairs.iter().filter(is_last));
        for &(key, value) in ordered {
            match key {
                "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType" => {}
                "AuthMethod" => self.choose_method(value, answers)?,
                "SendTargets" | "TargetAlias" | "TargetAddress" | "TargetPortalGroupTag" => {
                    text::push(answers, key, answer::REJECT);
                }
                _ if self.security.has_key(key) => own_keys.push((key, value)),
                _ => {
                    let repeated = |_| wrong(format!("{key} is negotiated twice"));
                    self.negotiation.answer(phase, key, value, answers).map_err(repeated)?;
                }
            }
        }
        if let Security::Running(method) = &mut self.security {
            match method.step(&own_keys, answers) {
                SecurityStep::Continue => {}
                SecurityStep::Passed { name } => {
                    self.info.authenticated = Some(name);
                    self.security = Security::Done;
                }
                SecurityStep::Failed(why) => return Err(not_authenticated(why)),
            }
        }
        Ok(())
    }

    fn choose_method(&mut self, offer: &str, answers: &mut Vec<u8>) -> Result<(), Refusal> {
        let Security::Open(methods) = &mut self.security else {
            return Err(wrong("AuthMethod is negotiated twice"));
        };
        let mut offers = offer.split(',');
        if methods.is_empty() {
            let failure = || not_authenticated("the initiator wants a proof where none is asked for");
            offers.find(|name| *name == answer::NONE).ok_or_else(failure)?;
            text::push(answers, "AuthMethod", answer::NONE);
            self.security = Security::Done;
            return Ok(());
        }
        let place = offers.find_map(|name| methods.iter().position(|method| method.name() == name));
        let failure = || not_authenticated("the initiator has none of the methods that are asked for");
        let method = methods.swap_remove(place.ok_or_else(failure)?);
        text::push(answers, "AuthMethod", method.name());
        self.security = Security::Running(method);
        Ok(())
    }

    /// Appends what we tell by ourselves, and decides whether the stage changes.
    fn announce_and_move(
        &mut self,
        next: Option<Stage>,
        answers: &mut Vec<u8>,
    ) -> Result<Option<Stage>, Refusal> {
        let normal = self.info.session_type == SessionType::Normal;
        if let Some(admission) = self.announce.take() {
            if normal {
                text::push(answers, "TargetPortalGroupTag", &admission.group_tag.to_string());
            }
            if !admission.alias.is_empty() {
                text::push(answers, "TargetAlias", &admission.alias);
            }
        }
        let proven = match &self.security {
            Security::Open(methods) => methods.is_empty(),
            Security::Running(_) => false,
            Security::Done => true,
        };
        if self.stage == Stage::OPERATIONAL {
            if !proven {
                return Err(not_authenticated("the initiator leaves the proof out"));
            }
            if !std::mem::replace(&mut self.declared, true) {
                self.negotiation.declare(answers);
            }
        }
        if proven {
            return Ok(next);
        }
        // An initiator that wants to leave the security stage without choosing a method never will.
        match (&self.security, next) {
            (Security::Open(_), Some(_)) => Err(not_authenticated("the initiator chooses no method")),
            _ => Ok(None),
        }
    }

    fn respond(&mut self, request: &LoginRequest, flags: u8, text: &[u8], out: &mut Outbox) {
        let cmd_sn = request.cmd_sn.get();
        // Of one command until the target is known, as MaxCmdSN cannot go back.
        let window =
            if !self.info.initiator_name.is_empty() { u32::from(self.settings.command_window) } else { 1 };
        let header = LoginResponse {
            flags: flags | self.stage.0 << 2,
            isid: request.isid,
            tsih: self.info.tsih.into(),
            task_tag: request.task_tag,
            stat_sn: self.stat_sn.into(),
            exp_cmd_sn: cmd_sn.into(),
            max_cmd_sn: cmd_sn.wrapping_add(window - 1).into(),
            ..Default::default()
        };
        self.stat_sn = self.stat_sn.wrapping_add(1);
        out.pdu(Digests::default(), header, &[], text);
    }

    /// Sends the refusal; returns its status.
    fn refuse(&mut self, refusal: Refusal, out: &mut Outbox) -> LoginStatus {
        let mut text = Vec::new();
        if let Some(address) = refusal.moved_to {
            // Without the portal group tag (RFC 7143 13.8).
            text::push(&mut text, "TargetAddress", &address.to_string());
        }
        self.reason = Some(refusal.reason);
        let request: LoginRequest = *self.framer.bhs().as_ref();
        let header = LoginResponse {
            flags: self.stage.0 << 2,
            isid: request.isid,
            tsih: request.tsih,
            task_tag: request.task_tag,
            stat_sn: self.stat_sn.into(),
            exp_cmd_sn: request.cmd_sn,
            max_cmd_sn: request.cmd_sn,
            status: refusal.status.0.into(),
            ..Default::default()
        };
        self.stat_sn = self.stat_sn.wrapping_add(1);
        out.pdu(Digests::default(), header, &[], &text);
        refusal.status
    }

    fn finish(&mut self) -> Accepted {
        let first = self.first.unwrap_or_default();
        let header: LoginRequest = *self.framer.bhs().as_ref();
        let agreed = self.negotiation.agreed();
        let digests = Digests { header: agreed.header_digest, data: agreed.data_digest };
        let mut framer = Framer::new(self.settings.parameters.max_recv_data_segment_length);
        framer.set_digests(digests);
        let info = std::mem::take(&mut self.info);
        let connection = Connection {
            framer,
            cid: first.cid.get(),
            stat_sn: self.stat_sn,
            digests,
            peer_max_data: agreed.max_recv_data_segment_length,
            negotiation: self.negotiation.clone(),
            sink: Sink::Discard,
            segment: Vec::new(),
            text: TextExchange::default(),
        };
        let session = Session::new(info, agreed, header.cmd_sn.get(), self.settings.command_window);
        Accepted { connection, session }
    }
}

/// Current and next stage.
fn stages(header: &LoginRequest) -> (Stage, Stage) {
    (Stage(header.flags >> 2 & 3), Stage(header.flags & 3))
}

fn wrong(reason: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(LoginStatus::INITIATOR_ERROR, reason)
}

fn not_authenticated(reason: &'static str) -> Refusal {
    Refusal::new(LoginStatus::AUTHENTICATION_FAILURE, reason)
}
