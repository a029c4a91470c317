//! What a filter does to a thread, seen in a process of its own: this program starts itself once more.

use lunette_confine::Kinds;
use lunette_confine::filter::{self, Mode};
use lunette_confine::opener::Opener;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::io::Error;
use std::process::{Command, Output};

/// With this variable set, the test of the value's name is the child.
const CHILD: &str = "LUNETTE_CONFINED_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs the test `name` alone in a child.
fn child(name: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    command.output().unwrap()
}

fn text(output: &Output) -> (String, String) {
    assert!(output.status.success(), "{output:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The error of a system call without arguments that could do anything.
fn errno_of(call: libc::c_long) -> Option<i32> {
    // SAFETY: null pointers and zeroes; the calls that are made here refuse them, if the filter does not.
    let result = unsafe { libc::syscall(call, 0, 0, 0, 0, 0, 0) };
    (result < 0).then(|| Error::last_os_error().raw_os_error()).flatten()
}

#[test]
fn a_forbidden_call_is_refused_and_told_and_the_thread_goes_on() {
    if !is_child() {
        let (_, told) = text(&child("a_forbidden_call_is_refused_and_told_and_the_thread_goes_on"));
        let lines: Vec<_> = told.lines().filter(|line| line.contains("refused to a thread")).collect();
        let execve =
            format!("lunette: system call {} refused to a thread of the kind REACTOR", libc::SYS_execve);
        assert_eq!(lines.iter().filter(|line| line.starts_with(&execve)).count(), 1, "told once: {told}");
        return;
    }
    filter::begin(Mode::Refuse, Kinds::START).unwrap();
    std::thread::spawn(|| {
        filter::enter(Kinds::REACTOR).unwrap();
        for _ in 0..3 {
            assert_eq!(errno_of(libc::SYS_execve), Some(libc::EPERM));
        }
        for call in
            [libc::SYS_openat, libc::SYS_socket, libc::SYS_ptrace, libc::SYS_kill, libc::SYS_io_uring_setup]
        {
            assert_eq!(errno_of(call), Some(libc::EPERM), "{call}");
        }
        // What the table does not know yet.
        assert_eq!(errno_of(500), Some(libc::ENOSYS));
        assert_eq!(errno_of(libc::SYS_clone3), Some(libc::ENOSYS));
        // It may still do what it is for.
        assert_ne!(errno_of(libc::SYS_io_uring_enter), Some(libc::EPERM));
    })
    .join()
    .unwrap();
    // The thread that has started it may do more.
    assert!(std::fs::File::open("/dev/null").is_ok());
}

#[test]
fn arguments_count() {
    if !is_child() {
        text(&child("arguments_count"));
        return;
    }
    filter::begin(Mode::Refuse, Kinds::START).unwrap();
    std::thread::spawn(|| {
        filter::enter(Kinds::WORKER).unwrap();
        // SAFETY: a mapping of nothing that anybody uses, or none.
        let map = |protection| unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) != libc::MAP_FAILED
        };
        assert!(map(libc::PROT_READ | libc::PROT_WRITE));
        assert!(!map(libc::PROT_READ | libc::PROT_EXEC));
        // SAFETY: a socket that nobody uses, or none.
        let socket = |family, kind, protocol| unsafe { libc::socket(family, kind, protocol) };
        let (stream, datagram) = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::SOCK_DGRAM);
        assert!(socket(libc::AF_UNIX, stream, 0) >= 0 && socket(libc::AF_UNIX, datagram, 0) >= 0);
        assert!(
            socket(libc::AF_INET, stream, libc::IPPROTO_TCP) >= 0 && socket(libc::AF_INET6, stream, 0) >= 0
        );
        for (family, kind, protocol) in [
            (libc::AF_NETLINK, libc::SOCK_RAW, 0),
            (libc::AF_INET, datagram, 0),
            (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_TCP),
            (libc::AF_INET, stream, libc::IPPROTO_MPTCP),
        ] {
            assert_eq!(socket(family, kind, protocol), -1, "{family} {kind} {protocol}");
            assert_eq!(Error::last_os_error().raw_os_error(), Some(libc::EPERM));
        }
        let tcp = socket(libc::AF_INET, stream, 0);
        // SAFETY: a byte, and a message that says nothing.
        let errors = unsafe {
            let message: libc::msghdr = std::mem::zeroed();
            let sent = libc::sendto(tcp, [0_u8].as_ptr().cast(), 1, libc::MSG_FASTOPEN, std::ptr::null(), 0);
            let first = (sent, Error::last_os_error().raw_os_error());
            let sent = libc::sendmsg(tcp, &raw const message, libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL);
            [first, (sent, Error::last_os_error().raw_os_error())]
        };
        assert_eq!(errors, [(-1, Some(libc::EPERM)); 2]);
        // SAFETY: asks what is done about a signal.
        let about = |signal| unsafe { libc::sigaction(signal, std::ptr::null(), std::ptr::null_mut()) };
        assert_eq!((about(libc::SIGTERM), about(libc::SIGSYS)), (0, -1));
        // SAFETY: signal 0 only asks.
        let signal = |process: u32| unsafe {
            libc::syscall(libc::SYS_tgkill, process, libc::syscall(libc::SYS_gettid), 0) == 0
        };
        assert!(signal(std::process::id()));
        assert!(!signal(1));
    })
    .join()
    .unwrap();
}

#[test]
fn what_is_only_logged_is_carried_out() {
    if !is_child() {
        let (_, told) = text(&child("what_is_only_logged_is_carried_out"));
        assert!(!told.contains("refused"), "{told}");
        return;
    }
    filter::begin(Mode::Log, Kinds::REACTOR).unwrap();
    assert_eq!(errno_of(libc::SYS_openat), Some(libc::EFAULT));
}

/// Who opens for the daemon says at once if it cannot.
#[test]
fn an_opener_that_cannot_begin_does_not_start() {
    if !is_child() {
        let (_, told) = text(&child("an_opener_that_cannot_begin_does_not_start"));
        assert!(!told.contains("panicked"), "{told}");
        return;
    }
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let processor = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let rules = [(libc::SYS_openat2, Vec::new())].into();
    let forgetful = SeccompFilter::new(rules, SeccompAction::Allow, missing, processor).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(forgetful).unwrap()).unwrap();
    // SAFETY: this is another thread than the only one that matters: the child uses nothing that others may hold.
    let error = unsafe { Opener::start(&[std::env::temp_dir()], None) }.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
}
