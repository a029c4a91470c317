//! What targets might say.

use super::{Open, Session};
use crate::input::Input;
use crate::iscsi_wire::wire;
use lunette_iscsi::digest::Digests;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::limits::MAX_SENSE;
use lunette_iscsi::pdu::{
    AsyncEvent, AsynchronousMessage, BHS, DataIn, LoginResponse, LogoutResponse, NO_TAG, NopIn, Opcode,
    ReadyToTransfer, Reject, RejectReason, ScsiResponse, TaskManagementResponse, TaskManagementResult,
    TextResponse, flag,
};

impl Session {
    /// A PDU of the target, mostly such as is due.
    pub(super) fn answer(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let tags: Vec<u32> = self.open.keys().copied().collect();
        let tag = match tags.len() {
            0 => input.u8().into(),
            _ if input.one_in(16) => input.u8().into(),
            count => {
                let mut tags = tags;
                tags.sort_unstable();
                tags[input.below(count)]
            }
        };
        let open = self.open.get(&tag).copied().unwrap_or_default();
        let is_command = open.answer == Opcode::SCSI_RESPONSE.0;
        let kind = match input.below(16) {
            0..6 if is_command && open.sent < open.read => Opcode::DATA_IN,
            0..8 if is_command && open.asked < open.write => Opcode::READY_TO_TRANSFER,
            8 => Opcode::NOP_IN,
            9 => input.pick(&[
                Opcode::ASYNCHRONOUS_MESSAGE,
                Opcode::REJECT,
                Opcode::LOGIN_RESPONSE,
                Opcode(0x3c),
            ]),
            _ => Opcode(open.answer),
        };
        let off = if input.one_in(16) { u32::from(input.u8()) } else { 0 };
        let (header, data) = self.make(kind, (tag, open), off, input);
        wire(header, &[], &data[..data.len().min(self.segments.1 as usize)], self.digests)
    }

    fn make(
        &mut self,
        kind: Opcode,
        (tag, open): (u32, Open),
        off: u32,
        input: &mut Input<'_>,
    ) -> ([u8; BHS], Vec<u8>) {
        let task_tag = tag.into();
        let (exp_cmd_sn, max_cmd_sn) =
            (self.cmd_sn.into(), self.cmd_sn.wrapping_add(input.below(32) as u32).into());
        let stat_sn = self.stat_sn.wrapping_add(off).into();
        let mut uses_stat_sn = true;
        let made: ([u8; BHS], Vec<u8>) = match kind {
            Opcode::DATA_IN => {
                let length =
                    (open.read - open.sent).min(input.pick(&[1, 512, 512, 4096])).min(self.segments.1);
                let all = open.sent + length == open.read;
                let status = all && input.flag();
                let header = DataIn {
                    flags: if all || input.flag() { flag::FINAL } else { 0 }
                        | if status { flag::STATUS } else { 0 },
                    task_tag,
                    transfer_tag: NO_TAG.into(),
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    data_sn: open.data_sn.into(),
                    buffer_offset: (open.sent + off).into(),
                    ..Default::default()
                };
                uses_stat_sn = status;
                if let Some(open) = self.open.get_mut(&tag) {
                    open.sent += length;
                    open.data_sn += 1;
                    open.data_in = true;
                }
                (header.into(), vec![7; length as usize])
            }
            Opcode::READY_TO_TRANSFER => {
                let length = (open.write - open.asked).min(input.pick(&[1, 512, 1024]));
                self.transfer_tag = self.transfer_tag.wrapping_add(1);
                let header = ReadyToTransfer {
                    task_tag,
                    transfer_tag: self.transfer_tag.into(),
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    r2t_sn: open.data_sn.into(),
                    buffer_offset: (open.asked + off).into(),
                    desired_length: length.into(),
                    ..Default::default()
                };
                uses_stat_sn = false;
                if let Some(open) = self.open.get_mut(&tag) {
                    open.asked += length;
                    open.data_sn += 1;
                }
                (header.into(), Vec::new())
            }
            Opcode::SCSI_RESPONSE => {
                let status = input.pick(&[0, 0, 2, 8]);
                let missing = open.read - open.sent;
                let both = open.read > 0 && open.write > 0;
                let mut header = ScsiResponse {
                    status,
                    task_tag,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    exp_data_sn: if open.data_in { open.data_sn } else { 0 }.wrapping_add(off).into(),
                    ..Default::default()
                };
                if missing > 0 && both {
                    header.flags |= flag::BIDI_UNDERFLOW;
                    header.bidi_residual = missing.into();
                } else if missing > 0 {
                    header.flags |= flag::UNDERFLOW;
                    header.residual = missing.into();
                }
                let mut data = Vec::new();
                if status == 2 {
                    let length = input.below(2 * MAX_SENSE);
                    data.extend((length as u16).to_be_bytes());
                    data.extend(input.pattern(18));
                }
                (header.into(), data)
            }
            Opcode::TEXT_RESPONSE => {
                let last = input.flag();
                let header = TextResponse {
                    flags: if last { flag::FINAL } else { 0 },
                    task_tag,
                    transfer_tag: if last { NO_TAG } else { 9 }.into(),
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    ..Default::default()
                };
                let length = input.below(600);
                (header.into(), input.pattern(length))
            }
            Opcode::NOP_IN => {
                let calls = open.answer != Opcode::NOP_IN.0 || input.flag();
                let header = NopIn {
                    task_tag: if calls { NO_TAG.into() } else { task_tag },
                    transfer_tag: if calls { u32::from(input.u8()) } else { NO_TAG }.into(),
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    ..Default::default()
                };
                uses_stat_sn = !calls;
                (header.into(), input.pattern(16))
            }
            Opcode::TASK_MANAGEMENT_RESPONSE => {
                let result = TaskManagementResult(input.pick(&[0, 0, 1, 5, 7, 255]));
                let header = TaskManagementResponse {
                    result,
                    task_tag,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    ..Default::default()
                };
                (header.into(), Vec::new())
            }
            Opcode::LOGOUT_RESPONSE => {
                let header =
                    LogoutResponse { task_tag, stat_sn, exp_cmd_sn, max_cmd_sn, ..Default::default() };
                (header.into(), Vec::new())
            }
            Opcode::ASYNCHRONOUS_MESSAGE => {
                let event = AsyncEvent(input.u8());
                let header = AsynchronousMessage {
                    event,
                    task_tag: NO_TAG.into(),
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    ..Default::default()
                };
                (header.into(), input.pattern(20))
            }
            Opcode::REJECT => {
                let reason = RejectReason(input.u8());
                let header = Reject {
                    reason,
                    task_tag: NO_TAG.into(),
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    ..Default::default()
                };
                (header.into(), input.pattern(BHS))
            }
            other => {
                let header =
                    NopIn { opcode: other, task_tag, stat_sn, exp_cmd_sn, max_cmd_sn, ..Default::default() };
                (header.into(), Vec::new())
            }
        };
        self.stat_sn = self.stat_sn.wrapping_add(u32::from(uses_stat_sn));
        made
    }

