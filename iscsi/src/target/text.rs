//! Text requests in full-feature phase: discovery and renegotiation (RFC 7143 11.10, appendix C).

use std::ops::ControlFlow;

use super::session::SessionType;
use super::{Connection, Directory, Session, TargetRecord};
use crate::limits::{MAX_TEXT_REQUEST, MAX_TEXT_RESPONSE};
use crate::outbox::Outbox;
use crate::params::{Phase, Repeated};
use crate::pdu::{NO_TAG, RejectReason, TextRequest, TextResponse, flag};
use crate::text::{self, answer};

/// The text request in progress, which may take several PDUs each way.
#[derive(Debug, Default)]
pub(crate) struct TextExchange {
    /// Tag of the request.
    task_tag: u32,
    /// What the next request of the exchange must carry.
    transfer_tag: u32,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    sent: usize,
    /// SendTargets has come.
    has_asked: bool,
}

impl TextExchange {
    pub(super) fn reset(&mut self) {
        *self = Self { transfer_tag: self.transfer_tag, ..Self::default() };
    }

    /// Whether no request is under way: none that continues, and none whose answer does.
    pub(super) fn is_idle(&self) -> bool {
        self.incoming.is_empty() && self.sent == self.outgoing.len()
    }

    pub(super) fn footprint(&self) -> usize {
        self.incoming.capacity() + self.outgoing.capacity()
    }
}

impl Connection {
    /// A text request is complete; its data is in `segment`.
    pub(crate) fn text_request(
        &mut self,
        session: &mut Session,
        directory: &dyn Directory,
        out: &mut Outbox,
    ) {
        let request: TextRequest = *self.framer.bhs().as_ref();
        match self.take_text(&request, session, directory) {
            Ok(()) => {
                session.count(request.opcode.is_immediate(), request.cmd_sn.get());
                self.send_text(session, request.flags & flag::FINAL != 0, out);
            }
            Err(reason) => {
                self.text.reset();
                self.reject(session, reason, out);
            }
        }
    }

    fn take_text(
        &mut self,
        request: &TextRequest,
        session: &Session,
        directory: &dyn Directory,
    ) -> Result<(), RejectReason> {
        let (task_tag, transfer_tag) = (request.task_tag.get(), request.transfer_tag.get());
        let more = request.flags & flag::CONTINUE != 0;
        let last = request.flags & flag::FINAL != 0;
        if task_tag == NO_TAG || more && last {
            return Err(RejectReason::INVALID_FIELD);
        }
        if session.tasks.find(task_tag).is_some() {
            return Err(RejectReason::TASK_IN_PROGRESS);
        }
        if transfer_tag == NO_TAG {
            self.text.reset();
            self.text.task_tag = task_tag;
            self.negotiation.begin();
        } else if (task_tag, transfer_tag) != (self.text.task_tag, self.text.transfer_tag) {
            return Err(RejectReason::INVALID_FIELD);
        }
        let incoming = &mut self.text.incoming;
        if incoming.len() + self.segment.len() > MAX_TEXT_REQUEST {
            return Err(RejectReason::OUT_OF_RESOURCES);
        }
        incoming.extend_from_slice(&self.segment);
        let answers_pending = self.text.sent < self.text.outgoing.len();
        if !more && !answers_pending {
            self.answer_text(session, directory)?;
        }
        Ok(())
    }

