//! The SCSI engine: one for every transport, every device type and every backing store.
//!
//! It is SAM and SPC: target ports and nexuses, logical units, task sets, task management, unit attentions, the command
//! table and the commands that every device has. A command comes in through a [`Session`], is looked up in its logical
//! unit's table, decoded to a [`Plan`] and carried out; its [`Outcome`] goes back to the transport.
//!
//! It knows no transport, no device type and no kind of store, only the traits [`Responder`], [`Device`] and
//! [`Backing`](lunette_store::Backing). It starts no thread, reads no clock and opens no file: everything runs on a reactor
//! and asks the reactor's [`Cx`](lunette_store::Cx).
//!
//! Entry types: [`Device`] and [`Command`] to add a device type, [`LogicalUnit`], [`TargetPort`], [`LunMap`] and
//! [`Nexus`] to put a target together, [`Session`] and [`Responder`] to add a transport.
//!
//! ```
//! use lunette_engine::{CommandFrame, Nexus, Responder, Session, Started, TargetPort, Completion};
//! use lunette_scsi::{designator::Protocol, Cdb, Lun, ServiceResponse, Status, TaskAttribute};
//! use lunette_store::{sim::Sim, Cx, Memory, Sg};
//! use std::{collections::BTreeMap, rc::{Rc, Weak}};
//!
//! struct Transport;
//! impl Responder for Transport {
//!     fn command_ended(&self, _: u64, _: Completion, _: &mut dyn Cx) {}
//!     fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {}
//! }
//!
//! let mut sim = Sim::new(1);
//! let cx = sim.cx(0);
//! let port = TargetPort::new("iqn.2026-11.dev.lunette:doc,t,0x0001", 1, Protocol::ISCSI, BTreeMap::new());
//! let transport: Rc<dyn Responder> = Rc::new(Transport);
//! let session = Session::open(Nexus::new("initiator", port), Rc::downgrade(&transport), cx);
//!
//! // There is no logical unit, so INQUIRY says "no such device here".
//! let cdb = Cdb::new(&[0x12, 0, 0, 0, 36, 0]).unwrap();
//! let command = CommandFrame { tag: 1, cookie: 1, ..CommandFrame::new(Lun::from_index(0), &cdb) };
//! let memory = Memory::zeroed(36);
//! let Started::Ended(outcome) = session.execute(&command, Sg::empty(), Sg::new(&[memory.seg()]), cx) else { panic!() };
//! assert_eq!(outcome.status, Status::GOOD);
//! assert_eq!(memory.to_vec()[0], 0x7f);
//! ```
#![forbid(unsafe_code)]

mod access;
mod alarm;
mod allegiance;
mod arrival;
mod attention;
mod buffers;
mod change;
mod checks;
mod clock;
mod command;
mod copy;
mod detached;
mod device;
mod engine;
mod execution;
mod failure;
mod filter;
mod handover;
mod hop;
mod identity;
mod inventory;
mod jobs;
mod limit;
mod log;
mod lun_map;
mod manage;
mod measure;
mod mode;
mod nexus;
mod order;
mod outcome;
mod placeholder;
mod plan;
mod priority;
mod quiet;
mod ranges;
mod readiness;
mod reservation;
mod retirement;
mod room;
mod run;
mod running;
mod saved;
mod self_test;
mod session;
pub mod spc;
mod statistics;
mod steps;
mod stuck;
mod task_set;
mod tasks;
mod turn_back;
mod turns;
mod unit;

pub use access::{Access, AccessError};
pub use alarm::Alarm;
pub use change::{ChangeError, ChangeRequest};
pub use command::{
    Attention, Command, CommandSpec, Decoded, Direction, Needs, Request, Reservation, Timeouts,
};
pub use device::{Device, StoreLook, sense_of};
pub use filter::{CommandFilter, FilterError};
pub use handover::{NexusState, UnitState};
pub use identity::Identity;
pub use inventory::{Inventory, InventoryChange};
pub use limit::{Delays, Limit, Limiter, Limits, Rate, Rates};
pub use lun_map::LunMap;
pub use mode::{ModePageSpec, PageControl};
pub use nexus::{AttentionObserver, Nexus, NexusId, TargetPort};
pub use outcome::{Aborted, Completion, Outcome, Residual};
pub use plan::{Io, IoKind, Plan, Reply, RunPlan, RunStart};
pub use ranges::RangeUse;
pub use readiness::{NotReady, Progress};
pub use run::{Run, RunFuture, Steps};
pub use saved::{HexBytes, RamKeeper, Saved, StateError, StateKeeper};
pub use session::{Admission, CommandFrame, GivenUp, Management, Responder, Session, Started};
pub use statistics::{Activity, Class, Counted, Histogram, NexusActivity, UnitActivity};
pub use steps::Hold;
pub use stuck::{HeldByStore, held_by_stores};
pub use tasks::TaskId;
pub use turns::{Turn, Turns};
pub use unit::LogicalUnit;

#[cfg(test)]
mod tests;
