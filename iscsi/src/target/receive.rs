//! Requests of the initiator.

use super::session::SessionType;
use super::tasks::{Task, TaskKind};
use super::window::Arrival;
use super::write::{DataPdu, Progress, WriteTransfer};
use super::{Connection, DataError, Directory, Session, TaskId};
use crate::error::Error;
use crate::outbox::Outbox;
use crate::params::Parameters;
use crate::pdu::{
    AdditionalHeaders, DataOut, LogoutReason, LogoutRequest, LogoutResult, NO_TAG, NopOut, Opcode,
    RejectReason, ScsiCommand, TaskAttribute, TaskManagementFunction, TaskManagementRequest,
    TaskManagementResult, flag,
};
use crate::serial::before;

/// Where the data segment of the PDU being received goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sink {
    Discard,
    /// Kept for the machine itself, up to a limit.
    Collect {
        limit: usize,
    },
    /// Data of a write command.
    Task {
        task: TaskId,
        offset: u32,
        immediate: bool,
    },
}

/// An event, but for what it borrows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Command {
        task: TaskId,
        read_length: u32,
        write_length: u32,
        unsolicited_length: u32,
        held: bool,
        whole: bool,
    },
    TaskManagement {
        task: TaskId,
        referenced: Option<TaskId>,
        held: bool,
    },
    DataComplete(TaskId),
    DataFailed(TaskId, DataError),
    Pong(u32),
    Logout(u32, LogoutReason),
}

/// The data lengths of a SCSI command.
struct Lengths {
    read: u32,
    write: u32,
    unsolicited: u32,
}

impl Connection {
    /// A header is complete: checks it and decides where its data goes.
    pub(crate) fn take_header(
        &mut self,
        session: &mut Session,
        directory: &dyn Directory,
        out: &mut Outbox,
    ) -> Result<Option<Outcome>, Error> {
        self.sink = Sink::Discard;
        let kind = self.framer.common().opcode.kind();
        if let Err(reason) = self.check_any(session, kind) {
            self.reject(session, reason, out);
            return Ok(None);
        }
        let outcome = match kind {
            Opcode::SCSI_COMMAND => self.scsi_command(session, out),
            Opcode::DATA_OUT => self.data_out(session, out),
            Opcode::TASK_MANAGEMENT_REQUEST => self.task_management(session, out),
            Opcode::LOGOUT_REQUEST => self.logout(session, out),
            Opcode::NOP_OUT | Opcode::TEXT_REQUEST => {
                // Both have their CmdSN at the same place.
                let header: &NopOut = self.framer.bhs().as_ref();
                if session.ignores(header.opcode.is_immediate(), header.cmd_sn.get()) {
                    return Ok(None);
                }
                self.segment.clear();
                // As much of a ping comes back as the initiator receives (RFC 7143 11.19).
                let limit = if kind == Opcode::NOP_OUT { self.peer_max_data as usize } else { usize::MAX };
                self.sink = Sink::Collect { limit };
                if self.framer.data_length() == 0 { self.collected(session, directory, out) } else { None }
            }
            Opcode::LOGIN_REQUEST => {
                self.reject(session, RejectReason::PROTOCOL, out);
                return Err(Error::Unexpected(kind));
            }
            Opcode::SNACK_REQUEST => {
                self.reject(session, RejectReason::SNACK, out);
                None
            }
            _ => {
                self.reject(session, RejectReason::NOT_SUPPORTED, out);
                None
            }
        };
        Ok(outcome)
    }

    /// What must hold for requests of all kinds. One that is rejected does not count as received: the initiator has
    /// to send another with its CmdSN, or to abort the task (RFC 7143 7.3).
    fn check_any(&self, session: &Session, kind: Opcode) -> Result<(), RejectReason> {
        let header: &NopOut = self.framer.bhs().as_ref();
        let is_request = matches!(
            kind,
            Opcode::NOP_OUT
                | Opcode::SCSI_COMMAND
                | Opcode::TASK_MANAGEMENT_REQUEST
                | Opcode::TEXT_REQUEST
                | Opcode::LOGOUT_REQUEST
        );
        // Old releases of libiscsi acknowledge the StatSN of our pings, which is not used up.
        if is_request && before(self.stat_sn.wrapping_add(1), header.exp_stat_sn.get()) {
            return Err(RejectReason::PROTOCOL);
        }
        let is_scsi =
            matches!(kind, Opcode::SCSI_COMMAND | Opcode::TASK_MANAGEMENT_REQUEST | Opcode::DATA_OUT);
        if is_scsi && session.info().session_type == SessionType::Discovery {
            return Err(RejectReason::PROTOCOL);
        }
        Ok(())
    }

