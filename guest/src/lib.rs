//! A virtual machine in user space: the vhost-user front end of a virtual machine monitor, and a guest's virtio drivers.
//!
//! Tests, fuzzers and benchmarks meet a daemon as a virtual machine does, without booting one. The crate is also a judge:
//! it is written from the standards and knows nothing of the daemon's own code, and it reports what a device must not do
//! as a [`Violation`]: buffers used twice or never sent, wrong lengths, wrong wrap counters, impossible responses.
//!
//! From the bottom up: [`GuestMemory`] is shared with the daemon, [`ring::Ring`] is the driver's side of a split or packed
//! virtqueue, [`Session`] sends messages, [`Monitor`] puts the three together, and [`ScsiDriver`] and [`BlockDriver`] are
//! drivers. Whoever wants to misbehave writes to memory and to rings ([`ring::Areas`]) or sends any message
//! ([`Session::send`]).
//!
//! ```no_run
//! use lunette_guest::{Command, Options, ScsiDriver};
//!
//! let mut driver = ScsiDriver::connect("/run/vm1.sock".as_ref(), &Options::default())?;
//! let answer = driver.execute(0, &Command::new(&[0x12, 0, 0, 0, 36, 0]), &[], 36)?;
//! assert_eq!((answer.response, answer.status, answer.data.len()), (0, 0, 36));
//! # Ok::<(), lunette_guest::Error>(())
//! ```

pub mod block;
mod error;
mod in_flight;
mod memory;
pub mod migration;
mod monitor;
pub mod ring;
mod scsi;
mod session;
pub mod verify;
mod wire;

pub use block::BlockDriver;
pub use error::{Error, Violation};
pub use in_flight::InFlight;
pub use memory::{Backing, GuestMemory, Piece, View};
pub use monitor::{Monitor, Queue, Waiting};
pub use scsi::{Answer, CANARY, Completion, Data, Options, ScsiDriver};
pub use session::{PATIENCE, Session, Wanted};
pub use wire::{
    Command, Event, Notifications, Sizes, address, attribute, function, notification_request, response,
    task_management,
};
