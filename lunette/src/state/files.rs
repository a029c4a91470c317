//! What the state directory asks of a file system. Tests have one whose power fails.

use nix::fcntl::{FcntlArg, fcntl};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A file system. Nothing but what was synced is sure to survive a power loss.
pub(crate) trait Files: fmt::Debug + Send + Sync {
    /// The content of a file, or as many bytes of it.
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;

    /// The names in a directory, those that are UTF-8.
    fn names(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Whether there is such a directory.
    fn has_directory(&self, path: &Path) -> bool;

    /// Makes a directory in one that there is.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes a file, which is empty also if there was one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;

    /// Gives a file another name in its directory, in place of the file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Opens a directory that is to be synced.
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn OpenDirectory>>;

    /// Has the names in a directory survive a power loss.
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.open_directory(path)?.sync()
    }

    /// Opens a file for locks, making it if there is none.
    fn open_locks(&self, path: &Path) -> io::Result<Box<dyn LockFile>>;
}

/// A file that is being written.
pub(crate) trait NewFile {
    /// Adds bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Has its content survive a power loss.
    fn sync(&mut self) -> io::Result<()>;
}

/// A directory in which names are changed.
pub(crate) trait OpenDirectory {
    /// Has the names in it survive a power loss.
    fn sync(&self) -> io::Result<()>;
}

/// A file of whose bytes each can be locked. A lock is of this open file: who has locked a byte may do so again.
pub(crate) trait LockFile: fmt::Debug + Send + Sync {
    /// Locks the byte at `offset`, unless somebody else has it. Returns whether it is locked.
    fn try_lock(&self, offset: u64) -> io::Result<bool>;

    /// Whether somebody else has locked the byte at `offset`. Nobody is kept from locking it meanwhile.
    fn is_locked(&self, offset: u64) -> io::Result<bool>;

    /// Lets go of it.
    fn unlock(&self, offset: u64);
}

/// The one of the system.
#[derive(Debug)]
pub(crate) struct System;

impl Files for System {
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn has_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn OpenDirectory>> {
        Ok(Box::new(File::open(path)?))
    }

    fn open_locks(&self, path: &Path) -> io::Result<Box<dyn LockFile>> {
        Ok(Box::new(File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?))
    }
}

impl NewFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl OpenDirectory for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl LockFile for File {
    fn try_lock(&self, offset: u64) -> io::Result<bool> {
        match fcntl(self, FcntlArg::F_OFD_SETLK(&byte(libc::F_WRLCK, offset)?)) {
            Ok(_) => Ok(true),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn is_locked(&self, offset: u64) -> io::Result<bool> {
        let mut lock = byte(libc::F_WRLCK, offset)?;
        fcntl(self, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }

    fn unlock(&self, offset: u64) {
        // It is locked, so that there is such a byte.
        let unlocked = byte(libc::F_UNLCK, offset).map(|lock| fcntl(self, FcntlArg::F_OFD_SETLK(&lock)));
        debug_assert!(matches!(unlocked, Ok(Ok(_))));
    }
}

fn byte(kind: i32, offset: u64) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?,
        l_len: 1,
        l_pid: 0,
    })
}