    /// A piece of a data segment; returns whose it is, unless the machine keeps or drops it.
    pub(crate) fn take_data(&mut self, session: &Session, bytes: &[u8]) -> Option<(TaskId, u32)> {
        match &mut self.sink {
            Sink::Discard => None,
            Sink::Collect { limit } => {
                let room = limit.saturating_sub(self.segment.len());
                self.segment.extend_from_slice(&bytes[..room.min(bytes.len())]);
                None
            }
            Sink::Task { task, offset, .. } => {
                let start = *offset;
                *offset += bytes.len() as u32;
                session.tasks.get(*task).map(|_| (*task, start))
            }
        }
    }

    /// A data segment is complete.
    pub(crate) fn end_data(
        &mut self,
        session: &mut Session,
        directory: &dyn Directory,
        digest_ok: bool,
        out: &mut Outbox,
    ) -> Option<Outcome> {
        if !digest_ok {
            self.reject(session, RejectReason::DATA_DIGEST, out);
        }
        match std::mem::replace(&mut self.sink, Sink::Discard) {
            Sink::Collect { .. } if digest_ok => self.collected(session, directory, out),
            Sink::Task { task, immediate, .. } => {
                let write = &mut session.tasks.get_mut(task)?.write;
                let progress =
                    if immediate { write.end_immediate(digest_ok) } else { write.end_pdu(digest_ok) };
                self.progressed(session, task, progress, out)
            }
            Sink::Collect { .. } | Sink::Discard => None,
        }
    }

    /// A PDU that the machine answers is complete.
    fn collected(
        &mut self,
        session: &mut Session,
        directory: &dyn Directory,
        out: &mut Outbox,
    ) -> Option<Outcome> {
        if self.framer.common().opcode.kind() == Opcode::TEXT_REQUEST {
            self.text_request(session, directory, out);
            return None;
        }
        let header: NopOut = *self.framer.bhs().as_ref();
        let (tag, transfer_tag) = (header.task_tag.get(), header.transfer_tag.get());
        let immediate = header.opcode.is_immediate();
        if tag == NO_TAG && !immediate {
            // RFC 7143 11.18.1
            self.reject(session, RejectReason::INVALID_FIELD, out);
            return None;
        }
        if session.tasks.find(tag).is_some() {
            self.reject(session, RejectReason::TASK_IN_PROGRESS, out);
            return None;
        }
        session.count(immediate, header.cmd_sn.get());
        if tag != NO_TAG {
            self.pong(session, out);
            None
        } else {
            (transfer_tag != NO_TAG).then_some(Outcome::Pong(transfer_tag))
        }
    }

    fn scsi_command(&mut self, session: &mut Session, out: &mut Outbox) -> Option<Outcome> {
        let header: ScsiCommand = *self.framer.bhs().as_ref();
        let (immediate, cmd_sn) = (header.opcode.is_immediate(), header.cmd_sn.get());
        if session.ignores(immediate, cmd_sn) {
            return None;
        }
        let lengths = match self.check_command(session, &header) {
            Ok(lengths) => lengths,
            Err(reason) => {
                self.reject(session, reason, out);
                return None;
            }
        };
        let agreed = *session.parameters();
        let data_length = self.framer.data_length();
        let announced = header.flags & flag::FINAL == 0;
        let make = |transfer| Task {
            cid: self.cid,
            tag: header.task_tag.get(),
            kind: TaskKind::Command,
            lun: header.lun,
            immediate,
            write: WriteTransfer::new(lengths.write, data_length, announced, transfer, &agreed),
            read_expected: lengths.read,
            read_sent: 0,
            data_sn: 0,
        };
        let (task, held) = open(session, immediate, cmd_sn, make)?;
        if data_length > 0 {
            self.sink = Sink::Task { task, offset: 0, immediate: true };
        }
        Some(Outcome::Command {
            task,
            read_length: lengths.read,
            write_length: lengths.write,
            unsolicited_length: lengths.unsolicited,
            held,
            whole: !held && data_length == lengths.write && !session.window.is_due(),
        })
    }

