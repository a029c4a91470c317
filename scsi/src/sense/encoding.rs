//! Sense data on the wire.

use std::fmt;
use std::ops::Deref;

use super::{AdditionalSense, Sense, SenseFlags, SenseFormat, SenseKey, SenseKeySpecific};
use crate::bytes::{array_at, bit, bit_at, put, u8_at, u16_at, u32_at, u64_at};

const FIXED_LENGTH: usize = 18;
const DESCRIPTOR_HEADER: usize = 8;

/// Encoded sense data, at most 252 bytes (SPC-4 4.5.1), held inline.
#[derive(Clone, Copy)]
pub struct SenseBytes {
    bytes: [u8; Self::CAPACITY],
    length: u8,
}

impl SenseBytes {
    /// The most sense data there can be.
    pub const CAPACITY: usize = 252;

    /// No bytes.
    pub const fn new() -> Self {
        Self { bytes: [0; Self::CAPACITY], length: 0 }
    }

    /// Bytes that came from a device; what exceeds the capacity is cut off.
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut out = Self::new();
        let kept = &bytes[..bytes.len().min(Self::CAPACITY)];
        out.append(kept);
        out
    }

    fn append(&mut self, bytes: &[u8]) {
        let at = usize::from(self.length);
        put(&mut self.bytes, at, bytes);
        self.length = (at + bytes.len()) as u8;
    }
}

impl Default for SenseBytes {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for SenseBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl AsRef<[u8]> for SenseBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for SenseBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SenseBytes {}

impl fmt::Debug for SenseBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SenseBytes({:02x?})", &**self)
    }
}

impl SenseKeySpecific {
    fn encode(self) -> [u8; 3] {
        const SKSV: u8 = 0x80;
        let pointer = |flag: u8, byte: u16, bit: Option<u8>| {
            let bit = bit.map_or(0, |bit| 0x08 | (bit & 7));
            let [high, low] = byte.to_be_bytes();
            [SKSV | flag | bit, high, low]
        };
        match self {
            Self::FieldPointer { in_cdb, byte, bit: b } => pointer(bit(in_cdb, 6), byte, b),
            Self::SegmentPointer { in_segment_descriptor, byte, bit: b } => {
                pointer(bit(in_segment_descriptor, 5), byte, b)
            }
            Self::ActualRetryCount(value) | Self::Progress(value) => pointer(0, value, None),
            Self::UnitAttentionQueue { overflow } => [SKSV | bit(overflow, 0), 0, 0],
        }
    }

    fn parse(key: SenseKey, bytes: [u8; 3]) -> Option<Self> {
        if !bit_at(&bytes, 0, 7) {
            return None;
        }
        let value = u16_at(&bytes, 1);
        let field_bit = bit_at(&bytes, 0, 3).then_some(bytes[0] & 7);
        match key {
            SenseKey::ILLEGAL_REQUEST => {
                Some(Self::FieldPointer { in_cdb: bit_at(&bytes, 0, 6), byte: value, bit: field_bit })
            }
            SenseKey::RECOVERED_ERROR | SenseKey::MEDIUM_ERROR | SenseKey::HARDWARE_ERROR => {
                Some(Self::ActualRetryCount(value))
            }
            SenseKey::NO_SENSE | SenseKey::NOT_READY => Some(Self::Progress(value)),
            SenseKey::COPY_ABORTED => Some(Self::SegmentPointer {
                in_segment_descriptor: bit_at(&bytes, 0, 5),
                byte: value,
                bit: field_bit,
            }),
            SenseKey::UNIT_ATTENTION => Some(Self::UnitAttentionQueue { overflow: bit_at(&bytes, 0, 0) }),
            _ => None,
        }
    }
}

impl Sense {
    /// Encodes in `format`.
    pub fn encode(&self, format: SenseFormat) -> SenseBytes {
        match format {
            SenseFormat::Fixed => self.to_fixed(),
            SenseFormat::Descriptor => self.to_descriptor(),
        }
    }

    /// Fixed format, 18 bytes (SPC-4 4.5.3).
    pub fn to_fixed(&self) -> SenseBytes {
        let information = self.information.and_then(|value| self.narrow(value));
        let command_specific = self.command_specific.and_then(|value| u32::try_from(value).ok());
        let ili = self.flags.intersects(SenseFlags::ILI | SenseFlags::BLOCK_ILI);
        let stream = self.flags & (SenseFlags::FILEMARK | SenseFlags::EOM);

        let mut out = [0; FIXED_LENGTH];
        out[0] = bit(information.is_some(), 7) | 0x70 | u8::from(self.deferred);
        out[2] = stream.bits() | bit(ili, 5) | (self.key.0 & 0x0f);
        put(&mut out, 3, &information.unwrap_or(0).to_be_bytes());
        out[7] = (FIXED_LENGTH - 8) as u8;
        put(&mut out, 8, &command_specific.unwrap_or(0).to_be_bytes());
        out[12] = self.additional.asc;
        out[13] = self.additional.ascq;
        out[14] = self.field_replaceable_unit;
        if let Some(specific) = self.sense_key_specific {
            put(&mut out, 15, &specific.encode());
        }
        SenseBytes::from_slice(&out)
    }

    /// INFORMATION in 32 bits. Beside a stream or ILI flag it is a residue in two's complement.
    fn narrow(&self, information: u64) -> Option<u32> {
        if self.flags.is_empty() {
            u32::try_from(information).ok()
        } else {
            i32::try_from(information.cast_signed()).ok().map(i32::cast_unsigned)
        }
    }

