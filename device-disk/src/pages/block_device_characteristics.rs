//! Block Device Characteristics (SBC-4 6.6).

use crate::Disk;
use lunette_engine::Device;
use lunette_scsi::vpd::BlockDeviceCharacteristics;

/// Of a medium that does not rotate; zero stands for a rate that is not known.
const NON_ROTATING: u16 = 1;
/// Blocks can be read after a sanitize operation without being written first.
const READABLE: u8 = 1;

pub(crate) fn page(disk: &Disk) -> Vec<u8> {
    let page = BlockDeviceCharacteristics {
        medium_rotation_rate: if disk.rotational { 0 } else { NON_ROTATING },
        write_after_block_erase: if disk.discard.is_some() { READABLE } else { 0 },
        write_after_cryptographic_erase: READABLE,
        fua_behavior: true,
        verify_unmapped: true,
        ..BlockDeviceCharacteristics::default()
    };
    page.encode(disk.peripheral())
}
