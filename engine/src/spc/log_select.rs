//! LOG SELECT (SPC-4 6.7).

use super::PrimaryCommand;
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation, Run};
use lunette_scsi::log::{LogPageCode, parse_log_list};
use lunette_scsi::{Opcode, Sense};

// PCR, but not SP, as nothing is saved.
pub(crate) static LOG_SELECT: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::LOG_SELECT,
        &[0x4c, 0x02, 0xff, 0xff, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00],
        Direction::Out,
    )
    .repeatable()
    .reservation(Reservation::Write)
    .access(Access::Standby),
    decode,
};

/// PC: the values that a list sets, or that are set to their defaults without one.
const CUMULATIVE: u8 = 0b01;
const DEFAULT_CUMULATIVE: u8 = 0b11;

fn decode(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let (reset, control, length) = (cdb.bit(1, 1), cdb.u8(2) >> 6, cdb.u16(7));
    let code = LogPageCode { page: cdb.u8(2) & 0x3f, subpage: cdb.u8(3) };
    if length > 0 {
        if reset {
            return Err(Sense::invalid_field_in_cdb(1, Some(1)));
        }
        if control != CUMULATIVE {
            return Err(Sense::invalid_field_in_cdb(2, Some(7)));
        }
        // The list names its pages.
        if code != LogPageCode::SUPPORTED_PAGES {
            return Err(Sense::invalid_field_in_cdb(2, Some(5)));
        }
        return Ok(Plan::run(length.into(), async move |run: Run| {
            let list = run.data_out(0, length.into());
            run.unit.set_log(&parse_log_list(&list)?)?;
            run.unit.log_changed(&run.nexus);
            Ok(())
        }));
    }
    let mut codes = unit.log_page_codes();
    if code != LogPageCode::SUPPORTED_PAGES {
        let subpages = code.subpage == LogPageCode::SUPPORTED_SUBPAGES.subpage;
        codes.retain(|known| *known == code || subpages && known.page == code.page);
    }
    if codes.is_empty() {
        return Err(Sense::invalid_field_in_cdb(2, Some(5)));
    }
    if !reset && control != DEFAULT_CUMULATIVE {
        return Ok(Plan::good());
    }
    Ok(Plan::run(0, async move |run: Run| {
        run.unit.reset_log(&codes);
        run.unit.log_changed(&run.nexus);
        Ok(())
    }))
}
