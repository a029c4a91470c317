//! Virtual machines and the daemon that they share: whole exports, on simulated reactors but with real sockets, eventfds
//! and memory.

mod daemon;
mod driver;
mod front_end;
mod guest;
mod memory;
mod odd;
mod requests;
pub(crate) mod session;
mod traces;
mod victim;
pub(crate) mod virtqueue;

use crate::disks;
use lunette_device_disk::{Disk, Options};
use lunette_engine::{Identity, LogicalUnit};
use lunette_scsi::Naa;
use lunette_store::Backing;
use lunette_store::held::Held;
use std::sync::Arc;

/// A disk whose operations end when they are told to.
fn held_disk() -> Arc<LogicalUnit> {
    let backing: Arc<dyn Backing> = Arc::new(Held::new(1 << 20, 24));
    let disk = Disk::new(&Options::default(), backing.caps()).expect("suits any memory");
    LogicalUnit::new("held", Identity::new("2", Naa::locally_assigned(2)), Box::new(disk), Some(backing))
}

/// Four disks, of which number [`requests::HELD`] is a held one.
fn disks() -> [Arc<LogicalUnit>; 4] {
    [
        disks::disk(&Options::default(), None, false),
        held_disk(),
        disks::disk(&Options::default(), Some("delay:2+eio:8192+short:20480"), false),
        disks::disk(&Options::default(), Some("delay:1"), false),
    ]
}
