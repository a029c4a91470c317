//! Logical unit numbers (SAM-5 4.7).

use std::fmt;

use crate::bytes::{u8_at, u16_at, u24_at};

/// A logical unit number: eight bytes in wire order, read as one big-endian integer.
///
/// Compare LUNs with `==` only to ask whether an initiator used the same eight bytes; to ask
/// whether two name the same unit, compare [`Lun::index`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Lun(pub u64);

/// The first level of a LUN, decoded (SAM-5 4.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LunAddress {
    /// Peripheral device addressing (00b). Bus 0 is this device itself; any other bus asks to
    /// pass the command on to a level below.
    Peripheral {
        /// BUS IDENTIFIER, 6 bits.
        bus: u8,
        /// TARGET OR LUN.
        lun: u8,
    },
    /// Flat space addressing (01b), 14 bits.
    Flat(u16),
    /// Logical unit addressing (10b), a unit of a device below.
    LogicalUnit {
        /// TARGET, 6 bits.
        target: u8,
        /// BUS NUMBER, 3 bits.
        bus: u8,
        /// LUN, 5 bits.
        lun: u8,
    },
    /// Well-known logical unit (C1h), by its W-LUN.
    WellKnown(u8),
    /// Extended flat space (D2h), 24 bits.
    ExtendedFlat(u32),
    /// Long extended flat space (E2h), 40 bits.
    LongExtendedFlat(u64),
    /// Logical unit not specified (FFFFh).
    NotSpecified,
    /// A reserved extended method, by its first byte.
    Reserved(u8),
}

impl Lun {
    /// The REPORT LUNS well-known logical unit (SPC-4 8.2).
    pub const REPORT_LUNS_WLUN: Self = Self(0xc101_0000_0000_0000);
    /// The ACCESS CONTROLS well-known logical unit (SPC-4 8.3).
    pub const ACCESS_CONTROLS_WLUN: Self = Self(0xc102_0000_0000_0000);
    /// The TARGET LOG PAGES well-known logical unit (SPC-4 8.4).
    pub const TARGET_LOG_PAGES_WLUN: Self = Self(0xc103_0000_0000_0000);

    /// From the bytes on the wire.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// The bytes on the wire.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The single-level LUN of unit number `index` in the shortest form that holds it:
    /// peripheral below 256, flat below 16 384, extended flat below 2^24, else long extended flat.
    pub const fn from_index(index: u32) -> Self {
        let index = index as u64;
        Self(match index {
            0..0x100 => index << 48,
            0x100..0x4000 => (0x4000 | index) << 48,
            0x4000..0x100_0000 => (0xd200_0000 | index) << 32,
            _ => (0xe200_0000_0000 | index) << 16,
        })
    }

    /// The unit number, for every single-level form of it; `None` for well-known, multi-level,
    /// reserved and larger ones.
    pub const fn index(self) -> Option<u32> {
        let (index, rest) = match self.address() {
            LunAddress::Peripheral { bus: 0, lun } => (lun as u64, self.0 << 16),
            LunAddress::Flat(lun) => (lun as u64, self.0 << 16),
            LunAddress::ExtendedFlat(lun) => (lun as u64, self.0 << 32),
            LunAddress::LongExtendedFlat(lun) => (lun, self.0 << 48),
            _ => return None,
        };
        if rest == 0 && index <= u32::MAX as u64 { Some(index as u32) } else { None }
    }

    /// Decodes the first level.
    pub const fn address(self) -> LunAddress {
        let bytes = self.to_bytes();
        match bytes[0] >> 6 {
            0b00 => LunAddress::Peripheral { bus: bytes[0] & 0x3f, lun: bytes[1] },
            0b01 => LunAddress::Flat(u16_at(&bytes, 0) & 0x3fff),
            0b10 => {
                LunAddress::LogicalUnit { target: bytes[0] & 0x3f, bus: bytes[1] >> 5, lun: bytes[1] & 0x1f }
            }
            _ => match bytes[0] {
                0xc1 => LunAddress::WellKnown(bytes[1]),
                0xd2 => LunAddress::ExtendedFlat(u24_at(&bytes, 1)),
                0xe2 => LunAddress::LongExtendedFlat((self.0 >> 16) & 0xff_ffff_ffff),
                0xff if u8_at(&bytes, 1) == 0xff => LunAddress::NotSpecified,
                reserved => LunAddress::Reserved(reserved),
            },
        }
    }

