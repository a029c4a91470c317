//! One file of state: it says its kind, its version, its length and its checksum, and is replaced as a whole.

use super::files::Files;
use std::io;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// A kind of state.
#[derive(Debug)]
pub(crate) struct Kind {
    /// What the first line of a file calls it.
    pub(crate) name: &'static str,
    /// The version that is written. Older ones, from 1, are read; whoever reads makes the new one of them.
    pub(crate) version: u32,
    /// Longest file, in bytes.
    pub(crate) most: u64,
}

/// What was saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    /// The version in which it was saved.
    pub(crate) version: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Why a file cannot be used, after its path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// It is not what was saved.
    #[error("is damaged")]
    Damaged,
    /// What it holds is for somebody else.
    #[error("was saved by a newer lunette")]
    Newer,
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// A directory of files of state.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    files: Arc<dyn Files>,
    path: Arc<Path>,
}

impl Folder {
    /// The one at `path`, which is made if there is none, with those above it.
    pub(crate) fn open(files: &Arc<dyn Files>, path: &Path) -> io::Result<Self> {
        make_durably(&**files, path)?;
        Ok(Self { files: files.clone(), path: path.into() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    /// Has all names in it survive a power loss: also what was renamed by somebody who was killed before he could see to that.
    /// Nobody may rely on what he has read before this, unless nobody else can have saved it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.files.sync_directory(&self.path)
    }

    /// What was saved last in the file `name`; `None` if there is no such file.
    pub(crate) fn load(&self, kind: &Kind, name: &str) -> Result<Option<Content>, Unusable> {
        match self.files.read(&self.path.join(name), kind.most + 1) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            bytes => kind.decode(&bytes?).map(Some),
        }
    }

    /// Replaces the file `name`. It survives a power loss when this returns; otherwise there is what was there before or this.
    pub(crate) fn save(&self, kind: &Kind, name: &str, bytes: &[u8]) -> io::Result<()> {
        let bytes = kind.encode(kind.version, bytes);
        if bytes.len() as u64 > kind.most {
            let why = format!("it would be longer than {} bytes", kind.most);
            return Err(io::Error::new(ErrorKind::FileTooLarge, why));
        }
        // Before there is anything new: whoever is told that this has failed is not to find it done.
        let directory = self.files.open_directory(&self.path)?;
        // Who was killed may have left one: it is written over.
        let new = self.path.join(format!("{name}.new"));
        let mut file = self.files.create(&new)?;
        file.write(&bytes)?;
        file.sync()?;
        self.files.rename(&new, &self.path.join(name))?;
        directory.sync()
    }
}

impl Kind {
    fn encode(&self, version: u32, bytes: &[u8]) -> Vec<u8> {
        // The first version has no checksum of itself. It needs none, as every other is newer than that.
        let summed = if version > 1 { format!("version {version}") } else { String::new() };
        let checksum = crc_fast::crc32_iscsi(&[summed.as_bytes(), bytes].concat());
        let (name, length) = (self.name, bytes.len());
        let head = format!("lunette {name}, version {version}, {length} bytes, CRC-32C {checksum:08x}\n");
        [head.as_bytes(), bytes].concat()
    }

    fn decode(&self, all: &[u8]) -> Result<Content, Unusable> {
        let end = all.iter().position(|byte| *byte == b'\n').map_or(all.len(), |at| at + 1);
        let (head, bytes) = all.split_at(end);
        match self.version_in(head) {
            Some(version) if version > self.version => Err(Unusable::Newer),
            // There is only one way to write something, so whatever differs is damage.
            Some(version)
                if version > 0 && all.len() as u64 <= self.most && self.encode(version, bytes) == all =>
            {
                Ok(Content { version, bytes: bytes.to_vec() })
            }
            _ => Err(Unusable::Damaged),
        }
    }

