//! That bytes of a unit's store were lost, and initiators were told so: who serves the unit next after a kill is not to tell them
//! that these are safe. What says it is that there is such a file; who ends a unit in order removes it.

use super::file::{Folder, Kind, Unusable};
use lunette_scsi::Naa;
use std::io::{self, ErrorKind};

const KIND: Kind = Kind { name: "unit failure", version: 1, most: 4096 };

fn file_of(naa: Naa) -> String {
    format!("{naa}.failed")
}

/// Bytes of the unit whose kept world-wide name is `naa` were lost. A power loss does not undo that when this returns.
pub(super) fn write(folder: &Folder, naa: Naa) -> io::Result<()> {
    folder.save(&KIND, &file_of(naa), b"")
}

/// Whether they were. Of a file that cannot be used nothing better is known.
pub(super) fn is_there(folder: &Folder, naa: Naa) -> bool {
    !matches!(folder.load(&KIND, &file_of(naa)), Ok(None))
}

/// It is a matter of the past.
pub(super) fn clear(folder: &Folder, naa: Naa) -> Result<(), Unusable> {
    match folder.files().remove(&folder.path().join(file_of(naa))) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => Ok(removed.and_then(|()| folder.sync())?),
    }
}
