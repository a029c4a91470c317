//! MODE SENSE (SPC-4 6.13, 6.14).

use super::PrimaryCommand;
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, PageControl, Plan, Request, Reservation};
use lunette_scsi::mode::{ModeForm, ModeHeader, ModePageCode, encode_mode_data};
use lunette_scsi::{Cdb, Opcode, Sense};

pub(crate) static MODE_SENSE_6: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(Opcode::MODE_SENSE_6, &[0x1a, 0x08, 0xff, 0xff, 0xff, 0x00], Direction::In)
        .repeatable()
        .reservation(Reservation::Read)
        .access(Access::Standby),
    decode: |unit, request| sense(unit, request.cdb, ModeForm::Six, false, request.cdb.u8(4).into()),
};

pub(crate) static MODE_SENSE_10: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MODE_SENSE_10,
        &[0x5a, 0x18, 0xff, 0xff, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00],
        Direction::In,
    )
    .repeatable()
    .reservation(Reservation::Read)
    .access(Access::Standby),
    decode: |unit, Request { cdb, .. }| sense(unit, cdb, ModeForm::Ten, cdb.bit(1, 4), cdb.u16(7).into()),
};

fn sense(unit: &LogicalUnit, cdb: &Cdb, form: ModeForm, long_lba: bool, allocation_length: u64) -> Decoded {
    let pages = pages(unit, cdb)?;
    let device = unit.device();
    let without_descriptor = cdb.bit(1, 3);
    let descriptor = if without_descriptor { None } else { device.block_descriptor(long_lba) };
    let header = ModeHeader { medium_type: 0, device_specific: device.mode_device_specific(unit) };
    let data =
        encode_mode_data(form, header, descriptor, &pages).ok_or(Sense::invalid_field_in_cdb(2, Some(5)))?;
    Ok(Plan::data(data, allocation_length))
}

/// The pages that the CDB asks for, one after another.
fn pages(unit: &LogicalUnit, cdb: &Cdb) -> Result<Vec<u8>, Sense> {
    let control = match cdb.u8(2) >> 6 {
        0 => PageControl::Current,
        1 => PageControl::Changeable,
        2 => PageControl::Default,
        _ => PageControl::Saved,
    };
    let (page, subpage) = (cdb.u8(2) & 0x3f, cdb.u8(3));
    let all_pages = page == ModePageCode::ALL_PAGES;
    if all_pages && !matches!(subpage, 0 | ModePageCode::ALL_SUBPAGES) {
        return Err(Sense::invalid_field_in_cdb(3, None));
    }
    let asked = |code: &ModePageCode| {
        (all_pages || code.page == page) && (subpage == ModePageCode::ALL_SUBPAGES || code.subpage == subpage)
    };
    let codes = unit.mode_page_codes();
    let bytes: Vec<u8> = codes
        .iter()
        .filter(|code| asked(code))
        .filter_map(|code| unit.mode_page(*code, control))
        .flatten()
        .collect();
    if bytes.is_empty() && !all_pages {
        let known = codes.iter().any(|code| code.page == page);
        return Err(if known {
            Sense::invalid_field_in_cdb(3, None)
        } else {
            Sense::invalid_field_in_cdb(2, Some(5))
        });
    }
    Ok(bytes)
}
