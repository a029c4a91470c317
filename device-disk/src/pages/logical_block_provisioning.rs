//! Logical Block Provisioning (SBC-4 6.6).

use crate::Disk;
use lunette_engine::{Device, LogicalUnit, PageControl};
use lunette_scsi::vpd::LogicalBlockProvisioning;

const THIN: u8 = 0b010;

pub(crate) fn page(disk: &Disk, unit: &LogicalUnit) -> Vec<u8> {
    let thin = disk.discard.is_some();
    let page = LogicalBlockProvisioning {
        threshold_exponent: super::threshold(unit, PageControl::Current).map_or(0, |_| super::SET_EXPONENT),
        unmap: thin,
        write_same_16: thin,
        write_same_10: thin,
        read_zeros: disk.discard.is_some_and(|discard| discard.reads_zero).into(),
        provisioning_type: if thin { THIN } else { 0 },
        ..LogicalBlockProvisioning::default()
    };
    page.encode(disk.peripheral())
}
