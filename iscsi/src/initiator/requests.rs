//! What an initiator asks.

use super::task::Effect;
use super::{Initiator, Task, TextExchange};
use crate::limits::{MAX_CDB, MAX_TEXT_REQUEST};
use crate::outbox::{Outbox, Payload};
use crate::params::Parameters;
use crate::pdu::{
    self, AdditionalHeaders, DataOut, LogoutReason, LogoutRequest, NO_TAG, NopOut, Opcode, ScsiCommand,
    TaskAttribute, TaskManagementFunction, TextRequest, flag,
};

/// A SCSI command to be sent.
#[derive(Clone, Copy, Debug)]
pub struct CommandRequest<'a> {
    /// Logical unit number.
    pub lun: [u8; 8],
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Command priority, 0 to 15, which is sent if the protocol level has it; 0: none.
    pub priority: u8,
    /// The CDB, at most [`MAX_CDB`] bytes; those after the 16th go into an additional header segment.
    pub cdb: &'a [u8],
    /// Data-In bytes expected.
    pub read_length: u32,
    /// All Data-Out bytes. They must stay until the outbox gives the token back.
    pub write: Option<&'a Payload<'a>>,
    /// Send it outside the command order.
    pub immediate: bool,
}

/// A task management function to be sent.
#[derive(Clone, Copy, Debug)]
pub struct TaskManagementRequest {
    /// The function.
    pub function: TaskManagementFunction,
    /// Logical unit number.
    pub lun: [u8; 8],
    /// The task it is about.
    pub referenced_task_tag: u32,
    /// CmdSN of that task.
    pub ref_cmd_sn: u32,
    /// Send it outside the command order.
    pub immediate: bool,
}

impl Initiator {
    /// Sends a command with its unsolicited data, and returns its task tag. `None`: the target's window is closed,
    /// the login is not finished, or the CDB is too long.
    pub fn command(&mut self, request: &CommandRequest<'_>, out: &mut Outbox) -> Option<u32> {
        if request.cdb.len() > MAX_CDB {
            return None;
        }
        let write_length = request.write.map_or(0, Payload::len);
        let first_burst = self.agreed.first_burst_length.min(write_length);
        let immediate_data = if self.agreed.immediate_data {
            first_burst.min(self.agreed.max_recv_data_segment_length)
        } else {
            0
        };
        let unsolicited = if self.agreed.initial_r2t { immediate_data } else { first_burst };
        let (opcode, cmd_sn) = self.number(Opcode::SCSI_COMMAND, request.immediate)?;
        let lengths = (request.read_length, write_length, unsolicited);
        let payload = request.write.map(Payload::token);
        let tag = self.session.open(Task::command(self.settings.cid, request.lun, payload, lengths));
        let (start, extension) = request.cdb.split_at(request.cdb.len().min(16));
        let bidirectional = request.read_length > 0 && write_length > 0;
        let mut header = ScsiCommand {
            opcode,
            flags: request.attribute.0 & flag::ATTRIBUTE
                | if request.read_length > 0 { flag::READ } else { 0 }
                | if request.write.is_some() { flag::WRITE } else { 0 }
                | if unsolicited == immediate_data { flag::FINAL } else { 0 },
            priority: if self.agreed.protocol_level >= Parameters::SCSI_FEATURES {
                request.priority << 4
            } else {
                0
            },
            lun: request.lun,
            task_tag: tag.into(),
            expected_length: if request.write.is_some() { write_length } else { request.read_length }.into(),
            cmd_sn: cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.unwrap_or(0).into(),
            ..Default::default()
        };
        header.cdb[..start.len()].copy_from_slice(start);
        let mut additional = Vec::new();
        let headers = AdditionalHeaders {
            extended_cdb: extension,
            bidirectional_read_length: bidirectional.then_some(request.read_length),
        };
        headers.encode(&mut additional);
        match request.write {
            Some(payload) if immediate_data > 0 => {
                out.pdu_with_payload(self.digests, header, &additional, (payload, 0..immediate_data, false));
                self.data_out(tag, request.lun, NO_TAG, immediate_data..unsolicited, payload, out);
            }
            Some(payload) => {
                out.pdu(self.digests, header, &additional, &[]);
                self.data_out(tag, request.lun, NO_TAG, 0..unsolicited, payload, out);
            }
            None => out.pdu(self.digests, header, &additional, &[]),
        }
        Some(tag)
    }

    /// Answers [`Event::Request`](super::Event) with the same payload the command was given. False: the task is
    /// over, or the range is not part of the payload.
    pub fn send_data(
        &mut self,
        tag: u32,
        transfer_tag: u32,
        (offset, length): (u32, u32),
        payload: &Payload<'_>,
        out: &mut Outbox,
    ) -> bool {
        let Some(task) = self.session.get(tag) else { return false };
        let Some(end) = offset.checked_add(length).filter(|&end| end <= payload.len()) else { return false };
        self.data_out(tag, task.lun, transfer_tag, offset..end, payload, out);
        true
    }

