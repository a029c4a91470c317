//! UNMAP (SBC-4 clause 5).

use super::{DiskCommand, medium_access};
use crate::Disk;
use crate::extent::{Extent, Geometry, check_writable};
use crate::medium::Medium;
use crate::pages::MAX_UNMAP_DESCRIPTORS;
use lunette_engine::{Decoded, Direction, Plan, Request, Reservation, Timeouts};
use lunette_scsi::{Opcode, Sense, UnmapList};

// ANCHOR is not among the bits: blocks cannot be anchored.
pub(crate) static UNMAP: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::UNMAP,
        &[0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Direction::Out,
        Reservation::Write,
    )
    .timeouts(Timeouts::LONG),
    decode,
};

fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let length = u64::from(request.cdb.u16(7));
    if length == 0 {
        return Ok(Plan::good());
    }
    let (geometry, durable) = (disk.geometry(), disk.durable(false, request.unit));
    Ok(Plan::run(length, async move |run| {
        let extents = extents(&run.data_out(0, length), geometry)?;
        let medium = Medium { run, geometry };
        for extent in extents {
            let _range = medium.run.share(extent.bytes()).await?;
            medium.discard(extent).await?;
        }
        medium.flush_if(durable).await
    }))
}

/// All ranges of a parameter list, checked before the first is unmapped.
fn extents(list: &[u8], geometry: Geometry) -> Result<Vec<Extent>, Sense> {
    const DESCRIPTORS_LENGTH_AT: u16 = 2;
    let list = UnmapList::parse(list)?;
    if list.len() > MAX_UNMAP_DESCRIPTORS as usize {
        return Err(Sense::invalid_field_in_parameter_list(DESCRIPTORS_LENGTH_AT, None));
    }
    list.iter().map(|range| geometry.extent(range.lba, range.blocks.into())).collect()
}