    /// A login answer, which need not make sense.
    pub(super) fn login_answer(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        const TEXTS: [&[u8]; 18] = [
            b"AuthMethod=None\0",
            b"AuthMethod=CHAP\0",
            b"CHAP_A=7\0CHAP_I=1\0CHAP_C=0x0102030405060708\0",
            b"CHAP_A=5\0",
            b"CHAP_I=256\0",
            b"CHAP_C=0b\0",
            b"CHAP_N=target\0CHAP_R=0x00\0",
            b"HeaderDigest=CRC32C\0",
            b"DataDigest=None\0",
            b"MaxRecvDataSegmentLength=512\0",
            b"MaxBurstLength=0x200\0",
            b"FirstBurstLength=16777216\0",
            b"DataPDUInOrder=No\0",
            b"ImmediateData=Reject\0",
            b"TargetAddress=[fd00::1]:860\0",
            b"TargetPortalGroupTag=1\0",
            b"ErrorRecoveryLevel=2\0",
            b"junk",
        ];
        let status = if input.one_in(16) { input.pick(&[0x0101, 0x0102, 0x0201, 0x0300]) } else { 0 };
        let header = LoginResponse {
            flags: input.pick(&[0x00, 0x04, 0x81, 0x83, 0x87, 0x87, 0x40, 0x44, 0xc7]),
            isid: if input.one_in(32) { input.array() } else { Settings::default().isid },
            tsih: input.pick(&[0, 1, 1, 1]).into(),
            stat_sn: self.stat_sn.into(),
            exp_cmd_sn: 1.into(),
            max_cmd_sn: input.pick(&[0, 1, 30]).into(),
            status: status.into(),
            ..Default::default()
        };
        self.stat_sn = self.stat_sn.wrapping_add(1);
        let mut text = Vec::new();
        for _ in 0..input.below(5) {
            text.extend(input.pick(&TEXTS));
        }
        if input.one_in(8) {
            let length = input.below(64);
            text.extend(input.bytes(length));
        }
        wire(header.into(), &[], &text, Digests::default())
    }
}
