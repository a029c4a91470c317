//! Network address authority names.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// An NAA designator: 8 bytes of NAA 2h, 3h or 5h, or 16 bytes of NAA 6h (SPC-4 7.8.6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Naa {
    /// Left-aligned; the tail of an 8-byte name is zero.
    bytes: [u8; 16],
}

/// Why something is not an NAA name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NaaError {
    /// Neither 16 nor 32 hexadecimal digits after an optional "naa." or "0x".
    #[error("an NAA name has 16 or 32 hexadecimal digits, as in naa.6001405a0b1c2d3e0000000000000001")]
    NotHexadecimal,
    /// The first digit is none of 2, 3, 5 and 6.
    #[error("an NAA name begins with the digit 2, 3, 5 or 6, not {0:x}")]
    UnknownType(u8),
    /// The length does not go with the first digit.
    #[error("an NAA name that begins with {kind:x} has {expected} bytes, not {actual}")]
    WrongLength {
        /// The first digit.
        kind: u8,
        /// Its length in bytes.
        expected: usize,
        /// The length found.
        actual: usize,
    },
}

impl Naa {
    /// NAA 3h, locally assigned: the low 60 bits of `id`.
    pub const fn locally_assigned(id: u64) -> Self {
        Self::short(0x3 << 60 | (id & 0x0fff_ffff_ffff_ffff))
    }

    /// NAA 5h, IEEE registered: a 24-bit company identifier and a 36-bit number of the company's.
    pub const fn ieee_registered(company: u32, id: u64) -> Self {
        Self::short(Self::registered(0x5, company, id))
    }

    /// NAA 6h, IEEE registered extended: as [`Naa::ieee_registered`] with 64 bits more.
    pub const fn ieee_registered_extended(company: u32, id: u64, extension: u64) -> Self {
        let value = (Self::registered(0x6, company, id) as u128) << 64 | extension as u128;
        Self { bytes: value.to_be_bytes() }
    }

    /// From the designator's bytes.
    pub fn from_bytes(designator: &[u8]) -> Result<Self, NaaError> {
        let kind = designator.first().ok_or(NaaError::NotHexadecimal)? >> 4;
        let expected = match kind {
            2 | 3 | 5 => 8,
            6 => 16,
            _ => return Err(NaaError::UnknownType(kind)),
        };
        if designator.len() != expected {
            return Err(NaaError::WrongLength { kind, expected, actual: designator.len() });
        }
        Ok(Self { bytes: crate::bytes::array_at(designator, 0) })
    }

    /// The designator's bytes, 8 or 16.
    pub fn as_bytes(&self) -> &[u8] {
        if self.kind() == 6 { &self.bytes } else { &self.bytes[..8] }
    }

    /// NAA, the first four bits.
    pub const fn kind(&self) -> u8 {
        self.bytes[0] >> 4
    }

    const fn registered(kind: u64, company: u32, id: u64) -> u64 {
        kind << 60 | (company as u64 & 0xff_ffff) << 36 | (id & 0xf_ffff_ffff)
    }

    const fn short(value: u64) -> Self {
        Self { bytes: ((value as u128) << 64).to_be_bytes() }
    }
}

/// Accepts "naa.6…", "0x6…" and bare digits, in either case.
impl FromStr for Naa {
    type Err = NaaError;

    fn from_str(text: &str) -> Result<Self, NaaError> {
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.strip_prefix("naa.").or_else(|| lower.strip_prefix("0x")).unwrap_or(&lower);
        if !matches!(digits.len(), 16 | 32) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NaaError::NotHexadecimal);
        }
        let value = u128::from_str_radix(digits, 16).map_err(|_| NaaError::NotHexadecimal)?;
        Self::from_bytes(&value.to_be_bytes()[16 - digits.len() / 2..])
    }
}

impl fmt::Display for Naa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("naa.")?;
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Naa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Naa({self})")
    }
}
