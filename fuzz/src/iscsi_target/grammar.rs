//! PDUs as an initiator might send them.

use super::TARGET;
use super::observer::{Observer, Sequence};
use crate::input::Input;
use crate::iscsi_wire::wire;
use lunette_iscsi::digest::Digests;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{
    BHS, DataOut, LoginRequest, LogoutRequest, NO_TAG, NopOut, Opcode, ScsiCommand, TaskManagementRequest,
    TextRequest, flag,
};

/// Pairs that a text is made of.
const TEXTS: [&[u8]; 26] = [
    b"HeaderDigest=CRC32C,None\0",
    b"HeaderDigest=None\0",
    b"DataDigest=CRC32C\0",
    b"DataDigest=None,CRC32C\0",
    b"MaxRecvDataSegmentLength=512\0",
    b"MaxRecvDataSegmentLength=16777215\0",
    b"MaxRecvDataSegmentLength=1\0",
    b"InitialR2T=Yes\0",
    b"InitialR2T=No\0",
    b"ImmediateData=Yes\0",
    b"ImmediateData=No\0",
    b"MaxBurstLength=512\0",
    b"MaxBurstLength=16777215\0",
    b"FirstBurstLength=512\0",
    b"FirstBurstLength=65536\0",
    b"MaxOutstandingR2T=65535\0",
    b"MaxConnections=8\0",
    b"ErrorRecoveryLevel=2\0",
    b"DefaultTime2Retain=0\0",
    b"DataPDUInOrder=No\0",
    b"DataSequenceInOrder=No\0",
    b"TaskReporting=RFC3720,FastAbort\0",
    b"SendTargets=All\0",
    b"SendTargets=\0",
    b"X-unknown=1\0",
    b"InitialR2T\0",
];

/// Where an initiator stands, and what it might say next.
pub(super) struct Grammar {
    digests: Digests,
    /// Longest data segment that the target takes.
    longest: u32,
    first_burst: u32,
    /// Data of a sequence may come in any order.
    any_order: bool,
    cmd_sn: u32,
    /// Data that is being sent.
    sequence: Option<Sequence>,
}

impl Grammar {
    pub(super) fn new(longest: u32) -> Self {
        Self {
            digests: Digests::default(),
            longest,
            first_burst: 0,
            any_order: false,
            cmd_sn: 0,
            sequence: None,
        }
    }

    pub(super) fn logged_in(&mut self, digests: Digests, agreed: &Parameters) {
        self.digests = digests;
        self.any_order = !agreed.data_pdu_in_order;
        self.first_burst = if agreed.initial_r2t { 0 } else { agreed.first_burst_length };
    }

    /// A login that needs one request.
    pub(super) fn plain_login(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let mut text = names(b"Normal");
        if input.one_in(8) {
            text = names(b"Discovery");
        }
        for pair in &TEXTS[..22] {
            if input.one_in(6) {
                let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
                if !text.windows(key.len()).any(|part| part == key) {
                    text.extend(*pair);
                }
            }
        }
        self.login_pdu(flag::TRANSIT | 1 << 2 | 3, &text)
    }

    pub(super) fn login(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        if input.one_in(8) {
            return self.pdu(&mut Observer::new(1), input);
        }
        let flags = input.pick(&[0x00, 0x81, 0x83, 0x87, 0x04, 0x40, 0x44, 0xc1, 0x80, 0x0c]);
        let mut text = Vec::new();
        if input.flag() {
            text.extend(names(input.pick(&[b"Normal" as &[u8], b"Discovery", b"Else"])));
        }
        for _ in 0..input.below(4) {
            let pair = input.pick(&TEXTS);
            text.extend(input.pick(&[
                b"AuthMethod=CHAP,None\0" as &[u8],
                b"AuthMethod=None\0",
                b"CHAP_A=5\0",
                b"CHAP_R=0x01\0",
                b"CHAP_R=0x02\0",
                b"InitiatorAlias=me\0",
                pair,
                pair,
            ]));
        }
        let cut = input.below(64);
        let length = text.len() - if cut < 8 { cut.min(text.len()) } else { 0 };
        self.login_pdu(flags, &text[..length])
    }

    fn login_pdu(&self, flags: u8, text: &[u8]) -> Vec<u8> {
        let header = LoginRequest {
            flags,
            isid: [0x40, 0, 0, 1, 0, 0],
            task_tag: 1.into(),
            cmd_sn: self.cmd_sn.into(),
            ..Default::default()
        };
        wire(header.into(), &[], text, Digests::default())
    }

