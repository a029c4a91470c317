//! A small initiator: one connection, no digests, several commands in flight (RFC 7143).

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use lunette_iscsi::pdu::{
    BHS, DataIn, DataOut, Header, LoginRequest, LoginResponse, LoginStatus, NO_TAG, NopIn, NopOut, Opcode,
    ReadyToTransfer, Reject, ScsiCommand, ScsiResponse, TaskAttribute, flag,
};
use lunette_iscsi::text;

use crate::load::workload::Direction;
use crate::load::{Command, Completion, Initiator, PATIENCE};

const RECEIVE_SEGMENT: u32 = 256 << 10;
/// Bytes read at once; a larger data segment goes straight to its slot.
const BUFFER: usize = 64 << 10;
/// From operational negotiation to the full-feature phase, in one step (RFC 7143 11.12).
const STRAIGHT_THROUGH: u8 = flag::TRANSIT | 1 << 2 | 3;

/// What the login has agreed.
struct Agreed {
    /// Bytes of data that the target takes in one PDU.
    send_segment: usize,
    /// Bytes of data before the first R2T.
    first_burst: usize,
    immediate: bool,
    initial_r2t: bool,
}

struct Slot {
    command: Command,
    data: Vec<u8>,
}

/// A session with one logical unit.
pub(crate) struct Session {
    input: BufReader<TcpStream>,
    output: TcpStream,
    /// Bytes to send at the next wait.
    pending: Vec<u8>,
    agreed: Agreed,
    lun: [u8; 8],
    slots: Vec<Slot>,
    /// Slots whose command has not left.
    queued: VecDeque<usize>,
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
}

impl Session {
    /// Logs in to a target; `room` is the size of each slot's buffer.
    pub(crate) fn login(
        portal: SocketAddr,
        target: &str,
        lun: u8,
        slots: usize,
        room: usize,
    ) -> Result<Self> {
        let output = TcpStream::connect(portal).with_context(|| format!("cannot connect to {portal}"))?;
        output.set_nodelay(true)?;
        output.set_read_timeout(Some(PATIENCE))?;
        let command = Command { cdb: [0; 16], lba: 0, direction: Direction::Read, length: 0 };
        let mut session = Self {
            input: BufReader::with_capacity(BUFFER, output.try_clone()?),
            output,
            pending: Vec::new(),
            agreed: Agreed { send_segment: 8192, first_burst: 65536, immediate: true, initial_r2t: true },
            lun: [0, lun, 0, 0, 0, 0, 0, 0],
            slots: (0..slots).map(|_| Slot { command, data: vec![0; room] }).collect(),
            queued: VecDeque::new(),
            cmd_sn: 1,
            max_cmd_sn: 1,
            exp_stat_sn: 0,
        };
        session.negotiate(target)?;
        Ok(session)
    }

