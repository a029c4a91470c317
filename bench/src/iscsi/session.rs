//! A small initiator: a session of one connection (RFC 7143).

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail, ensure};
use lunette_iscsi::digest::crc32c;
use lunette_iscsi::pdu::{
    BHS, DataIn, DataOut, Header, LoginRequest, LoginResponse, LoginStatus, NO_TAG, NopIn, NopOut, Opcode,
    ReadyToTransfer, Reject, ScsiCommand, ScsiResponse, TaskAttribute, flag,
};
use lunette_iscsi::text;

use super::bundle::Channel;
use super::stream::Stream;
use crate::load::workload::Direction;
use crate::load::{Command, Completion};

const RECEIVE_SEGMENT: u32 = 256 << 10;
/// Bytes received ahead: many small PDUs, or of large ones little more than the next header, since their data has its place.
const AHEAD: usize = 64 << 10;
const LITTLE_AHEAD: usize = 512;
const LARGE: usize = 64 << 10;
const DIGEST: usize = 4;
/// From operational negotiation to the full-feature phase, in one step (RFC 7143 11.12).
const STRAIGHT_THROUGH: u8 = flag::TRANSIT | 1 << 2 | 3;

/// Where a logical unit is found.
pub(super) struct Way {
    pub(super) portal: SocketAddr,
    pub(super) target: &'static str,
    pub(super) lun: u8,
}

impl Way {
    /// On a free port of the loopback interface.
    pub(super) fn on_free_port(target: &'static str, lun: u8) -> Result<Self> {
        let portal = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        Ok(Self { portal, target, lun })
    }
}

/// What the login has agreed.
struct Agreed {
    /// Bytes of data that the target takes in one PDU.
    send_segment: usize,
    /// Bytes of data before the first R2T.
    first_burst: usize,
    immediate: bool,
    initial_r2t: bool,
    /// How many of the two digests.
    digests: usize,
}

struct Slot {
    command: Command,
    data: Vec<u8>,
}

/// Data of a slot among the encoded bytes that are to be sent.
struct Insert {
    /// Where among them.
    at: usize,
    slot: usize,
    piece: Range<usize>,
}

/// A session with one logical unit.
pub(super) struct Session {
    stream: Stream,
    /// What leaves at the next [`send`](Channel::send).
    encoded: Vec<u8>,
    inserts: Vec<Insert>,
    agreed: Agreed,
    /// Both digests or none; none before the full-feature phase.
    digests: bool,
    lun: [u8; 8],
    slots: Vec<Slot>,
    /// Slots whose command has not left.
    queued: VecDeque<usize>,
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
}

impl Session {
    /// Logs in, with both digests or none. `number` keeps the sessions of this initiator apart, `room` is the size of each
    /// slot's buffer, and `size` that of most commands.
    pub(super) fn login(
        way: &Way,
        number: u8,
        digests: bool,
        slots: usize,
        room: usize,
        size: usize,
    ) -> Result<Self> {
        let ahead = if size < LARGE { AHEAD } else { LITTLE_AHEAD };
        let command = Command { cdb: [0; 16], lba: 0, direction: Direction::Read, length: 0 };
        let (immediate, initial_r2t) = (true, true);
        let mut session = Self {
            stream: Stream::connect(way.portal, ahead)?,
            encoded: Vec::new(),
            inserts: Vec::new(),
            agreed: Agreed { send_segment: 8192, first_burst: 65536, immediate, initial_r2t, digests: 0 },
            digests: false,
            lun: [0, way.lun, 0, 0, 0, 0, 0, 0],
            slots: (0..slots).map(|_| Slot { command, data: vec![0; room] }).collect(),
            queued: VecDeque::new(),
            cmd_sn: 1,
            max_cmd_sn: 1,
            exp_stat_sn: 0,
        };
        session.negotiate(way.target, number, if digests { "CRC32C" } else { "None" })?;
        ensure!(session.agreed.digests == if digests { 2 } else { 0 }, "the target refuses digests");
        session.digests = digests;
        Ok(session)
    }

