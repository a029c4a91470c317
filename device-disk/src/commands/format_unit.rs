//! FORMAT UNIT (SBC-4 clause 5).

use super::DiskCommand;
use super::sanitize::repeated;
use crate::Disk;
use crate::extent::{Geometry, check_writable};
use crate::operation::{Kind, Operation, Work};
use lunette_engine::{CommandSpec, Decoded, Direction, Plan, Request, Reservation, Timeouts};
use lunette_scsi::{AdditionalSense, Opcode, Sense};

// LONGLIST, FMTDATA, CMPLST, DEFECT LIST FORMAT; there is no protection information (FMTPINFO), and nothing is saved by not
// writing (FFMT).
pub(crate) static FORMAT_UNIT: DiskCommand = DiskCommand {
    spec: CommandSpec::new(Opcode::FORMAT_UNIT, &[0x04, 0x3f, 0, 0, 0, 0], Direction::Out)
        .reservation(Reservation::Write)
        .when_idle()
        .timeouts(Timeouts::LONG)
        // As with SANITIZE.
        .once(),
    decode,
};

/// What a parameter list asks for.
#[derive(PartialEq, Eq, Default, Debug)]
struct Wanted {
    immediate: bool,
    /// What blocks are to hold; zeroes if nothing is said.
    pattern: Option<Vec<u8>>,
}

/// A disk without defects: it has no list of them, and takes none.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    check_writable(request.unit)?;
    let cdb = request.cdb;
    let (long, data, complete) = (cdb.bit(1, 5), cdb.bit(1, 4), cdb.bit(1, 3));
    if complete && !data {
        return Err(Sense::invalid_field_in_cdb(1, Some(3)));
    }
    let (geometry, thin) = (disk.geometry(), disk.discard.is_some());
    let longest = header(long) as u64 + DESCRIPTOR as u64 + geometry.block();
    let length = if data { request.data_out.min(longest) } else { 0 };
    let worker = disk.worker();
    Ok(Plan::run(length, async move |run| {
        let list = run.data_out(0, length);
        let wanted = if data { parse(&list, long, geometry)? } else { Wanted::default() };
        let work = match wanted.pattern {
            Some(pattern) if pattern.iter().any(|byte| *byte != 0) => {
                Work::Overwrite { block: repeated(&pattern, geometry), passes: 1, invert: false }
            }
            _ => Work::Zero { unmap: thin },
        };
        worker.carry_out(run, Operation::new(Kind::Format, work), wanted.immediate).await
    }))
}

/// Bytes of an initialization pattern descriptor before the pattern.
const DESCRIPTOR: usize = 4;

/// Bytes of a parameter list header.
const fn header(long: bool) -> usize {
    if long { 8 } else { 4 }
}

const LIST_TOO_SHORT: Sense = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

fn parse(list: &[u8], long: bool, geometry: Geometry) -> Result<Wanted, Sense> {
    const OPTIONS_VALID: u8 = 0x80;
    /// DPRY, DCRT, STPF and IP.
    const OPTIONS: u8 = 0x78;
    const INITIALIZE: u8 = 0x08;
    const IMMEDIATE: u8 = 0x02;
    /// Obsolete and vendor specific.
    const UNKNOWN: u8 = 0x05;
    let refused = |byte: usize, bit| Err(Sense::invalid_field_in_parameter_list(byte as u16, bit));
    let header = header(long);
    if list.len() < header {
        return Err(LIST_TOO_SHORT);
    }
    let flags = list[1];
    let first_bit = |bits: u8| Some(7 - bits.leading_zeros() as u8);
    // PROTECTION FIELD USAGE.
    if list[0] != 0 {
        return refused(0, first_bit(list[0]));
    }
    if flags & UNKNOWN != 0 {
        return refused(1, first_bit(flags & UNKNOWN));
    }
    if flags & OPTIONS_VALID == 0 && flags & OPTIONS != 0 {
        return refused(1, first_bit(flags & OPTIONS));
    }
    // P_I_INFORMATION and PROTECTION INTERVAL EXPONENT.
    let between = if long { 2..4 } else { 2..2 };
    if let Some(at) = between.clone().find(|at| list[*at] != 0) {
        return refused(at, first_bit(list[at]));
    }
    // DEFECT LIST LENGTH.
    if list[between.end..header].iter().any(|byte| *byte != 0) {
        return refused(between.end, None);
    }
    let pattern = match flags & INITIALIZE {
        0 => None,
        _ => pattern(&list[header..], header, geometry)?,
    };
    Ok(Wanted { immediate: flags & IMMEDIATE != 0, pattern })
}

/// The initialization pattern descriptor, which begins at byte `at` of the parameter list.
fn pattern(list: &[u8], at: usize, geometry: Geometry) -> Result<Option<Vec<u8>>, Sense> {
    const DEFAULT: u8 = 0x00;
    const REPEATED: u8 = 0x01;
    let refused = |byte: usize, bit| Err(Sense::invalid_field_in_parameter_list((at + byte) as u16, bit));
    let Some((descriptor, rest)) = list.split_at_checked(DESCRIPTOR) else { return Err(LIST_TOO_SHORT) };
    let length = usize::from(u16::from_be_bytes([descriptor[2], descriptor[3]]));
    match descriptor[1] {
        // IP MODIFIER and SI, obsolete.
        _ if descriptor[0] != 0 => refused(0, Some(7 - descriptor[0].leading_zeros() as u8)),
        DEFAULT if length == 0 => Ok(None),
        REPEATED if length > 0 && length as u64 <= geometry.block() => {
            rest.get(..length).map(|pattern| Some(pattern.to_vec())).ok_or(LIST_TOO_SHORT)
        }
        DEFAULT | REPEATED => refused(2, None),
        _ => refused(1, None),
    }
}
