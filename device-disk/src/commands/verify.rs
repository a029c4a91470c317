//! VERIFY (SBC-4 clause 5).

use super::{DiskCommand, check_data_out, medium_access, one_block};
use crate::Disk;
use crate::medium::Medium;
use lunette_engine::{Decoded, Direction, Plan, Request, Reservation};
use lunette_scsi::{Opcode, Sense};

const fn verify(opcode: Opcode, usage: &'static [u8]) -> DiskCommand {
    DiskCommand { spec: medium_access(opcode, usage, Direction::Out, Reservation::Read), decode }
}

// DPO and BYTCHK.
pub(crate) static VERIFY_10: DiskCommand =
    verify(Opcode::VERIFY_10, &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
pub(crate) static VERIFY_12: DiskCommand =
    verify(Opcode::VERIFY_12, &[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
pub(crate) static VERIFY_16: DiskCommand = verify(
    Opcode::VERIFY_16,
    &[0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
);

/// BYTCHK 00b: can the blocks be read?
const READABLE: u8 = 0b00;
/// BYTCHK 01b: are they what data-out says, block by block?
const EACH_BLOCK: u8 = 0b01;
/// BYTCHK 11b: are they all like the one block of data-out?
const SAME_BLOCK: u8 = 0b11;

/// It is the medium that is verified, so what a volatile cache holds is written there first.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    let (transfer, extent) = match request.cdb.u8(1) >> 1 & 0b11 {
        EACH_BLOCK => disk.transfer(request.cdb)?,
        _ => disk.range(request.cdb)?,
    };
    let (geometry, cached) = (disk.geometry(), disk.volatile_cache);
    let block = geometry.block();
    match transfer.bytchk {
        READABLE | EACH_BLOCK | SAME_BLOCK if transfer.blocks == 0 => Ok(Plan::good()),
        READABLE => Ok(Plan::run(0, async move |run| {
            let _range = run.share(extent.bytes()).await?;
            let medium = Medium { run, geometry };
            medium.flush_if(cached).await?;
            medium.read_through(extent).await
        })),
        EACH_BLOCK => Ok(Plan::run(extent.length, async move |run| {
            let extent = extent.cut(run.data_out_len(), geometry);
            let _range = run.share(extent.bytes()).await?;
            let medium = Medium { run, geometry };
            medium.flush_if(cached).await?;
            medium.compare(extent, |run, at, length| run.data_out(at, length)).await
        })),
        SAME_BLOCK => {
            check_data_out(request, block)?;
            Ok(Plan::run(block, async move |run| {
                let one = one_block(&run, geometry)?;
                let _range = run.share(extent.bytes()).await?;
                let repeated = |_: &_, _, length: u64| one.repeat((length / block) as usize);
                let medium = Medium { run, geometry };
                medium.flush_if(cached).await?;
                medium.compare(extent, repeated).await
            }))
        }
        _ => Err(Sense::invalid_field_in_cdb(1, Some(2))),
    }
}
