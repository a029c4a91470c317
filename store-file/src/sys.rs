//! System calls that have no safe wrapper elsewhere: vectored I/O on raw segments, open-file locks, discarding.

use lunette_store::{IoError, IoResult, Seg, Sg};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Segments that are passed to the kernel with one call.
const BATCH: usize = 64;

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

/// Fills `to` from `offset` on, however long it takes.
pub(crate) fn read_all(fd: BorrowedFd<'_>, offset: u64, to: Sg<'_>) -> IoResult {
    transfer_all(fd, offset, to, Direction::Read, 0)
}

/// Writes all of `from` at `offset`, however long it takes.
pub(crate) fn write_all(fd: BorrowedFd<'_>, offset: u64, from: Sg<'_>, durable: bool) -> IoResult {
    let flags = if durable { libc::RWF_DSYNC } else { 0 };
    transfer_all(fd, offset, from, Direction::Write, flags)
}

/// Reads what can be had at once, perhaps only a part; `WouldBlock` if nothing can.
pub(crate) fn read_cached(fd: BorrowedFd<'_>, offset: u64, to: Sg<'_>) -> io::Result<u64> {
    transfer(fd, offset, to, Direction::Read, libc::RWF_NOWAIT)
}

/// Tries to write a byte from nowhere without waiting; the error tells whether the file system knows how.
pub(crate) fn write_nothing(fd: BorrowedFd<'_>) -> io::Error {
    let nowhere = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 };
    // SAFETY: the kernel reads one `iovec`, and nothing is ever mapped where that points.
    match unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const nowhere, 1, 0, libc::RWF_NOWAIT) } {
        -1 => io::Error::last_os_error(),
        _ => io::ErrorKind::Other.into(),
    }
}

fn transfer_all(fd: BorrowedFd<'_>, offset: u64, sg: Sg<'_>, direction: Direction, flags: i32) -> IoResult {
    let mut moved = 0;
    while moved < sg.len() {
        let rest = sg.part(moved, u64::MAX);
        match transfer(fd, offset + moved, rest, direction, flags)? {
            0 => return Err(IoError::Short { moved }),
            more => moved += more,
        }
    }
    Ok(moved)
}

fn transfer(
    fd: BorrowedFd<'_>,
    offset: u64,
    sg: Sg<'_>,
    direction: Direction,
    flags: i32,
) -> io::Result<u64> {
    const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let entry = |seg: Seg| libc::iovec { iov_base: seg.address().cast(), iov_len: seg.len() };
    if let Some(seg) = sg.single() {
        return call(fd, offset, &[entry(seg)], direction, flags);
    }
    let mut vector = [EMPTY; BATCH];
    let mut count = 0;
    for (place, seg) in vector.iter_mut().zip(sg.iter()) {
        *place = entry(seg);
        count += 1;
    }
    call(fd, offset, &vector[..count], direction, flags)
}