    fn check_command(&self, session: &Session, header: &ScsiCommand) -> Result<Lengths, RejectReason> {
        self.check_new_task(session, header.opcode.is_immediate(), header.task_tag.get())?;
        let additional =
            AdditionalHeaders::parse(self.framer.additional()).map_err(|_| RejectReason::INVALID_FIELD)?;
        // Reserved values of defined fields are protocol errors (RFC 7143 11).
        if header.flags & flag::ATTRIBUTE > TaskAttribute::ACA.0 {
            return Err(RejectReason::PROTOCOL);
        }
        let agreed = session.parameters();
        let expected = header.expected_length.get();
        let (reads, writes) = (header.flags & flag::READ != 0, header.flags & flag::WRITE != 0);
        let write = if writes { expected } else { 0 };
        let read = match (reads, writes) {
            (true, true) => additional.bidirectional_read_length.unwrap_or(0),
            (true, false) => expected,
            (false, _) => 0,
        };
        let first_burst = agreed.first_burst_length.min(write);
        let immediate_data = self.framer.data_length();
        if immediate_data > 0 && !agreed.immediate_data {
            return Err(RejectReason::PROTOCOL);
        }
        let announced = header.flags & flag::FINAL == 0;
        if immediate_data > first_burst || announced && (!writes || agreed.initial_r2t) {
            return Err(RejectReason::INVALID_FIELD);
        }
        Ok(Lengths { read, write, unsolicited: if announced { first_burst } else { immediate_data } })
    }

    fn check_new_task(&self, session: &Session, immediate: bool, tag: u32) -> Result<(), RejectReason> {
        if tag == NO_TAG {
            return Err(RejectReason::INVALID_FIELD);
        }
        if session.tasks.find(tag).is_some() {
            return Err(RejectReason::TASK_IN_PROGRESS);
        }
        if !session.tasks.has_room(immediate) {
            return Err(RejectReason::IMMEDIATE);
        }
        Ok(())
    }

    /// Data for a task that is gone, needs none, or is of another connection, is dropped: mostly it was on its way when the
    /// task ended.
    fn data_out(&mut self, session: &mut Session, out: &mut Outbox) -> Option<Outcome> {
        let header: &DataOut = self.framer.bhs().as_ref();
        let task = session.tasks.find(header.task_tag.get())?;
        let is_ours = |task: &&mut Task| task.kind == TaskKind::Command && task.cid == self.cid;
        let open = session.tasks.get_mut(task).filter(is_ours)?;
        let wrong_lun = header.transfer_tag.get() != NO_TAG && header.lun != open.lun;
        let write = &mut open.write;
        if write.is_closed() {
            return None;
        }
        let pdu = DataPdu {
            transfer: match header.transfer_tag.get() {
                NO_TAG => None,
                tag => transfer_of(task, tag),
            },
            data_sn: header.data_sn.get(),
            offset: header.buffer_offset.get(),
            length: self.framer.data_length(),
            last: header.flags & flag::FINAL != 0,
        };
        let wrong_tag = pdu.transfer.is_none() && header.transfer_tag.get() != NO_TAG;
        let checked = match (wrong_tag, wrong_lun) {
            (true, _) => Err(DataError::TransferTag),
            // RFC 7143 11.7.4
            (_, true) => Err(DataError::Lun),
            _ => write.check(pdu),
        };
        if let Err(error) = checked {
            write.close();
            return Some(Outcome::DataFailed(task, error));
        }
        if pdu.length == 0 {
            let progress = write.end_pdu(true);
            return self.progressed(session, task, progress, out);
        }
        self.sink = Sink::Task { task, offset: pdu.offset, immediate: false };
        None
    }

    fn progressed(
        &mut self,
        session: &mut Session,
        task: TaskId,
        progress: Progress,
        out: &mut Outbox,
    ) -> Option<Outcome> {
        match progress {
            Progress::More => {
                self.send_requests(session, task, out);
                None
            }
            Progress::Complete => Some(Outcome::DataComplete(task)),
            Progress::Failed(error) => Some(Outcome::DataFailed(task, error)),
        }
    }

