//! Tells of system calls that a filter has refused, and lets their threads go on.

use crate::table::{Kinds, NEWEST};
use libc::{c_int, c_void, siginfo_t};
use std::cell::Cell;
use std::fmt::Write;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    /// What the thread is; without an initialiser or destructor, so that a signal handler may read it.
    static KIND: Cell<u8> = const { Cell::new(Kinds::START.bits()) };
}

/// Numbers that are kept apart; those above count as one.
const NUMBERS: usize = 512;

/// The calls that were told of, for each kind.
static TOLD: [[AtomicU64; NUMBERS / 64]; 8] = [const { [const { AtomicU64::new(0) }; NUMBERS / 64] }; 8];

/// What the kernel says of a refused call (`_sigsys` of sigaction(2)).
#[repr(C)]
struct Refused {
    signal: c_int,
    errno: c_int,
    code: c_int,
    _padding: c_int,
    address: *const c_void,
    call: c_int,
    processor: u32,
}

/// The signal is of a filter.
const SYS_SECCOMP: c_int = 1;

pub(crate) fn set_kind(kind: Kinds) {
    KIND.set(kind.bits());
}

/// Has refused calls handled from now on.
pub(crate) fn catch() -> io::Result<()> {
    // SAFETY: all zeroes is a valid value, to which a handler of the right type for its flags is added. The handler calls nothing
    // that a handler must not.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        action.sa_sigaction = handle as *const () as usize;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn handle(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    const { assert!(size_of::<Refused>() <= size_of::<siginfo_t>()) };
    // SAFETY: the kernel passes both to a handler of this kind.
    let (info, context) = unsafe { (&*info.cast::<Refused>(), &mut *context.cast::<libc::ucontext_t>()) };
    if info.code != SYS_SECCOMP {
        return;
    }
    // SAFETY: the address of a variable of this thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; nothing else changes it meanwhile.
    let before = unsafe { *errno };
    // A debugger has put a negative number there: it has the call refused.
    if info.call >= 0 && !is_of_allocator(context, info.call) {
        tell(info.call);
    }
    answer(context, if info.call > NEWEST { libc::ENOSYS } else { libc::EPERM });
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// What the C library's allocator looks at once before it gives memory back; without, it does so by another call. Not worth
/// telling, nor that threads who open nothing else may open files.
const ALLOCATORS: &[u8] = b"/proc/sys/vm/overcommit_memory\0";

fn is_of_allocator(context: &libc::ucontext_t, call: c_int) -> bool {
    #[cfg(target_arch = "x86_64")]
    let path = context.uc_mcontext.gregs[libc::REG_RSI as usize] as *const u8;
    #[cfg(target_arch = "aarch64")]
    let path = context.uc_mcontext.regs[1] as *const u8;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let path = { (context, std::ptr::null::<u8>()).1 };
    let is_there = libc::c_long::from(call) == libc::SYS_openat && !path.is_null();
    // SAFETY: the second argument of openat(2) points at a text that ends with a zero, and it is read no further than that. Who
    // passes anything else can end the process in simpler ways.
    is_there && (0..).zip(ALLOCATORS).all(|(at, byte)| unsafe { path.add(at).read_volatile() } == *byte)
}

/// Has the call return an error.
fn answer(context: &mut libc::ucontext_t, errno: c_int) {
    #[cfg(target_arch = "x86_64")]
    {
        context.uc_mcontext.gregs[libc::REG_RAX as usize] = -i64::from(errno);
    }
    #[cfg(target_arch = "aarch64")]
    {
        context.uc_mcontext.regs[0] = (-i64::from(errno)) as u64;
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (context, errno);
}

/// Says what was refused, once for each call of each kind of thread.
fn tell(call: c_int) {
    let kind = Kinds::from_bits_truncate(KIND.get());
    let number = usize::try_from(call).unwrap_or(NUMBERS).min(NUMBERS - 1);
    let (word, bit) = (number / 64, 1 << (number % 64));
    let of_kind = kind.bits().trailing_zeros().min(7) as usize;
    if TOLD[of_kind][word].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return;
    }
    let mut line = Line::default();
    let name = kind.iter_names().next().map_or("other", |(name, _)| name);
    let _ = writeln!(
        line,
        "lunette: system call {call} refused to a thread of the kind {name}, which goes on without: see docs/service.md"
    );
    // SAFETY: the bytes are there. Nobody can be told if this fails.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length) };
}

/// A text that needs no memory.
struct Line {
    bytes: [u8; 192],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 192], length: 0 }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            *self.bytes.get_mut(self.length).ok_or(std::fmt::Error)? = byte;
            self.length += 1;
        }
        Ok(())
    }
}
