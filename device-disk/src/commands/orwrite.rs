//! ORWRITE (SBC-4 clause 5).

use super::{DiskCommand, forces_unit_access, medium_access};
use crate::Disk;
use crate::extent::{Extent, check_writable};
use crate::medium::Medium;
use lunette_engine::{Counted, Decoded, Direction, IoKind, Plan, Request, Reservation};
use lunette_scsi::{Opcode, Sense};
use lunette_store::Memory;
use std::rc::Rc;

// DPO, FUA and FUA_NV, which SBC-3 dropped.
pub(crate) static ORWRITE_16: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::ORWRITE_16,
        &[0x8b, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Direction::Out,
        Reservation::Write,
    ),
    decode,
};

/// Sets the bits that data-out has set. No bit that another command sets meanwhile is lost.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let (transfer, extent) = disk.transfer(request.cdb)?;
    let durable = disk.durable(forces_unit_access(request.cdb, &transfer), request.unit);
    let geometry = disk.geometry();
    Ok(Plan::run(extent.length, async move |run| {
        let extent = extent.cut(run.data_out_len(), geometry);
        let _range = run.claim(extent.bytes()).await?;
        let medium = Medium { run, geometry };
        let result = set_bits(&medium, extent, durable).await;
        medium.run.count(Counted::Write, extent.length, &result);
        result
    }))
}

async fn set_bits(medium: &Medium, extent: Extent, durable: bool) -> Result<(), Sense> {
    let step = medium.step(extent);
    let old = Rc::new(Memory::zeroed(step as usize));
    for part in extent.steps(step) {
        medium.read(part, &old).await?;
        let mut bytes = medium.run.data_out(part.offset - extent.offset, part.length);
        bytes.iter_mut().zip(old.to_vec()).for_each(|(new, old)| *new |= old);
        let new = Rc::new(Memory::from_bytes(&bytes));
        let result = medium.run.write(part.offset, &new, part.length, durable).await;
        medium.check(IoKind::Write { durable }, part, result)?;
    }
    Ok(())
}
