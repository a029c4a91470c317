//! REPORT SUPPORTED OPERATION CODES (SPC-4 6.35).

use super::PrimaryCommand;
use crate::command::Row;
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation, Timeouts};
use lunette_scsi::{Opcode, Sense, service_action};

pub(crate) static REPORT_SUPPORTED_OPERATION_CODES: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_IN,
        &[0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00],
        Direction::In,
    )
    .repeatable()
    .action(service_action::REPORT_SUPPORTED_OPERATION_CODES)
    .reservation(Reservation::Read)
    .access(Access::Standby),
    decode,
};

const SUPPORTED: u8 = 0b011;
const NOT_SUPPORTED: u8 = 0b001;

fn decode(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let with_timeouts = cdb.bit(2, 7);
    let rows = unit.commands().rows_of(cdb.u8(3));
    let action = cdb.u16(4);
    let has_actions = rows.iter().any(|row| row.spec.service_action.is_some());
    let with_action = || rows.iter().find(|row| row.spec.service_action == Some(action));
    let data = match cdb.u8(2) & 0x07 {
        0b000 => all_commands(unit.commands().rows(), with_timeouts),
        0b001 if has_actions => return Err(Sense::invalid_field_in_cdb(2, Some(2))),
        0b001 => one_command(rows.first(), with_timeouts),
        0b010 if !rows.is_empty() && !has_actions => return Err(Sense::invalid_field_in_cdb(2, Some(2))),
        0b010 => one_command(with_action(), with_timeouts),
        0b011 if has_actions => one_command(with_action(), with_timeouts),
        0b011 => one_command(rows.first().filter(|_| action == 0), with_timeouts),
        _ => return Err(Sense::invalid_field_in_cdb(2, Some(2))),
    };
    Ok(Plan::data(data, cdb.u32(6).into()))
}

fn all_commands(rows: &[Row], with_timeouts: bool) -> Vec<u8> {
    const TIMEOUTS_PRESENT: u8 = 0x02;
    const HAS_SERVICE_ACTION: u8 = 0x01;
    let mut data = vec![0; 4];
    for Row { spec, .. } in rows {
        let mut flags = if with_timeouts { TIMEOUTS_PRESENT } else { 0 };
        if spec.service_action.is_some() {
            flags |= HAS_SERVICE_ACTION;
        }
        data.extend([spec.opcode.0, 0]);
        data.extend(spec.service_action.unwrap_or(0).to_be_bytes());
        data.extend([0, flags]);
        data.extend((spec.usage.len() as u16).to_be_bytes());
        if with_timeouts {
            data.extend(timeouts_descriptor(spec.timeouts));
        }
    }
    let length = data.len() as u32 - 4;
    data[..4].copy_from_slice(&length.to_be_bytes());
    data
}

fn one_command(row: Option<&Row>, with_timeouts: bool) -> Vec<u8> {
    const TIMEOUTS_PRESENT: u8 = 0x80;
    let Some(Row { spec, .. }) = row else { return vec![0, NOT_SUPPORTED, 0, 0] };
    let mut data = vec![0, SUPPORTED | if with_timeouts { TIMEOUTS_PRESENT } else { 0 }];
    data.extend((spec.usage.len() as u16).to_be_bytes());
    data.extend(spec.usage_data());
    if with_timeouts {
        data.extend(timeouts_descriptor(spec.timeouts));
    }
    data
}

fn timeouts_descriptor(timeouts: Timeouts) -> [u8; 12] {
    let mut descriptor = [0; 12];
    descriptor[1] = 0x0a;
    let seconds =
        |duration: std::time::Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
    descriptor[4..8].copy_from_slice(&seconds(timeouts.nominal));
    descriptor[8..].copy_from_slice(&seconds(timeouts.recommended));
    descriptor
}
