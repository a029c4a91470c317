//! Mode parameters: headers, block descriptors and lists of pages (SPC-4 7.5).

mod list;
mod pages;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::bytes::{bit, put, u8_at, u24_at, u32_at, u64_at};
use crate::error::ParseError;

pub use list::{ModePageEntry, ModeParameterList};
pub use pages::{
    Caching, Control, ControlExtension, DisconnectReconnect, InformationalExceptions, PowerCondition,
    ProvisioningThreshold, ReadWriteErrorRecovery, VerifyErrorRecovery,
};

/// WP in the device-specific parameter of a disk: the medium is write-protected (SBC-4 6.5.1).
pub const DISK_WRITE_PROTECTED: u8 = 0x80;
/// DPOFUA in the device-specific parameter of a disk: DPO and FUA are supported (SBC-4 6.5.1).
pub const DISK_DPO_FUA: u8 = 0x10;

/// Whether a mode parameter list belongs to the 6- or the 10-byte command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ModeForm {
    /// MODE SENSE(6), MODE SELECT(6): a header of 4 bytes.
    Six,
    /// MODE SENSE(10), MODE SELECT(10): a header of 8 bytes.
    Ten,
}

impl ModeForm {
    const fn header_length(self) -> usize {
        match self {
            Self::Six => 4,
            Self::Ten => 8,
        }
    }
}

/// PAGE CODE and SUBPAGE CODE; subpage 0 means the page_0 format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModePageCode {
    /// PAGE CODE, 6 bits.
    pub page: u8,
    /// SUBPAGE CODE.
    pub subpage: u8,
}

impl ModePageCode {
    /// PAGE CODE that asks for all pages.
    pub const ALL_PAGES: u8 = 0x3f;
    /// SUBPAGE CODE that asks for all subpages.
    pub const ALL_SUBPAGES: u8 = 0xff;

    /// The standards' name of the page.
    pub const fn name(self) -> Option<&'static str> {
        Some(match (self.page, self.subpage) {
            (0x01, 0) => "Read-Write Error Recovery",
            (0x02, 0) => "Disconnect-Reconnect",
            (0x07, 0) => "Verify Error Recovery",
            (0x08, 0) => "Caching",
            (0x0a, 0) => "Control",
            (0x0a, 1) => "Control Extension",
            (0x1a, 0) => "Power Condition",
            (0x1c, 0) => "Informational Exceptions Control",
            (0x1c, 2) => "Logical Block Provisioning",
            _ => return None,
        })
    }

    /// A page in the page_0 format.
    pub const fn page(page: u8) -> Self {
        Self { page, subpage: 0 }
    }

    /// A page in the sub_page format.
    pub const fn subpage(page: u8, subpage: u8) -> Self {
        Self { page, subpage }
    }
}

impl fmt::Display for ModePageCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subpage {
            0 => write!(f, "{:02X}h", self.page),
            subpage => write!(f, "{:02X}h/{subpage:02X}h", self.page),
        }
    }
}

impl fmt::Debug for ModePageCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModePageCode({self})")
    }
}

/// The header of a mode page, in either format (SPC-4 7.5.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ModePageHeader {
    /// PS: the page can be saved (MODE SENSE only).
    pub savable: bool,
    /// Which page.
    pub code: ModePageCode,
    /// PAGE LENGTH: bytes after the header. One byte in the page_0 format.
    pub length: u16,
}

impl ModePageHeader {
    /// The header's own length: 4 bytes in the sub_page format, else 2.
    pub const fn size(&self) -> usize {
        if self.code.subpage == 0 { 2 } else { 4 }
    }

    /// Writes the header to the start of `out`, which holds at least four bytes.
    fn write(&self, out: &mut [u8]) {
        let first = bit(self.savable, 7) | (self.code.page & 0x3f);
        let [high, low] = self.length.to_be_bytes();
        match self.code.subpage {
            0 => put(out, 0, &[first, low]),
            subpage => put(out, 0, &[first | 0x40, subpage, high, low]),
        }
    }

