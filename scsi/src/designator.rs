//! Designators: the names by which logical units, ports and devices are known (SPC-4 7.8.6).

mod naa;

pub use naa::{Naa, NaaError};

use crate::bytes::{array_at, bit, bit_at, prefix, u8_at, u16_at};
use crate::codes::codes;
use crate::error::ParseError;

codes! {
    /// ASSOCIATION: what a designator names (SPC-4 7.8.6).
    pub struct Association(u8);
    LOGICAL_UNIT = 0, "logical unit";
    TARGET_PORT = 1, "target port";
    TARGET_DEVICE = 2, "SCSI target device";
}

codes! {
    /// CODE SET of a designator (SPC-4 7.8.6).
    pub struct CodeSet(u8);
    BINARY = 1, "binary";
    ASCII = 2, "ASCII";
    UTF_8 = 3, "UTF-8";
}

codes! {
    /// PROTOCOL IDENTIFIER (SPC-4 7.6.1).
    pub struct Protocol(u8);
    FIBRE_CHANNEL = 0x0, "Fibre Channel";
    PARALLEL_SCSI = 0x1, "parallel SCSI";
    SSA = 0x2, "SSA";
    IEEE_1394 = 0x3, "IEEE 1394";
    SRP = 0x4, "SRP";
    ISCSI = 0x5, "iSCSI";
    SAS = 0x6, "SAS";
    ADT = 0x7, "ADT";
    ATA = 0x8, "ATA";
    UAS = 0x9, "UAS";
    PCIE = 0xa, "PCI Express";
    NONE = 0xf, "no specific protocol";
}

/// The name itself, by DESIGNATOR TYPE.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Identifier {
    /// T10 vendor ID based (1h): a vendor's name and what it likes to add, ASCII.
    T10Vendor {
        /// T10 VENDOR IDENTIFICATION, padded with spaces.
        vendor: [u8; 8],
        /// VENDOR SPECIFIC IDENTIFIER, at most 247 bytes.
        specific: Vec<u8>,
    },
    /// EUI-64 based (2h), the 8-byte form.
    Eui64([u8; 8]),
    /// NAA (3h).
    Naa(Naa),
    /// Relative target port identifier (4h).
    RelativeTargetPort(u16),
    /// Target port group (5h).
    TargetPortGroup(u16),
    /// Logical unit group (6h).
    LogicalUnitGroup(u16),
    /// SCSI name string (8h), UTF-8, at most 251 bytes: "iqn.…", "naa.…", "eui.…".
    ScsiName(String),
    /// UUID (Ah).
    Uuid([u8; 16]),
    /// Another type, or one of the above in a form that is not understood.
    Other {
        /// DESIGNATOR TYPE, 4 bits.
        kind: u8,
        /// CODE SET.
        code_set: CodeSet,
        /// DESIGNATOR, at most 255 bytes.
        bytes: Vec<u8>,
    },
}

/// A designation descriptor: a name, and of what.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Designator {
    /// What is named.
    pub association: Association,
    /// PROTOCOL IDENTIFIER, for target ports and target devices (PIV).
    pub protocol: Option<Protocol>,
    /// The name.
    pub identifier: Identifier,
}

const HEADER: usize = 4;

impl Designator {
    /// A name of `association`.
    pub const fn new(association: Association, identifier: Identifier) -> Self {
        Self { association, protocol: None, identifier }
    }

    /// A name of the logical unit.
    pub const fn logical_unit(identifier: Identifier) -> Self {
        Self::new(Association::LOGICAL_UNIT, identifier)
    }

