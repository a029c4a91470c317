//! REASSIGN BLOCKS (SBC-4 clause 5).

use super::{DiskCommand, medium_access};
use crate::Disk;
use crate::extent::{Extent, check_writable};
use crate::medium::Medium;
use lunette_engine::{Decoded, Direction, IoKind, Plan, Request, Reservation, Timeouts};
use lunette_scsi::{AdditionalSense, Opcode, Sense};
use lunette_store::Memory;
use std::rc::Rc;

/// Bytes of the parameter list header.
const HEADER: usize = 4;
/// The most bytes of LBAs.
const MOST: usize = 1 << 16;

// LONGLBA and LONGLIST.
pub(crate) static REASSIGN_BLOCKS: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::REASSIGN_BLOCKS,
        &[0x07, 0x03, 0, 0, 0, 0],
        Direction::Out,
        Reservation::Write,
    )
    .timeouts(Timeouts::LONG),
    decode,
};

/// Spare blocks are the store's business: a block is written anew, with what could be read of it or, if the medium has lost
/// that, zeroes, and whatever keeps it may put it elsewhere.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let (long_lbas, long_list) = (request.cdb.bit(1, 1), request.cdb.bit(1, 0));
    let length = request.data_out.min((HEADER + MOST) as u64);
    let (geometry, durable) = (disk.geometry(), disk.volatile_cache);
    Ok(Plan::run(length, async move |run| {
        let lbas = lbas(&run.data_out(0, length), long_lbas, long_list)?;
        let extents = lbas.iter().map(|lba| geometry.extent(*lba, 1)).collect::<Result<Vec<_>, _>>()?;
        let medium = Medium { run, geometry };
        for (extent, lba) in extents.into_iter().zip(lbas) {
            let at = |sense: Sense| sense.with_command_specific(lba);
            let _range = medium.run.claim(extent.bytes()).await.map_err(at)?;
            write_anew(&medium, extent, durable).await.map_err(at)?;
        }
        Ok(())
    }))
}

/// The LBAs of a parameter list.
fn lbas(list: &[u8], long_lbas: bool, long_list: bool) -> Result<Vec<u64>, Sense> {
    let refused = |byte| Err(Sense::invalid_field_in_parameter_list(byte, None));
    let too_short = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    let Some((&[a, b, c, d], lbas)) = list.split_first_chunk() else { return Err(too_short) };
    let (length_at, length) = match long_list {
        true => (0, u32::from_be_bytes([a, b, c, d])),
        false if [a, b] != [0; 2] => return refused(0),
        false => (2, u16::from_be_bytes([c, d]).into()),
    };
    let size = if long_lbas { 8 } else { 4 };
    if length as usize > MOST || !(length as usize).is_multiple_of(size) {
        return refused(length_at);
    }
    let lbas = lbas.get(..length as usize).ok_or(too_short)?;
    let lba = |bytes: &[u8]| bytes.iter().fold(0, |lba, byte| lba << 8 | u64::from(*byte));
    Ok(lbas.chunks_exact(size).map(lba).collect())
}

async fn write_anew(medium: &Medium, extent: Extent, durable: bool) -> Result<(), Sense> {
    let read = Rc::new(Memory::zeroed(extent.length as usize));
    let bytes = match medium.run.read(extent.offset, &read, extent.length).await {
        Ok(_) => read,
        Err(error) if error.is_of_medium() => Rc::new(Memory::zeroed(extent.length as usize)),
        Err(error) => return medium.check(IoKind::Read, extent, Err(error)),
    };
    match medium.run.write(extent.offset, &bytes, extent.length, durable).await {
        Err(error) if error.is_of_medium() => {
            Err(Sense::hardware_error(AdditionalSense::NO_DEFECT_SPARE_LOCATION_AVAILABLE))
        }
        result => medium.check(IoKind::Write { durable }, extent, result),
    }
}
