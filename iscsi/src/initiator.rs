//! The initiator's side: login, commands, data. For tests, load generators and stores behind iSCSI.
//!
//! One connection, ErrorRecoveryLevel 0: after any error the session is over. What the connections of a session would
//! share is kept apart.

mod login;
mod receive;
mod requests;
mod session;
mod task;

pub use receive::{Event, Received};
pub use requests::{CommandRequest, TaskManagementRequest};

use crate::chap::InitiatorChap;
use crate::digest::Digests;
use crate::frame::Framer;
use crate::limits::LOGIN_DATA_SEGMENT;
use crate::outbox::Outbox;
use crate::params::{Negotiation, Parameters, Phase};
use crate::pdu::Stage;
use crate::target::SessionType;
use session::Session;
use task::Task;

/// What an initiator wants from a login.
#[derive(Clone, Debug)]
pub struct Settings {
    /// InitiatorName.
    pub initiator_name: String,
    /// TargetName; empty: none, as in a discovery session.
    pub target_name: String,
    /// Kind of session.
    pub session_type: SessionType,
    /// Initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// The session that the connection is to join: its TSIH and what was agreed on for it. `None`: a new one.
    pub joins: Option<(u16, Parameters)>,
    /// Connection identifier.
    pub cid: u16,
    /// First CmdSN.
    pub first_cmd_sn: u32,
    /// What is offered.
    pub parameters: Parameters,
    /// [`Stage::SECURITY`], or [`Stage::OPERATIONAL`] to leave that out.
    pub first_stage: Stage,
    /// Proves who the initiator is; `None`: it need not.
    pub chap: Option<InitiatorChap>,
    /// Offer operational parameters; if not, go from the security stage straight to full-feature phase.
    pub negotiate: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            initiator_name: String::new(),
            target_name: String::new(),
            session_type: SessionType::Normal,
            isid: [0x80, 0, 0, 0, 0, 0],
            joins: None,
            cid: 0,
            first_cmd_sn: 1,
            parameters: Parameters::PREFERRED,
            first_stage: Stage::SECURITY,
            chap: None,
            negotiate: true,
        }
    }
}

impl Settings {
    fn phase(&self) -> Phase {
        match (self.joins, self.session_type) {
            (Some(_), _) => Phase::JoiningLogin,
            (None, SessionType::Normal) => Phase::Login,
            (None, SessionType::Discovery) => Phase::DiscoveryLogin,
        }
    }

    fn negotiation(&self) -> Negotiation {
        let mut negotiation = Negotiation::new(self.parameters);
        if let Some((_, parameters)) = self.joins {
            negotiation.join(parameters);
        }
        negotiation
    }
}

/// An initiator on one connection.
#[derive(Debug)]
pub struct Initiator {
    settings: Settings,
    framer: Framer,
    digests: Digests,
    negotiation: Negotiation,
    /// The login, until it is finished.
    login: Option<login::LoginState>,
    /// Where the target says that it has moved.
    moved_to: Option<String>,
    agreed: Parameters,
    session: Session,
    /// `None` before the first status.
    exp_stat_sn: Option<u32>,
    /// Data segment of a PDU that is not Data-In.
    segment: Vec<u8>,
    text: TextExchange,
}

/// A text request and its answer, which may take several PDUs each way.
#[derive(Debug, Default)]
struct TextExchange {
    /// The request that is under way.
    tag: Option<u32>,
    /// What is still to be sent.
    unsent: Vec<u8>,
    answer: Vec<u8>,
}

impl Initiator {
    /// Begins a login: the first request goes to `out`.
    pub fn new(settings: Settings, out: &mut Outbox) -> Self {
        let mut initiator = Self {
            framer: Framer::new(LOGIN_DATA_SEGMENT),
            digests: Digests::default(),
            negotiation: settings.negotiation(),
            login: Some(login::LoginState::default()),
            moved_to: None,
            agreed: Parameters::DEFAULT,
            session: Session::new(settings.first_cmd_sn),
            exp_stat_sn: None,
            segment: Vec::new(),
            text: TextExchange::default(),
            settings,
        };
        initiator.begin_login(out);
        initiator
    }

    /// What was agreed on. Its `max_recv_data_segment_length` is the target's.
    pub fn parameters(&self) -> &Parameters {
        &self.agreed
    }

    /// Target's part of the session identifier; 0 before the login is finished.
    pub fn tsih(&self) -> u16 {
        self.session.tsih
    }

    /// The TargetAddress that came with a [`LoginStatus::MOVED_TEMPORARILY`](crate::pdu::LoginStatus) or
    /// `MOVED_PERMANENTLY`; see [`FoundAddress::parse`](crate::discovery::FoundAddress::parse).
    pub fn moved_to(&self) -> Option<&str> {
        self.moved_to.as_deref()
    }

    /// How many more commands the target lets us send now.
    pub fn window(&self) -> u32 {
        if self.login.is_some() { 0 } else { self.session.window() }
    }

    /// Whether a request is not answered, nor ended by a task management function.
    pub fn is_open(&self, tag: u32) -> bool {
        self.session.get(tag).is_some()
    }
}
