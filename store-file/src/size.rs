//! How large a file or device is, and another size for a file.

use crate::file::Shared;
use lunette_store::IoError;
use rustix::fs::SeekFrom;
use std::os::fd::BorrowedFd;
use std::sync::PoisonError;

/// The bytes of a file or block device.
pub(crate) fn of(fd: BorrowedFd<'_>, block_device: bool) -> rustix::io::Result<u64> {
    match block_device {
        true => rustix::fs::seek(fd, SeekFrom::End(0)),
        false => Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0)),
    }
}

impl Shared {
    /// See [`Backing::resize`](lunette_store::Backing::resize).
    pub(crate) fn resize(&self, size: u64) -> Result<(), IoError> {
        let _one = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let (caps, actual) = (&self.probed.caps, of(self.borrow(), self.probed.block_device)?);
        if self.probed.block_device || caps.read_only {
            if actual != size {
                let is_device = self.probed.block_device;
                return Err(if is_device { IoError::Unsupported } else { IoError::ReadOnly });
            }
            caps.size.set(size);
            return Ok(());
        }
        let before = caps.size.get();
        if size < before {
            // Nobody is to find the end of the file where the store seems to go on.
            caps.size.set(size);
            self.truncate(actual, size).inspect_err(|_| caps.size.set(before))?;
            return self.sync();
        }
        self.truncate(actual, size)?;
        // Others may have made it so large and not waited for the device.
        if let Err(error) = self.sync() {
            // If that fails as well, the file ends after the store.
            let _ = self.truncate(size, before);
            return Err(error);
        }
        caps.size.set(size);
        Ok(())
    }

    fn truncate(&self, actual: u64, size: u64) -> Result<(), IoError> {
        if actual != size {
            rustix::fs::ftruncate(self.borrow(), size)?;
        }
        Ok(())
    }

    /// Of what was written before nothing is to get lost here without notice, as the kernel reports it to each descriptor
    /// once.
    fn sync(&self) -> Result<(), IoError> {
        rustix::fs::fsync(self.borrow()).map_err(|error| {
            let error = self.fail(error.into());
            self.keep_failure();
            error
        })
    }
}
