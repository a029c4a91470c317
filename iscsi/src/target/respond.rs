//! Answers of the target.

use std::ops::Range;

use zerocopy::network_endian::{U16, U32};

use super::receive::transfer_tag;
use super::write::Progress;
use super::{Connection, Session, TaskId};
use crate::limits::MAX_SENSE;
use crate::outbox::{Outbox, Payload};
use crate::params::Parameters;
use crate::pdu::{
    AsyncEvent, AsynchronousMessage, DataIn, LogoutResponse, LogoutResult, NO_TAG, NopIn, NopOut,
    ReadyToTransfer, Reject, RejectReason, ScsiResponse, ServiceResponse, TaskManagementResponse,
    TaskManagementResult, flag,
};

/// Difference between what the initiator expected and what the command moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// None.
    #[default]
    Exact,
    /// So many bytes of what was expected were not moved.
    Underflow(u32),
    /// So many bytes more would have been moved.
    Overflow(u32),
}

impl Residual {
    fn count(self) -> U32 {
        match self {
            Self::Exact => 0.into(),
            Self::Underflow(count) | Self::Overflow(count) => count.into(),
        }
    }

    fn flag(self, underflow: u8, overflow: u8) -> u8 {
        match self {
            Self::Exact => 0,
            Self::Underflow(_) => underflow,
            Self::Overflow(_) => overflow,
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response<'a> {
    /// SCSI status.
    pub status: u8,
    /// Sense data; empty: none. Cut at [`MAX_SENSE`].
    pub sense: &'a [u8],
    /// Status qualifier; sent from [`Parameters::SCSI_FEATURES`](crate::params::Parameters::SCSI_FEATURES) on.
    pub status_qualifier: u16,
    /// Residual: of the write part if the command is bidirectional.
    pub residual: Residual,
    /// Residual of the read part of a bidirectional command.
    pub read_residual: Residual,
    /// The target failed to run the command; status and sense are not sent.
    pub target_failure: bool,
}

impl Response<'_> {
    /// A Data-In PDU can carry it.
    fn fits_data_in(&self) -> bool {
        let plain = self.sense.is_empty() && self.read_residual == Residual::Exact && !self.target_failure;
        plain && self.status == 0 && self.status_qualifier == 0
    }
}

/// An asynchronous message (RFC 7143 11.9).
#[derive(Clone, Copy, Debug)]
pub struct AsyncMessage<'a> {
    /// What happened.
    pub event: AsyncEvent,
    /// Logical unit of a SCSI event.
    pub lun: [u8; 8],
    /// Parameters 1 to 3.
    pub parameters: [u16; 3],
    /// Sense data of a SCSI event.
    pub sense: &'a [u8],
}

impl Connection {
    /// Says that the command `task` needs `wanted` bytes of data from the initiator, and sends R2Ts for what does
    /// not come by itself. True: all of it is there already; else [`Event::DataComplete`](super::Event) will
    /// tell. To be called once per command, when there is a buffer.
    pub fn request_data(
        &mut self,
        session: &mut Session,
        task: TaskId,
        wanted: u32,
        out: &mut Outbox,
    ) -> bool {
        let Some(open) = session.tasks.get_mut(task) else { return false };
        match open.write.want(wanted) {
            Progress::Complete => true,
            Progress::More | Progress::Failed(_) => {
                self.send_requests(session, task, out);
                false
            }
        }
    }

    pub(crate) fn send_requests(&mut self, session: &mut Session, task: TaskId, out: &mut Outbox) {
        let Some(open) = session.tasks.get_mut(task) else { return };
        while let Some(request) = open.write.next_request() {
            let header = ReadyToTransfer {
                lun: open.lun,
                task_tag: open.tag.into(),
                transfer_tag: transfer_tag(task, request.transfer).into(),
                stat_sn: self.stat_sn.into(),
                exp_cmd_sn: session.window.expected().into(),
                max_cmd_sn: session.window.max().into(),
                r2t_sn: open.data_sn.into(),
                buffer_offset: request.offset.into(),
                desired_length: request.length.into(),
                ..Default::default()
            };
            open.data_sn = open.data_sn.wrapping_add(1);
            out.pdu(self.digests, header, &[], &[]);
        }
    }

    /// Sends a part of a read command's data; more or the response follows. No more than the initiator expects
    /// is sent. False: the task is closed; `payload` comes back through the outbox either way.
    pub fn send_data(
        &mut self,
        session: &mut Session,
        task: TaskId,
        payload: &Payload<'_>,
        out: &mut Outbox,
    ) -> bool {
        self.data_in(session, task, payload, None, out).is_some()
    }

