//! SYNCHRONIZE CACHE (SBC-4 clause 5).

use super::{DiskCommand, medium_access};
use crate::Disk;
use crate::extent::Extent;
use lunette_engine::{Decoded, Direction, IoKind, Plan, Request, Reservation};
use lunette_scsi::Opcode;

const fn synchronize_cache(opcode: Opcode, usage: &'static [u8]) -> DiskCommand {
    DiskCommand { spec: medium_access(opcode, usage, Direction::None, Reservation::Write), decode }
}

pub(crate) static SYNCHRONIZE_CACHE_10: DiskCommand =
    synchronize_cache(Opcode::SYNCHRONIZE_CACHE_10, &[0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
pub(crate) static SYNCHRONIZE_CACHE_16: DiskCommand = synchronize_cache(
    Opcode::SYNCHRONIZE_CACHE_16,
    &[0x91, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
);

/// Flushes everything, whichever range is named. IMMED only allows an early answer; one that comes after the flush says
/// more, and no failure is lost.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    disk.range(request.cdb)?;
    Ok(match disk.volatile_cache {
        true => Plan::Io(disk.io(IoKind::Flush, Extent { offset: 0, length: 0 })),
        false => Plan::good(),
    })
}