    fn task_management(&mut self, session: &mut Session, out: &mut Outbox) -> Option<Outcome> {
        let header: TaskManagementRequest = *self.framer.bhs().as_ref();
        let (immediate, cmd_sn) = (header.opcode.is_immediate(), header.cmd_sn.get());
        if session.ignores(immediate, cmd_sn) {
            return None;
        }
        let tag = header.task_tag.get();
        if let Err(reason) = self.check_new_task(session, immediate, tag) {
            self.reject(session, reason, out);
            return None;
        }
        let referenced = session.tasks.find(header.referenced_task_tag.get()).filter(|&task| {
            let task = session.tasks.get(task);
            task.is_some_and(|task| task.kind == TaskKind::Command && task.lun == header.lun)
        });
        let agreed = *session.parameters();
        let make = |transfer| Task {
            cid: self.cid,
            tag,
            kind: TaskKind::TaskManagement,
            lun: header.lun,
            immediate,
            write: WriteTransfer::new(0, 0, false, transfer, &agreed),
            read_expected: 0,
            read_sent: 0,
            data_sn: 0,
        };
        let (task, held) = open(session, immediate, cmd_sn, make)?;
        let own_answer = match header.function() {
            function if function.is_new() && agreed.protocol_level < Parameters::SCSI_FEATURES => {
                Some(TaskManagementResult::NOT_SUPPORTED)
            }
            TaskManagementFunction::ABORT_TASK if referenced.is_none() => {
                Some(abort_missing(session, &header))
            }
            TaskManagementFunction::QUERY_TASK if referenced.is_none() => {
                Some(TaskManagementResult::COMPLETE)
            }
            TaskManagementFunction::TASK_REASSIGN => Some(TaskManagementResult::NO_REASSIGNMENT),
            _ => None,
        };
        if let Some(result) = own_answer {
            self.finish_task_management(session, task, result, [0; 3], out);
            return None;
        }
        let names_one = matches!(
            header.function(),
            TaskManagementFunction::ABORT_TASK | TaskManagementFunction::QUERY_TASK
        );
        Some(Outcome::TaskManagement { task, referenced: referenced.filter(|_| names_one), held })
    }

    fn logout(&mut self, session: &mut Session, out: &mut Outbox) -> Option<Outcome> {
        let header: &LogoutRequest = self.framer.bhs().as_ref();
        let (immediate, cmd_sn) = (header.opcode.is_immediate(), header.cmd_sn.get());
        let (tag, reason, cid) = (header.task_tag.get(), LogoutReason(header.flags & 0x7f), header.cid.get());
        if session.ignores(immediate, cmd_sn) {
            return None;
        }
        let known = reason.0 <= LogoutReason::REMOVE_FOR_RECOVERY.0;
        if !known || tag == NO_TAG {
            self.reject(session, RejectReason::INVALID_FIELD, out);
            return None;
        }
        session.count(immediate, cmd_sn);
        let refusal = match reason {
            LogoutReason::REMOVE_FOR_RECOVERY => LogoutResult::NO_RECOVERY,
            LogoutReason::CLOSE_CONNECTION if cid != self.cid => LogoutResult::NO_CONNECTION,
            _ => return Some(Outcome::Logout(tag, reason)),
        };
        self.finish_logout(session, tag, refusal, out);
        None
    }
}

/// Target transfer tag of an R2T: its name in the task above the slot.
pub(crate) fn transfer_tag(task: TaskId, transfer: u16) -> u32 {
    u32::from(transfer) << 16 | u32::from(task.slot)
}

fn transfer_of(task: TaskId, tag: u32) -> Option<u16> {
    (tag & 0xffff == u32::from(task.slot)).then_some((tag >> 16) as u16)
}

/// Opens a task and takes its CmdSN; returns whether it is held.
fn open(
    session: &mut Session,
    immediate: bool,
    cmd_sn: u32,
    make: impl FnOnce(u16) -> Task,
) -> Option<(TaskId, bool)> {
    let task = session.tasks.open(make)?;
    let held = !immediate && session.window.classify(cmd_sn) == Arrival::Early;
    if !immediate {
        session.window.receive(cmd_sn, Some(task));
    }
    Some((task, held))
}

/// ABORT TASK of a task we do not know. If its command is still to come, it counts as received and aborted
/// (RFC 7143 11.6.1).
fn abort_missing(session: &mut Session, header: &TaskManagementRequest) -> TaskManagementResult {
    let cmd_sn = header.ref_cmd_sn.get();
    if session.window.classify(cmd_sn) == Arrival::Ignored || !before(cmd_sn, header.cmd_sn.get()) {
        return TaskManagementResult::NO_TASK;
    }
    session.count(false, cmd_sn);
    TaskManagementResult::COMPLETE
}