    /// Ends the command `task`. `data` is sent first, and carries a GOOD status with it. False: the task is
    /// closed; `data` comes back through the outbox either way.
    pub fn respond(
        &mut self,
        session: &mut Session,
        task: TaskId,
        response: &Response<'_>,
        data: Option<&Payload<'_>>,
        out: &mut Outbox,
    ) -> bool {
        let folded = response.fits_data_in().then_some(response);
        let status_sent = match data {
            Some(data) => self.data_in(session, task, data, folded, out),
            None => Some(false),
        };
        let Some(open) = session.tasks.get(task) else { return false };
        if status_sent != Some(true) {
            let (tag, exp_data_sn) = (open.tag, if open.read_sent > 0 { open.data_sn } else { 0 });
            session.discard(task);
            self.scsi_response(session, tag, exp_data_sn, response, out);
            return true;
        }
        session.discard(task)
    }

    /// Sends Data-In PDUs, with `status` in the last. `None`: no such task; else whether the status was sent.
    fn data_in(
        &mut self,
        session: &mut Session,
        task: TaskId,
        payload: &Payload<'_>,
        status: Option<&Response<'_>>,
        out: &mut Outbox,
    ) -> Option<bool> {
        let max_burst = session.parameters().max_burst_length;
        let Some(open) = session.tasks.get_mut(task) else {
            out.release(payload.token());
            return None;
        };
        let total = payload.len().min(open.read_expected - open.read_sent);
        if total == 0 {
            out.release(payload.token());
            return Some(false);
        }
        let mut start = 0;
        while start < total {
            let burst_left = max_burst - open.read_sent % max_burst;
            let length = self.peer_max_data.min(burst_left).min(total - start);
            let last = start + length == total;
            let mut header = DataIn {
                task_tag: open.tag.into(),
                transfer_tag: NO_TAG.into(),
                exp_cmd_sn: session.window.expected().into(),
                max_cmd_sn: session.window.max().into(),
                data_sn: open.data_sn.into(),
                buffer_offset: open.read_sent.into(),
                ..Default::default()
            };
            if last || length == burst_left {
                header.flags |= flag::FINAL;
            }
            if let Some(response) = status.filter(|_| last) {
                if !open.immediate {
                    // The task is about to be closed.
                    header.max_cmd_sn = session.window.max_if_widened().into();
                }
                header.flags |= flag::STATUS | response.residual.flag(flag::UNDERFLOW, flag::OVERFLOW);
                header.status = response.status;
                header.stat_sn = self.next_stat_sn().into();
                header.residual = response.residual.count();
            }
            open.read_sent += length;
            open.data_sn = open.data_sn.wrapping_add(1);
            out.pdu_with_payload(
                self.digests,
                header,
                &[],
                (payload, Range { start, end: start + length }, last),
            );
            start += length;
        }
        Some(status.is_some())
    }

    fn scsi_response(
        &mut self,
        session: &Session,
        tag: u32,
        exp_data_sn: u32,
        response: &Response<'_>,
        out: &mut Outbox,
    ) {
        let mut header = ScsiResponse {
            status: response.status,
            task_tag: tag.into(),
            stat_sn: self.next_stat_sn().into(),
            exp_cmd_sn: session.window.expected().into(),
            max_cmd_sn: session.window.max().into(),
            exp_data_sn: exp_data_sn.into(),
            bidi_residual: response.read_residual.count(),
            residual: response.residual.count(),
            ..Default::default()
        };
        if session.parameters().protocol_level >= Parameters::SCSI_FEATURES {
            header.status_qualifier = response.status_qualifier.into();
        }
        header.flags |= response.residual.flag(flag::UNDERFLOW, flag::OVERFLOW);
        header.flags |= response.read_residual.flag(flag::BIDI_UNDERFLOW, flag::BIDI_OVERFLOW);
        let mut segment = [0; 2 + MAX_SENSE];
        let mut length = 0;
        if response.target_failure {
            header.response = ServiceResponse::TARGET_FAILURE;
            header.status = 0;
            header.status_qualifier = 0.into();
            header.exp_data_sn = 0.into();
        } else if !response.sense.is_empty() {
            let sense = &response.sense[..response.sense.len().min(MAX_SENSE)];
            segment[..2].copy_from_slice(&(sense.len() as u16).to_be_bytes());
            segment[2..][..sense.len()].copy_from_slice(sense);
            length = 2 + sense.len();
        }
        out.pdu(self.digests, header, &[], &segment[..length]);
    }