    /// Descriptor format, with a descriptor for each field that is set (SPC-4 4.5.2).
    pub fn to_descriptor(&self) -> SenseBytes {
        let mut out = SenseBytes::new();
        let AdditionalSense { asc, ascq } = self.additional;
        out.append(&[0x72 | u8::from(self.deferred), self.key.0 & 0x0f, asc, ascq, 0, 0, 0, 0]);
        if let Some(information) = self.information {
            out.append(&[0x00, 0x0a, 0x80, 0]);
            out.append(&information.to_be_bytes());
        }
        if let Some(value) = self.command_specific {
            out.append(&[0x01, 0x0a, 0, 0]);
            out.append(&value.to_be_bytes());
        }
        if let Some(specific) = self.sense_key_specific {
            let [a, b, c] = specific.encode();
            out.append(&[0x02, 0x06, 0, 0, a, b, c, 0]);
        }
        if self.field_replaceable_unit != 0 {
            out.append(&[0x03, 0x02, 0, self.field_replaceable_unit]);
        }
        let stream = self.flags - SenseFlags::BLOCK_ILI;
        if !stream.is_empty() {
            out.append(&[0x04, 0x02, 0, stream.bits()]);
        }
        if self.flags.contains(SenseFlags::BLOCK_ILI) {
            out.append(&[0x05, 0x02, 0, 0x20]);
        }
        out.bytes[7] = out.length - DESCRIPTOR_HEADER as u8;
        out
    }

    /// Decodes either format. `None` if there is no sense data of a known response code or not
    /// even the sense key; any other truncation leaves fields out.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match u8_at(bytes, 0) & 0x7f {
            0x70 | 0x71 if bytes.len() > 2 => Some(Self::parse_fixed(bytes)),
            0x72 | 0x73 if bytes.len() > 1 => Some(Self::parse_descriptors(bytes)),
            _ => None,
        }
    }

    fn parse_fixed(bytes: &[u8]) -> Self {
        let end = bytes.len().min(8 + usize::from(u8_at(bytes, 7)));
        let bytes = &bytes[..end];
        let key = SenseKey(u8_at(bytes, 2) & 0x0f);
        let flags = SenseFlags::from_bits_retain(u8_at(bytes, 2) & 0xe0);
        let information = u32_at(bytes, 3);
        let information = if flags.is_empty() {
            u64::from(information)
        } else {
            i64::from(information.cast_signed()).cast_unsigned()
        };
        let command_specific = u32_at(bytes, 8);
        Self {
            key,
            additional: AdditionalSense::new(u8_at(bytes, 12), u8_at(bytes, 13)),
            deferred: bit_at(bytes, 0, 0),
            information: (bit_at(bytes, 0, 7) && end >= 7).then_some(information),
            command_specific: (end >= 12 && command_specific != 0).then_some(u64::from(command_specific)),
            field_replaceable_unit: u8_at(bytes, 14),
            sense_key_specific: (end >= 18)
                .then(|| SenseKeySpecific::parse(key, array_at(bytes, 15)))
                .flatten(),
            flags,
        }
    }

    fn parse_descriptors(bytes: &[u8]) -> Self {
        let mut sense = Self {
            deferred: bit_at(bytes, 0, 0),
            ..Self::new(
                SenseKey(u8_at(bytes, 1) & 0x0f),
                AdditionalSense::new(u8_at(bytes, 2), u8_at(bytes, 3)),
            )
        };
        let end = bytes.len().min(DESCRIPTOR_HEADER + usize::from(u8_at(bytes, 7)));
        let mut rest = bytes.get(DESCRIPTOR_HEADER..end).unwrap_or_default();
        while let [_, length, ..] = *rest {
            let Some((descriptor, tail)) = rest.split_at_checked(2 + usize::from(length)) else {
                break;
            };
            sense.add_descriptor(descriptor);
            rest = tail;
        }
        sense
    }

    /// Takes in one whole sense data descriptor; what is unknown or too short is passed over.
    fn add_descriptor(&mut self, descriptor: &[u8]) {
        let specific = |key| SenseKeySpecific::parse(key, array_at(descriptor, 4));
        match (descriptor[0], descriptor.len()) {
            (0x00, 12..) if bit_at(descriptor, 2, 7) => self.information = Some(u64_at(descriptor, 4)),
            (0x01, 12..) => self.command_specific = Some(u64_at(descriptor, 4)),
            (0x02, 7..) => self.sense_key_specific = specific(self.key),
            (0x03, 4..) => self.field_replaceable_unit = descriptor[3],
            (0x04, 4..) => self.flags |= SenseFlags::from_bits_retain(descriptor[3] & 0xe0),
            (0x05, 4..) => self.flags.set(SenseFlags::BLOCK_ILI, bit_at(descriptor, 3, 5)),
            // Direct-access block device: all of the above in one (SBC-4 4.18).
            (0x0d, 24..) => {
                self.information = bit_at(descriptor, 2, 7).then_some(u64_at(descriptor, 8));
                self.flags.set(SenseFlags::BLOCK_ILI, bit_at(descriptor, 2, 5));
                self.sense_key_specific = specific(self.key);
                self.field_replaceable_unit = descriptor[7];
                self.command_specific = Some(u64_at(descriptor, 16));
            }
            _ => {}
        }
    }
}
