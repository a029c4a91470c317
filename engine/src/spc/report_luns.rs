//! REPORT LUNS (SPC-4 6.33).

use super::PrimaryCommand;
use crate::{Access, Attention, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation};
use lunette_scsi::report_luns::{SelectReport, encode_report_luns};
use lunette_scsi::{Lun, Opcode, Sense};

pub(crate) static REPORT_LUNS: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::REPORT_LUNS,
        &[0xa0, 0x00, 0xff, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::In,
    )
    .repeatable()
    .attention(Attention::Kept)
    .reservation(Reservation::Exempt)
    .access(Access::Any),
    decode,
};

fn decode(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let seen = request.nexus.inventory();
    let units = || seen.units().keys().map(|index| Lun::from_index(*index));
    let luns: Vec<Lun> = match SelectReport(request.cdb.u8(2)) {
        SelectReport::ADDRESSABLE => units().collect(),
        SelectReport::WELL_KNOWN => vec![Lun::REPORT_LUNS_WLUN],
        SelectReport::ALL => units().chain([Lun::REPORT_LUNS_WLUN]).collect(),
        _ => return Err(Sense::invalid_field_in_cdb(2, None)),
    };
    request.nexus.forget_reported_luns();
    Ok(Plan::data(encode_report_luns(&luns), request.cdb.u32(6).into()))
}
