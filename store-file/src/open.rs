//! Opening and creating.

use crate::lock::{self, Patience, failed};
use crate::{OpenError, Options, size};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
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
        let opened = match look(path, options) {
            Ok(stat) => existing(path, &stat, options, &mut patience)?,
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
        let named = look(path, options).ok();
        if named.is_some_and(|now| same(&now, &opened.stat)) {
            check_size(path, opened.size, options)?;
            return Ok(opened);
        }
    }
}

/// What there is.
fn look(path: &Path, options: &Options) -> io::Result<Stat> {
    match &options.opener {
        Some(opener) => Ok(rustix::fs::fstat(opener.open(path, OFlags::PATH)?)?),
        None => Ok(rustix::fs::stat(path)?),
    }
}

fn same(a: &Stat, b: &Stat) -> bool {
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
    stat: &Stat,
    options: &Options,
    patience: &mut Patience,
) -> Result<Opened, OpenError> {
    let block_device = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => false,
        FileType::BlockDevice => true,
        _ => return Err(OpenError::NotStorage(path.to_owned())),
    };
    let fd = lock::open(path, stat, options, patience)?;
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
