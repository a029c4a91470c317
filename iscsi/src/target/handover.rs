//! Handing a session and its connection to another process, which goes on with both.
//!
//! The session is [frozen](Session::freeze) first: the initiator may send what it was told that it may, and nothing more. When
//! all of that is answered, there is a moment without tasks, and the rest of the stream is the other process's.

use super::receive::Sink;
use super::text::{TextExchange, is_name};
use super::{Connection, Session, SessionInfo};
use crate::digest::Digests;
use crate::frame::Framer;
use crate::limits::{MAX_BINARY_VALUE, MAX_COMMAND_WINDOW};
use crate::params::{Negotiation, Parameters};
use serde::{Deserialize, Serialize};

/// A session and its connection between two commands: plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Who talks to whom.
    pub info: SessionInfo,
    agreed: Parameters,
    negotiation: Negotiation,
    /// Longest data segment that the target takes.
    max_data: u32,
    cid: u16,
    stat_sn: u32,
    /// ExpCmdSN.
    expected: u32,
    /// MaxCmdSN, as the initiator knows it.
    told: u32,
    /// Commands that may be under way.
    window: u16,
    /// The beginning of a PDU that has not come whole.
    begun: Vec<u8>,
}

/// Why there is nothing to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was handed over is no session")]
pub struct NoSession;

impl Session {
    /// From now on the initiator is told of no more commands that it may send, until another process
    /// [resumes](SessionState::resume) the session.
    pub fn freeze(&mut self) {
        self.window.freeze();
    }
}

impl Connection {
    /// Whether there is a state for another process: no task is open, no request before others is missing, no text exchange is
    /// under way, and no data of a PDU is still to come.
    pub fn is_between_requests(&self, session: &Session) -> bool {
        let window = &session.window;
        self.framer.begun().is_some()
            && session.tasks().next().is_none()
            && !window.is_due()
            && !window.has_gap()
            && self.text.is_idle()
    }

    /// The state for another process, [if there is one](Self::is_between_requests).
    pub fn hand_over(&self, session: &Session) -> Option<SessionState> {
        let begun = self.framer.begun().filter(|_| self.is_between_requests(session))?;
        Some(SessionState {
            info: session.info().clone(),
            agreed: *session.parameters(),
            negotiation: self.negotiation.clone(),
            max_data: self.framer.max_data(),
            cid: self.cid,
            stat_sn: self.stat_sn,
            expected: session.window.expected(),
            told: session.window.told(),
            window: session.window.size(),
            begun: begun.to_vec(),
        })
    }
}

impl SessionInfo {
    /// Whether a login may have left it.
    fn makes_sense(&self) -> bool {
        let texts = [Some(&self.initiator_alias), self.authenticated.as_ref()];
        is_name(&self.initiator_name)
            && (self.target_name.is_empty() || is_name(&self.target_name))
            && texts.into_iter().flatten().all(|text| text.len() <= MAX_BINARY_VALUE)
    }
}

impl SessionState {
    /// Goes on. Also returns what of the stream comes before what is still to be received.
    ///
    /// # Errors
    /// When this is no state that was ever [handed over](Connection::hand_over).
    pub fn resume(self) -> Result<(Connection, Session, Vec<u8>), NoSession> {
        let ahead = self.told.wrapping_sub(self.expected).wrapping_add(1);
        let agreed = self.negotiation.agreed();
        let makes_sense = (1..=MAX_COMMAND_WINDOW).contains(&self.window)
            && ahead <= u32::from(self.window)
            && self.agreed.are_possible()
            && agreed.are_possible()
            && Parameters::DATA_SEGMENT.contains(&self.max_data)
            && self.begun.len() <= Framer::LONGEST_HEADER
            && self.info.makes_sense();
        if !makes_sense {
            return Err(NoSession);
        }
        let digests = Digests { header: agreed.header_digest, data: agreed.data_digest };
        let mut framer = Framer::new(self.max_data);
        framer.set_digests(digests);
        let connection = Connection {
            framer,
            cid: self.cid,
            stat_sn: self.stat_sn,
            digests,
            peer_max_data: agreed.max_recv_data_segment_length,
            negotiation: self.negotiation,
            sink: Sink::Discard,
            segment: Vec::new(),
            text: TextExchange::default(),
        };
        let mut session = Session::new(self.info, self.agreed, self.expected, self.window);
        session.window.go_on(self.told);
        Ok((connection, session, self.begun))
    }
}