    /// Any PDU of the full-feature phase.
    pub(super) fn pdu(&mut self, observer: &mut Observer, input: &mut Input<'_>) -> Vec<u8> {
        let exp_stat_sn = observer.stat_sn().into();
        let lun = [0, input.u8() & 1, 0, 0, 0, 0, 0, 0];
        let task_tag = tag(input).into();
        if (self.sequence.is_some() || observer.has_requests()) && input.flag() {
            return self.data_out(observer, input);
        }
        match input.below(20) {
            0..8 => self.command(observer, input),
            8..13 => self.data_out(observer, input),
            13 | 14 => {
                let header = TaskManagementRequest {
                    opcode: self.opcode(Opcode::TASK_MANAGEMENT_REQUEST, input),
                    flags: flag::FINAL | (input.u8() & 15),
                    lun,
                    task_tag,
                    referenced_task_tag: tag(input).into(),
                    cmd_sn: self.number(observer, input).into(),
                    exp_stat_sn,
                    ref_cmd_sn: self.cmd_sn.wrapping_sub(input.u8().into()).into(),
                    ..Default::default()
                };
                self.wire(header.into(), &[])
            }
            15 | 16 => {
                let length = input.pick(&[0, 0, 1, 5, 600, 2000]);
                let header = NopOut {
                    opcode: self.opcode(Opcode::NOP_OUT, input),
                    lun,
                    task_tag,
                    transfer_tag: input.pick(&[NO_TAG, observer.ping_tag(), 7]).into(),
                    cmd_sn: self.number(observer, input).into(),
                    exp_stat_sn,
                    ..Default::default()
                };
                let data = input.pattern(length);
                self.wire(header.into(), &data)
            }
            17 | 18 => {
                let header = TextRequest {
                    opcode: self.opcode(Opcode::TEXT_REQUEST, input),
                    flags: input.pick(&[
                        flag::FINAL,
                        flag::FINAL,
                        0,
                        flag::CONTINUE,
                        flag::FINAL | flag::CONTINUE,
                    ]),
                    lun,
                    task_tag: 3.into(),
                    transfer_tag: input.pick(&[NO_TAG, observer.text_tag(), 1]).into(),
                    cmd_sn: self.number(observer, input).into(),
                    exp_stat_sn,
                    ..Default::default()
                };
                let mut text = Vec::new();
                for _ in 0..input.below(6) {
                    text.extend(input.pick(&TEXTS));
                }
                self.wire(header.into(), &text)
            }
            _ => {
                let header = LogoutRequest {
                    opcode: self.opcode(
                        input.pick(&[Opcode::LOGOUT_REQUEST, Opcode::SNACK_REQUEST, Opcode(0x1c)]),
                        input,
                    ),
                    flags: flag::FINAL | input.pick(&[0, 1, 2, 9]),
                    task_tag,
                    cid: input.pick(&[0, 1]).into(),
                    cmd_sn: self.number(observer, input).into(),
                    exp_stat_sn,
                    ..Default::default()
                };
                self.wire(header.into(), &[])
            }
        }
    }

    fn command(&mut self, observer: &mut Observer, input: &mut Input<'_>) -> Vec<u8> {
        let direction = input.pick(&[flag::READ, flag::WRITE, flag::WRITE, 0, flag::READ | flag::WRITE]);
        let expected = input.pick(&[0, 1, 512, 513, 2048, 5000, 16384, u32::MAX]);
        let writes = direction & flag::WRITE != 0;
        let immediate = if writes && input.flag() {
            expected.min(input.pick(&[1, 512, 600, 1024])).min(self.longest)
        } else {
            0
        };
        let announced = writes && self.first_burst > 0 && input.flag();
        let task_tag = tag(input);
        let header = ScsiCommand {
            opcode: self.opcode(Opcode::SCSI_COMMAND, input),
            flags: direction | if announced { 0 } else { flag::FINAL } | (input.u8() & 3),
            lun: [0, input.u8() & 1, 0, 0, 0, 0, 0, 0],
            task_tag: task_tag.into(),
            expected_length: expected.into(),
            cmd_sn: self.number(observer, input).into(),
            exp_stat_sn: observer.stat_sn().into(),
            cdb: input.array(),
            ..Default::default()
        };
        let end = self.first_burst.min(expected);
        if announced && immediate < end {
            self.sequence = Some(Sequence {
                tag: task_tag,
                transfer_tag: NO_TAG,
                data_sn: 0,
                offset: immediate,
                left: end - immediate,
                behind: None,
            });
        }
        let additional: &[u8] = match input.below(12) {
            0 => &[0, 5, 2, 0, 0, 0, 2, 0],
            1 => &[0, 5, 1, 0, 1, 2, 3, 4],
            2 => &[0, 9, 1, 0],
            _ => &[],
        };
        let data = input.pattern(immediate as usize);
        wire(header.into(), additional, &data, self.digests)
    }

