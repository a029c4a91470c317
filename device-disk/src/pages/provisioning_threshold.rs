//! Logical Block Provisioning, as a mode page (SBC-4 6.5).

use crate::Disk;
use lunette_engine::{LogicalUnit, ModePageSpec, PageControl};
use lunette_scsi::mode::ProvisioningThreshold;

/// Threshold sets are of two to the power of this many blocks.
pub(crate) const SET_EXPONENT: u8 = 11;

/// Bytes as whole threshold sets.
pub(crate) fn in_sets(bytes: u64, block: u64) -> u32 {
    u32::try_from((bytes / block) >> SET_EXPONENT).unwrap_or(u32::MAX)
}

/// THRESHOLD RESOURCE.
const AVAILABLE: u8 = 0x01;

/// One soft threshold for the room that is left, off until it is set. There is none where the room is not known.
pub(crate) fn page(disk: &Disk, unit: &LogicalUnit) -> Option<ModePageSpec> {
    let backing = unit.backing().filter(|_| disk.discard.is_some())?;
    backing.room().ok()?;
    let default = ProvisioningThreshold { resource: AVAILABLE, ..ProvisioningThreshold::default() };
    let changeable =
        ProvisioningThreshold { enabled: true, count: u32::MAX, ..ProvisioningThreshold::default() };
    Some(ModePageSpec::new(&default.encode(false), &changeable.encode(false)))
}

/// The page in force, or the saved one.
pub(crate) fn threshold(unit: &LogicalUnit, control: PageControl) -> Option<ProvisioningThreshold> {
    let bytes = unit.mode_page(ProvisioningThreshold::CODE, control)?;
    ProvisioningThreshold::decode(&bytes).ok()
}
