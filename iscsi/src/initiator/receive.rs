//! What the target says.

use zerocopy::network_endian::U16;

use super::{Initiator, Task};
use crate::error::Error;
use crate::frame::Part;
use crate::limits::MAX_TEXT_RESPONSE;
use crate::outbox::Outbox;
use crate::pdu::{
    AsyncEvent, AsynchronousMessage, BHS, DataIn, LogoutResponse, LogoutResult, NO_TAG, NopIn, NopOut,
    Opcode, ReadyToTransfer, Reject, RejectReason, ScsiResponse, ServiceResponse, TaskManagementResponse,
    TaskManagementResult, TextResponse, flag,
};
use crate::target::{Residual, Response};

/// What [`Initiator::receive`] did.
#[derive(Debug)]
pub struct Received<'a> {
    /// Bytes of the input that are done with.
    pub used: usize,
    /// `None`: the whole input is used and more is needed.
    pub event: Option<Event<'a>>,
}

/// What the target says.
#[derive(Debug)]
pub enum Event<'a> {
    /// The login is finished.
    LoggedIn,
    /// Data of a read command.
    Data {
        /// The command.
        tag: u32,
        /// Place in the command's data, in bytes.
        offset: u32,
        /// The data, a part of the input.
        bytes: &'a [u8],
    },
    /// The target is ready for data of a write command: answer with [`Initiator::send_data`].
    Request {
        /// The command.
        tag: u32,
        /// To be handed back.
        transfer_tag: u32,
        /// Place in the command's data, in bytes.
        offset: u32,
        /// How many bytes.
        length: u32,
    },
    /// A command has ended.
    Finished {
        /// The command.
        tag: u32,
        /// How.
        response: Response<'a>,
    },
    /// A task management function is answered.
    TaskManagement {
        /// The function.
        tag: u32,
        /// The answer.
        result: TaskManagementResult,
        /// Additional response information of QUERY ASYNCHRONOUS EVENT.
        additional: [u8; 3],
    },
    /// A text request is answered.
    Text {
        /// The request.
        tag: u32,
        /// The whole answer; see [`text::parse`](crate::text::parse).
        text: &'a [u8],
    },
    /// A ping is answered.
    Pong {
        /// The ping.
        tag: u32,
        /// Its data.
        data: &'a [u8],
    },
    /// The target has rejected a PDU.
    Rejected {
        /// Why.
        reason: RejectReason,
        /// Header of that PDU.
        header: &'a [u8],
    },
    /// An asynchronous message.
    Message {
        /// What happened.
        event: AsyncEvent,
        /// Logical unit of a SCSI event.
        lun: [u8; 8],
        /// Parameters 1 to 3.
        parameters: [u16; 3],
        /// Sense length and sense data.
        data: &'a [u8],
    },
    /// The logout is answered.
    LoggedOut(LogoutResult),
}

/// Which event the complete PDU is.
enum Outcome {
    LoggedIn,
    Finished(u32),
    Text(u32),
    Plain,
}

impl Initiator {
    /// Takes input, up to the next event. Call it again with the rest of the input, be that empty, until there is
    /// no event.
    pub fn receive<'a>(&'a mut self, input: &'a [u8], out: &mut Outbox) -> Result<Received<'a>, Error> {
        let mut used = 0;
        loop {
            let (taken, part) = self.framer.step(&input[used..])?;
            used += taken;
            let outcome = match part {
                Part::More => return Ok(Received { used, event: None }),
                Part::Header => {
                    self.segment.clear();
                    self.check_header()?;
                    if self.framer.data_length() == 0 { self.complete(out)? } else { None }
                }
                Part::Data(bytes) if self.framer.common().opcode.kind() == Opcode::DATA_IN => {
                    let header: &DataIn = self.framer.bhs().as_ref();
                    let left = self.framer.data_left() + bytes.len();
                    let offset = header.buffer_offset.get() + (self.framer.data_length() - left as u32);
                    let tag = header.task_tag.get();
                    return Ok(Received { used, event: Some(Event::Data { tag, offset, bytes }) });
                }
                Part::Data(bytes) => {
                    self.segment.extend_from_slice(bytes);
                    None
                }
                Part::End { digest_ok: false } => return Err(Error::DataDigest),
                Part::End { digest_ok: true } => self.complete(out)?,
            };
            if let Some(outcome) = outcome {
                return Ok(Received { used, event: Some(self.event(outcome)) });
            }
        }
    }

    /// Checks what must hold before any data is passed on.
    fn check_header(&mut self) -> Result<(), Error> {
        let opcode = self.framer.common().opcode.kind();
        if self.login.is_some() != (opcode == Opcode::LOGIN_RESPONSE) {
            return Err(Error::Unexpected(opcode));
        }
        if opcode != Opcode::DATA_IN {
            return Ok(());
        }
        let header: DataIn = *self.framer.bhs().as_ref();
        let (length, agreed) = (self.framer.data_length(), self.agreed);
        self.command_task(header.task_tag.get(), Opcode::DATA_IN)?.take_data_in(&header, length, &agreed)
    }

