//! What can be wrong with data that a device returned.

use thiserror::Error;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ParseError {
    /// Fewer bytes than the structure needs.
    #[error("{what}: {actual} bytes, at least {needed} needed")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// The least it takes.
        needed: usize,
        /// What there was.
        actual: usize,
    },
    /// A field has a value that it cannot have.
    #[error("{what}: byte {byte} is invalid ({reason})")]
    Invalid {
        /// The structure.
        what: &'static str,
        /// Offset of the field in it.
        byte: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl ParseError {
    /// `Ok` if `bytes` holds at least `needed` bytes.
    pub(crate) fn check_length(what: &'static str, bytes: &[u8], needed: usize) -> Result<(), Self> {
        if bytes.len() < needed { Err(Self::Truncated { what, needed, actual: bytes.len() }) } else { Ok(()) }
    }
}