    fn version_in(&self, head: &[u8]) -> Option<u32> {
        let rest = head.strip_prefix(format!("lunette {}, version ", self.name).as_bytes())?;
        let digits = rest.split(|byte| *byte == b',').next()?;
        str::from_utf8(digits).ok()?.parse().ok()
    }
}

/// Makes a directory, and those above it, so that they are still there after a power loss; also one that somebody has made
/// who was killed then.
fn make_durably(files: &dyn Files, path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    let is_there = files.has_directory(path);
    if !is_there {
        make_durably(files, parent)?;
        match files.make_directory(path) {
            Err(error) if !(error.kind() == ErrorKind::AlreadyExists && files.has_directory(path)) => {
                return Err(error);
            }
            _ => {}
        }
    }
    match files.sync_directory(parent) {
        // Who made it could read the directory that it is in; who may not do so has found it there.
        Err(error) if is_there && error.kind() == ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::System;
    use super::*;
    use std::fs;

    const KIND: Kind = Kind { name: "test", version: 3, most: 4096 };
    const BYTES: &[u8] = b"{\n  \"reservations\": {\"registrations\": []}\n}";

    fn folder() -> (tempfile::TempDir, Folder) {
        let temporary = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(System);
        let folder = Folder::open(&files, &temporary.path().join("folder")).unwrap();
        (temporary, folder)
    }

    fn content(bytes: &[u8]) -> Content {
        Content { version: 3, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_was_saved_last_is_loaded() {
        let (_temporary, folder) = folder();
        assert_eq!(folder.load(&KIND, "x").unwrap(), None);
        folder.save(&KIND, "x", b"first, and longer").unwrap();
        for bytes in [BYTES, b"", b"\n\n"] {
            folder.save(&KIND, "x", bytes).unwrap();
            assert_eq!(folder.load(&KIND, "x").unwrap(), Some(content(bytes)));
        }
        assert_eq!(folder.load(&KIND, "y").unwrap(), None, "each has its own");
        assert!(matches!(folder.load(&Kind { name: "other", ..KIND }, "x"), Err(Unusable::Damaged)));
    }

    #[test]
    fn a_file_with_any_byte_damaged_is_refused() {
        let (_temporary, folder) = folder();
        folder.save(&KIND, "x", BYTES).unwrap();
        let path = folder.path().join("x");
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            for flip in (0..8).map(|bit| 1 << bit).chain([0xff, good[at], good[at] ^ b'\n']) {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                fs::write(&path, &bytes).unwrap();
                assert_eq!(folder.load(&KIND, "x").is_err(), bytes != good, "byte {at} ^ {flip:#x}");
            }
        }
    }

    #[test]
    fn a_file_of_any_other_length_is_refused() {
        let (_temporary, folder) = folder();
        folder.save(&KIND, "x", BYTES).unwrap();
        let path = folder.path().join("x");
        let good = fs::read(&path).unwrap();
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert!(matches!(folder.load(&KIND, "x"), Err(Unusable::Damaged)), "{length}");
        }
        fs::write(&path, [&good[..], b" "].concat()).unwrap();
        assert!(folder.load(&KIND, "x").is_err());
        fs::write(&path, vec![b' '; KIND.most as usize + 2]).unwrap();
        assert!(folder.load(&KIND, "x").is_err());
        fs::write(&path, good).unwrap();
        assert_eq!(folder.load(&KIND, "x").unwrap(), Some(content(BYTES)));
        let long = vec![b' '; KIND.most as usize];
        assert_eq!(folder.save(&KIND, "x", &long).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(folder.load(&KIND, "x").unwrap(), Some(content(BYTES)));
    }

    #[test]
    fn older_versions_are_read_and_newer_ones_are_named() {
        let (_temporary, folder) = folder();
        for (version, usable) in [(0, false), (1, true), (3, true), (4, false)] {
            fs::write(folder.path().join("x"), KIND.encode(version, BYTES)).unwrap();
            let loaded = folder.load(&KIND, "x");
            assert_eq!(
                loaded.as_ref().is_ok_and(|content| content.as_ref().unwrap().version == version),
                usable
            );
            assert_eq!(matches!(loaded, Err(Unusable::Newer)), version > 3);
        }
        fs::write(folder.path().join("x"), "lunette test, version 4, whatever\n{}").unwrap();
        assert!(matches!(folder.load(&KIND, "x"), Err(Unusable::Newer)));
    }

    #[test]
    fn what_cannot_be_saved_leaves_what_was_saved_before() {
        let (_temporary, folder) = folder();
        folder.save(&KIND, "x", BYTES).unwrap();
        let new = folder.path().join("x.new");
        std::os::unix::fs::symlink("/dev/full", &new).unwrap();
        assert_eq!(folder.save(&KIND, "x", b"new").unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(folder.load(&KIND, "x").unwrap(), Some(content(BYTES)));
        fs::remove_file(new).unwrap();
        folder.save(&KIND, "x", b"new").unwrap();
        assert_eq!(folder.load(&KIND, "x").unwrap(), Some(content(b"new")));
    }

    #[test]
    fn the_folder_is_made_with_those_above_it() {
        let temporary = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(System);
        let path = temporary.path().join("a/b/c");
        Folder::open(&files, &path).unwrap();
        Folder::open(&files, &path).unwrap();
        assert!(path.is_dir());
        fs::write(temporary.path().join("file"), []).unwrap();
        assert!(Folder::open(&files, &temporary.path().join("file/below")).is_err());
    }
}