    fn data_out(
        &self,
        tag: u32,
        lun: [u8; 8],
        transfer_tag: u32,
        range: std::ops::Range<u32>,
        payload: &Payload<'_>,
        out: &mut Outbox,
    ) {
        let mut start = range.start;
        let mut data_sn = 0u32;
        while start < range.end {
            let end = range.end.min(start.saturating_add(self.agreed.max_recv_data_segment_length));
            let header = DataOut {
                flags: if end == range.end { flag::FINAL } else { 0 },
                lun,
                task_tag: tag.into(),
                transfer_tag: transfer_tag.into(),
                exp_stat_sn: self.exp_stat_sn.unwrap_or(0).into(),
                data_sn: data_sn.into(),
                buffer_offset: start.into(),
                ..Default::default()
            };
            out.pdu_with_payload(self.digests, header, &[], (payload, start..end, false));
            start = end;
            data_sn += 1;
        }
    }

    /// Sends a task management function and returns its task tag; `None` as for a command.
    pub fn task_management(&mut self, request: &TaskManagementRequest, out: &mut Outbox) -> Option<u32> {
        let (opcode, cmd_sn) = self.number(Opcode::TASK_MANAGEMENT_REQUEST, request.immediate)?;
        let effect =
            Effect { function: request.function, lun: request.lun, referenced: request.referenced_task_tag };
        let tag = self.session.open(Task::management(self.settings.cid, effect));
        let header = pdu::TaskManagementRequest {
            opcode,
            flags: flag::FINAL | request.function.0,
            lun: request.lun,
            task_tag: tag.into(),
            referenced_task_tag: request.referenced_task_tag.into(),
            cmd_sn: cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.unwrap_or(0).into(),
            ref_cmd_sn: request.ref_cmd_sn.into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], &[]);
        Some(tag)
    }

    /// Sends a text request. `None`: another one is not answered, the login is not finished, or the text is longer than
    /// [`MAX_TEXT_REQUEST`].
    pub fn text(&mut self, text: &[u8], out: &mut Outbox) -> Option<u32> {
        if self.login.is_some() || self.text.tag.is_some() || text.len() > MAX_TEXT_REQUEST {
            return None;
        }
        let tag = self.session.open(Task::new(self.settings.cid, Opcode::TEXT_RESPONSE));
        self.text = TextExchange { tag: Some(tag), unsent: text.to_vec(), answer: Vec::new() };
        self.text_request(tag, NO_TAG, out);
        Some(tag)
    }

    /// Sends the next part of the text, which is empty if all is sent.
    pub(super) fn text_request(&mut self, tag: u32, transfer_tag: u32, out: &mut Outbox) {
        let part = self.text.unsent.len().min(self.agreed.max_recv_data_segment_length as usize);
        let last = part == self.text.unsent.len();
        let header = TextRequest {
            opcode: Opcode::TEXT_REQUEST.immediate(),
            flags: if last { flag::FINAL } else { flag::CONTINUE },
            task_tag: tag.into(),
            transfer_tag: transfer_tag.into(),
            cmd_sn: self.session.cmd_sn().into(),
            exp_stat_sn: self.exp_stat_sn.unwrap_or(0).into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], &self.text.unsent[..part]);
        self.text.unsent.drain(..part);
    }

    /// Sends a ping with `data`, which comes back in [`Event::Pong`](super::Event).
    pub fn ping(&mut self, data: &[u8], out: &mut Outbox) -> Option<u32> {
        let (opcode, cmd_sn) = self.number(Opcode::NOP_OUT, false)?;
        let tag = self.session.open(Task::new(self.settings.cid, Opcode::NOP_IN));
        let header = NopOut {
            opcode,
            task_tag: tag.into(),
            transfer_tag: NO_TAG.into(),
            cmd_sn: cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.unwrap_or(0).into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], data);
        Some(tag)
    }

    /// Sends a logout.
    pub fn logout(&mut self, reason: LogoutReason, out: &mut Outbox) -> Option<u32> {
        let (opcode, cmd_sn) = self.number(Opcode::LOGOUT_REQUEST, true)?;
        let tag = self.session.open(Task::new(self.settings.cid, Opcode::LOGOUT_RESPONSE));
        let header = LogoutRequest {
            opcode,
            flags: flag::FINAL | reason.0,
            task_tag: tag.into(),
            cid: self.settings.cid.into(),
            cmd_sn: cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.unwrap_or(0).into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], &[]);
        Some(tag)
    }

    /// Opcode and CmdSN of the next request.
    fn number(&mut self, opcode: Opcode, immediate: bool) -> Option<(Opcode, u32)> {
        if self.login.is_some() {
            return None;
        }
        let cmd_sn = self.session.number(immediate)?;
        Some((if immediate { opcode.immediate() } else { opcode }, cmd_sn))
    }
}
