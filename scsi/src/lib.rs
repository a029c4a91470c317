//! The SCSI language: CDBs, sense data, LUN addresses, designators, VPD and mode pages.
//!
//! Every other crate speaks in these types, so this one knows nothing of them: no I/O, no logical
//! units, no transport, no clock. It turns bytes into meaning and back, for targets and
//! initiators alike. Nothing here panics on what came from outside; a field that is missing reads
//! as zero or is an error, whichever the standard asks for.
//!
//! A command comes in as a [`Cdb`], for a [`Lun`], with a [`TaskAttribute`]; reads and writes are
//! taken apart by [`Transfer`]. It ends with a [`Status`] and perhaps [`Sense`]. What devices say
//! of themselves stands in [`inquiry`], [`vpd`], [`mode`] and [`capacity`]. Wire enumerations are
//! newtypes, so values without a name survive.
//!
//! ```
//! use lunette_scsi::{AdditionalSense, Cdb, Opcode, Sense, SenseFormat, Transfer};
//!
//! let cdb = Cdb::new(&[0x28, 0, 0, 0, 0x10, 0, 0, 0, 8, 0])?;
//! assert_eq!(cdb.opcode(), Opcode::READ_10);
//!
//! let read = Transfer::parse(&cdb).unwrap();
//! let capacity = 0x1004;
//! assert!(read.end().is_none_or(|end| end > capacity));
//!
//! let sense = Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE).with_information(capacity);
//! let bytes = sense.encode(SenseFormat::Fixed);
//! assert_eq!(Sense::parse(&bytes), Some(sense));
//! # Ok::<(), lunette_scsi::CdbError>(())
//! ```
#![forbid(unsafe_code)]

mod bytes;
mod codes;
mod error;
mod layout;

pub mod capacity;
pub mod cdb;
pub mod designator;
pub mod inquiry;
pub mod lba_status;
pub mod log;
pub mod lun;
pub mod mode;
pub mod notification;
pub mod opcode;
pub mod priority;
pub mod report_luns;
pub mod reservation;
pub mod sense;
pub mod status;
pub mod target_port_groups;
pub mod task;
pub mod third_party_copy;
pub mod transport_id;
pub mod unmap;
pub mod vpd;

pub use capacity::Capacity;
pub use cdb::{Cdb, CdbError, Transfer};
pub use designator::{Association, CodeSet, Designator, Identifier, Naa, NaaError, Protocol};
pub use error::ParseError;
pub use inquiry::{PeripheralDeviceType, StandardInquiry};
pub use lun::{Lun, LunAddress};
pub use notification::NotificationClasses;
pub use opcode::{Opcode, command_clause, command_name, service_action};
pub use reservation::ReservationType;
pub use sense::{AdditionalSense, Sense, SenseBytes, SenseFlags, SenseFormat, SenseKey, SenseKeySpecific};
pub use status::Status;
pub use target_port_groups::{AccessState, AccessStatus, SetTargetPortGroup, TargetPortGroup};
pub use task::{ServiceResponse, TaskAttribute, TaskManagementFunction};
pub use transport_id::TransportId;
pub use unmap::{UnmapDescriptor, UnmapList};
pub use vpd::VpdPage;
