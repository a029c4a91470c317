//! XDWRITEREAD (SBC-3 clause 5; SBC-4 made it obsolete).

use super::{DiskCommand, medium_access};
use crate::Disk;
use crate::extent::check_writable;
use crate::medium::Medium;
use lunette_engine::{Counted, Decoded, Direction, Plan, Request, Reservation};
use lunette_scsi::Opcode;

// DPO, FUA, DISABLE WRITE and FUA_NV, which SBC-3 dropped. XORPINFO is about protection information.
pub(crate) static XDWRITEREAD_10: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::XDWRITEREAD_10,
        &[0x53, 0x1e, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        Direction::Both,
        Reservation::Write,
    )
    // The second time its data-in is the difference to what the first one wrote.
    .once(),
    decode,
};

/// Gives the exclusive or of the medium and data-out, and writes data-out: what a parity disk needs. Like other commands
/// of several steps it is not atomic against SIMPLE tasks on the same blocks; who needs that sends it ORDERED.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let (fua, writes) = (cdb.bit(1, 3) || cdb.bit(1, 1), !cdb.bit(1, 2));
    if writes {
        check_writable(request.unit)?;
    }
    let (_, extent) = disk.transfer(cdb)?;
    let (geometry, durable) = (disk.geometry(), disk.durable(fua, request.unit));
    // What is written with FUA reaches the medium; what is only read with FUA has to have reached it.
    let flush = disk.volatile_cache && fua;
    Ok(Plan::run_both(extent.length, extent.length, async move |run| {
        let extent = extent.cut(run.data_out_len(), geometry);
        run.set_data_in_len(extent.length);
        let _range = run.share(extent.bytes()).await?;
        let medium = Medium { run, geometry };
        medium.flush_if(flush).await?;
        let result = medium.exchange(extent, writes, durable).await;
        let written = if writes { extent.length } else { 0 };
        medium.run.count(Counted::Read, extent.length, &result);
        medium.run.count_transfer(Counted::Write, written, extent.length, &result);
        result
    }))
}