    /// Whether this addresses a well-known logical unit.
    pub const fn is_well_known(self) -> bool {
        matches!(self.address(), LunAddress::WellKnown(_))
    }
}

impl From<[u8; 8]> for Lun {
    fn from(bytes: [u8; 8]) -> Self {
        Self::from_bytes(bytes)
    }
}

impl From<Lun> for [u8; 8] {
    fn from(lun: Lun) -> Self {
        lun.to_bytes()
    }
}

/// The unit number where there is one, else all eight bytes in hex.
impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index() {
            Some(index) => write!(f, "{index}"),
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

impl fmt::Debug for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lun({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_by_size() {
        let first = |index| Lun::from_index(index).to_bytes();
        assert_eq!(first(5), [0, 5, 0, 0, 0, 0, 0, 0]);
        assert_eq!(first(255), [0, 255, 0, 0, 0, 0, 0, 0]);
        assert_eq!(first(256), [0x41, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(first(0x3fff), [0x7f, 0xff, 0, 0, 0, 0, 0, 0]);
        assert_eq!(first(0x4000), [0xd2, 0, 0x40, 0, 0, 0, 0, 0]);
        assert_eq!(first(0x0100_0000), [0xe2, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn every_single_level_form_is_the_same_unit() {
        for bytes in [[0, 5, 0, 0, 0, 0, 0, 0], [0x40, 5, 0, 0, 0, 0, 0, 0], [0xd2, 0, 0, 5, 0, 0, 0, 0]] {
            assert_eq!(Lun::from_bytes(bytes).index(), Some(5), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_is_not_single_level_has_no_index() {
        for lun in [
            Lun::REPORT_LUNS_WLUN,
            Lun(0x0005_0001_0000_0000),
            Lun(0x0105_0000_0000_0000),
            Lun(0x8005_0000_0000_0000),
            Lun(0xe2ff_ffff_ffff_0000),
            Lun(u64::MAX),
        ] {
            assert_eq!(lun.index(), None, "{lun}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(Lun(0x0307 << 48).address(), LunAddress::Peripheral { bus: 3, lun: 7 });
        assert_eq!(Lun(0x8127 << 48).address(), LunAddress::LogicalUnit { target: 1, bus: 1, lun: 7 });
        assert_eq!(Lun::REPORT_LUNS_WLUN.address(), LunAddress::WellKnown(1));
        assert!(Lun::REPORT_LUNS_WLUN.is_well_known());
        assert_eq!(Lun(u64::MAX).address(), LunAddress::NotSpecified);
        assert_eq!(Lun(0xc2 << 56).address(), LunAddress::Reserved(0xc2));
    }

    #[test]
    fn display() {
        assert_eq!(Lun::from_index(300).to_string(), "300");
        assert_eq!(Lun::REPORT_LUNS_WLUN.to_string(), "0xc101000000000000");
    }

    proptest! {
        #[test]
        fn index_round_trips(index: u32) {
            let lun = Lun::from_index(index);
            prop_assert_eq!(lun.index(), Some(index));
            prop_assert_eq!(Lun::from_bytes(lun.to_bytes()), lun);
        }

        #[test]
        fn any_eight_bytes_decode(value: u64) {
            let lun = Lun(value);
            let _ = (lun.address(), lun.to_string());
            if let Some(index) = lun.index() {
                prop_assert_eq!(Lun::from_index(index).index(), Some(index));
            }
        }
    }
}
