//! Protocol data units: the 48-byte basic header segments (RFC 7143 11), as plain structs over wire bytes.
//!
//! Every struct is exactly 48 bytes, has alignment 1 and accepts any bytes; nothing is checked here.

mod ahs;
mod codes;
mod requests;
mod responses;

pub use ahs::{AdditionalHeaders, MalformedAhs};
pub use codes::*;
pub use requests::*;
pub use responses::*;

use zerocopy::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the basic header segment, in bytes.
pub const BHS: usize = 48;

/// The task tag that names no task.
pub const NO_TAG: u32 = 0xffff_ffff;

/// A 24-bit length.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct U24([u8; 3]);

impl U24 {
    /// The value, at most 2^24 - 1.
    pub fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_be_bytes([0, a, b, c])
    }
}

impl From<u32> for U24 {
    /// Keeps the low 24 bits.
    fn from(value: u32) -> Self {
        let [_, a, b, c] = value.to_be_bytes();
        Self([a, b, c])
    }
}

impl std::fmt::Debug for U24 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

/// Declares a header: bytes 2 and 3 in brackets, bytes 8 to 47 in braces; the rest is common to all.
macro_rules! header {
    ($(#[$doc:meta])* $name:ident($opcode:expr, $flags:expr)
     [$($(#[$early_doc:meta])* $early:ident: $early_type:ty),* $(,)?]
     {$($(#[$late_doc:meta])* $late:ident: $late_type:ty),* $(,)?}) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name {
            /// Opcode and immediate bit.
            pub opcode: Opcode,
            /// Byte 1; bits in [`flag`](crate::pdu::flag).
            pub flags: u8,
            $($(#[$early_doc])* pub $early: $early_type,)*
            /// Length of the additional header segments in 4-byte words.
            pub total_ahs_length: u8,
            /// Length of the data segment in bytes, without padding.
            pub data_segment_length: U24,
            $($(#[$late_doc])* pub $late: $late_type,)*
        }

        impl Default for $name {
            /// Zeros, with the opcode and the bits of byte 1 that are always set.
            fn default() -> Self {
                let mut header: Self = zerocopy::FromZeros::new_zeroed();
                header.opcode = $opcode;
                header.flags = $flags;
                header
            }
        }

        impl AsRef<$name> for [u8; BHS] {
            fn as_ref(&self) -> &$name {
                zerocopy::transmute_ref!(self)
            }
        }

        impl From<$name> for [u8; BHS] {
            fn from(header: $name) -> Self {
                zerocopy::transmute!(header)
            }
        }
    };
}
pub(crate) use header;

header! {
    /// What all headers have in common (RFC 7143 11.2.1).
    Header(Opcode(0), 0)
    [
        /// Bytes 2 and 3: their meaning depends on the opcode.
        specific: [u8; 2],
    ]
    {
        /// Logical unit number, or bytes that depend on the opcode.
        lun: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        /// Bytes 20 to 47: their meaning depends on the opcode.
        rest: [u8; 28],
    }
}
