//! CRC32C digests (RFC 7143 13.1).
//!
//! `crc-fast` picks carry-less multiplication or the CRC instructions of the processor when the program runs.

use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// Which PDU parts carry a CRC32C in full-feature phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// A digest follows the header and its additional segments.
    pub header: bool,
    /// A digest follows every data segment that is not empty.
    pub data: bool,
}

/// The digest of `bytes` as it stands on the wire.
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    crc_fast::crc32_iscsi(bytes).to_le_bytes()
}

/// A digest over a list of slices.
#[derive(Clone, Debug)]
pub struct Crc32c(crc_fast::Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self(crc_fast::Digest::new(Crc32Iscsi))
    }
}

impl Crc32c {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest as it stands on the wire; the sum starts anew.
    pub fn take(&mut self) -> [u8; 4] {
        (self.0.finalize_reset() as u32).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143 appendix A.4.
    #[test]
    fn vectors_of_the_standard() {
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        let mut read10 = [0; 48];
        read10[..2].copy_from_slice(&[0x01, 0xc0]);
        read10[16] = 0x14;
        read10[22] = 0x04;
        read10[27] = 0x14;
        read10[31] = 0x18;
        read10[32] = 0x28;
        read10[40] = 0x02;
        let vectors: [(&[u8], [u8; 4]); 5] = [
            (&[0; 32], [0xaa, 0x36, 0x91, 0x8a]),
            (&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            (&rising, [0x4e, 0x79, 0xdd, 0x46]),
            (&falling, [0x5c, 0xdb, 0x3f, 0x11]),
            (&read10, [0x56, 0x3a, 0x96, 0xd9]),
        ];
        for (bytes, digest) in vectors {
            assert_eq!(crc32c(bytes), digest);
            let mut parts = Crc32c::default();
            parts.update(&bytes[..13]);
            parts.update(&bytes[13..]);
            assert_eq!(parts.take(), digest);
            parts.update(bytes);
            assert_eq!(parts.take(), digest, "take() starts anew");
        }
    }
}
