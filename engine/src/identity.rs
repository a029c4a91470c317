//! Who a logical unit says it is.

use lunette_scsi::inquiry::SpcVersion;
use lunette_scsi::{Designator, Identifier, Naa};

/// The names of a logical unit. Made once and kept: initiators know a disk by them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// T10 vendor identification, at most 8 ASCII characters.
    pub vendor: String,
    /// Product identification, at most 16 ASCII characters.
    pub product: String,
    /// Product revision, at most 4 ASCII characters.
    pub revision: String,
    /// Unit serial number (VPD page 80h), ASCII.
    pub serial: String,
    /// World-wide name (VPD page 83h).
    pub naa: Naa,
    /// The standard that it claims to follow, SPC-3 or SPC-4.
    pub version: SpcVersion,
}

impl Identity {
    /// lunette's own vendor and product names with the given serial number and world-wide name.
    pub fn new(serial: impl Into<String>, naa: Naa) -> Self {
        Self {
            vendor: "LUNETTE".into(),
            product: "VIRTUAL-DISK".into(),
            revision: concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR")).into(),
            serial: serial.into(),
            naa,
            version: SpcVersion::SPC_4,
        }
    }

    /// The designators of the unit: its world-wide name, and the one of its vendor.
    pub(crate) fn designators(&self) -> [Designator; 2] {
        let mut vendor = [b' '; 8];
        for (to, from) in vendor.iter_mut().zip(self.vendor.bytes()) {
            *to = from;
        }
        let specific = self.serial.clone().into_bytes();
        [
            Designator::logical_unit(Identifier::Naa(self.naa)),
            Designator::logical_unit(Identifier::T10Vendor { vendor, specific }),
        ]
    }
}