    /// Sends the next part of the answers. `last`: the initiator is done.
    fn send_text(&mut self, session: &Session, last: bool, out: &mut Outbox) {
        let stat_sn = self.next_stat_sn();
        let text = &mut self.text;
        let rest = &text.outgoing[text.sent..];
        let part = &rest[..rest.len().min(self.peer_max_data as usize)];
        let more = part.len() < rest.len();
        let done = last && !more;
        text.transfer_tag = text.transfer_tag.wrapping_add(1) & 0x7fff_ffff;
        let header = TextResponse {
            flags: if done { flag::FINAL } else { 0 } | if more { flag::CONTINUE } else { 0 },
            task_tag: text.task_tag.into(),
            transfer_tag: if done { NO_TAG } else { text.transfer_tag }.into(),
            stat_sn: stat_sn.into(),
            exp_cmd_sn: session.window.expected().into(),
            max_cmd_sn: session.window.max().into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], part);
        text.sent += part.len();
        if done {
            text.reset();
        }
    }

    fn answer_text(&mut self, session: &Session, directory: &dyn Directory) -> Result<(), RejectReason> {
        let incoming = std::mem::take(&mut self.text.incoming);
        let mut answers = Vec::new();
        for (key, value) in text::parse(&incoming).map_err(|_| RejectReason::PROTOCOL)? {
            match key {
                // Once is enough (RFC 7143 6.4), also for who pays for the answers.
                "SendTargets" if std::mem::replace(&mut self.text.has_asked, true) => {
                    return Err(RejectReason::PROTOCOL);
                }
                "SendTargets" => send_targets(session, directory, value, &mut answers),
                "InitiatorAlias" => {}
                // These are for the target to tell, or for a login.
                "TargetAlias"
                | "TargetAddress"
                | "TargetPortalGroupTag"
                | "TargetName"
                | "InitiatorName"
                | "SessionType"
                | "AuthMethod" => text::push(&mut answers, key, answer::REJECT),
                _ => {
                    let answered = self.negotiation.answer(Phase::FullFeature, key, value, &mut answers);
                    answered.map_err(|Repeated| RejectReason::PROTOCOL)?;
                }
            }
            if answers.len() > MAX_TEXT_RESPONSE {
                return Err(RejectReason::OUT_OF_RESOURCES);
            }
        }
        self.peer_max_data = self.negotiation.agreed().max_recv_data_segment_length;
        self.text.outgoing = answers;
        self.text.sent = 0;
        Ok(())
    }
}

/// A normal session is told about its own target only, a discovery session about those it may see.
fn send_targets(session: &Session, directory: &dyn Directory, which: &str, answers: &mut Vec<u8>) {
    let info = session.info();
    let own = info.target_name.as_str();
    let wanted = match (info.session_type, which) {
        (SessionType::Discovery, "All") => None,
        (SessionType::Discovery, name) if is_name(name) => Some(name),
        (SessionType::Normal, "" | "All") => Some(own),
        (SessionType::Normal, name) if name.eq_ignore_ascii_case(own) => Some(own),
        _ => return text::push(answers, "SendTargets", answer::REJECT),
    };
    directory.targets(info, wanted, &mut |record: TargetRecord<'_>| {
        let start = answers.len();
        text::push(answers, "TargetName", record.name);
        for portal in record.portals {
            text::push(answers, "TargetAddress", &portal.to_string());
        }
        if answers.len() > MAX_TEXT_RESPONSE {
            answers.truncate(start);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
}

/// Whether this has the form of an iSCSI name (RFC 7143 4.2.7).
pub fn is_name(name: &str) -> bool {
    let Some((kind, rest)) = name.split_at_checked(4) else { return false };
    let is_hexadecimal = || rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let has_form = match kind.to_ascii_lowercase().as_str() {
        "iqn." => !rest.is_empty(),
        "eui." => rest.len() == 16 && is_hexadecimal(),
        "naa." => matches!(rest.len(), 16 | 32) && is_hexadecimal(),
        _ => false,
    };
    has_form
        && name.len() <= crate::limits::MAX_NAME
        && !name.chars().any(|c| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_have_one_of_three_forms() {
        let long = format!("iqn.{}", "x".repeat(219));
        for name in
            ["iqn.2024-01.example:disk", "IQN.x", "eui.02004567A425678D", "naa.52004567BA64678D", &long]
        {
            assert!(is_name(name), "{name}");
        }
        assert!(is_name("naa.62004567BA64678D0123456789ABCDEF"));
        let too_long = format!("{long}x");
        for name in [
            "",
            "iqn",
            "iqn.",
            "éqn.x",
            "eui.02004567A425678",
            "eui.02004567A425678G",
            "naa.5200",
            "iqn.a b",
            &too_long,
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}
