//! Third-Party Copy (8Fh) (SPC-4 7.8.17).

use super::{VpdPage, page};
use crate::bytes::put;
use crate::opcode::Opcode;
use crate::third_party_copy::{CopyDescriptor, CopyLimits, SegmentEnd};

/// Third-Party Copy (8Fh): what the copy manager of a logical unit can do (SPC-4 7.8.17).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ThirdPartyCopy {
    /// Operation codes and their service actions.
    pub commands: Vec<(Opcode, Vec<u8>)>,
    /// What it takes.
    pub limits: CopyLimits,
}

/// Third-party copy descriptors.
mod descriptor {
    pub(super) const SUPPORTED_COMMANDS: u16 = 0x0001;
    pub(super) const PARAMETER_DATA: u16 = 0x0004;
    pub(super) const SUPPORTED_DESCRIPTORS: u16 = 0x0008;
    pub(super) const SUPPORTED_CSCD_DESCRIPTOR_IDS: u16 = 0x000c;
    pub(super) const GENERAL_COPY_OPERATIONS: u16 = 0x8001;
}

impl ThirdPartyCopy {
    /// PAGE CODE.
    pub const CODE: VpdPage = VpdPage::THIRD_PARTY_COPY;

    /// The whole page; `peripheral` is byte 0 of the standard INQUIRY data.
    pub fn encode(&self, peripheral: u8) -> Vec<u8> {
        let mut body = Vec::new();
        add(&mut body, descriptor::SUPPORTED_COMMANDS, counted(self.commands()));
        add(&mut body, descriptor::PARAMETER_DATA, self.parameter_data());
        let types = CopyDescriptor::ALL.iter().map(|code| code.0).collect();
        add(&mut body, descriptor::SUPPORTED_DESCRIPTORS, counted(types));
        let ids = [&2u16.to_be_bytes()[..], &SegmentEnd::COPY_MANAGER.to_be_bytes()].concat();
        add(&mut body, descriptor::SUPPORTED_CSCD_DESCRIPTOR_IDS, ids);
        add(&mut body, descriptor::GENERAL_COPY_OPERATIONS, self.general_operations());
        page(Self::CODE, peripheral, &body)
    }

    fn commands(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (opcode, actions) in &self.commands {
            out.extend([opcode.0, actions.len() as u8]);
            out.extend(actions);
        }
        out
    }

    fn parameter_data(&self) -> Vec<u8> {
        let mut out = vec![0; 28];
        put(&mut out, 4, &self.limits.cscds.to_be_bytes());
        put(&mut out, 6, &self.limits.segments.to_be_bytes());
        put(&mut out, 8, &self.limits.list_length.to_be_bytes());
        out
    }

    fn general_operations(&self) -> Vec<u8> {
        let mut out = vec![0; 32];
        let concurrent = u32::from(self.limits.concurrent).to_be_bytes();
        put(&mut out, 0, &concurrent);
        put(&mut out, 4, &concurrent);
        put(&mut out, 8, &self.limits.segment_length.to_be_bytes());
        out[12] = self.limits.granularity;
        out
    }
}

/// `list` behind its length.
fn counted(list: Vec<u8>) -> Vec<u8> {
    [vec![list.len() as u8], list].concat()
}

/// Adds a descriptor, padded to a multiple of four bytes.
fn add(page: &mut Vec<u8>, code: u16, mut body: Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
    page.extend(code.to_be_bytes());
    page.extend((body.len() as u16).to_be_bytes());
    page.extend(body);
}
