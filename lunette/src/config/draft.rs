//! Files that are replaced as a whole.

use crate::state;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// The file that is meant by a path: that at the end of links, or the one that can be made there.
pub(super) fn place(path: &Path) -> std::io::Result<PathBuf> {
    match (fs::canonicalize(path), path.file_name()) {
        (Err(error), Some(name)) if error.kind() == ErrorKind::NotFound => {
            Ok(fs::canonicalize(directory_of(path))?.join(name))
        }
        (place, _) => place,
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file that is to take the place of another; otherwise it is removed.
pub(super) struct Replacement {
    temporary: Temporary,
    place: PathBuf,
    /// Open before anything is replaced, so that there is no reason left afterwards why it cannot be synced but the disk.
    directory: File,
}

impl Replacement {
    /// Writes `text` beside the file at this [`place`], which has its mode and owner.
    pub(super) fn write(place: PathBuf, text: &str) -> Result<Self> {
        let beside = directory_of(&place);
        let directory = File::open(beside)?;
        // Nobody can know the name. What is left of it by a crash is hidden, and is read by nobody.
        let temporary = beside.join(format!(".lunette-{:016x}", state::random()?));
        let before = fs::metadata(&place).ok();
        let mode = before.as_ref().map_or(0o600, |before| before.mode() & 0o777);
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&temporary)?;
        let temporary = Temporary(temporary);
        file.write_all(text.as_bytes())?;
        if let Some(before) = before {
            // Who may not give files away has one of his own.
            let _ = fchown(&file, Some(before.uid()), Some(before.gid()));
        }
        file.set_permissions(PermissionsExt::from_mode(mode))?;
        file.sync_all()?;
        Ok(Self { temporary, place, directory })
    }

    /// Takes the place.
    pub(super) fn put(self) -> Result<Put> {
        let Self { temporary, place, directory } = self;
        let renamed = fs::rename(&temporary.0, &place);
        renamed.with_context(|| format!("cannot replace {}", place.display()))?;
        Ok(Put { place, directory })
    }
}

/// A file that is removed, unless it has got another name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file that has taken the place of another, but may not have done so after a power loss.
pub(crate) struct Put {
    place: PathBuf,
    directory: File,
}

impl Put {
    /// Has it survive a power loss. Returns where it is.
    pub(crate) fn sync(self) -> Result<PathBuf> {
        let synced = self.directory.sync_all();
        synced.with_context(|| format!("cannot sync the directory of {}", self.place.display()))?;
        Ok(self.place)
    }
}
