//! The initiator's side: login, commands, data. For tests, load generators and stores behind iSCSI.
//!
//! One connection, ErrorRecoveryLevel 0: after any error the session is over.

mod login;
mod receive;
mod requests;
mod task;

pub use receive::{Event, Received};
pub use requests::{CommandRequest, TaskManagementRequest};

use std::collections::HashMap;

use crate::chap::InitiatorChap;
use crate::digest::Digests;
use crate::frame::Framer;
use crate::limits::LOGIN_DATA_SEGMENT;
use crate::outbox::Outbox;
use crate::params::{Negotiation, Parameters, Phase};
use crate::pdu::Stage;
use crate::target::SessionType;
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
    agreed: Parameters,
    tsih: u16,
    cmd_sn: u32,
    max_cmd_sn: u32,
    /// `None` before the first status.
    exp_stat_sn: Option<u32>,
    next_tag: u32,
    tasks: HashMap<u32, Task>,
    /// Data segment of a PDU that is not Data-In.
    segment: Vec<u8>,
    /// Text response gathered over PDUs.
    text: Vec<u8>,
}

impl Initiator {
    /// Begins a login: the first request goes to `out`.
    pub fn new(settings: Settings, out: &mut Outbox) -> Self {
        let mut initiator = Self {
            framer: Framer::new(LOGIN_DATA_SEGMENT),
            digests: Digests::default(),
            negotiation: settings.negotiation(),
            login: Some(login::LoginState::default()),
            agreed: Parameters::DEFAULT,
            tsih: 0,
            cmd_sn: settings.first_cmd_sn,
            max_cmd_sn: settings.first_cmd_sn,
            exp_stat_sn: None,
            next_tag: 0,
            tasks: HashMap::new(),
            segment: Vec::new(),
            text: Vec::new(),
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
        self.tsih
    }

    /// How many more commands the target lets us send now.
    pub fn window(&self) -> u32 {
        if self.login.is_some() {
            return 0;
        }
        let window = self.max_cmd_sn.wrapping_sub(self.cmd_sn).wrapping_add(1);
        if window > i32::MAX as u32 { 0 } else { window }
    }
}