/// `preadv2` or `pwritev2`, until no signal interrupts it. The C library's functions of these names cost more: they are
/// cancellation points.
fn call(
    fd: BorrowedFd<'_>,
    offset: u64,
    vector: &[libc::iovec],
    direction: Direction,
    flags: i32,
) -> io::Result<u64> {
    let number = match direction {
        Direction::Read => libc::SYS_preadv2,
        Direction::Write => libc::SYS_pwritev2,
    };
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel takes the offset in two halves of a register each; all of it fits into the first.
    const { assert!(size_of::<libc::off_t>() == size_of::<libc::c_long>()) };
    loop {
        // SAFETY: the entries describe memory that `Seg::new` promises is mapped, readable and writable.
        let result = unsafe {
            libc::syscall(number, fd.as_raw_fd(), vector.as_ptr(), vector.len(), offset, 0usize, flags)
        };
        match u64::try_from(result) {
            Ok(moved) => return Ok(moved),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Has the kernel copy bytes from one file to another, which share them from then on where the file system can do that.
/// `Unsupported` if it can do neither; some bytes may have been copied then.
pub(crate) fn copy(source: RawFd, from: u64, to: BorrowedFd<'_>, offset: u64, length: u64) -> IoResult {
    const AT_A_TIME: u64 = 1 << 30;
    let position = |at| libc::off64_t::try_from(at).map_err(|_| IoError::OutOfRange);
    let (mut from, mut offset) = (position(from)?, position(offset)?);
    let mut left = length;
    while left > 0 {
        let count = left.min(AT_A_TIME) as usize;
        // SAFETY: the kernel reads and writes a position at each address.
        let moved = unsafe {
            libc::copy_file_range(source, &raw mut from, to.as_raw_fd(), &raw mut offset, count, 0)
        };
        match u64::try_from(moved) {
            Ok(0) => return Err(IoError::Short { moved: length - left }),
            Ok(moved) => left -= moved,
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                // Other file systems, files that are none, and direct I/O that does not suit.
                Some(libc::EXDEV | libc::EINVAL) => return Err(IoError::Unsupported),
                error => return Err(IoError::from_errno(error.unwrap_or(libc::EIO))),
            },
        }
    }
    Ok(length)
}

/// A mapping of the first page of a file, which is never touched but keeps the file open.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: std::ptr::NonNull<libc::c_void>,
}

const PAGE: usize = 4096;

// SAFETY: nobody reads or writes the memory; the address only names it, as a descriptor would.
unsafe impl Send for Mapping {}
// SAFETY: the same.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps an open file.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: the kernel chooses where, so that nothing is replaced.
        let address = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), PAGE, ProtFlags::empty(), MapFlags::SHARED, fd, 0)
        }?;
        let address = std::ptr::NonNull::new(address).ok_or(io::ErrorKind::Other)?;
        Ok(Self { address })
    }

    /// Syncs the file as `fdatasync` does, the bytes of this page at least; tells what was lost of all of it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: the mapping is there until it is dropped.
        Ok(unsafe { rustix::mm::msync(self.address.as_ptr(), PAGE, MsyncFlags::SYNC) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `of` with this length, and nobody has a pointer into it.
        let unmapped = unsafe { rustix::mm::munmap(self.address.as_ptr(), PAGE) };
        debug_assert!(unmapped.is_ok());
    }
}

/// What a lock is about, from where on and for how many bytes; 0 is all that there could be.
#[derive(Clone, Copy)]
pub(crate) struct Range(libc::off_t, libc::off_t);

impl Range {
    /// Bytes, and places of readers.
    pub(crate) const ALL: Self = Self(0, 0);
    /// Bytes, of which no file has more, and no places of readers.
    pub(crate) const BYTES: Self = Self(0, Self::PLACES);
    const PLACES: libc::off_t = 1 << 62;

    /// The place of a reader.
    pub(crate) fn place(number: u64) -> Self {
        // Neither the last possible offset, nor the first, as the kernel joins locks that touch.
        Self(Self::PLACES + 1 + (number % (Self::PLACES as u64 - 2)) as libc::off_t, 1)
    }

    /// Where it begins, as `/proc` has it.
    pub(crate) fn begin(self) -> libc::off_t {
        self.0
    }
}

/// Locks a range for this open file, shared or exclusive. `WouldBlock` if others hold it.
pub(crate) fn lock(fd: BorrowedFd<'_>, range: Range, exclusive: bool) -> io::Result<()> {
    let mut lock = flock(range, exclusive);
    // SAFETY: the kernel reads a `flock` at the address.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EACCES) => Err(io::ErrorKind::WouldBlock.into()),
            error => Err(error),
        },
    }
}

/// Whether another open file holds a shared lock in a range. (To look takes no right to write.)
pub(crate) fn has_reader(fd: BorrowedFd<'_>, range: Range) -> io::Result<bool> {
    let mut lock = flock(range, true);
    // SAFETY: the kernel reads and writes a `flock` at the address.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(i32::from(lock.l_type) == libc::F_RDLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

fn flock(Range(start, length): Range, exclusive: bool) -> libc::flock {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// Tells a block device that it need not keep a range (`BLKDISCARD`); multiples of its sector.
pub(crate) fn discard(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    const BLKDISCARD: u32 = 0x1277;
    let range = [offset, length];
    // SAFETY: the kernel reads two 64-bit numbers at the address.
    match unsafe { libc::ioctl(fd.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
