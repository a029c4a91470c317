//! One connection in full-feature phase.

use super::receive::{Outcome, Sink};
use super::text::TextExchange;
use super::{DataError, Directory, Session, TaskId};
use crate::digest::Digests;
use crate::error::Error;
use crate::frame::{Framer, Part};
use crate::outbox::Outbox;
use crate::params::{Negotiation, Parameters};
use crate::pdu::{
    AdditionalHeaders, LogoutReason, ScsiCommand, TaskAttribute, TaskManagementFunction,
    TaskManagementRequest, flag,
};

/// One connection: the byte stream, its digests and status numbers. Commands and tasks are the [`Session`]'s.
///
/// Once a method has returned an [`Error`], send what is in the outbox, close the connection and drop this.
#[derive(Debug)]
pub struct Connection {
    pub(crate) framer: Framer,
    pub(crate) cid: u16,
    pub(crate) stat_sn: u32,
    pub(crate) digests: Digests,
    /// Longest data segment the initiator takes.
    pub(crate) peer_max_data: u32,
    pub(crate) negotiation: Negotiation,
    pub(crate) sink: Sink,
    /// Data segment of a PDU that is handled here.
    pub(crate) segment: Vec<u8>,
    pub(crate) text: TextExchange,
}

/// What [`Connection::receive`] did.
#[derive(Debug)]
pub struct Received<'a> {
    /// Bytes of the input that are done with.
    pub used: usize,
    /// `None`: the whole input is used and more is needed.
    pub event: Option<Event<'a>>,
}

/// What the initiator wants.
#[derive(Debug)]
pub enum Event<'a> {
    /// A SCSI command. Say how much data it needs with [`Connection::request_data`], if it takes any; answer it
    /// with [`Connection::respond`].
    Command(Command<'a>),
    /// The turn of a command or task management function has come that was `held`.
    Deliver(TaskId),
    /// Data of a write command. It may be more than the command needs, it may come before a held command is
    /// delivered, and its digest is not checked yet.
    Payload {
        /// The command.
        task: TaskId,
        /// Place in the command's data, in bytes.
        offset: u32,
        /// The data, a part of the input.
        bytes: &'a [u8],
    },
    /// All data asked for with [`Connection::request_data`] is there.
    DataComplete(TaskId),
    /// The data of a command is unusable: end it with CHECK CONDITION and [`DataError::sense`]. No more data
    /// comes. May come before a held command is delivered.
    DataFailed {
        /// The command.
        task: TaskId,
        /// What is wrong.
        error: DataError,
    },
    /// A task management function; answer it with [`Connection::finish_task_management`].
    TaskManagement(TaskManagement),
    /// The answer to [`Connection::ping`].
    Pong {
        /// The tag given to `ping`.
        tag: u32,
    },
    /// The initiator leaves; end its tasks and answer with [`Connection::finish_logout`].
    Logout {
        /// Initiator task tag.
        tag: u32,
        /// [`LogoutReason::CLOSE_SESSION`] or [`LogoutReason::CLOSE_CONNECTION`] of this connection.
        reason: LogoutReason,
    },
}

/// A SCSI command (RFC 7143 11.3).
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// Its name from now on.
    pub task: TaskId,
    /// Initiator task tag.
    pub tag: u32,
    /// Logical unit number.
    pub lun: [u8; 8],
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Command priority, 0 to 15; 0: none was given.
    pub priority: u8,
    /// The first 16 bytes of the CDB.
    pub cdb: &'a [u8; 16],
    /// The bytes of the CDB after those; mostly empty.
    pub cdb_extension: &'a [u8],
    /// Data-In bytes the initiator expects.
    pub read_length: u32,
    /// Data-Out bytes the initiator expects to send.
    pub write_length: u32,
    /// Data-Out bytes that come without R2T, immediate data included: have a buffer ready for them.
    pub unsolicited_length: u32,
    /// Commands sent earlier are still missing: keep it until [`Event::Deliver`].
    pub held: bool,
    /// It is not held, all of its data comes in its own PDU, and nothing that was sent later is delivered before that is
    /// there. So it may be carried out then as if it came then.
    pub whole: bool,
}

