//! The commands that every device has (SPC-4, SPC-5). A device's own row takes the place of one of these.
//!
//! One file a command; [`COMMANDS`] lists their rows.

use crate::LogicalUnit;
use crate::command::Command;

mod inquiry;
mod mode_select;
mod mode_sense;
pub(crate) mod pages;
mod report_luns;
mod report_supported_operation_codes;
mod request_sense;
mod test_unit_ready;
mod vpd;

pub(crate) use inquiry::INQUIRY;
use mode_select::{MODE_SELECT_6, MODE_SELECT_10};
use mode_sense::{MODE_SENSE_6, MODE_SENSE_10};
pub(crate) use report_luns::REPORT_LUNS;
use report_supported_operation_codes::REPORT_SUPPORTED_OPERATION_CODES;
pub(crate) use request_sense::REQUEST_SENSE;
pub(crate) use test_unit_ready::TEST_UNIT_READY;

/// A row of a command that every device has.
pub type PrimaryCommand = Command<LogicalUnit>;

/// The rows.
pub static COMMANDS: &[&PrimaryCommand] = &[
    &TEST_UNIT_READY,
    &REQUEST_SENSE,
    &INQUIRY,
    &MODE_SELECT_6,
    &MODE_SENSE_6,
    &MODE_SELECT_10,
    &MODE_SENSE_10,
    &REPORT_LUNS,
    &REPORT_SUPPORTED_OPERATION_CODES,
];