    /// The same with PROTOCOL IDENTIFIER.
    pub const fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// The descriptor, header included. A name beyond the maximum of its type is cut off.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, code_set, bytes) = self.identifier.encode();
        let protocol = self.protocol.map_or(0, |protocol| protocol.0 << 4);
        let mut out = Vec::with_capacity(HEADER + bytes.len());
        out.extend([
            protocol | (code_set.0 & 0x0f),
            bit(self.protocol.is_some(), 7) | (self.association.0 & 3) << 4 | (kind & 0x0f),
            0,
            bytes.len() as u8,
        ]);
        out.extend(bytes);
        out
    }

    /// Decodes the first descriptor in `bytes`; also returns how long it was.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), ParseError> {
        let what = "designation descriptor";
        ParseError::check_length(what, bytes, HEADER)?;
        let end = HEADER + usize::from(bytes[3]);
        ParseError::check_length(what, bytes, end)?;
        let identifier = Identifier::parse(bytes[1] & 0x0f, CodeSet(bytes[0] & 0x0f), &bytes[HEADER..end]);
        let protocol = bit_at(bytes, 1, 7).then_some(Protocol(bytes[0] >> 4));
        Ok((Self { association: Association((bytes[1] >> 4) & 3), protocol, identifier }, end))
    }
}

impl Identifier {
    const MAXIMUM_LENGTH: usize = 255;

    /// DESIGNATOR TYPE, CODE SET and DESIGNATOR.
    fn encode(&self) -> (u8, CodeSet, Vec<u8>) {
        let number = |value: u16| {
            let [high, low] = value.to_be_bytes();
            vec![0, 0, high, low]
        };
        let (kind, code_set, mut bytes) = match self {
            Self::T10Vendor { vendor, specific } => (0x1, CodeSet::ASCII, [&vendor[..], specific].concat()),
            Self::Eui64(id) => (0x2, CodeSet::BINARY, id.to_vec()),
            Self::Naa(naa) => (0x3, CodeSet::BINARY, naa.as_bytes().to_vec()),
            Self::RelativeTargetPort(port) => (0x4, CodeSet::BINARY, number(*port)),
            Self::TargetPortGroup(group) => (0x5, CodeSet::BINARY, number(*group)),
            Self::LogicalUnitGroup(group) => (0x6, CodeSet::BINARY, number(*group)),
            Self::ScsiName(name) => (0x8, CodeSet::UTF_8, padded_name(name)),
            Self::Uuid(uuid) => (0xa, CodeSet::BINARY, [&[0x10, 0], &uuid[..]].concat()),
            Self::Other { kind, code_set, bytes } => (*kind, *code_set, bytes.clone()),
        };
        bytes.truncate(Self::MAXIMUM_LENGTH);
        (kind, code_set, bytes)
    }

    fn parse(kind: u8, code_set: CodeSet, bytes: &[u8]) -> Self {
        let known = match (kind, code_set, bytes.len()) {
            (0x1, CodeSet::ASCII, 8..) => {
                Some(Self::T10Vendor { vendor: array_at(bytes, 0), specific: bytes[8..].to_vec() })
            }
            (0x2, CodeSet::BINARY, _) => bytes.try_into().ok().map(Self::Eui64),
            (0x3, CodeSet::BINARY, _) => Naa::from_bytes(bytes).ok().map(Self::Naa),
            (0x4, CodeSet::BINARY, 4) => Some(Self::RelativeTargetPort(u16_at(bytes, 2))),
            (0x5, CodeSet::BINARY, 4) => Some(Self::TargetPortGroup(u16_at(bytes, 2))),
            (0x6, CodeSet::BINARY, 4) => Some(Self::LogicalUnitGroup(u16_at(bytes, 2))),
            (0x8, CodeSet::UTF_8, _) => {
                let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
                str::from_utf8(&bytes[..end]).ok().map(|name| Self::ScsiName(name.to_owned()))
            }
            (0xa, CodeSet::BINARY, 18) if u8_at(bytes, 0) == 0x10 => Some(Self::Uuid(array_at(bytes, 2))),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other { kind, code_set, bytes: bytes.to_vec() })
    }
}

/// A SCSI name string: ended by a zero and padded with zeros to a multiple of four (SPC-4 7.8.6).
fn padded_name(name: &str) -> Vec<u8> {
    let mut bytes = prefix(name, 251).as_bytes().to_vec();
    bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests;