    /// Decodes the header at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let what = "mode page";
        let first = u8_at(bytes, 0);
        let subpage_format = first & 0x40 != 0;
        ParseError::check_length(what, bytes, if subpage_format { 4 } else { 2 })?;
        let (subpage, length) = if subpage_format {
            if bytes[1] == 0 {
                return Err(ParseError::Invalid {
                    what,
                    byte: 1,
                    reason: "subpage 00h in the sub_page format",
                });
            }
            (bytes[1], crate::bytes::u16_at(bytes, 2))
        } else {
            (0, u16::from(bytes[1]))
        };
        Ok(Self { savable: first & 0x80 != 0, code: ModePageCode { page: first & 0x3f, subpage }, length })
    }
}

/// The mode parameter header without its lengths, which follow from the rest (SPC-4 7.5.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ModeHeader {
    /// MEDIUM TYPE, zero for disks.
    pub medium_type: u8,
    /// DEVICE-SPECIFIC PARAMETER.
    pub device_specific: u8,
}

/// A mode parameter block descriptor (SPC-4 7.5.6, SBC-4 6.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BlockDescriptor {
    /// Eight bytes.
    Short {
        /// NUMBER OF LOGICAL BLOCKS; all ones if there are more. Device types other than disks
        /// put DENSITY CODE in the top byte.
        blocks: u32,
        /// LOGICAL BLOCK LENGTH, 24 bits.
        block_length: u32,
    },
    /// Sixteen bytes, with LONGLBA in the header of the 10-byte form.
    Long {
        /// NUMBER OF LOGICAL BLOCKS.
        blocks: u64,
        /// LOGICAL BLOCK LENGTH.
        block_length: u32,
    },
}

impl BlockDescriptor {
    /// The short descriptor of a disk.
    pub const fn short(blocks: u64, block_length: u32) -> Self {
        let blocks = if blocks > u32::MAX as u64 { u32::MAX } else { blocks as u32 };
        Self::Short { blocks, block_length }
    }

    const fn size(&self) -> usize {
        match self {
            Self::Short { .. } => 8,
            Self::Long { .. } => 16,
        }
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Short { blocks, block_length } => {
                out.extend(blocks.to_be_bytes());
                out.extend((block_length & 0x00ff_ffff).to_be_bytes());
            }
            Self::Long { blocks, block_length } => {
                out.extend(blocks.to_be_bytes());
                out.extend([0; 4]);
                out.extend(block_length.to_be_bytes());
            }
        }
    }

    /// Decodes a descriptor by its length, 8 or 16.
    fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            8 => Some(Self::Short { blocks: u32_at(bytes, 0), block_length: u24_at(bytes, 5) }),
            16 => Some(Self::Long { blocks: u64_at(bytes, 0), block_length: u32_at(bytes, 12) }),
            _ => None,
        }
    }
}

/// MODE SENSE parameter data: header, optional block descriptor, and `pages` one after another.
///
/// `None` if it is too long for the form's MODE DATA LENGTH, or the 6-byte form is asked for a
/// long descriptor.
pub fn encode_mode_data(
    form: ModeForm,
    header: ModeHeader,
    descriptor: Option<BlockDescriptor>,
    pages: &[u8],
) -> Option<Vec<u8>> {
    let descriptor_length = descriptor.map_or(0, |descriptor| descriptor.size());
    let long = matches!(descriptor, Some(BlockDescriptor::Long { .. }));
    let total = form.header_length() + descriptor_length + pages.len();
    let mut out = Vec::with_capacity(total);
    match form {
        ModeForm::Six if long => return None,
        ModeForm::Six => {
            let data_length = u8::try_from(total - 1).ok()?;
            out.extend([data_length, header.medium_type, header.device_specific, descriptor_length as u8]);
        }
        ModeForm::Ten => {
            out.extend(u16::try_from(total - 2).ok()?.to_be_bytes());
            out.extend([header.medium_type, header.device_specific, u8::from(long), 0]);
            out.extend((descriptor_length as u16).to_be_bytes());
        }
    }
    if let Some(descriptor) = descriptor {
        descriptor.append_to(&mut out);
    }
    out.extend(pages);
    Some(out)
}
