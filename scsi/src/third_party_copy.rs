//! Third-party copies: the parameter list of EXTENDED COPY(LID1) and the data of RECEIVE COPY STATUS(LID1), RECEIVE COPY
//! FAILURE DETAILS(LID1) and RECEIVE COPY OPERATING PARAMETERS (SPC-4 5.16, 6.5, 6.22, 6.23, 6.25).

use crate::bytes::{bit_at, put, u8_at, u16_at, u24_at, u32_at, u64_at};
use crate::codes::codes;
use crate::designator::Designator;
use crate::inquiry::{PeripheralDeviceType, SpcVersion};
use crate::sense::{AdditionalSense, Sense, SenseKeySpecific};
use crate::status::Status;

codes! {
    /// DESCRIPTOR TYPE CODE (SPC-4 6.4.4): what a descriptor of a copy is.
    pub struct CopyDescriptor(u8);
    BLOCK_TO_BLOCK = 0x02, "block device to block device";
    BLOCK_TO_BLOCK_WITH_OFFSET = 0x0a, "block device to block device with offset";
    IDENTIFICATION = 0xe4, "Identification descriptor CSCD descriptor";
}

impl CopyDescriptor {
    /// Those that are understood here, ascending.
    pub const ALL: [Self; 3] = [Self::BLOCK_TO_BLOCK, Self::BLOCK_TO_BLOCK_WITH_OFFSET, Self::IDENTIFICATION];
}

/// What a copy manager takes (SPC-4 6.22).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyLimits {
    /// MAXIMUM CSCD DESCRIPTOR COUNT.
    pub cscds: u16,
    /// MAXIMUM SEGMENT DESCRIPTOR COUNT.
    pub segments: u16,
    /// MAXIMUM DESCRIPTOR LIST LENGTH: of both lists together, in bytes.
    pub list_length: u32,
    /// MAXIMUM SEGMENT LENGTH in bytes.
    pub segment_length: u32,
    /// MAXIMUM CONCURRENT COPIES.
    pub concurrent: u8,
    /// DATA SEGMENT GRANULARITY: segments are a multiple of two to the power of this many bytes.
    pub granularity: u8,
}

impl CopyLimits {
    /// The longest parameter list in bytes.
    pub const fn longest_list(&self) -> u32 {
        HEADER as u32 + self.list_length
    }

    /// The whole parameter data of RECEIVE COPY OPERATING PARAMETERS (SPC-4 6.22). There is neither inline nor held data.
    pub fn encode_operating_parameters(&self) -> Vec<u8> {
        const FIXED: usize = 44;
        let mut out = vec![0; FIXED];
        // SNLID: lists without an identifier are taken.
        out[4] = 1;
        put(&mut out, 8, &self.cscds.to_be_bytes());
        put(&mut out, 10, &self.segments.to_be_bytes());
        put(&mut out, 12, &self.list_length.to_be_bytes());
        put(&mut out, 16, &self.segment_length.to_be_bytes());
        put(&mut out, 34, &u16::from(self.concurrent).to_be_bytes());
        out[36] = self.concurrent;
        out[37] = self.granularity;
        out[43] = CopyDescriptor::ALL.len() as u8;
        out.extend(CopyDescriptor::ALL.map(|code| code.0));
        let available = (out.len() - 4) as u32;
        put(&mut out, 0, &available.to_be_bytes());
        out
    }
}

/// The parameter list of EXTENDED COPY(LID1) (SPC-4 6.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtendedCopyList {
    /// LIST IDENTIFIER, by which the copy can be asked for; `None` if it cannot.
    pub list_id: Option<u8>,
    /// Copy sources and copy destinations.
    pub cscds: Vec<Cscd>,
    /// What is to be copied, in this order.
    pub segments: Vec<Segment>,
}

/// A copy source or copy destination, by its name (SPC-4 6.4.5.6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cscd {
    /// PERIPHERAL DEVICE TYPE.
    pub device_type: PeripheralDeviceType,
    /// The name.
    pub designator: Designator,
    /// DISK BLOCK LENGTH in bytes; 0 if the copy manager is to find that out.
    pub block_length: u32,
    /// NUL: there is no such device. SPC-4 has no such bit.
    pub null: bool,
    /// Where the descriptor begins in the parameter list, for field pointers.
    pub offset: u16,
}

/// Blocks to be copied between block devices (SPC-4 6.4.6.4, 6.4.6.12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// How much.
    pub amount: Amount,
    /// From where.
    pub source: SegmentEnd,
    /// To where.
    pub destination: SegmentEnd,
}

/// How much a segment copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// So many logical blocks of the copy source.
    SourceBlocks(u16),
    /// So many logical blocks of the copy destination.
    DestinationBlocks(u16),
    /// So many bytes.
    Bytes(u32),
}