    fn command_task(&mut self, tag: u32, opcode: Opcode) -> Result<&mut Task, Error> {
        let found = self.session.find((tag, self.settings.cid), Opcode::SCSI_RESPONSE);
        found.ok_or(Error::NoSuchTask(opcode))
    }

    /// A PDU is complete; its data, unless it is Data-In, is in `segment`.
    fn complete(&mut self, out: &mut Outbox) -> Result<Option<Outcome>, Error> {
        let opcode = self.framer.common().opcode.kind();
        if opcode == Opcode::LOGIN_RESPONSE {
            return Ok(self.login_response(out)?.then_some(Outcome::LoggedIn));
        }
        // All other headers have these fields at the same places.
        let header: NopIn = *self.framer.bhs().as_ref();
        let tag = header.task_tag.get();
        self.session.move_window(header.exp_cmd_sn.get(), header.max_cmd_sn.get());
        let counts = match opcode {
            Opcode::DATA_IN => header.flags & flag::STATUS != 0,
            Opcode::READY_TO_TRANSFER => false,
            Opcode::NOP_IN => tag != NO_TAG,
            _ => true,
        };
        if counts {
            self.use_stat_sn(header.stat_sn.get())?;
        }
        match opcode {
            Opcode::DATA_IN if !counts => Ok(None),
            Opcode::DATA_IN => self.finish(tag, opcode, out),
            Opcode::SCSI_RESPONSE => {
                let header: ScsiResponse = *self.framer.bhs().as_ref();
                let due = self.command_task(tag, opcode)?.exp_data_sn();
                if header.response == ServiceResponse::COMPLETED && header.exp_data_sn.get() != due {
                    return Err(Error::Transfer("ExpDataSN is wrong: Data-In or R2Ts are missing"));
                }
                self.finish(tag, opcode, out)
            }
            Opcode::READY_TO_TRANSFER => self.check_request(),
            Opcode::TEXT_RESPONSE => self.text_response(out),
            Opcode::NOP_IN if tag == NO_TAG => {
                self.answer_ping(out);
                Ok(None)
            }
            Opcode::TASK_MANAGEMENT_RESPONSE => self.managed(tag, out),
            Opcode::NOP_IN | Opcode::LOGOUT_RESPONSE => {
                self.session.close((tag, self.settings.cid), opcode)?;
                Ok(Some(Outcome::Plain))
            }
            Opcode::REJECT | Opcode::ASYNCHRONOUS_MESSAGE => Ok(Some(Outcome::Plain)),
            _ => Err(Error::Unexpected(opcode)),
        }
    }

    /// A command has ended.
    fn finish(&mut self, tag: u32, opcode: Opcode, out: &mut Outbox) -> Result<Option<Outcome>, Error> {
        self.command_task(tag, opcode)?;
        let task = self.session.close((tag, self.settings.cid), Opcode::SCSI_RESPONSE)?;
        if let Some(token) = task.payload {
            out.release(token);
        }
        let response = self.response();
        // What an unsuccessful command has moved is of no use anyway.
        if response.status == 0 && !response.target_failure {
            let bidirectional = task.reads() && task.writes();
            task.check_residual(if bidirectional { response.read_residual } else { response.residual })?;
        }
        Ok(Some(Outcome::Finished(tag)))
    }

    /// A task management function is answered. Commands that it has ended get no response.
    fn managed(&mut self, tag: u32, out: &mut Outbox) -> Result<Option<Outcome>, Error> {
        let header: TaskManagementResponse = *self.framer.bhs().as_ref();
        let task = self.session.close((tag, self.settings.cid), Opcode::TASK_MANAGEMENT_RESPONSE)?;
        if let Some(effect) = task.effect.filter(|_| header.result == TaskManagementResult::COMPLETE) {
            self.session.abort(effect, |payload| out.release(payload));
        }
        Ok(Some(Outcome::Plain))
    }

    fn check_request(&mut self) -> Result<Option<Outcome>, Error> {
        let header: ReadyToTransfer = *self.framer.bhs().as_ref();
        let agreed = self.agreed;
        if header.transfer_tag.get() == NO_TAG {
            return Err(Error::Transfer("an R2T has no target transfer tag"));
        }
        self.command_task(header.task_tag.get(), Opcode::READY_TO_TRANSFER)?
            .take_request(&header, &agreed)?;
        Ok(Some(Outcome::Plain))
    }

