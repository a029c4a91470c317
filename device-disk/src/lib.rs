//! The direct-access block device: a disk (SBC-4).
//!
//! A [`Disk`] turns block commands into operations on a store. It knows neither transports nor kinds of store: what the
//! store can do is read from its [`Caps`](lunette_store::Caps), and everything that a disk reports of itself (capacity,
//! limits, provisioning, caching) follows from them and from [`Options`].
//!
//! Entry type: [`Disk`], put into a [`LogicalUnit`](lunette_engine::LogicalUnit).
//!
//! ```
//! use lunette_device_disk::{Disk, Options};
//! use lunette_engine::{Identity, LogicalUnit};
//! use lunette_scsi::Naa;
//! use lunette_store::{ram::Ram, Backing};
//! use std::sync::Arc;
//!
//! let store: Arc<dyn Backing> = Arc::new(Ram::new(1 << 20)?);
//! let disk = Disk::new(&Options { block_length: 4096, ..Options::default() }, store.caps())?;
//! assert_eq!(disk.blocks(), 256);
//! let identity = Identity::new("0001", Naa::locally_assigned(1));
//! let unit = LogicalUnit::new("scratch", identity, Box::new(disk), Some(store));
//! assert!(!unit.write_protected());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A command is one row of `commands::COMMANDS` and the file that the row comes from.
#![forbid(unsafe_code)]

mod commands;
mod condition;
mod disk;
mod extent;
mod medium;
mod operation;
mod options;
mod pages;
mod room;
mod undo;

pub use disk::Disk;
pub use options::{Options, OptionsError};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
