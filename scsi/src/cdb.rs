//! Command descriptor blocks.

use std::fmt;

use thiserror::Error;

use crate::bytes;
use crate::opcode::{Opcode, command_name};

mod transfer;

pub use transfer::Transfer;

/// A command descriptor block (SPC-5 4.2.5): 1 to 32 bytes, held inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cdb {
    bytes: [u8; Self::CAPACITY],
    length: u8,
}

/// Why bytes are not a CDB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CdbError {
    /// There is no opcode.
    #[error("the CDB is empty")]
    Empty,
    /// Longer than [`Cdb::CAPACITY`].
    #[error("a CDB of {0} bytes is longer than the 32 bytes supported")]
    TooLong(usize),
}

impl Cdb {
    /// The longest CDB that fits.
    pub const CAPACITY: usize = 32;

    /// A CDB of exactly these bytes, whatever its opcode calls for.
    pub const fn new(bytes: &[u8]) -> Result<Self, CdbError> {
        match bytes.len() {
            0 => Err(CdbError::Empty),
            1..=Self::CAPACITY => Ok(Self { bytes: bytes::array_at(bytes, 0), length: bytes.len() as u8 }),
            length => Err(CdbError::TooLong(length)),
        }
    }

    /// The CDB at the start of a field that may be longer, as transports carry it: as long as its first bytes announce, or
    /// the whole field for vendor-specific groups. One that is longer than the field or than
    /// [`CAPACITY`](Self::CAPACITY) is cut there, which leaves it shorter than any command that it could be: SPC-5 4.2.5.5
    /// wants such a command refused by whoever looks it up. An empty field counts as one zero byte.
    #[inline]
    pub fn from_padded(field: &[u8]) -> Self {
        let bytes: [u8; Self::CAPACITY] = bytes::array_at(field, 0);
        let announced = match (bytes[0], Opcode(bytes[0]).cdb_length()) {
            (_, Some(length)) => length,
            (0x7f, None) => 8 + usize::from(bytes[7]),
            (_, None) => field.len(),
        };
        let length = announced.min(field.len()).clamp(1, Self::CAPACITY);
        // In words, for this is done with every command.
        let mut cut = [0; Self::CAPACITY];
        cut[..16].copy_from_slice(&keep(bytes::array_at(&bytes, 0), length));
        if length > 16 {
            cut[16..].copy_from_slice(&keep(bytes::array_at(&bytes, 16), length - 16));
        }
        Self { bytes: cut, length: length as u8 }
    }

    /// All its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The first 16 bytes, zero past the end.
    pub const fn first_16(&self) -> [u8; 16] {
        bytes::array_at(&self.bytes, 0)
    }

    /// Its length in bytes, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a CDB is never empty")]
    pub const fn len(&self) -> usize {
        self.length as usize
    }

    /// OPERATION CODE.
    pub const fn opcode(&self) -> Opcode {
        Opcode(self.bytes[0])
    }

    /// The byte that SERVICE ACTION begins in, and its most significant bit if it is narrower than that.
    pub const fn service_action_at(&self) -> (u16, Option<u8>) {
        match self.opcode() {
            Opcode::VARIABLE_LENGTH_CDB => (8, None),
            _ => (1, Some(4)),
        }
    }

    /// SERVICE ACTION, for the opcodes that have one.
    pub const fn service_action(&self) -> Option<u16> {
        let opcode = self.opcode();
        match opcode {
            Opcode::VARIABLE_LENGTH_CDB => Some(self.u16(8)),
            _ if opcode.has_service_action() => Some((self.bytes[1] & 0x1f) as u16),
            _ => None,
        }
    }

    /// CONTROL: the last byte, but byte 1 of a variable-length CDB (SAM-5 5.2).
    pub const fn control(&self) -> u8 {
        match self.opcode() {
            Opcode::VARIABLE_LENGTH_CDB => self.bytes[1],
            _ => self.bytes[self.length as usize - 1],
        }
    }

    /// NACA, the bit of CONTROL that asks for an auto contingent allegiance.
    pub const fn naca(&self) -> bool {
        self.control() & 0x04 != 0
    }

    /// The name of the command, for logs.
    pub const fn name(&self) -> Option<&'static str> {
        command_name(self.opcode(), self.service_action())
    }

    /// The byte at `at`; zero past the end, as for all the fields below.
    pub const fn u8(&self, at: usize) -> u8 {
        bytes::u8_at(&self.bytes, at)
    }

    /// The bit at `at`, 7 being the most significant.
    pub const fn bit(&self, at: usize, bit: u8) -> bool {
        bytes::bit_at(&self.bytes, at, bit)
    }

    /// The two-byte field at `at`.
    pub const fn u16(&self, at: usize) -> u16 {
        bytes::u16_at(&self.bytes, at)
    }

    /// The three-byte field at `at`.
    pub const fn u24(&self, at: usize) -> u32 {
        bytes::u24_at(&self.bytes, at)
    }

    /// The four-byte field at `at`.
    pub const fn u32(&self, at: usize) -> u32 {
        bytes::u32_at(&self.bytes, at)
    }

    /// The eight-byte field at `at`.
    pub const fn u64(&self, at: usize) -> u64 {
        bytes::u64_at(&self.bytes, at)
    }
}

/// The first `count` bytes; zeroes follow.
fn keep(bytes: [u8; 16], count: usize) -> [u8; 16] {
    let rest = u128::MAX.unbounded_shl(8 * count as u32);
    (u128::from_le_bytes(bytes) & !rest).to_le_bytes()
}

impl TryFrom<&[u8]> for Cdb {
    type Error = CdbError;

    fn try_from(bytes: &[u8]) -> Result<Self, CdbError> {
        Self::new(bytes)
    }
}

impl fmt::Display for Cdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("unknown command"))?;
        f.write_str(" [")?;
        for (i, byte) in self.as_bytes().iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { " " })?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Cdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cdb({self})")
    }
}

#[cfg(test)]
mod tests;
