//! Raising eventfds without ever waiting.
//!
//! Whoever shares an eventfd can fill it and make it blocking again at any time, and write(2) has no flag against that.
//! (io_uring's write asks for O_NONBLOCK once and then waits.) But a full counter stays full when the kernel itself adds to
//! it, as it does when an asynchronous operation ends that was told to (`IOCB_FLAG_RESFD`).

use lunette_store::ReactorId;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::BTreeMap;
use std::ffi::{c_long, c_ulong};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Most ends that are collected at a time. A context has room for a page of them, which is about as many.
const ENDS: usize = 128;

/// A context of the kernel's asynchronous I/O, for operations that do nothing and end at once. Usable on every thread;
/// reactors have one each so that they do not meet in it.
#[derive(Debug)]
pub(crate) struct Raiser {
    context: c_ulong,
    nothing: OwnedFd,
}

/// `struct iocb`.
#[repr(C)]
#[derive(Default)]
struct Operation {
    data: u64,
    #[cfg(target_endian = "little")]
    key: u32,
    rw_flags: i32,
    #[cfg(target_endian = "big")]
    key: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct End {
    data: u64,
    operation: u64,
    results: [i64; 2],
}

/// Makes what exports need of the kernel, for reactors of these numbers: who has a filter may not do so later. What cannot be made
/// now is tried again for the first export, which tells the error.
pub fn prepare(reactors: u16) {
    let _ = (0..reactors).try_for_each(|reactor| Raiser::of(ReactorId(reactor)).map(drop));
}

impl Raiser {
    /// The raiser of a reactor, made when it is first asked for and kept for good.
    pub(crate) fn of(reactor: ReactorId) -> io::Result<Arc<Self>> {
        static RAISERS: Mutex<BTreeMap<ReactorId, Arc<Raiser>>> = Mutex::new(BTreeMap::new());
        let mut raisers = RAISERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(raiser) = raisers.get(&reactor) {
            return Ok(raiser.clone());
        }
        let raiser = Arc::new(Self::new()?);
        raisers.insert(reactor, raiser.clone());
        Ok(raiser)
    }

    /// One that has been seen to work.
    fn new() -> io::Result<Self> {
        // Who is confined may not open a device for that.
        let nothing = memfd_create("lunette-nothing", MemfdFlags::CLOEXEC)?;
        let mut context: c_ulong = 0;
        // All programs share what `fs.aio-max-nr` allows, of which this takes one; the kernel makes room for more.
        // SAFETY: the kernel writes a context's number at the address.
        if unsafe { libc::syscall(libc::SYS_io_setup, 1 as c_long, &raw mut context) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let raiser = Self { context, nothing };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        raiser.submit(event.as_fd())?;
        rustix::io::read(&event, &mut [0; 8])?;
        Ok(raiser)
    }

    /// Adds one to an eventfd's counter, or leaves it full.
    pub(crate) fn raise(&self, event: BorrowedFd<'_>) {
        let Err(error) = self.submit(event).or_else(|_| {
            // Too many ends, most likely.
            self.collect();
            self.submit(event)
        }) else {
            return;
        };
        static WARNED: AtomicBool = AtomicBool::new(false);
        if !WARNED.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "a virtual machine cannot be notified");
        }
    }

    /// Reads nothing from a file that has nothing; the kernel raises `event` when that has ended, which is at once.
    fn submit(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        const PREAD: u16 = 0;
        const RESULT_TO_EVENT: u32 = 1;
        let mut operation = Operation {
            opcode: PREAD,
            fd: self.nothing.as_raw_fd() as u32,
            flags: RESULT_TO_EVENT,
            event: event.as_raw_fd() as u32,
            ..Operation::default()
        };
        let list = [&raw mut operation];
        // SAFETY: the list names one operation, which is copied, and whose buffer is empty.
        match unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1 as c_long, list.as_ptr()) } {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn collect(&self) {
        let mut ends = [End::default(); ENDS];
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes at most as many ends as there is room for.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0 as c_long,
                ENDS as c_long,
                ends.as_mut_ptr(),
                &raw const now,
            )
        };
    }
}

impl Drop for Raiser {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and none of its operations touches memory.
        let _ = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
