//! The initiator's view: takes the target's PDUs apart and checks them.

use lunette_iscsi::digest::{Digests, crc32c};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{
    BHS, DataIn, Header, LoginResponse, NO_TAG, NopIn, Opcode, ReadyToTransfer, ScsiResponse, TextResponse,
    flag,
};
use std::collections::{HashMap, VecDeque};

/// Longest data segment that a header can announce.
const LONGEST: usize = (1 << 24) - 1;
/// R2Ts that are remembered.
const REQUESTS: usize = 8;

/// Data that the target has asked for, or that a command has announced.
#[derive(Clone, Copy)]
pub(super) struct Sequence {
    pub(super) tag: u32,
    pub(super) transfer_tag: u32,
    pub(super) data_sn: u32,
    pub(super) offset: u32,
    pub(super) left: u32,
    /// Offset and length of what was left out for now.
    pub(super) behind: Option<(u32, u32)>,
}

/// The largest lengths that any command of a tag has had: its answers may be read when a later one has the tag.
#[derive(Default)]
struct Lengths {
    read: u32,
    write: u32,
    /// The device works on one.
    open: bool,
    /// Answers that are on their way.
    answers: u32,
}

pub(super) struct Observer {
    bytes: Vec<u8>,
    digests: Digests,
    agreed: Option<Parameters>,
    segment: usize,
    window: u32,
    stat_sn: Option<u32>,
    numbers: Option<(u32, u32)>,
    commands: HashMap<u32, Lengths>,
    requests: VecDeque<Sequence>,
    text_tag: u32,
    ping_tag: u32,
}

impl Observer {
    pub(super) fn new(window: u16) -> Self {
        Self {
            bytes: Vec::new(),
            digests: Digests::default(),
            agreed: None,
            segment: 8192,
            window: window.into(),
            stat_sn: None,
            numbers: None,
            commands: HashMap::new(),
            requests: VecDeque::new(),
            text_tag: NO_TAG,
            ping_tag: NO_TAG,
        }
    }

    /// The login is over; all its answers have been received.
    pub(super) fn logged_in(&mut self, digests: Digests, agreed: &Parameters) {
        assert!(self.bytes.is_empty());
        self.digests = digests;
        self.agreed = Some(*agreed);
        self.segment = agreed.max_recv_data_segment_length as usize;
    }

    /// ExpCmdSN as last seen.
    pub(super) fn expected_command(&self) -> u32 {
        self.numbers.map_or(0, |(expected, _)| expected)
    }

    pub(super) fn stat_sn(&self) -> u32 {
        self.stat_sn.unwrap_or(0)
    }

    pub(super) fn text_tag(&self) -> u32 {
        self.text_tag
    }

    pub(super) fn ping_tag(&self) -> u32 {
        self.ping_tag
    }

    pub(super) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// The oldest R2T that has not been answered.
    pub(super) fn next_request(&mut self) -> Option<Sequence> {
        self.requests.pop_front()
    }

    /// The target has accepted a command.
    pub(super) fn command(&mut self, tag: u32, read: u32, write: u32) {
        let lengths = self.commands.entry(tag).or_default();
        assert!(!std::mem::replace(&mut lengths.open, true), "two open commands with one tag");
        lengths.read = lengths.read.max(read);
        lengths.write = lengths.write.max(write);
    }

    /// The device answers a command.
    pub(super) fn answered(&mut self, tag: u32) {
        self.aborted(tag);
        self.commands.entry(tag).or_default().answers += 1;
    }

    /// A command ends without an answer.
    pub(super) fn aborted(&mut self, tag: u32) {
        assert!(std::mem::take(&mut self.commands.entry(tag).or_default().open));
    }

    pub(super) fn received(&mut self, tag: u32, received: u32) {
        self.requests.retain(|request| request.tag != tag || request.offset >= received);
    }

    pub(super) fn receive(&mut self, wire: &[u8]) {
        self.bytes.extend_from_slice(wire);
        while let Some(length) = self.pdu() {
            self.bytes.drain(..length);
        }
    }

    pub(super) fn finish(&self) {
        assert!(self.bytes.is_empty(), "the stream ends within a PDU");
    }