/// Where a segment begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentEnd {
    /// CSCD DESCRIPTOR ID: an index into the list of those, or [`SegmentEnd::COPY_MANAGER`].
    pub cscd: u16,
    /// LOGICAL BLOCK ADDRESS.
    pub lba: u64,
    /// Bytes after the beginning of that block.
    pub byte_offset: u16,
}

impl SegmentEnd {
    /// The logical unit that received the command.
    pub const COPY_MANAGER: u16 = 0xffff;
}

impl Segment {
    /// Where the copy source, or the copy destination, is named in a descriptor.
    pub const CSCD_AT: [u16; 2] = [4, 6];
    /// Where the first block of either stands.
    pub const LBA_AT: [u16; 2] = [12, 20];
    /// Where the number of bytes or blocks stands.
    pub const AMOUNT_AT: u16 = 8;
}

const HEADER: usize = 16;
const CSCD: usize = 32;
const NULL_DEVICE: u8 = 5;
/// TYPE CODE and DESCRIPTOR LENGTH, which the length does not count.
const SEGMENT_HEADER: usize = 4;

impl ExtendedCopyList {
    /// Parses a list that is not empty as `version` describes it.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR if it ends too early or is longer than `limits` say; otherwise an error that points at the
    /// first field that cannot be used.
    pub fn parse(list: &[u8], limits: &CopyLimits, version: SpcVersion) -> Result<Self, Sense> {
        let wrong_length = || Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        let (cscds, segments) = (u32::from(u16_at(list, 2)), u32_at(list, 8));
        let all = cscds.checked_add(segments).filter(|length| *length <= limits.list_length);
        let end = HEADER + all.ok_or_else(wrong_length)? as usize;
        if list.len() < end {
            return Err(wrong_length());
        }
        let list_id = list_id(list)?;
        if u32_at(list, 12) != 0 {
            return Err(refused(AdditionalSense::INLINE_DATA_LENGTH_EXCEEDED, 12));
        }
        let split = HEADER + cscds as usize;
        Ok(Self {
            list_id,
            cscds: parse_cscds(&list[..split], limits, version)?,
            segments: parse_segments(&list[..end], split, limits)?,
        })
    }
}

/// The list identifier by LIST ID USAGE; its upper bit is what was NRCR.
fn list_id(list: &[u8]) -> Result<Option<u8>, Sense> {
    const HOLD: u8 = 0b00;
    const DISCARD: u8 = 0b10;
    const UNUSED: u8 = 0b11;
    let id = u8_at(list, 0);
    match (u8_at(list, 1) >> 3) & 0b11 {
        HOLD | DISCARD => Ok(Some(id)),
        UNUSED if id == 0 => Ok(None),
        UNUSED => Err(Sense::invalid_field_in_parameter_list(0, None)),
        _ => Err(Sense::invalid_field_in_parameter_list(1, Some(4))),
    }
}

fn parse_cscds(list: &[u8], limits: &CopyLimits, version: SpcVersion) -> Result<Vec<Cscd>, Sense> {
    let (descriptors, rest) = list[HEADER..].as_chunks::<CSCD>();
    if !rest.is_empty() {
        return Err(Sense::invalid_field_in_parameter_list(2, None));
    }
    if descriptors.len() > limits.cscds.into() {
        return Err(refused(AdditionalSense::TOO_MANY_TARGET_DESCRIPTORS, 2));
    }
    let offsets = (HEADER..).step_by(CSCD);
    let cscds = descriptors.iter().zip(offsets);
    cscds.map(|(bytes, offset)| Cscd::parse(bytes, offset as u16, version)).collect()
}

impl Cscd {
    /// Where the type of device stands in a descriptor.
    pub const DEVICE_TYPE_AT: u16 = 1;
    /// Where the block length stands.
    pub const BLOCK_LENGTH_AT: u16 = 29;
    const DESIGNATOR: std::ops::Range<usize> = 4..28;

    fn parse(bytes: &[u8; CSCD], offset: u16, version: SpcVersion) -> Result<Self, Sense> {
        if CopyDescriptor(bytes[0]) != CopyDescriptor::IDENTIFICATION {
            return Err(refused(AdditionalSense::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE, offset));
        }
        // Obsolete since SPC-4: LU ID TYPE, which is nothing then, and NUL: who asks for no device must not get the one that
        // has the name.
        let (unit_kind, null) = (bytes[1] >> 6, bit_at(bytes, Self::DEVICE_TYPE_AT.into(), NULL_DEVICE));
        let refused_bit = if version == SpcVersion::SPC_3 {
            (unit_kind != 0).then_some(7)
        } else {
            null.then_some(NULL_DEVICE)
        };
        if refused_bit.is_some() {
            return Err(Sense::invalid_field_in_parameter_list(offset + Self::DEVICE_TYPE_AT, refused_bit));
        }
        const DESIGNATOR_LENGTH_AT: u16 = 7;
        let wrong = |_| Sense::invalid_field_in_parameter_list(offset + DESIGNATOR_LENGTH_AT, None);
        let (designator, _) = Designator::parse(&bytes[Self::DESIGNATOR]).map_err(wrong)?;
        Ok(Self {
            device_type: PeripheralDeviceType(bytes[1] & 0x1f),
            designator,
            block_length: u24_at(bytes, Self::BLOCK_LENGTH_AT.into()),
            null,
            offset,
        })
    }
}

