//! Power Condition (SPC-4 7.8).

use crate::Disk;
use lunette_engine::Device;
use lunette_scsi::vpd::PowerCondition;

/// Those that START STOP UNIT brings about; no timer does (the mode page of the same name). How long it takes to leave them
/// is not said.
pub(crate) fn page(disk: &Disk) -> Vec<u8> {
    let page = PowerCondition {
        standby_y: true,
        standby_z: true,
        idle_c: true,
        idle_b: true,
        idle_a: true,
        ..PowerCondition::default()
    };
    page.encode(disk.peripheral())
}
