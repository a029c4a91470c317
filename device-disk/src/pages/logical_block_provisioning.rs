//! Logical Block Provisioning (SBC-4 6.6).

use crate::Disk;
use lunette_engine::Device;
use lunette_scsi::vpd::LogicalBlockProvisioning;

const THIN: u8 = 0b010;

pub(crate) fn page(disk: &Disk) -> Vec<u8> {
    let thin = disk.discard.is_some();
    let page = LogicalBlockProvisioning {
        unmap: thin,
        write_same_16: thin,
        write_same_10: thin,
        read_zeros: disk.discard.is_some_and(|discard| discard.reads_zero).into(),
        provisioning_type: if thin { THIN } else { 0 },
        ..LogicalBlockProvisioning::default()
    };
    page.encode(disk.peripheral())
}
