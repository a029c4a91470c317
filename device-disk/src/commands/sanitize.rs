//! SANITIZE (SBC-4 clause 5).
//!
//! There is no key that could be thrown away, so CRYPTOGRAPHIC ERASE does what BLOCK ERASE does, or writes zeroes where
//! blocks cannot be given back.

use super::{DiskCommand, has_all_data_out};
use crate::Disk;
use crate::extent::{Geometry, check_writable};
use crate::operation::{Kind, Operation, Work};
use lunette_engine::{CommandSpec, Decoded, Direction, HexBytes, Plan, Request, Reservation, Timeouts};
use lunette_scsi::{Opcode, Sense, service_action};

/// Bytes before the pattern of OVERWRITE.
const HEADER: u64 = 4;

macro_rules! sanitize {
    ($action:ident, $byte_1:literal, $length:literal, $direction:ident, $decode:expr) => {
        DiskCommand {
            spec: CommandSpec::new(
                Opcode::SANITIZE,
                &[0x48, $byte_1, 0, 0, 0, 0, 0, $length, $length, 0],
                Direction::$direction,
            )
            .action(service_action::$action)
            .reservation(Reservation::Write)
            .when_idle()
            .timeouts(Timeouts::LONG)
            // What others have written since may be lost by the second time, and nobody expects that any more.
            .once(),
            decode: $decode,
        }
    };
}

// IMMED and AUSE; ZNR is for zones.
pub(crate) static SANITIZE_OVERWRITE: DiskCommand = sanitize!(SANITIZE_OVERWRITE, 0xa1, 0xff, Out, overwrite);
pub(crate) static SANITIZE_BLOCK_ERASE: DiskCommand =
    sanitize!(SANITIZE_BLOCK_ERASE, 0xa2, 0, None, |disk, request| {
        erase(disk, request, Work::Zero { unmap: true })
    });
pub(crate) static SANITIZE_CRYPTOGRAPHIC_ERASE: DiskCommand =
    sanitize!(SANITIZE_CRYPTOGRAPHIC_ERASE, 0xa3, 0, None, |disk, request| {
        let block = repeated(&[0], disk.geometry());
        let zeroes = Work::Overwrite { block, passes: 1, invert: false };
        erase(disk, request, if disk.discard.is_some() { Work::Zero { unmap: true } } else { zeroes })
    });
pub(crate) static SANITIZE_EXIT_FAILURE_MODE: DiskCommand =
    sanitize!(SANITIZE_EXIT_FAILURE_MODE, 0xbf, 0, None, exit_failure_mode);

fn overwrite(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let (length, geometry) = (u64::from(request.cdb.u16(7)), disk.geometry());
    if length <= HEADER || length > HEADER + geometry.block() {
        return Err(Sense::invalid_field_in_cdb(7, None));
    }
    let (worker, immediate, kind) = (disk.worker(), immediate(request), kind(request));
    Ok(Plan::run(length, async move |run| {
        has_all_data_out(&run, length)?;
        let work = pattern(&run.data_out(0, length), geometry)?;
        worker.carry_out(run, Operation::new(kind, work), immediate).await
    }))
}

/// The parameter list of OVERWRITE. What TEST would ask for is up to vendors; this one knows nothing to ask for.
fn pattern(list: &[u8], geometry: Geometry) -> Result<Work, Sense> {
    let refused = |byte, bit| Err(Sense::invalid_field_in_parameter_list(byte, bit));
    let (header, pattern) = list.split_at(HEADER as usize);
    let (invert, test, passes) = (header[0] & 0x80 != 0, header[0] & 0x60, header[0] & 0x1f);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    match pattern.get(..length) {
        _ if test != 0 => refused(0, Some(6)),
        _ if passes == 0 => refused(0, Some(4)),
        _ if header[1] != 0 => refused(1, None),
        None | Some([]) => refused(2, None),
        Some(pattern) => Ok(Work::Overwrite { block: repeated(pattern, geometry), passes, invert }),
    }
}

/// A block full of a pattern.
pub(super) fn repeated(pattern: &[u8], geometry: Geometry) -> HexBytes {
    HexBytes(pattern.iter().copied().cycle().take(geometry.block() as usize).collect())
}

fn erase(disk: &Disk, request: &Request<'_>, work: Work) -> Decoded {
    check_writable(request.unit)?;
    let (worker, immediate) = (disk.worker(), immediate(request));
    let operation = Operation::new(kind(request), work);
    Ok(Plan::run(0, async move |run| worker.carry_out(run, operation, immediate).await))
}

fn exit_failure_mode(disk: &Disk, _: &Request<'_>) -> Decoded {
    let worker = disk.worker();
    Ok(Plan::run(0, async move |run| worker.give_up(run).await))
}

fn immediate(request: &Request<'_>) -> bool {
    request.cdb.bit(1, 7)
}

fn kind(request: &Request<'_>) -> Kind {
    Kind::Sanitize { unrestricted: request.cdb.bit(1, 5) }
}