    /// Answers the task management function `task`; `additional` is zero but for QUERY ASYNCHRONOUS EVENT. False: it was
    /// answered before.
    pub fn finish_task_management(
        &mut self,
        session: &mut Session,
        task: TaskId,
        result: TaskManagementResult,
        additional: [u8; 3],
        out: &mut Outbox,
    ) -> bool {
        let Some(tag) = session.task_tag(task) else { return false };
        session.discard(task);
        let header = TaskManagementResponse {
            result,
            additional,
            task_tag: tag.into(),
            stat_sn: self.next_stat_sn().into(),
            exp_cmd_sn: session.window.expected().into(),
            max_cmd_sn: session.window.max().into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], &[]);
        true
    }

    /// Answers [`Event::Logout`](super::Event). The connection is to be closed when that is sent.
    pub fn finish_logout(&mut self, session: &Session, tag: u32, result: LogoutResult, out: &mut Outbox) {
        let agreed = session.parameters();
        let header = LogoutResponse {
            result,
            task_tag: tag.into(),
            stat_sn: self.next_stat_sn().into(),
            exp_cmd_sn: session.window.expected().into(),
            max_cmd_sn: session.window.max().into(),
            time_to_wait: U16::new(agreed.default_time_to_wait as u16),
            time_to_retain: U16::new(agreed.default_time_to_retain as u16),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], &[]);
    }

    /// Asks the initiator for a sign of life, which comes as [`Event::Pong`](super::Event) with the same `tag`.
    pub fn ping(&mut self, session: &Session, tag: u32, out: &mut Outbox) {
        let header = NopIn {
            task_tag: NO_TAG.into(),
            transfer_tag: tag.into(),
            stat_sn: self.stat_sn.into(),
            exp_cmd_sn: session.window.expected().into(),
            max_cmd_sn: session.window.max().into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], &[]);
    }

    /// Tells the initiator how far the command window is open, by a NOP-In that wants no answer (RFC 7143 11.19.2).
    pub fn tell_window(&mut self, session: &Session, out: &mut Outbox) {
        self.ping(session, NO_TAG, out);
    }

    /// Sends an asynchronous message. Commands that come after [`AsyncEvent::REQUEST_LOGOUT`] may have crossed it, so they are not
    /// rejected, though RFC 7143 11.9.1 would allow it.
    pub fn notify(&mut self, session: &Session, message: &AsyncMessage<'_>, out: &mut Outbox) {
        let [parameter1, parameter2, parameter3] = message.parameters.map(U16::new);
        let header = AsynchronousMessage {
            lun: message.lun,
            task_tag: NO_TAG.into(),
            stat_sn: self.next_stat_sn().into(),
            exp_cmd_sn: session.window.expected().into(),
            max_cmd_sn: session.window.max().into(),
            event: message.event,
            parameter1,
            parameter2,
            parameter3,
            ..Default::default()
        };
        let mut segment = Vec::new();
        if !message.sense.is_empty() {
            let sense = &message.sense[..message.sense.len().min(MAX_SENSE)];
            segment.extend((sense.len() as u16).to_be_bytes());
            segment.extend(sense);
        }
        out.pdu(self.digests, header, &[], &segment);
    }

    /// Answers a NOP-Out; its data is in `segment`.
    pub(crate) fn pong(&mut self, session: &Session, out: &mut Outbox) {
        let request: NopOut = *self.framer.bhs().as_ref();
        let header = NopIn {
            lun: request.lun,
            task_tag: request.task_tag,
            transfer_tag: NO_TAG.into(),
            stat_sn: self.next_stat_sn().into(),
            exp_cmd_sn: session.window.expected().into(),
            max_cmd_sn: session.window.max().into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], &self.segment);
    }

    /// Rejects the PDU being received.
    pub(crate) fn reject(&mut self, session: &Session, reason: RejectReason, out: &mut Outbox) {
        let header = Reject {
            reason,
            task_tag: NO_TAG.into(),
            stat_sn: self.next_stat_sn().into(),
            exp_cmd_sn: session.window.expected().into(),
            max_cmd_sn: session.window.max().into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], self.framer.bhs());
    }

    /// Uses up a status sequence number.
    pub(crate) fn next_stat_sn(&mut self) -> u32 {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.wrapping_add(1);
        stat_sn
    }
}
