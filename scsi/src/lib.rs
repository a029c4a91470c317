//! The SCSI language: CDBs, sense data, LUN addresses, designators, VPD and mode pages.
#![forbid(unsafe_code)]

mod bytes;
mod codes;

pub mod cdb;
pub mod lun;
pub mod opcode;
pub mod sense;
pub mod status;
pub mod task;

pub use cdb::{Cdb, CdbError, Transfer};
pub use lun::{Lun, LunAddress};
pub use opcode::{Opcode, command_name, service_action};
pub use sense::{
    AdditionalSense, Sense, SenseBytes, SenseFlags, SenseFormat, SenseKey, SenseKeySpecific,
};
pub use status::Status;
pub use task::{ServiceResponse, TaskAttribute, TaskManagementFunction};
