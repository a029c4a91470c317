//! The commands of a disk: one file a family, one row a command.

use crate::Disk;
use crate::extent::Geometry;
use lunette_engine::{Command, CommandSpec, Direction, Request, Reservation, Run, Timeouts};
use lunette_scsi::{AdditionalSense, Cdb, Opcode, Sense, Transfer};

mod compare_and_write;
mod format_unit;
mod get_lba_status;
mod orwrite;
mod pre_fetch;
mod prevent_allow;
mod read;
mod read_capacity;
mod read_defect_data;
mod reassign_blocks;
mod sanitize;
mod start_stop;
mod synchronize_cache;
mod unmap;
mod verify;
mod write;
mod write_and_verify;
mod write_atomic;
mod write_same;
mod xdwriteread;

pub(crate) use compare_and_write::longest as longest_compare_and_write;
pub(crate) use write_atomic::{
    AT_A_TIME as ATOMIC_WRITES_AT_A_TIME, MOST as MAX_ATOMIC_WRITE, longest as longest_write_atomic,
};
pub(crate) use write_same::MAX_WRITE_SAME;

/// A row of a disk's command.
pub(crate) type DiskCommand = Command<Disk>;

/// On which disks there is a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum On {
    All,
    Thin,
    Full,
}

/// The rows.
static COMMANDS: &[(On, &DiskCommand)] = &[
    (On::All, &read::READ_6),
    (On::All, &read::READ_10),
    (On::All, &read::READ_12),
    (On::All, &read::READ_16),
    (On::All, &write::WRITE_6),
    (On::All, &write::WRITE_10),
    (On::All, &write::WRITE_12),
    (On::All, &write::WRITE_16),
    (On::All, &write_and_verify::WRITE_AND_VERIFY_10),
    (On::All, &write_and_verify::WRITE_AND_VERIFY_12),
    (On::All, &write_and_verify::WRITE_AND_VERIFY_16),
    (On::All, &compare_and_write::COMPARE_AND_WRITE),
    (On::All, &orwrite::ORWRITE_16),
    (On::All, &write_atomic::WRITE_ATOMIC_16),
    (On::All, &verify::VERIFY_10),
    (On::All, &verify::VERIFY_12),
    (On::All, &verify::VERIFY_16),
    (On::All, &synchronize_cache::SYNCHRONIZE_CACHE_10),
    (On::All, &synchronize_cache::SYNCHRONIZE_CACHE_16),
    (On::All, &read_capacity::READ_CAPACITY_10),
    (On::All, &read_capacity::READ_CAPACITY_16),
    (On::All, &pre_fetch::PRE_FETCH_10),
    (On::All, &pre_fetch::PRE_FETCH_16),
    (On::All, &read_defect_data::READ_DEFECT_DATA_10),
    (On::All, &read_defect_data::READ_DEFECT_DATA_12),
    (On::All, &reassign_blocks::REASSIGN_BLOCKS),
    (On::All, &get_lba_status::GET_LBA_STATUS_16),
    (On::All, &get_lba_status::GET_LBA_STATUS_32),
    (On::Full, &write_same::WRITE_SAME_10),
    (On::Full, &write_same::WRITE_SAME_16),
    (On::Thin, &write_same::WRITE_SAME_10_UNMAP),
    (On::Thin, &write_same::WRITE_SAME_16_UNMAP),
    (On::Thin, &unmap::UNMAP),
    (On::All, &xdwriteread::XDWRITEREAD_10),
    (On::All, &format_unit::FORMAT_UNIT),
    (On::All, &sanitize::SANITIZE_OVERWRITE),
    (On::Thin, &sanitize::SANITIZE_BLOCK_ERASE),
    (On::All, &sanitize::SANITIZE_CRYPTOGRAPHIC_ERASE),
    (On::All, &sanitize::SANITIZE_EXIT_FAILURE_MODE),
    (On::All, &start_stop::START_STOP_UNIT),
    (On::All, &prevent_allow::PREVENT_ALLOW_MEDIUM_REMOVAL),
];

/// The commands of a disk that is thin or not.
pub(crate) fn of(thin: bool) -> Vec<&'static DiskCommand> {
    let wanted = |on| match on {
        On::All => true,
        On::Thin => thin,
        On::Full => !thin,
    };
    COMMANDS.iter().filter(|(on, _)| wanted(*on)).map(|(_, command)| *command).collect()
}

/// The row of a command that works on the medium; what it does to the data follows from `reservation`.
const fn medium_access(
    opcode: Opcode,
    usage: &'static [u8],
    direction: Direction,
    reservation: Reservation,
) -> CommandSpec {
    let spec = CommandSpec::new(opcode, usage, direction).repeatable().reservation(reservation).when_ready();
    spec.timeouts(Timeouts::DATA).limited()
}

/// Whether a READ or WRITE asks for the medium: by FUA, or by FUA_NV, for which a non-volatile cache would do. In the
/// 6-byte forms byte 1 belongs to the LBA.
fn forces_unit_access(cdb: &Cdb, transfer: &Transfer) -> bool {
    transfer.fua || (cdb.opcode().cdb_length() != Some(6) && cdb.bit(1, 1))
}

/// Refuses a command that is about all of its data-out unless the initiator means to send just that.
fn check_data_out(request: &Request<'_>, wanted: u64) -> Result<(), Sense> {
    let right = request.data_out == wanted;
    right.then_some(()).ok_or(Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB))
}

/// Whether all of it has come.
fn has_all_data_out(run: &Run, wanted: u64) -> Result<(), Sense> {
    let whole = run.data_out_len() == wanted;
    whole.then_some(()).ok_or(Sense::aborted_command(AdditionalSense::DATA_PHASE_ERROR))
}

/// The block that a command repeats, once it is there.
fn one_block(run: &Run, geometry: Geometry) -> Result<Vec<u8>, Sense> {
    has_all_data_out(run, geometry.block())?;
    Ok(run.data_out(0, geometry.block()))
}