/// A task management function (RFC 7143 11.5).
#[derive(Clone, Copy, Debug)]
pub struct TaskManagement {
    /// Its name from now on.
    pub task: TaskId,
    /// The function.
    pub function: TaskManagementFunction,
    /// Logical unit number.
    pub lun: [u8; 8],
    /// The task that ABORT TASK or QUERY TASK names. Those that name none are answered by the machine.
    pub referenced: Option<TaskId>,
    /// Commands sent earlier are still missing: keep it until [`Event::Deliver`].
    pub held: bool,
}

impl Connection {
    /// Takes input, up to the next event. Call it again with the rest of the input, be that empty, until there is
    /// no event. Answers of the machine itself go to `out`.
    pub fn receive<'a>(
        &'a mut self,
        session: &mut Session,
        directory: &dyn Directory,
        input: &'a [u8],
        out: &mut Outbox,
    ) -> Result<Received<'a>, Error> {
        let mut used = 0;
        loop {
            if let Some(task) = session.next_due() {
                return Ok(Received { used, event: Some(Event::Deliver(task)) });
            }
            let (taken, part) = self.framer.step(&input[used..])?;
            used += taken;
            let outcome = match part {
                Part::More => return Ok(Received { used, event: None }),
                Part::Header => self.take_header(session, directory, out)?,
                Part::Data(bytes) => match self.take_data(session, bytes) {
                    Some((task, offset)) => {
                        return Ok(Received { used, event: Some(Event::Payload { task, offset, bytes }) });
                    }
                    None => None,
                },
                Part::End { digest_ok } => self.end_data(session, directory, digest_ok, out),
            };
            if let Some(outcome) = outcome {
                return Ok(Received { used, event: Some(self.event(session, outcome)) });
            }
        }
    }

    /// If the next bytes of the stream are data of a command: the command, the offset and how many they are.
    ///
    /// They may be received right into the command's buffer and passed to [`receive`](Self::receive) from there.
    pub fn expected_payload(&self, session: &Session) -> Option<(TaskId, u32, usize)> {
        let Sink::Task { task, offset, .. } = self.sink else { return None };
        let left = self.framer.data_left();
        (left > 0 && session.tasks.get(task).is_some()).then_some((task, offset, left))
    }

    /// Connection identifier.
    pub fn cid(&self) -> u16 {
        self.cid
    }

    /// The digests in use.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    fn event(&self, session: &Session, outcome: Outcome) -> Event<'_> {
        match outcome {
            Outcome::Command { task, read_length, write_length, unsolicited_length, held, whole } => {
                let header: &ScsiCommand = self.framer.bhs().as_ref();
                let level = session.parameters().protocol_level;
                let additional = AdditionalHeaders::parse(self.framer.additional()).unwrap_or_default();
                Event::Command(Command {
                    task,
                    tag: header.task_tag.get(),
                    lun: header.lun,
                    attribute: TaskAttribute(header.flags & flag::ATTRIBUTE),
                    priority: if level >= Parameters::SCSI_FEATURES { header.priority >> 4 } else { 0 },
                    cdb: &header.cdb,
                    cdb_extension: additional.extended_cdb,
                    read_length,
                    write_length,
                    unsolicited_length,
                    held,
                    whole,
                })
            }
            Outcome::TaskManagement { task, referenced, held } => {
                let header: &TaskManagementRequest = self.framer.bhs().as_ref();
                Event::TaskManagement(TaskManagement {
                    task,
                    function: header.function(),
                    lun: header.lun,
                    referenced,
                    held,
                })
            }
            Outcome::DataComplete(task) => Event::DataComplete(task),
            Outcome::DataFailed(task, error) => Event::DataFailed { task, error },
            Outcome::Pong(tag) => Event::Pong { tag },
            Outcome::Logout(tag, reason) => Event::Logout { tag, reason },
        }
    }
}
