//! Where a reactor is that does not answer: its stack, or what the kernel says of its thread.
//!
//! A thread is asked by a signal. Its handler walks the stack and leaves the addresses where who has asked finds them: it takes no
//! lock and no memory, as the thread may be anywhere. Names are found afterwards, by who has asked. A thread that sleeps in the kernel
//! and cannot be interrupted does not come to it.

use crate::Reactors;
use lunette_store::ReactorId;
use std::ffi::{c_int, c_void};
use std::fmt::{self, Write};
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most frames that are told.
const FRAMES: usize = 64;
/// Between two looks whether the thread has answered.
const STEP: Duration = Duration::from_millis(1);

/// One asks at a time.
static ASKING: Mutex<()> = Mutex::new(());
/// Whether there is a handler.
static IS_CAUGHT: AtomicBool = AtomicBool::new(false);
/// The thread that is asked, until its handler takes the question; 0: none.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// Where that was interrupted.
static INTERRUPTED: AtomicUsize = AtomicUsize::new(0);
/// Its stack, the innermost frame first.
static STACK: [AtomicUsize; FRAMES] = [const { AtomicUsize::new(0) }; FRAMES];
/// How many frames there are, and one more; 0: it has not answered.
static ANSWER: AtomicUsize = AtomicUsize::new(0);

/// Where a thread is. Shown in one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// The addresses of its stack, the innermost first.
    Stack(Vec<usize>),
    /// It has not answered. What the kernel says of it.
    Silent(String),
}

/// The signal: a real-time one, since nothing else uses those.
fn signal() -> c_int {
    libc::SIGRTMIN() + 4
}

/// Lets threads be asked where they are, from now on. To be called before threads are confined.
///
/// # Errors
/// When the signal cannot be handled.
pub fn answer_where() -> io::Result<()> {
    // The unwinder prepares itself when it is used first, which is not to be in a signal handler.
    let mut frames = 0;
    walk(|_| {
        frames += 1;
        frames < FRAMES
    });
    // SAFETY: all zeroes is a valid value, to which a handler of the right type for its flags is added. It does only what a signal
    // handler may. It runs on the thread's own stack, of which there is more than of one for signals.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        action.sa_sigaction = handle as *const () as usize;
        libc::sigaction(signal(), &raw const action, std::ptr::null_mut())
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    IS_CAUGHT.store(true, Ordering::Release);
    Ok(())
}

fn walk(mut take: impl FnMut(usize) -> bool) {
    // SAFETY: what it would have to be synchronised with are the names of symbols, for which it is not asked: it walks by
    // tables of the program that do not change.
    unsafe { backtrace::trace_unsynchronized(|frame| take(frame.ip().addr())) }
}

extern "C" fn handle(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // A question is answered once, and not when somebody else is asked by now.
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    if ASKED.compare_exchange(own, 0, Ordering::Acquire, Ordering::Relaxed).is_err() {
        return;
    }
    // SAFETY: the kernel passes it to a handler of this kind.
    INTERRUPTED.store(interrupted_at(unsafe { &*context.cast::<libc::ucontext_t>() }), Ordering::Relaxed);
    let mut count = 0;
    walk(|address| {
        STACK[count].store(address, Ordering::Relaxed);
        count += 1;
        count < FRAMES
    });
    ANSWER.store(count + 1, Ordering::Release);
}

/// The address of the instruction; 0 where that is not known.
fn interrupted_at(context: &libc::ucontext_t) -> usize {
    #[cfg(target_arch = "x86_64")]
    return context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
    #[cfg(target_arch = "aarch64")]
    return context.uc_mcontext.pc as usize;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return (context, 0).1;
}

impl Reactors {
    /// Asks where the thread of a reactor is, and waits for the answer for `most` at most. Not to be called on a reactor.
    pub fn whereabouts(&self, reactor: ReactorId, most: Duration) -> Whereabouts {
        match self.thread_number(reactor) {
            Some(thread) => ask(thread, most),
            None => Whereabouts::Silent("there is no such reactor".to_owned()),
        }
    }
}

fn ask(thread: i32, most: Duration) -> Whereabouts {
    let _one = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
    ANSWER.store(0, Ordering::Relaxed);
    ASKED.store(thread, Ordering::Release);
    let until = Instant::now() + most;
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: a signal of which nothing else makes use, to a thread of this process, which handles it.
    let is_sent = IS_CAUGHT.load(Ordering::Acquire)
        && unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal()) } == 0;
    while is_sent && ANSWER.load(Ordering::Acquire) == 0 && Instant::now() < until {
        std::thread::sleep(STEP);
    }
    // From now on it would come too late.
    let is_late = ASKED.swap(0, Ordering::AcqRel) != 0;
    match ANSWER.load(Ordering::Acquire) {
        0 if is_late || !is_sent => Whereabouts::Silent(by_the_kernel(thread)),
        0 => Whereabouts::Silent("it walks its stack without end".to_owned()),
        answer => {
            let frames = &STACK[..(answer - 1).min(FRAMES)];
            let frames: Vec<_> = frames.iter().map(|frame| frame.load(Ordering::Relaxed)).collect();
            // The handler, and what the kernel puts between it and the rest.
            let interrupted = INTERRUPTED.load(Ordering::Relaxed);
            let own = frames.iter().position(|frame| *frame == interrupted).unwrap_or_default();
            Whereabouts::Stack(frames[own..].to_vec())
        }
    }
}