    fn text_response(&mut self, out: &mut Outbox) -> Result<Option<Outcome>, Error> {
        let header: TextResponse = *self.framer.bhs().as_ref();
        let (tag, transfer_tag) = (header.task_tag.get(), header.transfer_tag.get());
        let last = header.flags & flag::FINAL != 0;
        if self.text.tag != Some(tag) {
            return Err(Error::NoSuchTask(Opcode::TEXT_RESPONSE));
        }
        if self.text.answer.len() + self.segment.len() > MAX_TEXT_RESPONSE {
            return Err(Error::TextTooLong);
        }
        // Neither an end before all was said, nor a way on without its name.
        if last && !self.text.unsent.is_empty() || last != (transfer_tag == NO_TAG) {
            return Err(Error::Negotiation);
        }
        self.text.answer.extend_from_slice(&self.segment);
        if !last {
            self.text_request(tag, transfer_tag, out);
            return Ok(None);
        }
        self.text.tag = None;
        self.session.close((tag, self.settings.cid), Opcode::TEXT_RESPONSE)?;
        Ok(Some(Outcome::Text(tag)))
    }

    /// Answers a ping of the target, if it wants an answer.
    fn answer_ping(&mut self, out: &mut Outbox) {
        let ping: NopIn = *self.framer.bhs().as_ref();
        if ping.transfer_tag.get() == NO_TAG {
            return;
        }
        let header = NopOut {
            opcode: Opcode::NOP_OUT.immediate(),
            lun: ping.lun,
            task_tag: NO_TAG.into(),
            transfer_tag: ping.transfer_tag,
            cmd_sn: self.session.cmd_sn().into(),
            exp_stat_sn: self.exp_stat_sn.unwrap_or(0).into(),
            ..Default::default()
        };
        out.pdu(self.digests, header, &[], &[]);
    }

    pub(super) fn use_stat_sn(&mut self, received: u32) -> Result<(), Error> {
        let expected = self.exp_stat_sn.unwrap_or(received);
        if received != expected {
            return Err(Error::StatSn { received, expected });
        }
        self.exp_stat_sn = Some(expected.wrapping_add(1));
        Ok(())
    }

    fn event(&self, outcome: Outcome) -> Event<'_> {
        match outcome {
            Outcome::LoggedIn => Event::LoggedIn,
            Outcome::Finished(tag) => Event::Finished { tag, response: self.response() },
            Outcome::Text(tag) => Event::Text { tag, text: &self.text.answer },
            Outcome::Plain => self.plain_event(),
        }
    }

    fn response(&self) -> Response<'_> {
        if self.framer.common().opcode.kind() == Opcode::DATA_IN {
            let header: &DataIn = self.framer.bhs().as_ref();
            let residual = residual(header.flags, header.residual.get(), flag::UNDERFLOW, flag::OVERFLOW);
            return Response { status: header.status, residual, ..Response::default() };
        }
        let header: &ScsiResponse = self.framer.bhs().as_ref();
        let sense = self
            .segment
            .split_first_chunk()
            .and_then(|(length, sense)| sense.get(..u16::from_be_bytes(*length).into()));
        Response {
            status: header.status,
            sense: sense.unwrap_or_default(),
            status_qualifier: header.status_qualifier.get(),
            residual: residual(header.flags, header.residual.get(), flag::UNDERFLOW, flag::OVERFLOW),
            read_residual: residual(
                header.flags,
                header.bidi_residual.get(),
                flag::BIDI_UNDERFLOW,
                flag::BIDI_OVERFLOW,
            ),
            target_failure: header.response != ServiceResponse::COMPLETED,
        }
    }

    fn plain_event(&self) -> Event<'_> {
        let bhs: &[u8; BHS] = self.framer.bhs();
        let common = self.framer.common();
        let tag = common.task_tag.get();
        match common.opcode.kind() {
            Opcode::READY_TO_TRANSFER => {
                let header: &ReadyToTransfer = bhs.as_ref();
                Event::Request {
                    tag,
                    transfer_tag: header.transfer_tag.get(),
                    offset: header.buffer_offset.get(),
                    length: header.desired_length.get(),
                }
            }
            Opcode::TASK_MANAGEMENT_RESPONSE => {
                let header: &TaskManagementResponse = bhs.as_ref();
                Event::TaskManagement { tag, result: header.result, additional: header.additional }
            }
            Opcode::LOGOUT_RESPONSE => {
                let header: &LogoutResponse = bhs.as_ref();
                Event::LoggedOut(header.result)
            }
            Opcode::REJECT => {
                let header: &Reject = bhs.as_ref();
                Event::Rejected { reason: header.reason, header: &self.segment }
            }
            Opcode::ASYNCHRONOUS_MESSAGE => {
                let header: &AsynchronousMessage = bhs.as_ref();
                let parameters = [header.parameter1, header.parameter2, header.parameter3].map(U16::get);
                Event::Message { event: header.event, lun: header.lun, parameters, data: &self.segment }
            }
            _ => Event::Pong { tag, data: &self.segment },
        }
    }
}

fn residual(flags: u8, count: u32, underflow: u8, overflow: u8) -> Residual {
    if flags & underflow != 0 {
        Residual::Underflow(count)
    } else if flags & overflow != 0 {
        Residual::Overflow(count)
    } else {
        Residual::Exact
    }
}
