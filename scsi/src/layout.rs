//! Structures of fixed layout, written as the table that the standard prints.
//!
//! Each row names a field, its kind and its place: byte and, for parts of a byte, most
//! significant bit and width.

/// Defines a struct with the fields of a wire layout of `size` bytes, and private `get` and `put`.
macro_rules! layout {
    (
        $(#[$meta:meta])*
        pub struct $type:ident[$size:literal] {
            $($(#[$field_meta:meta])* $field:ident: $kind:ident($($at:literal),+),)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        pub struct $type {
            $($(#[$field_meta])* pub $field: $crate::layout::$kind::Value,)*
        }

        impl $type {
            const SIZE: usize = $size;

            fn put(&self, out: &mut [u8; $size]) {
                $($crate::layout::$kind::put(out, self.$field, $($at),+);)*
            }

            fn get(bytes: &[u8]) -> Self {
                Self { $($field: $crate::layout::$kind::get(bytes, $($at),+),)* }
            }
        }
    };
}

pub(crate) use layout;

/// One bit: byte, bit.
pub(crate) mod flag {
    pub(crate) type Value = bool;

    pub(crate) fn get(bytes: &[u8], byte: usize, bit: u8) -> bool {
        crate::bytes::bit_at(bytes, byte, bit)
    }

    pub(crate) fn put(out: &mut [u8], value: bool, byte: usize, bit: u8) {
        out[byte] |= u8::from(value) << bit;
    }
}

/// Some bits of one byte: byte, most significant bit, width.
pub(crate) mod bits {
    pub(crate) type Value = u8;

    pub(crate) fn get(bytes: &[u8], byte: usize, top: u8, width: u8) -> u8 {
        (crate::bytes::u8_at(bytes, byte) >> (top + 1 - width)) & mask(width)
    }

    pub(crate) fn put(out: &mut [u8], value: u8, byte: usize, top: u8, width: u8) {
        out[byte] |= (value & mask(width)) << (top + 1 - width);
    }

    const fn mask(width: u8) -> u8 {
        0xff >> (8 - width)
    }
}

/// The low bits of two bytes: byte, width.
pub(crate) mod low16 {
    pub(crate) type Value = u16;

    pub(crate) fn get(bytes: &[u8], byte: usize, width: u8) -> u16 {
        crate::bytes::u16_at(bytes, byte) & (0xffff >> (16 - width))
    }

    pub(crate) fn put(out: &mut [u8], value: u16, byte: usize, width: u8) {
        let [high, low] = (value & (0xffff >> (16 - width))).to_be_bytes();
        out[byte] |= high;
        out[byte + 1] |= low;
    }
}

/// Four bytes whose top bit says whether the other 31 are valid: byte.
pub(crate) mod valid31 {
    pub(crate) type Value = Option<u32>;

    const VALID: u32 = 1 << 31;

    pub(crate) fn get(bytes: &[u8], byte: usize) -> Option<u32> {
        let value = crate::bytes::u32_at(bytes, byte);
        (value & VALID != 0).then_some(value & !VALID)
    }

    pub(crate) fn put(out: &mut [u8], value: Option<u32>, byte: usize) {
        let value = value.map_or(0, |value| value | VALID);
        crate::bytes::put(out, byte, &value.to_be_bytes());
    }
}

macro_rules! whole_bytes {
    ($($(#[$meta:meta])* $kind:ident: $type:ty = $get:ident;)*) => {
        $($(#[$meta])* pub(crate) mod $kind {
            pub(crate) type Value = $type;

            pub(crate) fn get(bytes: &[u8], byte: usize) -> $type {
                crate::bytes::$get(bytes, byte)
            }

            pub(crate) fn put(out: &mut [u8], value: $type, byte: usize) {
                crate::bytes::put(out, byte, &value.to_be_bytes());
            }
        })*
    };
}

whole_bytes! {
    /// One byte.
    byte: u8 = u8_at;
    /// Two bytes, big-endian.
    be16: u16 = u16_at;
    /// Four bytes, big-endian.
    be32: u32 = u32_at;
    /// Eight bytes, big-endian.
    be64: u64 = u64_at;
}

macro_rules! byte_arrays {
    ($($kind:ident: $length:literal;)*) => {
        $(pub(crate) mod $kind {
            pub(crate) type Value = [u8; $length];

            pub(crate) fn get(bytes: &[u8], byte: usize) -> [u8; $length] {
                crate::bytes::array_at(bytes, byte)
            }

            pub(crate) fn put(out: &mut [u8], value: [u8; $length], byte: usize) {
                crate::bytes::put(out, byte, &value);
            }
        })*
    };
}

byte_arrays! {
    bytes4: 4;
    bytes8: 8;
    bytes16: 16;
    bytes20: 20;
}

/// Eight big-endian 16-bit words: byte.
pub(crate) mod words8 {
    pub(crate) type Value = [u16; 8];

    pub(crate) fn get(bytes: &[u8], byte: usize) -> [u16; 8] {
        std::array::from_fn(|i| crate::bytes::u16_at(bytes, byte + 2 * i))
    }

    pub(crate) fn put(out: &mut [u8], value: [u16; 8], byte: usize) {
        for (i, word) in value.into_iter().enumerate() {
            crate::bytes::put(out, byte + 2 * i, &word.to_be_bytes());
        }
    }
}
