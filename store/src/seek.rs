//! Finding what a sparse file keeps.

use crate::{IoError, IoResult, SeekTarget};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// Carries out [`Op::Seek`](crate::Op::Seek) on a file of `size` bytes. It may block, and moves the file's offset.
///
/// # Errors
/// [`IoError::Unsupported`] where the file system, or a device, cannot tell.
pub fn seek(file: BorrowedFd<'_>, offset: u64, target: SeekTarget, size: u64) -> IoResult {
    let from = match target {
        SeekTarget::Data => SeekFrom::Data(offset),
        SeekTarget::Hole => SeekFrom::Hole(offset),
    };
    match rustix::fs::seek(file, from) {
        Ok(position) => Ok(position.clamp(offset, size.max(offset))),
        // No data up to the end, or nothing at all from there on.
        Err(Errno::NXIO) => Ok(size.max(offset)),
        Err(Errno::INVAL) => Err(IoError::Unsupported),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SeekTarget::{Data, Hole};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::AsFd;

    #[test]
    fn data_and_holes_are_found() {
        let file = memfd_create("lunette-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 5 << 16).unwrap();
        rustix::io::pwrite(&file, &[1; 100], 2 << 16).unwrap();
        let find = |offset, target| seek(file.as_fd(), offset, target, 5 << 16).unwrap();
        let start = find(0, Data);
        let end = find(start, Hole);
        assert!((1 << 16..=2 << 16).contains(&start) && ((2 << 16) + 100..=3 << 16).contains(&end));
        assert_eq!((find(0, Hole), find(end, Data), find(5 << 16, Data)), (0, 5 << 16, 5 << 16));
        assert_eq!((find(2 << 16, Data), find(5 << 16, Hole)), (2 << 16, 5 << 16));
    }

    #[test]
    fn what_has_no_offsets_cannot_tell() {
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert!(seek(pipe.as_fd(), 0, Data, 1).is_err());
    }
}
