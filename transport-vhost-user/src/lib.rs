//! The vhost-user-scsi way in: virtqueues, guest memory and the virtio-scsi device.
mod bind;
mod commands;
mod connection;
mod export;
#[doc(hidden)]
pub mod fuzzing;
mod local;
mod memory;
mod place;
mod queue;
mod ring;
mod socket;
#[cfg(test)]
mod testing;
mod wire;

pub use export::{Error, Handle, MAX_REQUEST_QUEUES, Options, VhostUserExport};
#[cfg(test)]
mod tests;
