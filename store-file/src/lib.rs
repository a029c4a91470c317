//! Files and block devices as backing stores.
//!
//! A [`File`] is opened once, locked against every other user of the same bytes, asked what it can do, and then attached to
//! each reactor. Memory files and reads from the page cache are served inline; everything else goes through the reactor's
//! kernel I/O, or through the file's lanes where the kernel would block, so that one stalled file never stops its neighbours.
//!
//! This crate knows nothing of SCSI and of image formats, and starts no threads. [`File::open`] blocks; call it before the
//! reactors run or away from them.
//!
//! Entry types: [`File`], [`Options`], [`OpenError`].
//!
//! ```
//! use lunette_store::{Backing, IoId, Memory, Op, Sg, SinkId, Submit, sim::Sim};
//! use lunette_store_file::{File, Options};
//!
//! let directory = tempfile::tempdir()?;
//! let path = directory.path().join("disk.img");
//! assert!(File::open(&path, &Options::default()).is_err());
//!
//! let options = Options { create_size: Some(1 << 20), inline: Some(true), ..Options::default() };
//! let file = File::open(&path, &options)?;
//! assert_eq!(file.caps().size.get(), 1 << 20);
//!
//! let mut sim = Sim::new(1);
//! let store = file.attach(sim.cx(0));
//! let hello = Memory::from_bytes(b"hello");
//! let from = [hello.seg()];
//! let write = Op::Write { offset: 512, from: Sg::new(&from), durable: false };
//! let id = IoId { sink: SinkId(0), token: 0 };
//! assert_eq!(store.submit(write, id, sim.cx(0)), Submit::Done(Ok(5)));
//! assert_eq!(&std::fs::read(&path)?[512..517], b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attached;
mod bounce;
mod file;
mod job;
mod lock;
mod open;
mod options;
mod probe;
mod size;
mod sys;
#[cfg(test)]
mod tests;
mod witness;

pub use file::File;
pub use options::{OpenError, Opener, Options};