fn parse_segments(list: &[u8], mut at: usize, limits: &CopyLimits) -> Result<Vec<Segment>, Sense> {
    let mut segments = Vec::new();
    while at < list.len() {
        if segments.len() == limits.segments.into() {
            return Err(refused(AdditionalSense::TOO_MANY_SEGMENT_DESCRIPTORS, 8));
        }
        let length = match CopyDescriptor(list[at]) {
            CopyDescriptor::BLOCK_TO_BLOCK => 0x18,
            CopyDescriptor::BLOCK_TO_BLOCK_WITH_OFFSET => 0x1c,
            _ => return Err(refused(AdditionalSense::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE, at as u16)),
        };
        let next = at + SEGMENT_HEADER + length;
        let bytes = list.get(at..next).filter(|bytes| usize::from(u16_at(bytes, 2)) == length);
        // SEGMENT DESCRIPTOR LIST LENGTH, if that is what leaves no room for the length of this one.
        let wrong_at = if at + SEGMENT_HEADER > list.len() { 8 } else { at as u16 + 2 };
        let bytes = bytes.ok_or(Sense::invalid_field_in_parameter_list(wrong_at, None))?;
        segments.push(Segment::get(bytes));
        at = next;
    }
    Ok(segments)
}

impl Segment {
    fn get(bytes: &[u8]) -> Self {
        let amount = match CopyDescriptor(bytes[0]) {
            CopyDescriptor::BLOCK_TO_BLOCK_WITH_OFFSET => Amount::Bytes(u32_at(bytes, 8)),
            _ if bit_at(bytes, 1, 1) => Amount::DestinationBlocks(u16_at(bytes, 10)),
            _ => Amount::SourceBlocks(u16_at(bytes, 10)),
        };
        // The short descriptor has no offsets, and what is missing reads as zero.
        let source =
            SegmentEnd { cscd: u16_at(bytes, 4), lba: u64_at(bytes, 12), byte_offset: u16_at(bytes, 28) };
        let destination =
            SegmentEnd { cscd: u16_at(bytes, 6), lba: u64_at(bytes, 20), byte_offset: u16_at(bytes, 30) };
        Self { amount, source, destination }
    }
}

/// ILLEGAL REQUEST with a pointer into the parameter list.
fn refused(additional: AdditionalSense, byte: u16) -> Sense {
    Sense::illegal_request(additional).with_specific(SenseKeySpecific::FieldPointer {
        in_cdb: false,
        byte,
        bit: None,
    })
}

codes! {
    /// COPY COMMAND STATUS: how far a copy has come (SPC-4 6.25).
    pub struct CopyState(u8);
    IN_PROGRESS = 0x00, "operation in progress";
    COMPLETED = 0x01, "operation completed without errors";
    FAILED = 0x02, "operation completed with errors";
}

/// The parameter data of RECEIVE COPY STATUS(LID1) (SPC-4 6.25).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyStatus {
    /// COPY COMMAND STATUS.
    pub state: CopyState,
    /// SEGMENTS PROCESSED, with the one that is being processed.
    pub segments: u16,
    /// Bytes that were written, up to the first that was not.
    pub bytes: u64,
}

impl CopyStatus {
    /// The whole parameter data. TRANSFER COUNT is in bytes, or kibibytes and more where that has no room for them.
    pub fn encode(&self) -> [u8; 12] {
        let unit = (0..=6).find(|unit| self.bytes >> (10 * unit) <= u32::MAX.into()).unwrap_or(6);
        let mut out = [0; 12];
        out[3] = 8;
        out[4] = self.state.0;
        put(&mut out, 5, &self.segments.to_be_bytes());
        out[7] = unit;
        put(&mut out, 8, &((self.bytes >> (10 * unit)) as u32).to_be_bytes());
        out
    }
}

/// The parameter data of RECEIVE COPY FAILURE DETAILS(LID1) (SPC-4 6.23) of a copy that has ended with CHECK CONDITION and
/// this sense data, or of one for which there are none.
pub fn encode_failure_details(sense: Option<&[u8]>) -> Vec<u8> {
    const FIXED: usize = 60;
    let Some(sense) = sense else { return vec![0; 4] };
    let mut out = vec![0; FIXED];
    out[56] = Status::CHECK_CONDITION.0;
    put(&mut out, 58, &(sense.len() as u16).to_be_bytes());
    out.extend(sense);
    let available = (out.len() - 4) as u32;
    put(&mut out, 0, &available.to_be_bytes());
    out
}

#[cfg(test)]
mod tests;
