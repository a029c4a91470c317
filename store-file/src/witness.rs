//! A second open file, which hears of lost bytes too.
//!
//! The kernel tells each open file once that bytes written to it were lost. A durable write may be the one that is told, and
//! where that is for want of space it looks as if nothing but this write had been refused. So there is another open file that
//! nobody writes to, and what it was not told of has not happened. It needs no descriptor: a mapping holds it.

use crate::lock::failed;
use crate::open::{Seen, same};
use crate::{OpenError, Options, sys};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A second open file.
#[derive(Debug)]
pub(crate) enum Witness {
    Mapped(sys::Mapping),
    /// Some file systems map nothing.
    Open(OwnedFd),
    /// Tells this once.
    #[cfg(test)]
    Telling(std::sync::atomic::AtomicI32),
}

impl Witness {
    /// Opens the file with the status `stat` once more.
    pub(crate) fn open(path: &Path, stat: &Stat, options: &Options) -> Result<Self, OpenError> {
        let is_it = |now: &Stat| match same(now, stat) {
            true => Ok(()),
            false => Err(failed("open", path, Errno::STALE)),
        };
        let seen = Seen::at(path, options).map_err(|error| failed("look at", path, error))?;
        is_it(&seen.stat)?;
        // It only syncs, and who may not write but claims a device gets no other descriptor of it to write by.
        let access = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => OFlags::RDONLY,
            _ => OFlags::RDWR,
        };
        let fd = seen.open(path, access | OFlags::CLOEXEC | OFlags::NOCTTY, options);
        let fd = fd.map_err(|error| failed("open", path, error))?;
        // Who opens for us goes by the name.
        is_it(&rustix::fs::fstat(&fd).map_err(|error| failed("look at", path, error))?)?;
        Ok(sys::Mapping::of(fd.as_fd()).map_or(Self::Open(fd), Self::Mapped))
    }

    /// Tells what was lost since it was asked last. May block.
    pub(crate) fn ask(&self) -> io::Result<()> {
        match self {
            Self::Mapped(mapping) => mapping.sync(),
            Self::Open(fd) => Ok(rustix::fs::fdatasync(fd)?),
            #[cfg(test)]
            Self::Telling(error) => match error.swap(0, std::sync::atomic::Ordering::SeqCst) {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(error)),
            },
        }
    }
}
