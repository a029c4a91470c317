//! Who serves a unit that others could serve too, for people. What counts are the [locks](super::locks): this is what whoever took
//! one has written last, also if he has gone since.

use super::file::{Folder, Kind};
use lunette_scsi::Naa;
use rustix::system::uname;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

const KIND: Kind = Kind { name: "unit holder", version: 1, most: 4096 };

/// A process that serves a unit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    /// The name of its host.
    host: String,
    process: u32,
}

impl Holder {
    /// This process.
    pub(super) fn own() -> Self {
        Self { host: uname().nodename().to_string_lossy().into_owned(), process: std::process::id() }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Others may have written it.
        write!(f, "process {} on {}", self.process, self.host.escape_debug())
    }
}

fn file_of(naa: Naa) -> String {
    format!("{naa}.holder")
}

/// Says who serves the unit whose kept world-wide name is `naa`.
pub(super) fn write(folder: &Folder, naa: Naa, holder: &Holder) -> io::Result<()> {
    folder.save(&KIND, &file_of(naa), &serde_json::to_vec(holder)?)
}

/// Who has said last that he serves it.
pub(super) fn read(folder: &Folder, naa: Naa) -> Option<Holder> {
    let content = folder.load(&KIND, &file_of(naa)).ok()??;
    serde_json::from_slice(&content.bytes).ok()
}
