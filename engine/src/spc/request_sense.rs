//! REQUEST SENSE (SPC-4 6.39).

use super::PrimaryCommand;
use crate::{Access, Attention, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation};
use lunette_scsi::{Opcode, SenseFormat};

pub(crate) static REQUEST_SENSE: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(Opcode::REQUEST_SENSE, &[0x03, 0x01, 0x00, 0x00, 0xff, 0x00], Direction::In)
        .repeatable()
        .attention(Attention::Delivered)
        .reservation(Reservation::Exempt)
        .access(Access::Any),
    decode,
};

/// Sense data always comes with a status here, so what is left to ask for is a unit attention, why the unit is not accessible
/// through this port or not ready, or its power condition.
fn decode(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let itl = request.nexus.itl(request.unit);
    let pending = itl.and_then(|itl| request.nexus.take_attention(&itl));
    let inaccessible = || unit.accessible(&request.nexus.port, Access::Active).err();
    let sense = pending.or_else(inaccessible).unwrap_or_else(|| unit.pollable_sense());
    let format = if request.cdb.bit(1, 0) { SenseFormat::Descriptor } else { SenseFormat::Fixed };
    Ok(Plan::data(sense.encode(format).to_vec(), u64::from(request.cdb.u8(4))))
}