    fn negotiate(&mut self, target: &str) -> Result<()> {
        let mut keys = Vec::new();
        let segment = RECEIVE_SEGMENT.to_string();
        for (key, value) in [
            ("InitiatorName", "iqn.2026-11.dev.lunette:bench"),
            ("TargetName", target),
            ("SessionType", "Normal"),
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxRecvDataSegmentLength", &segment),
            ("FirstBurstLength", &segment),
            ("MaxBurstLength", "1048576"),
            ("MaxConnections", "1"),
            ("MaxOutstandingR2T", "1"),
            ("DefaultTime2Wait", "2"),
            ("DefaultTime2Retain", "0"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
            ("ErrorRecoveryLevel", "0"),
        ] {
            text::push(&mut keys, key, value);
        }
        loop {
            let request = LoginRequest {
                flags: STRAIGHT_THROUGH,
                isid: [0x80, 0x6c, 0x75, 0x6e, 0, 0],
                data_segment_length: (keys.len() as u32).into(),
                cmd_sn: self.cmd_sn.into(),
                exp_stat_sn: self.exp_stat_sn.into(),
                ..Default::default()
            };
            self.send(request.into(), &keys);
            keys.clear();
            self.flush()?;
            let (bhs, data) = self.receive_all()?;
            let response: &LoginResponse = bhs.as_ref();
            ensure!(
                response.opcode.kind() == Opcode::LOGIN_RESPONSE,
                "the login is answered by {}",
                response.opcode.0
            );
            let status = LoginStatus(response.status.get());
            ensure!(status == LoginStatus::SUCCESS, "the target refuses the login: {:#06x}", status.0);
            self.exp_stat_sn = response.stat_sn.get().wrapping_add(1);
            self.max_cmd_sn = response.max_cmd_sn.get();
            for (key, value) in text::parse(&data)? {
                self.agreed.take(key, value);
            }
            if response.flags & flag::TRANSIT != 0 {
                return Ok(());
            }
        }
    }

    /// Appends a PDU to what is to be sent.
    fn send(&mut self, bhs: [u8; BHS], data: &[u8]) {
        push_pdu(&mut self.pending, bhs, data);
    }

    fn flush(&mut self) -> Result<()> {
        self.output.write_all(&self.pending).context("the target has closed the connection")?;
        self.pending.clear();
        Ok(())
    }

    /// Sends queued commands as far as the command window reaches.
    fn launch(&mut self) {
        while self.max_cmd_sn.wrapping_sub(self.cmd_sn) as i32 >= 0 {
            let Some(slot) = self.queued.pop_front() else { return };
            self.send_command(slot);
        }
    }

    fn send_command(&mut self, index: usize) {
        let Slot { command, data } = &self.slots[index];
        let length = command.length;
        let write = command.direction == Direction::Write && length > 0;
        let unsolicited = match write {
            true if !self.agreed.initial_r2t => length.min(self.agreed.first_burst),
            _ => 0,
        };
        let immediate = match write && self.agreed.immediate {
            true => length.min(self.agreed.first_burst).min(self.agreed.send_segment),
            false => 0,
        };
        let mut flags = TaskAttribute::SIMPLE.0;
        if unsolicited <= immediate {
            flags |= flag::FINAL;
        }
        flags |= match command.direction {
            Direction::Write if write => flag::WRITE,
            Direction::Read if length > 0 => flag::READ,
            _ => 0,
        };
        let request = ScsiCommand {
            flags,
            data_segment_length: (immediate as u32).into(),
            lun: self.lun,
            task_tag: (index as u32).into(),
            expected_length: (length as u32).into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            cdb: command.cdb,
            ..Default::default()
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        push_pdu(&mut self.pending, request.into(), &data[..immediate]);
        if unsolicited > immediate {
            self.send_data(index, immediate, unsolicited, NO_TAG);
        }
    }

    /// Sends a sequence of Data-Out PDUs.
    fn send_data(&mut self, index: usize, begin: usize, end: usize, transfer_tag: u32) {
        let segment = self.agreed.send_segment;
        for (data_sn, offset) in (begin..end).step_by(segment).enumerate() {
            let piece = offset..end.min(offset + segment);
            let header = DataOut {
                flags: if piece.end == end { flag::FINAL } else { 0 },
                data_segment_length: (piece.len() as u32).into(),
                lun: self.lun,
                task_tag: (index as u32).into(),
                transfer_tag: transfer_tag.into(),
                exp_stat_sn: self.exp_stat_sn.into(),
                data_sn: (data_sn as u32).into(),
                buffer_offset: (offset as u32).into(),
                ..Default::default()
            };
            push_pdu(&mut self.pending, header.into(), &self.slots[index].data[piece]);
        }
    }

    /// Whether the next PDU has come in whole.
    fn has_pdu(&self) -> bool {
        let buffered = self.input.buffer();
        buffered.first_chunk::<BHS>().is_some_and(|bhs| {
            let header: &Header = bhs.as_ref();
            buffered.len() >= BHS + padded(header.data_segment_length.get() as usize)
        })
    }

    fn receive_header(&mut self) -> Result<[u8; BHS]> {
        let mut bhs = [0; BHS];
        self.input.read_exact(&mut bhs).context("no answer from the target")?;
        let header: &Header = bhs.as_ref();
        ensure!(header.total_ahs_length == 0, "additional header segments from the target");
        Ok(bhs)
    }

    /// A PDU with its data in memory of its own.
    fn receive_all(&mut self) -> Result<([u8; BHS], Vec<u8>)> {
        let bhs = self.receive_header()?;
        let header: &Header = bhs.as_ref();
        let length = header.data_segment_length.get();
        ensure!(length <= RECEIVE_SEGMENT, "a data segment of {length} bytes");
        let mut data = vec![0; padded(length as usize)];
        self.input.read_exact(&mut data)?;
        data.truncate(length as usize);
        Ok((bhs, data))
    }

    fn skip(&mut self, bytes: usize) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            let count = self.input.fill_buf()?.len().min(left);
            ensure!(count > 0, "the target has closed the connection");
            self.input.consume(count);
            left -= count;
        }
        Ok(())
    }