/// What proc(5) says of a thread, as far as it can be read.
fn by_the_kernel(thread: i32) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).ok();
    let status = read("status");
    let state = status.as_deref().and_then(|status| status.lines().find(|line| line.starts_with("State:")));
    let said = [
        state.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")),
        read("wchan").map(|at| format!("kernel function {}", at.trim())),
        read("syscall").map(|call| format!("system call {}", call.trim())),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    match said.is_empty() {
        true => "it does not answer, and /proc says nothing of it".to_owned(),
        false => format!("it does not answer: {}", said.join(", ")),
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames = match self {
            Self::Silent(why) => return f.write_str(why),
            Self::Stack(frames) => frames,
        };
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        for (index, frame) in frames.iter().enumerate() {
            if index > 0 {
                f.write_str(" < ")?;
            }
            match name(*frame).or_else(|| module(*frame, &maps)) {
                Some(name) => f.write_str(&name)?,
                None => write!(f, "{frame:#x}")?,
            }
        }
        Ok(())
    }
}

/// What is at an address: functions, those within others first, with their lines.
fn name(address: usize) -> Option<String> {
    let mut text = String::new();
    backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
        if let Some(name) = symbol.name() {
            let _ = write!(text, "{}{name:#}", if text.is_empty() { "" } else { " < " });
            if let Some((file, line)) =
                symbol.filename().and_then(|file| file.file_name()).zip(symbol.lineno())
            {
                let _ = write!(text, " ({}:{line})", file.display());
            }
        }
    });
    Some(text).filter(|text| !text.is_empty())
}

/// Of what file an address is, and how far from where that begins in memory, as addr2line(1) takes it.
fn module(address: usize, maps: &str) -> Option<String> {
    let mapped = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|number| usize::from_str_radix(number, 16).ok());
        Some((start?, end?, rest.split_whitespace().nth(4)?.to_owned()))
    };
    let all: Vec<_> = maps.lines().filter_map(mapped).collect();
    let (_, _, path) = all.iter().find(|(start, end, _)| (*start..*end).contains(&address))?;
    let (first, ..) = all.iter().find(|(_, _, other)| other == path)?;
    let name = path.rsplit('/').next()?;
    Some(format!("{name}+{:#x}", address - first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, Poll};
    use std::sync::mpsc::{Receiver, Sender, channel};

    type Hang = fn(&Sender<()>, &Receiver<()>);

    const LONG: Duration = Duration::from_secs(30);

    fn reactors() -> Reactors {
        answer_where().unwrap();
        Reactors::start(&Options { reactors: 2, poll: Poll::Never, ..Options::default() }).unwrap()
    }

    #[inline(never)]
    fn waits_for_something_else(begun: &Sender<()>, wait: &Receiver<()>) {
        begun.send(()).unwrap();
        wait.recv().unwrap_or_default();
    }

    #[inline(never)]
    fn turns_round_and_round(begun: &Sender<()>, wait: &Receiver<()>) {
        begun.send(()).unwrap();
        while wait.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {}
    }

    #[test]
    fn a_reactor_that_hangs_says_where() {
        let reactors = reactors();
        let hangs: [(Hang, &str); 2] = [
            (waits_for_something_else, "waits_for_something_else"),
            (turns_round_and_round, "turns_round_and_round"),
        ];
        for (hang, name) in hangs {
            let (tell, begun) = channel();
            let (release, wait) = channel::<()>();
            reactors.poster().post(ReactorId(1), Box::new(move |_| hang(&tell, &wait)));
            begun.recv().unwrap();
            let told = reactors.whereabouts(ReactorId(1), LONG).to_string();
            assert!(told.contains(name), "{told}");
            assert!(told.contains("whereabouts.rs:"), "{told}");
            assert!(!told.contains("whereabouts::handle"), "{told}");
            // It goes on as if nothing had happened, and so does one that sleeps.
            drop(release);
            assert_eq!(reactors.call(ReactorId(1), |cx| cx.reactor()), Some(ReactorId(1)));
            assert!(matches!(reactors.whereabouts(ReactorId(0), LONG), Whereabouts::Stack(_)));
            assert_eq!(reactors.call(ReactorId(0), |cx| cx.reactor()), Some(ReactorId(0)));
        }
        let told = reactors.whereabouts(ReactorId(2), LONG);
        assert_eq!(told.to_string(), "there is no such reactor");
    }

    #[test]
    fn what_has_no_name_has_a_place() {
        let maps = "1000-2000 r--p 00000000 08:01 7      /usr/lib/libx.so\n\
                    2000-3000 r-xp 00001000 08:01 7      /usr/lib/libx.so\n\
                    5000-6000 rw-p 00000000 00:00 0\n";
        assert_eq!(module(0x2010, maps).unwrap(), "libx.so+0x1010");
        assert_eq!((module(0x3000, maps), module(0x5010, maps)), (None, None));
        assert_eq!(module(0x10, "nonsense\n-\nx-y z\n"), None);
        assert!(Whereabouts::Stack(vec![1]).to_string().contains("0x1"));
    }

    /// As one that sleeps where no signal gets through.
    #[test]
    fn of_one_that_does_not_answer_the_kernel_tells() {
        let (tell, told) = channel();
        let (release, wait) = channel::<()>();
        let deaf = std::thread::spawn(move || {
            // SAFETY: the set is initialised before it is used, and the former mask is not asked for.
            unsafe {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
            }
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            wait.recv().unwrap_or_default();
        });
        answer_where().unwrap();
        let thread = told.recv().unwrap();
        let Whereabouts::Silent(why) = ask(thread, Duration::from_millis(10)) else { panic!() };
        assert!(why.contains("State: "), "{why}");
        drop(release);
        deaf.join().unwrap();
        // There is none of this number any more.
        assert!(matches!(ask(thread, LONG), Whereabouts::Silent(_)));
    }
}
