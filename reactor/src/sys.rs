//! System calls on descriptors and memory that the callers of the reactor own.

use crate::transfer::{Action, Transfer};
use lunette_store::Seg;
use rustix::fs::FallocateFlags;
use std::os::fd::{BorrowedFd, RawFd};

/// The descriptor of an operation or watch.
pub(crate) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: -1 is the only value that must not be borrowed; the contract of `Cx` is that the descriptor stays open as
    // long as the operation or watch lasts. A wrong number makes the kernel answer EBADF and touches no memory.
    unsafe { BorrowedFd::borrow_raw(if fd == -1 { i32::MAX } else { fd }) }
}

/// A list of segments in the shape the kernel takes.
pub(crate) fn iovecs(segs: &[Seg]) -> *const libc::iovec {
    const {
        assert!(size_of::<Seg>() == size_of::<libc::iovec>());
        assert!(align_of::<Seg>() == align_of::<libc::iovec>());
    }
    segs.as_ptr().cast()
}

/// The flags of a write.
pub(crate) fn write_flags(durable: bool) -> i32 {
    if durable { libc::RWF_DSYNC } else { 0 }
}

/// Carries out the next piece of a transfer on this thread.
pub(crate) fn perform(transfer: &Transfer) -> Result<usize, i32> {
    let fd = borrow(transfer.fd);
    let done = match transfer.action {
        Action::Read => return vectored(transfer, libc::preadv2, 0),
        Action::Write { durable } => {
            return vectored(transfer, libc::pwritev2, write_flags(durable));
        }
        Action::Sync => rustix::fs::fdatasync(fd),
        Action::Allocate { mode, length } => {
            let mode = FallocateFlags::from_bits_retain(mode as u32);
            rustix::fs::fallocate(fd, mode, transfer.offset, length)
        }
    };
    done.map(|()| 0).map_err(|errno| errno.raw_os_error())
}

/// Has writes to pipes that nobody reads fail for the calling thread, and not end the process: what the program has made of
/// SIGPIPE is its own affair. (write(2) on a pipe has no flag for that before Linux 6.18.)
pub(crate) fn survive_broken_pipes() {
    // SAFETY: the set is initialised before it is used, and the former mask is not asked for.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

type Vectored = unsafe extern "C" fn(i32, *const libc::iovec, i32, libc::off_t, i32) -> libc::ssize_t;

fn vectored(transfer: &Transfer, call: Vectored, flags: i32) -> Result<usize, i32> {
    let segs = transfer.piece();
    const { assert!(size_of::<libc::off_t>() == 8) };
    let offset = transfer.offset as libc::off_t;
    // SAFETY: the list is as long as said, at most IOV_MAX; the memory behind it stays mapped until the operation has
    // completed, as whoever made the segments promised.
    let count = unsafe { call(transfer.fd, iovecs(segs), segs.len() as i32, offset, flags) };
    usize::try_from(count).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