    /// Checks the PDU at the front; its length, once it is whole.
    fn pdu(&mut self) -> Option<usize> {
        let header: [u8; BHS] = *self.bytes.first_chunk()?;
        let common: &Header = header.as_ref();
        assert_eq!(common.total_ahs_length, 0);
        if common.opcode == Opcode::TEXT_RESPONSE {
            // The initiator may just have declared another length.
            self.segment = LONGEST;
        }
        let (data, digests) = (common.data_segment_length.get() as usize, self.digests);
        assert!(data <= self.segment, "a data segment of {data} bytes");
        let start = BHS + if digests.header { 4 } else { 0 };
        let padded = data.next_multiple_of(4);
        let end = start + padded + if digests.data && data > 0 { 4 } else { 0 };
        let bytes = self.bytes.get(..end)?;
        if digests.header {
            assert_eq!(bytes[BHS..start], crc32c(&header));
        }
        if digests.data && data > 0 {
            assert_eq!(bytes[start + padded..], crc32c(&bytes[start..start + padded]));
        }
        assert!(bytes[start + data..start + padded].iter().all(|byte| *byte == 0));
        self.header(&header, data as u32);
        Some(end)
    }

    fn header(&mut self, header: &[u8; BHS], data: u32) {
        let common: &Header = header.as_ref();
        let tag = common.task_tag.get();
        let response: &ScsiResponse = header.as_ref();
        self.count(response.exp_cmd_sn.get(), response.max_cmd_sn.get(), common.opcode);
        let uses_stat_sn = match common.opcode {
            Opcode::LOGIN_RESPONSE => {
                let login: &LoginResponse = header.as_ref();
                assert!(self.agreed.is_none() && login.version_active == 0);
                true
            }
            Opcode::DATA_IN => {
                let data_in: &DataIn = header.as_ref();
                let end = data_in.buffer_offset.get() + data;
                assert!(data > 0 && end <= self.commands[&tag].read);
                assert!(data_in.flags & flag::STATUS == 0 || data_in.flags & flag::FINAL != 0);
                let ends = data_in.flags & flag::STATUS != 0;
                if ends {
                    self.answer(tag);
                }
                ends
            }
            Opcode::READY_TO_TRANSFER => {
                assert_eq!(Some(response.stat_sn.get()), self.stat_sn);
                self.request(header.as_ref());
                false
            }
            Opcode::SCSI_RESPONSE => {
                self.answer(tag);
                true
            }
            Opcode::NOP_IN => {
                let nop: &NopIn = header.as_ref();
                if tag == NO_TAG {
                    self.ping_tag = nop.transfer_tag.get();
                    assert_eq!(Some(nop.stat_sn.get()), self.stat_sn);
                }
                tag != NO_TAG
            }
            Opcode::TEXT_RESPONSE => {
                let text: &TextResponse = header.as_ref();
                self.text_tag = text.transfer_tag.get();
                true
            }
            Opcode::TASK_MANAGEMENT_RESPONSE
            | Opcode::LOGOUT_RESPONSE
            | Opcode::ASYNCHRONOUS_MESSAGE
            | Opcode::REJECT => true,
            other => panic!("a target never sends {other}"),
        };
        if uses_stat_sn {
            let number = response.stat_sn.get();
            assert_eq!(number, self.stat_sn.unwrap_or(number), "StatSN of {}", common.opcode);
            self.stat_sn = Some(number.wrapping_add(1));
        }
    }

    /// ExpCmdSN and MaxCmdSN never go back, and the window is never wider than it may be.
    fn count(&mut self, expected: u32, max: u32, opcode: Opcode) {
        // A refused login shows an empty window.
        if opcode == Opcode::LOGIN_RESPONSE {
            return;
        }
        assert!(max.wrapping_sub(expected).wrapping_add(1) <= self.window, "{expected} to {max}");
        if let Some((old_expected, old_max)) = self.numbers {
            assert!(expected.wrapping_sub(old_expected) < 1 << 31 && max.wrapping_sub(old_max) < 1 << 31);
        }
        self.numbers = Some((expected, max));
    }

    fn answer(&mut self, tag: u32) {
        let lengths = self.commands.get_mut(&tag).expect("an answer to a command");
        lengths.answers = lengths.answers.checked_sub(1).expect("one answer to a command");
    }

    fn request(&mut self, request: &ReadyToTransfer) {
        let agreed = self.agreed.expect("after the login");
        let (offset, length) = (request.buffer_offset.get(), request.desired_length.get());
        let tag = request.task_tag.get();
        assert!(length > 0 && length <= agreed.max_burst_length);
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.commands[&tag].write));
        if self.requests.len() == REQUESTS {
            self.requests.pop_front();
        }
        self.requests.push_back(Sequence {
            tag,
            transfer_tag: request.transfer_tag.get(),
            data_sn: 0,
            offset,
            left: length,
            behind: None,
        });
    }
}
