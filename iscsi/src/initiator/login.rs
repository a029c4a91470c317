use super::Initiator;
use crate::digest::Digests;
use crate::error::Error;
use crate::frame::Framer;
use crate::limits::{MAX_LOGIN_REQUESTS, MAX_TEXT_REQUEST};
use crate::outbox::Outbox;
use crate::pdu::{LoginRequest, LoginResponse, LoginStatus, Opcode, Stage, flag};
use crate::target::SessionType;
use crate::text::{self, answer};

const AUTH_METHOD: &str = "AuthMethod";
const CHAP: &str = "CHAP";

#[derive(Debug, Default)]
pub(super) struct LoginState {
    stage: u8,
    /// Where the last request wants to go.
    next: Option<Stage>,
    requests: u32,
    /// Answers gathered over responses with the C bit.
    answers: Vec<u8>,
}

impl Initiator {
    pub(super) fn begin_login(&mut self, out: &mut Outbox) {
        let mut text = Vec::new();
        text::push(&mut text, "InitiatorName", &self.settings.initiator_name);
        if !self.settings.target_name.is_empty() {
            text::push(&mut text, "TargetName", &self.settings.target_name);
        }
        if self.settings.session_type == SessionType::Discovery {
            text::push(&mut text, "SessionType", "Discovery");
        }
        let stage = self.settings.first_stage;
        self.enter(stage, text, out);
    }

    /// Sends the one request that says all there is to say in `stage`.
    fn enter(&mut self, stage: Stage, mut text: Vec<u8>, out: &mut Outbox) {
        let proves = stage == Stage::SECURITY && self.settings.chap.is_some();
        if stage == Stage::SECURITY {
            text::push(&mut text, AUTH_METHOD, if proves { CHAP } else { answer::NONE });
        } else if self.settings.negotiate {
            self.negotiation.offer(self.settings.phase(), &mut text);
        }
        if let Some(login) = &mut self.login {
            login.stage = stage.0;
        }
        self.login_request(!proves, &text, out);
    }

    /// Takes the target's security keys; true: there was more to say, and it was said.
    fn prove(&mut self, answers: &[u8], out: &mut Outbox) -> Result<bool, Error> {
        let Some(chap) = &mut self.settings.chap else { return Ok(false) };
        let pairs: Vec<_> = text::parse(answers).map_err(|_| Error::Negotiation)?.collect();
        let keys: Vec<_> = pairs.iter().copied().filter(|(key, _)| key.starts_with("CHAP_")).collect();
        let mut text = Vec::new();
        match pairs.iter().find(|(key, _)| *key == AUTH_METHOD) {
            Some((_, method)) if *method != CHAP => {
                return Err(Error::NotAuthenticated("it does without CHAP"));
            }
            Some(_) => chap.begin(&mut text),
            None => chap.step(&keys, &mut text).map_err(Error::NotAuthenticated)?,
        }
        if text.is_empty() {
            return Ok(false);
        }
        // With the last thing that is said, the stage is over.
        let transit = pairs.iter().all(|(key, _)| *key != AUTH_METHOD);
        self.login_request(transit, &text, out);
        Ok(true)
    }

    fn login_request(&mut self, transit: bool, text: &[u8], out: &mut Outbox) {
        let Some(login) = &mut self.login else { return };
        login.requests += 1;
        let straight = login.stage == Stage::OPERATIONAL.0 || !self.settings.negotiate;
        let next = if straight { Stage::FULL_FEATURE } else { Stage::OPERATIONAL };
        login.next = transit.then_some(next);
        let header = LoginRequest {
            flags: login.stage << 2 | login.next.map_or(0, |next| flag::TRANSIT | next.0),
            isid: self.settings.isid,
            tsih: self.settings.joins.map_or(0, |(tsih, _)| tsih).into(),
            cid: self.settings.cid.into(),
            cmd_sn: self.session.cmd_sn().into(),
            exp_stat_sn: self.exp_stat_sn.unwrap_or(0).into(),
            ..Default::default()
        };
        out.pdu(Digests::default(), header, &[], text);
    }

