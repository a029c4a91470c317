//! What happens when memory that others share with us goes away.
//!
//! A front end can truncate the file that it has shared, and our next access to it raises SIGBUS. The handler here puts
//! zeroes where the mapping was, notes that its memory is lost, and lets the access go on; whoever uses the mapping finds
//! that out by [`Watched::is_lost`] and stops. A SIGBUS anywhere else does what it did before. The kernel's own accesses
//! raise no signal: its calls fail with EFAULT.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Most mappings at a time: the kernel allows a process no more by default (`vm.max_map_count`).
const MOST: usize = 1 << 16;

/// A mapping that the signal handler knows. It is read without locks: the version is odd while the place changes.
struct Place {
    version: AtomicU32,
    lost: AtomicBool,
    start: AtomicUsize,
    /// 0 while the place is free.
    length: AtomicUsize,
    page: AtomicUsize,
}

/// What a place says: a mapping, and the pages that it can be replaced by.
#[derive(Clone, Copy, Default)]
struct Range {
    start: usize,
    length: usize,
    page: usize,
}

static PLACES: [Place; MOST] = [const {
    Place {
        version: AtomicU32::new(0),
        lost: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
    }
}; MOST];
/// Places from here on were never used.
static END: AtomicUsize = AtomicUsize::new(0);
/// Places before [`END`] that are free.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// How many mappings were lost since the program's start.
static LOSSES: AtomicU64 = AtomicU64::new(0);
/// What SIGBUS did before.
static FORMER: OnceLock<libc::sigaction> = OnceLock::new();

impl Place {
    fn set(&self, range: Range) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(range.start, Ordering::Relaxed);
        self.length.store(range.length, Ordering::Relaxed);
        self.page.store(range.page, Ordering::Relaxed);
        self.lost.store(false, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The range, if `address` is within.
    fn find(&self, address: usize) -> Option<Range> {
        let version = self.version.load(Ordering::Acquire);
        let (start, length) = (self.start.load(Ordering::Relaxed), self.length.load(Ordering::Relaxed));
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        (stable && address.wrapping_sub(start) < length).then_some(Range { start, length, page })
    }
}

/// A mapping whose loss is survived, until it is dropped.
#[derive(Debug)]
pub(super) struct Watched(usize);

impl Watched {
    /// Watches over a shared mapping of whole pages of `page` bytes.
    ///
    /// # Safety
    /// The range is mapped for the caller alone until it has dropped the value, it bears being replaced by zeroes at any
    /// time, and its bytes are only accessed through raw pointers.
    pub(super) unsafe fn new(address: NonNull<c_void>, length: usize, page: usize) -> io::Result<Self> {
        install()?;
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match free.pop() {
            Some(index) => index,
            None => {
                let index = END.load(Ordering::Relaxed);
                if index == MOST {
                    return Err(io::Error::other("there are too many mappings"));
                }
                END.store(index + 1, Ordering::Release);
                index
            }
        };
        PLACES[index].set(Range { start: address.addr().get(), length, page });
        Ok(Self(index))
    }

    /// Whether an access has found the memory gone.
    pub(super) fn is_lost(&self) -> bool {
        PLACES[self.0].lost.load(Ordering::Acquire)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        PLACES[self.0].set(Range::default());
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

/// How many mappings were lost since the program's start. While the number stays, so does every [`Watched::is_lost`].
#[inline]
pub(super) fn losses() -> u64 {
    LOSSES.load(Ordering::Acquire)
}

/// Installs the handler, once.
fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Option<i32>> = OnceLock::new();
    let failed = INSTALLED.get_or_init(|| {
        let mut former = MaybeUninit::uninit();
        // SAFETY: the kernel writes the action that is in force at the address.
        if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), former.as_mut_ptr()) } != 0 {
            return io::Error::last_os_error().raw_os_error();
        }
        // SAFETY: written by the successful call above. The handler reads it only once it is installed.
        let _ = FORMER.set(unsafe { former.assume_init() });
        // SAFETY: all zeroes is a `sigaction`.
        let mut ours: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        ours.sa_sigaction = on_bus_error as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler does only what a signal handler may: atomics, `mmap`, `sigaction`, `raise`.
        match unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut()) } {
            0 => None,
            _ => io::Error::last_os_error().raw_os_error(),
        }
    });
    failed.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`; faults (positive codes) carry an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // A page is broken, but nobody has accessed it.
    if code == libc::BUS_MCEERR_AO {
        return;
    }
    if code <= 0 || !replace(address) {
        pass_on(signal, info, context);
    }
}

/// Puts zeroes in place of the mapping that `address` is in.
fn replace(address: usize) -> bool {
    let used = END.load(Ordering::Acquire).min(MOST);
    // The mapping that was accessed is kept by whoever accessed it, so its place does not change meanwhile.
    let found = PLACES[..used].iter().find_map(|place| Some((place, place.find(address)?)));
    let Some((place, range)) = found else { return false };
    // First of all, so that nobody sees zeroes who could not know that they are none of the guest's.
    place.lost.store(true, Ordering::Release);
    LOSSES.fetch_add(1, Ordering::AcqRel);
    cover(range, address, map_zeroes)
}

/// Covers all of a range, as one signal is dear enough, or else the page of `address`: where the kernel does not overcommit
/// (`vm.overcommit_memory=2`) there may be no room for all.
fn cover(range: Range, address: usize, map: impl Fn(usize, usize) -> bool) -> bool {
    let Range { start, length, page } = range;
    map(start, length) || map(address - (address - start) % page.max(1), page)
}

fn map_zeroes(start: usize, length: usize) -> bool {
    // SAFETY: reads and restores the thread's own error number, which the code that was interrupted may be looking at.
    let errno = unsafe { *libc::__errno_location() };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the range is in a watched mapping, whose owner allows that its content is replaced at any time.
    let zeroes = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(start),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    zeroes != libc::MAP_FAILED
}

/// Does what would have been done without us.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let former = FORMER.get().filter(|former| ![libc::SIG_DFL, libc::SIG_IGN].contains(&former.sa_sigaction));
    match former {
        Some(former) if former.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
            // SAFETY: with SA_SIGINFO the field is such a function.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(former.sa_sigaction) };
            handler(signal, info, context);
        }
        Some(former) => {
            // SAFETY: without SA_SIGINFO, and neither SIG_DFL nor SIG_IGN, the field is such a function.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(former.sa_sigaction) };
            handler(signal);
        }
        // A fault comes again at once, and then ends the process; a signal that was sent has to be sent again.
        None => {
            // SAFETY: both calls may be made in a signal handler.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn a_page_is_covered_if_there_is_no_room_for_all() {
        let range = Range { start: 0x40_0000, length: 0x60_0000, page: 0x20_0000 };
        let tried = RefCell::new(Vec::new());
        let covers = |most: usize| {
            cover(range, 0x7f_ffff, |start, length| {
                tried.borrow_mut().push((start, length));
                length <= most
            })
        };
        assert!(covers(0x60_0000));
        assert_eq!(tried.take(), [(0x40_0000, 0x60_0000)]);
        assert!(covers(0x20_0000));
        assert_eq!(tried.take(), [(0x40_0000, 0x60_0000), (0x60_0000, 0x20_0000)]);
        assert!(!covers(0));
    }
}
