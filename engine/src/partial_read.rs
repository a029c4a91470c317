//! Reads for an initiator whose memory ends inside a block: a store moves whole blocks only.

use crate::plan::{Io, IoKind, RunPlan};
use crate::run::Run;
use lunette_scsi::Sense;
use lunette_store::{Memory, Sg};
use std::rc::Rc;

/// Bytes read at a time; a multiple of every block length.
const STEP: u64 = 64 << 10;

/// Whether `io` reads more than `data_in` takes, and that is not whole blocks.
pub(crate) fn is_needed(io: &Io, data_in: Sg<'_>) -> bool {
    let room = data_in.len();
    io.kind == IoKind::Read && room < io.length && !room.is_multiple_of(io.block())
}

/// Reads as many blocks of `io` as `room` bytes touch into memory of its own, and hands over what fits.
pub(crate) fn plan(io: Io, room: u64) -> RunPlan {
    let length = room.next_multiple_of(io.block());
    RunPlan {
        wanted_out: 0,
        wanted_in: io.length,
        start: Box::new(move |run| Box::pin(read(run, Io { length, ..io }))),
    }
}

async fn read(run: Run, io: Io) -> Result<(), Sense> {
    let memory = Rc::new(Memory::zeroed(io.length.min(STEP) as usize));
    for at in (0..io.length).step_by(STEP as usize) {
        let part = Io { offset: io.offset + at, length: STEP.min(io.length - at), ..io };
        let result = run.read(part.offset, &memory, part.length).await;
        result.map_err(|error| run.unit.device().io_failed(&part, error))?;
        run.put_data_in(at, &memory.to_vec()[..part.length as usize]);
    }
    Ok(())
}
