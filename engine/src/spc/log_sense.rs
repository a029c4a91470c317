//! LOG SENSE (SPC-4 6.8).

use super::PrimaryCommand;
use crate::log::LogControl;
use crate::{
    Access, CommandSpec, Decoded, Direction, IoKind, LogicalUnit, Plan, Request, Reservation, Run, sense_of,
};
use lunette_scsi::log::{LogPageCode, encode_log_page, encode_supported_log_pages};
use lunette_scsi::{Opcode, Sense};
use lunette_store::IoError;

// Neither SP, as nothing is saved, nor PPC, which SPC-4 has dropped.
pub(crate) static LOG_SENSE: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::LOG_SENSE,
        &[0x4d, 0x00, 0xff, 0xff, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00],
        Direction::In,
    )
    .repeatable()
    .reservation(Reservation::Exempt)
    .access(Access::Standby),
    decode,
};

fn decode(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let (code, first) = (LogPageCode { page: cdb.u8(2) & 0x3f, subpage: cdb.u8(3) }, cdb.u16(5));
    let codes = unit.log_page_codes();
    if !codes.contains(&code) {
        let known = codes.iter().any(|other| other.page == code.page);
        return Err(if known {
            Sense::invalid_field_in_cdb(3, None)
        } else {
            Sense::invalid_field_in_cdb(2, Some(5))
        });
    }
    let allocation = u64::from(cdb.u16(7));
    let data = match code {
        LogPageCode::SUPPORTED_PAGES | LogPageCode::SUPPORTED_SUBPAGES if first > 0 => {
            return Err(Sense::invalid_field_in_cdb(5, None));
        }
        LogPageCode::SUPPORTED_PAGES => encode_supported_log_pages(&codes, false),
        LogPageCode::SUPPORTED_SUBPAGES => encode_supported_log_pages(&codes, true),
        _ => {
            // There are no thresholds.
            let control = match cdb.u8(2) >> 6 {
                0b01 => LogControl::Cumulative,
                0b11 => LogControl::Default,
                _ => return Err(Sense::invalid_field_in_cdb(2, Some(7))),
            };
            let look = unit.device().log_page_look(code).zip(unit.backing().cloned());
            if let Some((look, backing)) = look {
                return Ok(Plan::run_in(allocation, async move |run: Run| {
                    // What cannot be seen is not in the page.
                    if let Err(error @ IoError::Aborted) = run.call_on(&backing, look).await {
                        return Err(sense_of(IoKind::Read, error));
                    }
                    let mut data = page(&run.unit, code, control, first)?;
                    data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
                    run.set_data_in_len(data.len() as u64);
                    run.put_data_in(0, &data);
                    Ok(())
                }));
            }
            page(unit, code, control, first)?
        }
    };
    Ok(Plan::data(data, allocation))
}

/// The page from the parameter `first` on.
fn page(unit: &LogicalUnit, code: LogPageCode, control: LogControl, first: u16) -> Result<Vec<u8>, Sense> {
    let mut parameters = unit.log_page(code, control).unwrap_or_default();
    if parameters.last().is_none_or(|last| first > last.code) && first > 0 {
        return Err(Sense::invalid_field_in_cdb(5, None));
    }
    parameters.retain(|parameter| parameter.code >= first);
    Ok(encode_log_page(code, &parameters))
}