    /// The next data of a sequence, mostly as it should be.
    fn data_out(&mut self, observer: &mut Observer, input: &mut Input<'_>) -> Vec<u8> {
        let any = Sequence {
            tag: tag(input),
            transfer_tag: input.pick(&[NO_TAG, 0, 1, 0x1_0000]),
            data_sn: 0,
            offset: input.pick(&[0, 512]),
            left: 512,
            behind: None,
        };
        let mut sequence = self.sequence.or_else(|| observer.next_request()).unwrap_or(any);
        let (offset, mut length) = self.next_piece(&mut sequence, input);
        let last = sequence.left == 0 && sequence.behind.is_none();
        let mut header = DataOut {
            flags: if last { flag::FINAL } else { 0 },
            lun: [0; 8],
            task_tag: sequence.tag.into(),
            transfer_tag: sequence.transfer_tag.into(),
            exp_stat_sn: observer.stat_sn().into(),
            data_sn: sequence.data_sn.into(),
            buffer_offset: offset.into(),
            ..Default::default()
        };
        match input.below(24) {
            0 => header.flags ^= flag::FINAL,
            1 => header.data_sn = (sequence.data_sn + 1).into(),
            2 => header.buffer_offset = offset.wrapping_add(512).into(),
            3 => header.transfer_tag = sequence.transfer_tag.wrapping_add(1).into(),
            4 => (length, header.flags) = (sequence.left.saturating_add(1).min(self.longest), 0),
            _ => {}
        }
        sequence.data_sn += 1;
        self.sequence = (!last).then_some(sequence);
        let data = input.pattern(length as usize);
        self.wire(header.into(), &data)
    }

    /// Offset and length of what comes next: the next bytes, those after them, or those that were left out.
    fn next_piece(&self, sequence: &mut Sequence, input: &mut Input<'_>) -> (u32, u32) {
        if let Some(behind) = sequence.behind.take() {
            return behind;
        }
        let length = sequence.left.min(input.pick(&[0, 1, 511, 512, 1024, 1024])).min(self.longest);
        let mut start = sequence.offset;
        if self.any_order && length > 0 && sequence.left / 2 >= length && input.flag() {
            sequence.behind = Some((start, length));
            start = start.wrapping_add(length);
            sequence.left -= length;
        }
        sequence.offset = start.wrapping_add(length);
        sequence.left -= length;
        (start, length)
    }

    fn opcode(&mut self, opcode: Opcode, input: &mut Input<'_>) -> Opcode {
        if input.one_in(8) { opcode.immediate() } else { opcode }
    }

    /// A CmdSN: mostly the next one, else the one that is waited for, or near.
    fn number(&mut self, observer: &mut Observer, input: &mut Input<'_>) -> u32 {
        match input.below(16) {
            0 => observer.expected_command(),
            1 => self.cmd_sn.wrapping_add(input.below(4) as u32),
            2 => self.cmd_sn.wrapping_sub(1),
            _ => {
                self.cmd_sn = self.cmd_sn.wrapping_add(1);
                self.cmd_sn.wrapping_sub(1)
            }
        }
    }

    fn wire(&self, header: [u8; BHS], data: &[u8]) -> Vec<u8> {
        wire(header, &[], &data[..data.len().min(self.longest as usize)], self.digests)
    }
}

fn names(session_type: &[u8]) -> Vec<u8> {
    let target = format!("InitiatorName=iqn.2026-11.example:me\0TargetName={TARGET}\0SessionType=");
    [target.as_bytes(), session_type, b"\0"].concat()
}

/// A task tag of few.
fn tag(input: &mut Input<'_>) -> u32 {
    match input.below(16) {
        15 => NO_TAG,
        tag => tag as u32,
    }
}