    fn negotiate(&mut self, target: &str, number: u8, digest: &str) -> Result<()> {
        let mut keys = Vec::new();
        let segment = RECEIVE_SEGMENT.to_string();
        for (key, value) in [
            ("InitiatorName", "iqn.2026-11.dev.lunette:bench"),
            ("TargetName", target),
            ("SessionType", "Normal"),
            ("HeaderDigest", digest),
            ("DataDigest", digest),
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
                isid: [0x80, 0x6c, 0x75, 0x6e, 0, number],
                data_segment_length: (keys.len() as u32).into(),
                cmd_sn: self.cmd_sn.into(),
                exp_stat_sn: self.exp_stat_sn.into(),
                ..Default::default()
            };
            self.push(request.into());
            self.encoded.append(&mut keys);
            self.encoded.resize(padded(self.encoded.len()), 0);
            self.flush()?;
            let bhs = self.receive_header()?;
            let data = self.receive_data(bhs.as_ref())?;
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

    /// Appends a header to what is to be sent.
    fn push(&mut self, bhs: [u8; BHS]) {
        self.encoded.extend_from_slice(&bhs);
        if self.digests {
            self.encoded.extend_from_slice(&crc32c(&bhs));
        }
    }

    /// Appends a header and part of a slot's data, whole blocks, as its data segment.
    fn push_data(&mut self, bhs: [u8; BHS], slot: usize, piece: Range<usize>) {
        self.push(bhs);
        if piece.is_empty() {
            return;
        }
        self.inserts.push(Insert { at: self.encoded.len(), slot, piece: piece.clone() });
        if self.digests {
            self.encoded.extend_from_slice(&crc32c(&self.slots[slot].data[piece]));
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.encoded.is_empty() {
            return Ok(());
        }
        let mut runs = Vec::with_capacity(2 * self.inserts.len() + 1);
        let mut from = 0;
        for Insert { at, slot, piece } in &self.inserts {
            runs.push(IoSlice::new(&self.encoded[from..*at]));
            runs.push(IoSlice::new(&self.slots[*slot].data[piece.clone()]));
            from = *at;
        }
        runs.push(IoSlice::new(&self.encoded[from..]));
        self.stream.write(&mut runs)?;
        self.encoded.clear();
        self.inserts.clear();
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
        let command = self.slots[index].command;
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
        self.push_data(request.into(), index, 0..immediate);
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
            self.push_data(header.into(), index, piece);
        }
    }

    /// Whether the next PDU has come in whole.
    fn has_pdu(&self) -> bool {
        let buffered = self.stream.buffered();
        buffered.first_chunk::<BHS>().is_some_and(|bhs| {
            let header: &Header = bhs.as_ref();
            let data = padded(header.data_segment_length.get() as usize);
            let digests = match (self.digests, data) {
                (false, _) => 0,
                (true, 0) => DIGEST,
                (true, _) => 2 * DIGEST,
            };
            buffered.len() >= BHS + data + digests
        })
    }

    fn receive_header(&mut self) -> Result<[u8; BHS]> {
        let mut bhs = [0; BHS];
        self.stream.read(&mut bhs)?;
        check(&mut self.stream, self.digests, &bhs)?;
        let header: &Header = bhs.as_ref();
        ensure!(header.total_ahs_length == 0, "additional header segments from the target");
        Ok(bhs)
    }

    /// A data segment in memory of its own.
    fn receive_data(&mut self, header: &Header) -> Result<Vec<u8>> {
        let length = header.data_segment_length.get();
        ensure!(length <= RECEIVE_SEGMENT, "a data segment of {length} bytes");
        let mut data = vec![0; padded(length as usize)];
        if length > 0 {
            self.stream.read(&mut data)?;
            check(&mut self.stream, self.digests, &data)?;
        }
        data.truncate(length as usize);
        Ok(data)
    }

    fn receive_one(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        let bhs = self.receive_header()?;
        let header: &Header = bhs.as_ref();
        if header.opcode.kind() == Opcode::DATA_IN {
            return self.data_in(bhs.as_ref(), done);
        }
        self.receive_data(header)?;
        match header.opcode.kind() {
            Opcode::SCSI_RESPONSE => self.response(bhs.as_ref(), done),
            Opcode::READY_TO_TRANSFER => self.ready_to_transfer(bhs.as_ref())?,
            Opcode::NOP_IN => self.nop_in(bhs.as_ref()),
            Opcode::REJECT => {
                let reject: &Reject = bhs.as_ref();
                bail!("the target rejects a PDU: {:?}", reject.reason);
            }
            other => bail!("the target sends {other:?}"),
        }
        Ok(())
    }

    fn data_in(&mut self, header: &DataIn, done: &mut Vec<Completion>) -> Result<()> {
        let index = header.task_tag.get() as usize;
        let length = header.data_segment_length.get() as usize;
        let begin = header.buffer_offset.get() as usize;
        let slot = self.slots.get_mut(index).context("data for a command that does not exist")?;
        ensure!(begin + length <= slot.command.length, "more data than asked for");
        let room = slot.data.get_mut(begin..begin + length).context("data beyond the buffer")?;
        ensure!(length > 0 && length.is_multiple_of(4), "a data segment of {length} bytes");
        self.stream.read(room)?;
        check(&mut self.stream, self.digests, room)?;
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
            self.push(answer.into());
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
            ("HeaderDigest" | "DataDigest", _) => self.digests += usize::from(value == "CRC32C"),
            _ => {}
        }
    }
}

/// Compares bytes that were received with the digest that follows them if there is one.
fn check(stream: &mut Stream, digests: bool, bytes: &[u8]) -> Result<()> {
    if digests {
        let mut digest = [0; DIGEST];
        stream.read(&mut digest)?;
        ensure!(digest == crc32c(bytes), "wrong digest");
    }
    Ok(())
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

impl Channel for Session {
    fn submit(&mut self, slot: usize, command: &Command) -> Result<()> {
        ensure!(command.length <= self.slots[slot].data.len(), "the command is larger than its slot");
        self.slots[slot].command = *command;
        self.queued.push_back(slot);
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        self.launch();
        self.flush()
    }

    fn receive(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        loop {
            self.receive_one(done)?;
            if !self.has_pdu() {
                return Ok(());
            }
        }
    }

    fn data(&self, slot: usize) -> &[u8] {
        &self.slots[slot].data
    }

    fn data_mut(&mut self, slot: usize) -> &mut [u8] {
        &mut self.slots[slot].data
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