    /// A login response is complete; its text is in `segment`. True: the login is finished.
    pub(super) fn login_response(&mut self, out: &mut Outbox) -> Result<bool, Error> {
        let header: LoginResponse = *self.framer.bhs().as_ref();
        if header.status.get() != LoginStatus::SUCCESS.0 {
            return Err(self.refused(LoginStatus(header.status.get())));
        }
        self.check_response(&header)?;
        let Some(login) = &mut self.login else { return Err(Error::Unexpected(Opcode::LOGIN_RESPONSE)) };
        login.answers.extend_from_slice(&self.segment);
        if login.answers.len() > MAX_TEXT_REQUEST || login.requests > MAX_LOGIN_REQUESTS {
            return Err(Error::TextTooLong);
        }
        self.use_stat_sn(header.stat_sn.get())?;
        self.session.set_window(header.max_cmd_sn.get());
        if header.flags & flag::CONTINUE != 0 {
            self.login_request(false, &[], out);
            return Ok(false);
        }
        let answers = self.login.as_mut().map(|login| std::mem::take(&mut login.answers)).unwrap_or_default();
        let in_security = self.login.as_ref().is_some_and(|login| login.stage == Stage::SECURITY.0);
        if in_security && self.prove(&answers, out)? {
            return Ok(false);
        }
        for (key, value) in text::parse(&answers).map_err(|_| Error::Negotiation)? {
            if !self.negotiation.accept(key, value) {
                return Err(Error::Negotiation);
            }
        }
        if header.flags & flag::TRANSIT == 0 {
            self.login_request(true, &[], out);
            return Ok(false);
        }
        if in_security && self.settings.chap.as_ref().is_some_and(|chap| !chap.is_over()) {
            return Err(Error::NotAuthenticated("it has left the security stage without a proof"));
        }
        match Stage(header.flags & 3) {
            Stage::OPERATIONAL => {
                self.enter(Stage::OPERATIONAL, Vec::new(), out);
                Ok(false)
            }
            Stage::FULL_FEATURE => {
                self.finish_login(header.tsih.get());
                Ok(true)
            }
            _ => Err(Error::Negotiation),
        }
    }

    /// Takes note of where the target has moved to, if it has.
    fn refused(&mut self, status: LoginStatus) -> Error {
        let moved = [LoginStatus::MOVED_TEMPORARILY, LoginStatus::MOVED_PERMANENTLY].contains(&status);
        if let Some(mut pairs) = text::parse(&self.segment).ok().filter(|_| moved) {
            let address = pairs.find(|(key, _)| *key == "TargetAddress");
            self.moved_to = address.map(|(_, address)| address.to_owned());
        }
        Error::LoginRefused(status)
    }

    /// Checks the fixed fields against those of the request (RFC 7143 11.13).
    fn check_response(&self, header: &LoginResponse) -> Result<(), Error> {
        let Some(login) = &self.login else { return Err(Error::Unexpected(Opcode::LOGIN_RESPONSE)) };
        let transit = header.flags & flag::TRANSIT != 0;
        let next = transit.then_some(Stage(header.flags & 3));
        let more = header.flags & flag::CONTINUE != 0;
        let finished = next == Some(Stage::FULL_FEATURE);
        let tsih = self.settings.joins.map(|(tsih, _)| tsih);
        let fits = header.version_active == 0
            && header.isid == self.settings.isid
            && header.task_tag.get() == 0
            && header.flags >> 2 & 3 == login.stage
            && !(transit && more)
            && (!transit || next == login.next)
            && (!finished || header.tsih.get() != 0)
            && (!finished || tsih.is_none_or(|tsih| tsih == header.tsih.get()));
        if fits { Ok(()) } else { Err(Error::Negotiation) }
    }

    fn finish_login(&mut self, tsih: u16) {
        self.login = None;
        self.session.tsih = tsih;
        self.agreed = self.negotiation.agreed();
        self.digests = Digests { header: self.agreed.header_digest, data: self.agreed.data_digest };
        self.framer = Framer::new(self.settings.parameters.max_recv_data_segment_length);
        self.framer.set_digests(self.digests);
    }
}
