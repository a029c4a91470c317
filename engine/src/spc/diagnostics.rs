//! SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS (SPC-4 6.42, 6.27).

use super::PrimaryCommand;
use crate::self_test::{self, SelfTest};
use crate::{
    Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation, Run, Timeouts,
};
use lunette_scsi::{AdditionalSense, Opcode, Sense};

// SELF-TEST CODE, PF, SELFTEST, DEVOFFL and UNITOFFL.
pub(crate) static SEND_DIAGNOSTIC: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(Opcode::SEND_DIAGNOSTIC, &[0x1d, 0xf7, 0x00, 0xff, 0xff, 0x00], Direction::Out)
        .repeatable()
        .reservation(Reservation::Write)
        .timeouts(Timeouts::LONG)
        .access(Access::Standby),
    decode: send,
};

// PCV.
pub(crate) static RECEIVE_DIAGNOSTIC_RESULTS: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::RECEIVE_DIAGNOSTIC_RESULTS,
        &[0x1c, 0x01, 0xff, 0xff, 0xff, 0x00],
        Direction::In,
    )
    .repeatable()
    .reservation(Reservation::Read)
    .access(Access::Standby),
    decode: receive,
};

/// SELF-TEST CODE (SPC-4 6.42).
mod code {
    pub(super) const NONE: u8 = 0b000;
    pub(super) const BACKGROUND_SHORT: u8 = 0b001;
    pub(super) const BACKGROUND_EXTENDED: u8 = 0b010;
    pub(super) const ABORT_BACKGROUND: u8 = 0b100;
    pub(super) const FOREGROUND_SHORT: u8 = 0b101;
    pub(super) const FOREGROUND_EXTENDED: u8 = 0b110;
}

/// The only diagnostic page: that which lists the pages (SPC-4 7.2.5).
const SUPPORTED_PAGES: u8 = 0x00;

fn send(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let (code, self_test, length) = (cdb.u8(1) >> 5, cdb.bit(1, 2), cdb.u16(3));
    if self_test && code != code::NONE {
        return Err(Sense::invalid_field_in_cdb(1, Some(7)));
    }
    if (self_test || code != code::NONE) && length > 0 {
        return Err(Sense::invalid_field_in_cdb(3, None));
    }
    let (test, background) = match code {
        code::NONE if self_test => {
            return Ok(Plan::run(0, async move |run: Run| {
                run.unit.ready()?;
                self_test::run_default(&run).await
            }));
        }
        code::NONE => return page(cdb.bit(1, 4), length),
        code::ABORT_BACKGROUND => return Ok(Plan::run(0, abort)),
        code::BACKGROUND_SHORT => (SelfTest { code, extended: false }, true),
        code::BACKGROUND_EXTENDED => (SelfTest { code, extended: true }, true),
        code::FOREGROUND_SHORT => (SelfTest { code, extended: false }, false),
        code::FOREGROUND_EXTENDED => (SelfTest { code, extended: true }, false),
        _ => return Err(Sense::invalid_field_in_cdb(1, Some(7))),
    };
    Ok(Plan::run(0, async move |run: Run| {
        run.unit.ready()?;
        let running = run.unit.self_tests().begin(test)?;
        if background {
            run.unit.begin(&*run.poster(), async move |steps| self_test::run(&steps, running, true).await);
            return Ok(());
        }
        run.unit.set_testing(Some(running.not_ready()));
        let result = self_test::run(&run, running, false).await;
        run.unit.set_testing(None);
        result
    }))
}

/// Ends the test in the background, of which there has to be one. Beside one in the foreground this is not processed.
async fn abort(run: Run) -> Result<(), Sense> {
    let aborted = run.unit.self_tests().abort_by_command();
    aborted.then_some(()).ok_or(Sense::invalid_field_in_cdb(1, Some(7)))
}

/// A diagnostic page that the initiator sends.
fn page(page_format: bool, length: u16) -> Decoded {
    if length == 0 {
        return Ok(Plan::good());
    }
    if !page_format {
        return Err(Sense::invalid_field_in_cdb(1, Some(4)));
    }
    Ok(Plan::run(length.into(), async move |run: Run| match run.data_out(0, length.into())[..] {
        [] | [_] | [_, _] | [_, _, _] => {
            Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR))
        }
        [SUPPORTED_PAGES, _, 0, 0] => Ok(()),
        [SUPPORTED_PAGES, ..] => Err(Sense::invalid_field_in_parameter_list(2, None)),
        _ => Err(Sense::invalid_field_in_parameter_list(0, None)),
    }))
}

/// There is one page, whichever was sent before.
fn receive(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let (page_code_valid, page) = (cdb.bit(1, 0), cdb.u8(2));
    if page_code_valid && page != SUPPORTED_PAGES {
        return Err(Sense::invalid_field_in_cdb(2, None));
    }
    Ok(Plan::data(vec![SUPPORTED_PAGES, 0, 0, 1, SUPPORTED_PAGES], cdb.u16(3).into()))
}