    fn receive(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        let bhs = self.receive_header()?;
        let header: &Header = bhs.as_ref();
        let length = header.data_segment_length.get() as usize;
        match header.opcode.kind() {
            Opcode::DATA_IN => self.data_in(bhs.as_ref(), length, done)?,
            Opcode::SCSI_RESPONSE => {
                self.skip(padded(length))?;
                self.response(bhs.as_ref(), done);
            }
            Opcode::READY_TO_TRANSFER => {
                self.skip(padded(length))?;
                self.ready_to_transfer(bhs.as_ref())?;
            }
            Opcode::NOP_IN => {
                self.skip(padded(length))?;
                self.nop_in(bhs.as_ref());
            }
            Opcode::REJECT => {
                let reject: &Reject = bhs.as_ref();
                bail!("the target rejects a PDU: {:?}", reject.reason);
            }
            other => bail!("the target sends {other:?}"),
        }
        Ok(())
    }

    fn data_in(&mut self, header: &DataIn, length: usize, done: &mut Vec<Completion>) -> Result<()> {
        let index = header.task_tag.get() as usize;
        let begin = header.buffer_offset.get() as usize;
        let slot = self.slots.get_mut(index).context("data for a command that does not exist")?;
        ensure!(begin + length <= slot.command.length, "more data than asked for");
        let room = slot.data.get_mut(begin..begin + length).context("data beyond the buffer")?;
        self.input.read_exact(room)?;
        self.skip(padded(length) - length)?;
        if header.flags & flag::STATUS != 0 {
            self.take_status(header.stat_sn.get(), header.max_cmd_sn.get());
            let residual = header.residual.get();
            done.push(Completion { slot: index, status: header.status, residual });
        }
        Ok(())
    }

    fn response(&mut self, header: &ScsiResponse, done: &mut Vec<Completion>) {
        self.take_status(header.stat_sn.get(), header.max_cmd_sn.get());
        let status = if header.response.0 == 0 { header.status } else { Completion::FAILED };
        let slot = header.task_tag.get() as usize;
        done.push(Completion { slot, status, residual: header.residual.get() });
    }

    fn ready_to_transfer(&mut self, header: &ReadyToTransfer) -> Result<()> {
        let index = header.task_tag.get() as usize;
        let begin = header.buffer_offset.get() as usize;
        let end = begin + header.desired_length.get() as usize;
        let slot = self.slots.get(index).context("R2T for a command that does not exist")?;
        ensure!(end <= slot.command.length, "R2T beyond the command's data");
        self.send_data(index, begin, end, header.transfer_tag.get());
        Ok(())
    }

    fn nop_in(&mut self, header: &NopIn) {
        self.max_cmd_sn = header.max_cmd_sn.get();
        if header.transfer_tag.get() != NO_TAG {
            let answer = NopOut {
                opcode: Opcode::NOP_OUT.immediate(),
                lun: header.lun,
                task_tag: NO_TAG.into(),
                transfer_tag: header.transfer_tag,
                cmd_sn: self.cmd_sn.into(),
                exp_stat_sn: self.exp_stat_sn.into(),
                ..Default::default()
            };
            self.send(answer.into(), &[]);
        }
    }

    fn take_status(&mut self, stat_sn: u32, max_cmd_sn: u32) {
        self.exp_stat_sn = stat_sn.wrapping_add(1);
        self.max_cmd_sn = max_cmd_sn;
    }
}

impl Agreed {
    fn take(&mut self, key: &str, value: &str) {
        let number = text::number(value).filter(|&number| number > 0).map(|number| number as usize);
        match (key, number) {
            ("MaxRecvDataSegmentLength", Some(number)) => self.send_segment = number,
            ("FirstBurstLength", Some(number)) => self.first_burst = number,
            ("ImmediateData", _) => self.immediate = value == "Yes",
            ("InitialR2T", _) => self.initial_r2t = value == "Yes",
            _ => {}
        }
    }
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn push_pdu(output: &mut Vec<u8>, bhs: [u8; BHS], data: &[u8]) {
    output.extend_from_slice(&bhs);
    output.extend_from_slice(data);
    output.resize(output.len() + padded(data.len()) - data.len(), 0);
}

impl Initiator for Session {
    fn submit(&mut self, slot: usize, command: &Command) -> Result<()> {
        ensure!(command.length <= self.slots[slot].data.len(), "the command is larger than its slot");
        self.slots[slot].command = *command;
        self.queued.push_back(slot);
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        loop {
            if !self.has_pdu() {
                if !done.is_empty() {
                    return Ok(());
                }
                self.launch();
                self.flush()?;
            }
            self.receive(done)?;
        }
    }

    fn word(&self, slot: usize, index: usize) -> u64 {
        let bytes = &self.slots[slot].data[8 * index..];
        bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn set_word(&mut self, slot: usize, index: usize, value: u64) {
        self.slots[slot].data[8 * index..][..8].copy_from_slice(&value.to_le_bytes());
    }
}
