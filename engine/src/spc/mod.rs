//! The commands that every device has (SPC-4, SPC-5). A device's own row takes the place of one of these.
//!
//! One file a command; [`COMMANDS`] lists their rows.

use crate::LogicalUnit;
use crate::command::Command;

mod inquiry;
mod mode_select;
mod mode_sense;
pub(crate) mod pages;
mod persistent_reserve_in;
mod persistent_reserve_out;
mod report_luns;
mod report_supported_operation_codes;
mod request_sense;
mod reserve_release;
mod test_unit_ready;
mod vpd;

pub(crate) use inquiry::INQUIRY;
use mode_select::{MODE_SELECT_6, MODE_SELECT_10};
use mode_sense::{MODE_SENSE_6, MODE_SENSE_10};
use persistent_reserve_in::{READ_FULL_STATUS, READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES};
use persistent_reserve_out::{
    CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER, REGISTER_AND_IGNORE_EXISTING_KEY, REGISTER_AND_MOVE,
    RELEASE, RESERVE,
};
pub(crate) use report_luns::REPORT_LUNS;
use report_supported_operation_codes::REPORT_SUPPORTED_OPERATION_CODES;
pub(crate) use request_sense::REQUEST_SENSE;
use reserve_release::{RELEASE_6, RELEASE_10, RESERVE_6, RESERVE_10};
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
    &RESERVE_6,
    &RELEASE_6,
    &RESERVE_10,
    &RELEASE_10,
    &READ_KEYS,
    &READ_RESERVATION,
    &REPORT_CAPABILITIES,
    &READ_FULL_STATUS,
    &REGISTER,
    &RESERVE,
    &RELEASE,
    &CLEAR,
    &PREEMPT,
    &PREEMPT_AND_ABORT,
    &REGISTER_AND_IGNORE_EXISTING_KEY,
    &REGISTER_AND_MOVE,
    &REPORT_LUNS,
    &REPORT_SUPPORTED_OPERATION_CODES,
];
