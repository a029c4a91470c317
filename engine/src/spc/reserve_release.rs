//! RESERVE and RELEASE (SPC-2 7.17 to 7.21), of whole logical units and for the initiator that asks.

use super::PrimaryCommand;
use crate::checks::Refusal;
use crate::{CommandSpec, Decoded, Direction, LogicalUnit, Plan, Reservation, Run};
use lunette_scsi::Opcode;

const RESERVE_6_USAGE: &[u8] = &[0x16, 0, 0, 0, 0, 0];
const RELEASE_6_USAGE: &[u8] = &[0x17, 0, 0, 0, 0, 0];
const RESERVE_10_USAGE: &[u8] = &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const RELEASE_10_USAGE: &[u8] = &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub(crate) static RESERVE_6: PrimaryCommand = reserve(Opcode::RESERVE_6, RESERVE_6_USAGE);
pub(crate) static RESERVE_10: PrimaryCommand = reserve(Opcode::RESERVE_10, RESERVE_10_USAGE);
pub(crate) static RELEASE_6: PrimaryCommand = release(Opcode::RELEASE_6, RELEASE_6_USAGE);
pub(crate) static RELEASE_10: PrimaryCommand = release(Opcode::RELEASE_10, RELEASE_10_USAGE);

const fn reserve(opcode: Opcode, usage: &'static [u8]) -> PrimaryCommand {
    let spec = CommandSpec::new(opcode, usage, Direction::None).repeatable();
    PrimaryCommand { spec, decode: |_, _| in_turn(LogicalUnit::reserve) }
}

/// Nobody is kept from it, but to others than the holder it does nothing.
const fn release(opcode: Opcode, usage: &'static [u8]) -> PrimaryCommand {
    let spec = CommandSpec::new(opcode, usage, Direction::None).repeatable().reservation(Reservation::Exempt);
    PrimaryCommand { spec, decode: |_, _| in_turn(LogicalUnit::release) }
}

/// A PERSISTENT RESERVE OUT that is saving what it does has to be seen as done.
fn in_turn(act: fn(&LogicalUnit, &Run) -> Result<(), Refusal>) -> Decoded {
    Ok(Plan::run(0, async move |run: Run| {
        run.unit.intact()?;
        let _turn = run.turn().await?;
        act(&run.unit, &run).or_else(|refusal| run.refuse(refusal))
    }))
}
