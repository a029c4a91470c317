//! Opening and creating.

use crate::lock::{self, Patience, failed};
use crate::{OpenError, Options, size};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// An open, locked file of the right size.
pub(crate) struct Opened {
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Stat,
    pub(crate) block_device: bool,
    /// In bytes.
    pub(crate) size: u64,
    /// It did not exist before.
    pub(crate) created: bool,
}

pub(crate) fn open(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    check(path, options)?;
    let mut patience = Patience::new(options.lock_wait);
    loop {
        let opened = match Seen::at(path, options) {
            Ok(seen) => existing(path, &seen, options, &mut patience)?,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT) => match create(path, options, &mut patience)? {
                    Some(opened) => opened,
                    None => continue,
                },
                Some(Errno::NOTBLK) => return Err(OpenError::NotStorage(path.to_owned())),
                _ => return Err(failed("open", path, error)),
            },
        };
        // While we waited for the lock, the name may have been given to another file.
        let named = Seen::at(path, options).ok();
        if named.is_some_and(|now| same(&now.stat, &opened.stat)) {
            check_size(path, opened.size, options)?;
            return Ok(opened);
        }
    }
}

/// What a name leads to, looked at and not opened: of a pipe that could wait, of a device have an effect.
pub(crate) struct Seen {
    /// It only names it (`O_PATH`).
    handle: OwnedFd,
    pub(crate) stat: Stat,
}

impl Seen {
    pub(crate) fn at(path: &Path, options: &Options) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let handle = lock::open_file(path, flags, options.opener.as_ref())?;
        Ok(Self { stat: rustix::fs::fstat(&handle)?, handle })
    }

    /// Opens it, whatever has its name by now. (An opener looks itself.)
    pub(crate) fn open(&self, path: &Path, flags: OFlags, options: &Options) -> io::Result<OwnedFd> {
        match &options.opener {
            Some(opener) => opener.open(path, flags),
            None => {
                let name = format!("/proc/self/fd/{}", self.handle.as_raw_fd());
                Ok(rustix::fs::open(name, flags, Mode::empty())?)
            }
        }
    }
}

/// Whether both are of the same file.
pub(crate) fn same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn check(path: &Path, options: &Options) -> Result<(), OpenError> {
    let wrong = |why| {
        let path = path.to_owned();
        Err(OpenError::Options { path, why })
    };
    let block = options.logical_block;
    if !block.is_power_of_two() || !(512..=65536).contains(&block) {
        return wrong("the block size must be a power of two from 512 to 65536");
    }
    if options.direct && options.inline == Some(true) {
        return wrong("direct=on and inline=on exclude each other");
    }
    match options.create_size {
        Some(0) => wrong("size= must not be 0"),
        Some(size) if i64::try_from(size).is_err() => wrong("size= is too large"),
        Some(size) => whole_blocks(path, size, block),
        None => Ok(()),
    }
}

fn whole_blocks(path: &Path, size: u64, block: u32) -> Result<(), OpenError> {
    if size.is_multiple_of(u64::from(block)) {
        return Ok(());
    }
    let path = path.to_owned();
    Err(OpenError::PartialBlock { path, size, block })
}

fn check_size(path: &Path, actual: u64, options: &Options) -> Result<(), OpenError> {
    if actual == 0 {
        return Err(OpenError::Empty(path.to_owned()));
    }
    match options.create_size {
        Some(wanted) if wanted != actual => {
            Err(OpenError::OtherSize { path: path.to_owned(), actual, wanted })
        }
        _ => whole_blocks(path, actual, options.logical_block),
    }
}

fn existing(
    path: &Path,
    seen: &Seen,
    options: &Options,
    patience: &mut Patience,
) -> Result<Opened, OpenError> {
    let block_device = match FileType::from_raw_mode(seen.stat.st_mode) {
        FileType::RegularFile => false,
        FileType::BlockDevice => true,
        _ => return Err(OpenError::NotStorage(path.to_owned())),
    };
    let fd = lock::open(path, seen, options, patience)?;
    let mut opened = measure(path, fd)?;
    if opened.block_device != block_device {
        return Err(OpenError::NotStorage(path.to_owned()));
    }
    if let Some(size) = options.create_size
        && opened.size == 0
        && !block_device
        && !options.read_only
    {
        give_size(path, &opened.fd, size)?;
        opened.size = size;
    }
    Ok(opened)
}

/// `None` if somebody else was quicker.
fn create(path: &Path, options: &Options, patience: &mut Patience) -> Result<Option<Opened>, OpenError> {
    let size = match options.create_size {
        Some(size) if !options.read_only => size,
        Some(_) => return Err(OpenError::MissingReadOnly(path.to_owned())),
        None => return Err(OpenError::Missing(path.to_owned())),
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = match lock::open_file(path, flags, options.opener.as_ref()) {
        Ok(fd) => fd,
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", path, error));
        }
        Err(_) if path.is_symlink() && !path.exists() => {
            return Err(OpenError::DanglingLink(path.to_owned()));
        }
        Err(_) => return Ok(None),
    };
    lock::lock(&fd, path, options, patience).inspect_err(|error| {
        // Somebody else was quicker to use it, or there are no locks here.
        if !matches!(error, OpenError::InUse { .. }) {
            remove(path);
        }
    })?;
    give_size(path, &fd, size).inspect_err(|_| remove(path))?;
    let opened = measure(path, fd).inspect_err(|_| remove(path))?;
    Ok(Some(Opened { created: true, ..opened }))
}

/// Removes a file that was created for nothing. Its lock must still be held: nobody else has begun to use it then.
pub(crate) fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Makes an empty file a sparse one, so that it is still there after a power loss.
fn give_size(path: &Path, fd: &OwnedFd, size: u64) -> Result<(), OpenError> {
    rustix::fs::ftruncate(fd, size).map_err(|error| failed("give a size to", path, error))?;
    rustix::fs::fsync(fd).map_err(|error| failed("sync", path, error))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| failed("sync the directory of", path, error))
}

fn measure(path: &Path, fd: OwnedFd) -> Result<Opened, OpenError> {
    let stat = rustix::fs::fstat(&fd).map_err(|error| failed("look at", path, error))?;
    let block_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    let size = size::of(fd.as_fd(), block_device).map_err(|error| failed("measure", path, error))?;
    Ok(Opened { fd, stat, block_device, size, created: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn what_was_looked_at_is_opened_whatever_has_its_name_by_now() {
        let directory = tempfile::tempdir().unwrap();
        let (path, pipe) = (directory.path().join("disk"), directory.path().join("pipe"));
        std::fs::write(&path, [0; 512]).unwrap();
        let options = Options::default();
        let seen = Seen::at(&path, &options).unwrap();
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::rename(&pipe, &path).unwrap();
        // To open the pipe would wait for who writes to it.
        let opened = seen.open(&path, OFlags::RDONLY | OFlags::CLOEXEC, &options).unwrap();
        assert!(same(&rustix::fs::fstat(&opened).unwrap(), &seen.stat));
        assert!(matches!(open(&path, &options), Err(OpenError::NotStorage(_))));
    }
}
