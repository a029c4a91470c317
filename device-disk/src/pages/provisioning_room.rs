//! Logical Block Provisioning, as a log page (SBC-4 6.4).

use super::in_sets;
use crate::Disk;
use lunette_scsi::log::LogParameter;

/// SCOPE: for this logical unit alone.
const OURS: u8 = 0b01;
/// SCOPE: others may take it.
const ANYONES: u8 = 0b10;

/// What was seen last of the room that is left and taken, in threshold sets.
pub(crate) fn page(disk: &Disk) -> Vec<LogParameter> {
    let parameter = |(code, bytes, scope): (u16, u64, u8)| {
        let sets = in_sets(bytes, disk.geometry().block());
        LogParameter::binary(code, [&sets.to_be_bytes()[..], &[scope, 0, 0, 0]].concat())
    };
    let room = disk.room.get();
    let both = room.map(|room| [(0x0001, room.free, ANYONES), (0x0002, room.used, OURS)]);
    both.into_iter().flatten().map(parameter).collect()
}
