//! The vhost-user-scsi way in: SCSI target ports as the targets of a virtio-scsi device of a virtual machine.
//!
//! A virtual machine monitor connects to a Unix socket and shares its guest's memory and virtqueues. This crate maps the
//! memory, takes commands from the rings where they lie, has the engine carry them out on the guest's own buffers, and
//! writes the responses. The guest and the monitor may be hostile: what is wrong with a ring stops that ring, what is wrong
//! with a message is refused or ends the connection, and neither touches anybody else.
//!
//! It knows nothing of device types and stores, and of the messages only what `lunette-vhost-user` makes of them. It
//! starts no threads; it runs on the reactors that it is given.
//!
//! Entry types: [`VhostUserExport`], made from [`Options`] with an [`Endpoint`], and the [`Handle`] of a running one.
//!
//! ```
//! use lunette_engine::TargetPort;
//! use lunette_reactor::Reactors;
//! use lunette_scsi::Protocol;
//! use lunette_store::ReactorId;
//! use lunette_transport_vhost_user::{Options, VhostUserExport};
//! use std::collections::BTreeMap;
//!
//! let reactors = Reactors::start(&lunette_reactor::Options { reactors: 1, ..Default::default() })?;
//! let port = TargetPort::new("vm1", 1, Protocol::NONE, BTreeMap::new());
//! let socket = std::env::temp_dir().join(format!("lunette-doc-{}.sock", std::process::id()));
//! let export = VhostUserExport::new(Options::new(&socket), BTreeMap::from([(0, port)]));
//! let handle = export.start(reactors.poster(), &[ReactorId(0)])?;
//! assert!(socket.exists());
//! handle.stop();
//! assert!(!socket.exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod aside;
mod bind;
mod client;
mod commands;
mod connection;
mod control;
mod device_state;
mod endpoint;
mod error;
mod events;
mod export;
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod lease;
mod local;
mod memory;
mod notify;
mod place;
mod queue;
mod raise;
mod ring;
mod socket;
mod targets;
mod wire;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use bind::{Access, SocketFile};
pub use device_state::DeviceState;
pub use endpoint::Endpoint;
pub use error::Error;
pub use export::{Handle, MAX_REQUEST_QUEUES, Opening, Options, VhostUserExport};
pub use handover::{HandedConnection, HandedExport, NoRole, Record, Role, Snapshot};
pub use lease::{Given, Lease, Taken};
pub use place::{ExportEvent, reactor_of};
pub use raise::prepare;
