//! The commands that every device has (SPC-4, SPC-5). A device's own row takes the place of one of these.
//!
//! One file a command; [`COMMANDS`] lists their rows.

use crate::LogicalUnit;
use crate::command::Command;

mod buffer;
mod diagnostics;
mod extended_copy;
mod identifying_information;
mod inquiry;
mod log_select;
mod log_sense;
mod mode_select;
mod mode_sense;
pub(crate) mod pages;
mod persistent_reserve_in;
mod persistent_reserve_out;
mod priority;
mod receive_copy;
mod report_luns;
mod report_supported_operation_codes;
mod report_supported_task_management_functions;
mod report_target_port_groups;
mod request_sense;
mod reserve_release;
mod security_protocol;
mod set_target_port_groups;
mod test_unit_ready;
mod timestamp;
mod vpd;

use buffer::{READ_BUFFER_10, WRITE_BUFFER};
use diagnostics::{RECEIVE_DIAGNOSTIC_RESULTS, SEND_DIAGNOSTIC};
use extended_copy::EXTENDED_COPY_LID1;
pub(crate) use identifying_information::IdentifyingInformation;
use identifying_information::{REPORT_IDENTIFYING_INFORMATION, SET_IDENTIFYING_INFORMATION};
pub(crate) use inquiry::INQUIRY;
use log_select::LOG_SELECT;
use log_sense::LOG_SENSE;
use mode_select::{MODE_SELECT_6, MODE_SELECT_10};
use mode_sense::{MODE_SENSE_6, MODE_SENSE_10};
use persistent_reserve_in::{READ_FULL_STATUS, READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES};
use persistent_reserve_out::{
    CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER, REGISTER_AND_IGNORE_EXISTING_KEY, REGISTER_AND_MOVE,
    RELEASE, RESERVE,
};
use priority::{REPORT_PRIORITY, SET_PRIORITY};
use receive_copy::{
    RECEIVE_COPY_FAILURE_DETAILS_LID1, RECEIVE_COPY_OPERATING_PARAMETERS, RECEIVE_COPY_STATUS_LID1,
};
pub(crate) use report_luns::REPORT_LUNS;
use report_supported_operation_codes::REPORT_SUPPORTED_OPERATION_CODES;
use report_supported_task_management_functions::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS;
use report_target_port_groups::REPORT_TARGET_PORT_GROUPS;
pub(crate) use request_sense::REQUEST_SENSE;
use reserve_release::{RELEASE_6, RELEASE_10, RESERVE_6, RESERVE_10};
use security_protocol::{SECURITY_PROTOCOL_IN, SECURITY_PROTOCOL_OUT};
use set_target_port_groups::SET_TARGET_PORT_GROUPS;
pub(crate) use test_unit_ready::TEST_UNIT_READY;
use timestamp::{REPORT_TIMESTAMP, SET_TIMESTAMP};

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
    &REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
    &SEND_DIAGNOSTIC,
    &RECEIVE_DIAGNOSTIC_RESULTS,
    &WRITE_BUFFER,
    &READ_BUFFER_10,
    &LOG_SELECT,
    &LOG_SENSE,
    &REPORT_IDENTIFYING_INFORMATION,
    &SET_IDENTIFYING_INFORMATION,
    &REPORT_PRIORITY,
    &SET_PRIORITY,
    &REPORT_TIMESTAMP,
    &SET_TIMESTAMP,
    &SECURITY_PROTOCOL_IN,
    &SECURITY_PROTOCOL_OUT,
    &REPORT_TARGET_PORT_GROUPS,
    &SET_TARGET_PORT_GROUPS,
    &EXTENDED_COPY_LID1,
    &RECEIVE_COPY_STATUS_LID1,
    &RECEIVE_COPY_FAILURE_DETAILS_LID1,
    &RECEIVE_COPY_OPERATING_PARAMETERS,
];
