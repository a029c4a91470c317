//! Which system calls are for what.

use bitflags::bitflags;
use libc::{c_int, c_long};

bitflags! {
    /// Kinds of threads.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Kinds: u8 {
        /// The main thread until everything is served, and reactors until they can be. Each other kind is a part of it: a thread has
        /// no more rights than the one that has started it.
        const START = 1;
        /// The main thread, which waits for signals and serves the control socket.
        const MAIN = 2;
        /// Threads that carry out what the control socket asks for, and so open and close what is served.
        const WORKER = 4;
        /// Reactors, which speak with initiators and virtual machines.
        const REACTOR = 8;
        /// Threads that do what blocks, for reactors: files, states of units, the memory of virtual machines.
        const BLOCKING = 16;
        /// The process that opens files and devices.
        const OPENER = 32;
        /// The thread that starts others, once all reactors are there: those that it may still start are parts of it.
        const NURSERY = 64;
    }
}

const START: Kinds = Kinds::START;
const MAIN: Kinds = Kinds::MAIN.union(START);
const WORKER: Kinds = Kinds::WORKER.union(NURSERY);
const REACTOR: Kinds = Kinds::REACTOR.union(START);
const BLOCKING: Kinds = Kinds::BLOCKING.union(NURSERY);
const OPENER: Kinds = Kinds::OPENER;
const NURSERY: Kinds = Kinds::NURSERY.union(START);
/// All threads of the daemon itself.
const OURS: Kinds = MAIN.union(WORKER).union(REACTOR).union(BLOCKING);
/// Those that look after files.
const FILES: Kinds = WORKER.union(BLOCKING);

/// What the arguments of a call must be.
#[derive(Clone, Copy, Debug)]
pub enum Only {
    /// Whatever they are.
    Any,
    /// The argument of this index is one of these.
    One(u8, &'static [u64]),
    /// Of the bits of the argument that the second number has, those of the third are set.
    Bits(u8, u64, u64),
    /// All of these.
    All(&'static [Only]),
    /// The argument points nowhere.
    Null(u8),
    /// These bits of the argument are clear.
    Without(u8, u64),
    /// These bits of the argument are set.
    With(u8, u64),
    /// The argument is the number of this process.
    Own(u8),
}

/// System calls that are made for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Their names and numbers.
    pub calls: &'static [(&'static str, c_long)],
    /// Who makes them.
    pub kinds: Kinds,
    /// With what.
    pub only: Only,
    /// Why.
    pub why: &'static str,
}

macro_rules! row {
    ([$($call:ident)*], $kinds:expr, $only:expr, $why:expr) => {
        Row { calls: &[$((stringify!($call), libc::$call)),*], kinds: $kinds, only: $only, why: $why }
    };
}

const EXEC: u64 = libc::PROT_EXEC as u64;
/// Codes of ioctl(2) that the C library's headers do not name, from `linux/fs.h`.
const BLKDISCARD: u64 = 0x1277;
const BLKSSZGET: u64 = 0x1268;
const BLKPBSZGET: u64 = 0x127b;
const BLKGETSIZE64: u64 = 0x8008_1272;
/// A socket of TCP, and of none of the protocols that landlock(7) does not know, by its family, type and protocol.
const TCP: &[Only] = &[
    Only::One(0, &[libc::AF_INET as u64, libc::AF_INET6 as u64]),
    Only::Bits(1, 0xf, libc::SOCK_STREAM as u64),
    Only::One(2, &[0, libc::IPPROTO_TCP as u64]),
];
/// Connects while it sends, which landlock(7) does not see.
const MSG_FASTOPEN: u64 = libc::MSG_FASTOPEN as u64;
/// Signals that are handled, or given back to the kernel so that the process ends. That of refused calls is not among them.
const SIGNALS: &[u64] = &[
    libc::SIGHUP as u64,
    libc::SIGINT as u64,
    libc::SIGTERM as u64,
    libc::SIGABRT as u64,
    libc::SIGBUS as u64,
    libc::SIGSEGV as u64,
];
/// By it the C library tells all threads to change their user.
const SIGSETXID: u64 = 33;

/// All that threads may do, and why.
pub const TABLE: &[Row] = &[
    // Of themselves.
    row!([SYS_futex SYS_sched_yield SYS_clock_gettime SYS_clock_nanosleep SYS_gettid SYS_getpid SYS_restart_syscall],
        OURS.union(OPENER), Only::Any, "locks, pauses, the time"),
    row!([SYS_mmap SYS_mprotect], OURS.union(OPENER), Only::Without(2, EXEC),
        "memory, also of virtual machines; none that can be executed"),
    row!([SYS_munmap SYS_mremap SYS_madvise SYS_brk], OURS.union(OPENER), Only::Any, "memory"),
    row!(
        [SYS_getrandom],
        OURS.union(OPENER),
        Only::Any,
        "keys of hash tables, challenges of CHAP, identities"
    ),
    row!([SYS_rt_sigreturn SYS_rt_sigprocmask SYS_sigaltstack], OURS.union(OPENER), Only::Any, "signals"),
    row!(
        [SYS_rt_sigaction],
        OURS.union(OPENER),
        Only::One(0, SIGNALS),
        "to stop, to abort, memory that a virtual machine has taken away, stacks that overflow"
    ),
    row!(
        [SYS_rt_sigaction],
        START,
        Only::One(0, &[SIGSETXID]),
        "the C library, when the first thread is started"
    ),
    row!([SYS_tgkill], OURS.union(OPENER), Only::Own(0), "to abort, or to end by a second signal"),
    row!([SYS_exit SYS_exit_group], OURS.union(OPENER), Only::Any, "to end"),
    row!([SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getgroups], OURS, Only::Any, "who the daemon is"),
    row!([SYS_prlimit64], OURS, Only::Null(2), "to ask for limits"),
    // Descriptors.
    row!([SYS_read SYS_write SYS_close], OURS.union(OPENER), Only::Any, "descriptors of all kinds, the log"),
    row!([SYS_readv SYS_writev SYS_fcntl SYS_dup SYS_dup3 SYS_fstat SYS_newfstatat SYS_statx], OURS, Only::Any,
        "descriptors: copies, flags, locks, what they are"),
    row!([SYS_ioctl], OURS, Only::One(1, &[libc::FIONBIO]), "descriptors that do not block"),
    row!([SYS_ppoll], OURS, Only::Any, "to wait for descriptors"),
    // Sockets.
    row!([SYS_recvfrom SYS_recvmsg SYS_shutdown SYS_getsockopt SYS_setsockopt SYS_getsockname SYS_getpeername],
        OURS, Only::Any,
        "initiators, virtual machines, clients of the control socket, the service manager and its journal"),
    row!([SYS_sendto], OURS, Only::Without(3, MSG_FASTOPEN), "the same: none is connected to by that"),
    row!([SYS_sendmsg], OURS, Only::Without(2, MSG_FASTOPEN), "the same"),
    row!([SYS_accept4], MAIN.union(REACTOR).union(WORKER), Only::Any, "who connects"),
    row!(
        [SYS_socket],
        MAIN,
        Only::One(0, &[libc::AF_UNIX as u64]),
        "the service manager is told how things are"
    ),
    row!(
        [SYS_socket],
        FILES,
        Only::One(0, &[libc::AF_UNIX as u64]),
        "new exports; to connect to virtual machine monitors"
    ),
    row!([SYS_socket], WORKER, Only::All(TCP), "new portals"),
    row!([SYS_bind SYS_listen], WORKER, Only::Any, "new portals and exports"),
    row!(
        [SYS_connect],
        MAIN.union(FILES),
        Only::Any,
        "the service manager; whether somebody listens at a socket that is there; virtual machine monitors"
    ),
    row!(
        [SYS_pipe2],
        MAIN,
        Only::Any,
        "whether who keeps descriptors for the next daemon has read all that it was sent"
    ),
    row!([SYS_socketpair], WORKER, Only::Any, "signals, and what they wake"),
    row!(
        [SYS_memfd_create],
        OURS,
        Only::Any,
        "disks in memory, notes of what is in flight, long lines for the journal"
    ),
    // Reactors.
    row!([SYS_io_uring_enter], REACTOR, Only::Any, "all that rings are restricted to"),
    row!([SYS_io_uring_setup SYS_io_uring_register], START, Only::Any, "rings, each made and restricted at its start"),
    row!([SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_create1], REACTOR, Only::Any,
        "whether a descriptor can be waited for, and to wait where there are no rings"),
    row!([SYS_eventfd2], WORKER.union(REACTOR), Only::Any, "wake-ups"),
    row!([SYS_io_setup SYS_io_submit SYS_io_getevents SYS_io_destroy], REACTOR, Only::Any,
        "notifications of virtual machines that never wait"),
    row!([SYS_readlinkat], REACTOR, Only::Any, "what kind of descriptor a virtual machine has handed over"),
    // Data.
    row!([SYS_preadv2 SYS_pwritev2 SYS_pread64 SYS_pwrite64 SYS_fallocate SYS_ftruncate SYS_lseek SYS_fstatfs],
        REACTOR.union(FILES), Only::Any, "data of files and of disks in memory, and their room"),
    row!([SYS_fsync SYS_fdatasync SYS_msync SYS_copy_file_range], FILES.union(MAIN), Only::Any, "data that lasts, copies between files"),
    row!([SYS_pwrite64], MAIN, Only::Any, "whether somebody has gone on with what was handed over"),
    row!([SYS_lseek], MAIN, Only::Any, "what a reactor does that does not answer: maps, names of functions"),
    row!([SYS_ioctl], FILES, Only::One(1, &[BLKDISCARD, BLKGETSIZE64]), "room and size of block devices"),
    row!([SYS_ioctl], WORKER, Only::One(1, &[BLKSSZGET, BLKPBSZGET]), "what block devices are"),
    // Files by their names: what may be named is another matter.
    row!([SYS_openat SYS_flock SYS_renameat SYS_renameat2 SYS_unlinkat SYS_readlinkat], FILES.union(MAIN), Only::Any,
        "states of units, identities, sockets"),
    row!([SYS_openat2 SYS_getdents64 SYS_mkdirat SYS_linkat SYS_statfs SYS_faccessat SYS_faccessat2 SYS_getcwd
        SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fadvise64], WORKER, Only::Any,
        "files and sockets that come and go while the daemon runs; users and groups by their names"),
    row!([SYS_mlock SYS_mlock2], BLOCKING, Only::Any, "pin-memory"),
    row!([SYS_sched_setaffinity], BLOCKING, Only::Any, "threads that leave the CPU of their reactor"),
    // The beginning.
    row!([SYS_clone], NURSERY, Only::With(0, libc::CLONE_THREAD as u64), "threads, but no processes"),
    row!([SYS_set_robust_list SYS_rseq SYS_sched_getaffinity], NURSERY, Only::Any, "what each thread begins with"),
    row!(
        [SYS_prctl],
        NURSERY,
        Only::One(0, &[libc::PR_SET_NAME as u64, libc::PR_SET_NO_NEW_PRIVS as u64]),
        "names of threads, and that a filter lasts"
    ),
    row!([SYS_seccomp], NURSERY, Only::Any, "to give up more"),
    row!([SYS_capget SYS_capset], START, Only::Any, "to give up more"),
    row!([SYS_prlimit64 SYS_uname SYS_sysinfo SYS_timerfd_create SYS_timerfd_settime], START, Only::Any,
        "limits, the CPUs, the watchdog's timer"),
    // The opener.
    row!([SYS_recvfrom SYS_sendmsg], OPENER, Only::Any, "requests of the daemon, and descriptors for it"),
    row!([SYS_openat2 SYS_openat SYS_readlinkat SYS_fstat SYS_newfstatat SYS_statx SYS_getcwd SYS_fcntl], OPENER, Only::Any,
        "what is asked for, and whether it is allowed"),
    #[cfg(target_arch = "x86_64")]
    row!([SYS_poll], OURS, Only::Any, "to wait for descriptors"),
    #[cfg(target_arch = "x86_64")]
    row!([SYS_epoll_wait], REACTOR, Only::Any, "to wait where there are no rings"),
    #[cfg(target_arch = "x86_64")]
    row!([SYS_open SYS_rename SYS_unlink SYS_readlink SYS_lstat SYS_stat], FILES.union(MAIN).union(OPENER), Only::Any,
        "older forms of the calls that take names"),
    #[cfg(target_arch = "x86_64")]
    row!([SYS_mkdir SYS_access SYS_chmod], WORKER, Only::Any, "older forms of the calls that take names"),
];

/// What is refused as if the kernel did not know it, and nothing is said: whoever calls it has another way, whose arguments a
/// filter can see.
pub(crate) const UNKNOWN: &[c_long] = &[libc::SYS_clone3];

/// The last call that was known when the table was written. Programs and libraries try newer ones and go on without.
pub(crate) const NEWEST: c_int = 469;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn with(only: &Only) -> String {
        match only {
            Only::Any => String::new(),
            Only::One(index, values) => format!("argument {index} is one of {values:x?}"),
            Only::Bits(index, bits, value) => format!("argument {index} & {bits:#x} is {value:#x}"),
            Only::All(all) => all.iter().map(with).collect::<Vec<_>>().join(", "),
            Only::Null(index) => format!("argument {index} is null"),
            Only::Without(index, bits) => format!("argument {index} without {bits:#x}"),
            Only::With(index, bits) => format!("argument {index} with {bits:#x}"),
            Only::Own(index) => format!("argument {index} is the own process"),
        }
    }

    /// The table of docs/service.md.
    fn markdown() -> String {
        let mut text = "| system calls | threads | with | why |\n|---|---|---|---|\n".to_owned();
        for Row { calls, kinds, only, why } in TABLE {
            let calls: Vec<_> = calls.iter().map(|(name, _)| name.trim_start_matches("SYS_")).collect();
            let kinds: Vec<_> = kinds.iter_names().map(|(name, _)| name.to_lowercase()).collect();
            let only = with(only);
            let _ = writeln!(text, "| {} | {} | {only} | {why} |", calls.join(", "), kinds.join(", "));
        }
        text
    }

    #[test]
    fn the_documentation_has_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/service.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (begin, end) =
            ("<!-- The table is made by a test of confine. -->\n\n", "\n<!-- This is where it ends. -->");
        let (before, rest) = text.split_once(begin).unwrap();
        let (table, after) = rest.split_once(end).unwrap();
        // The calls of one processor only are the last rows.
        let expected = markdown();
        if std::env::var_os("LUNETTE_TEST_BLESS").is_some() {
            std::fs::write(path, format!("{before}{begin}{expected}{end}{after}")).unwrap();
        } else {
            let holds =
                if cfg!(target_arch = "x86_64") { table == expected } else { table.starts_with(&expected) };
            assert!(holds, "run the test once more with LUNETTE_TEST_BLESS=1");
        }
    }

    #[test]
    fn threads_have_no_more_than_those_that_start_them_and_nobody_starts_programs() {
        for Row { calls, kinds, why, .. } in TABLE {
            assert!(!why.is_empty());
            assert!(
                kinds.difference(Kinds::START | Kinds::OPENER).is_empty() || kinds.contains(Kinds::START),
                "{calls:?}"
            );
            let is_of_children = kinds.intersects(Kinds::WORKER | Kinds::BLOCKING);
            assert!(!is_of_children || kinds.contains(Kinds::NURSERY), "{calls:?}");
            for (name, number) in *calls {
                assert!(*number <= NEWEST.into(), "{name}");
                let never = [
                    libc::SYS_execve,
                    libc::SYS_execveat,
                    libc::SYS_ptrace,
                    libc::SYS_process_vm_writev,
                    libc::SYS_mount,
                    libc::SYS_bpf,
                    libc::SYS_kill,
                    libc::SYS_setuid,
                    libc::SYS_init_module,
                ];
                assert!(!never.contains(number), "{name}");
            }
        }
    }

    /// It shares its memory with reactors, so whoever takes one over can have it do what it may.
    #[test]
    fn who_starts_threads_makes_no_rings_and_changes_no_capabilities() {
        let of_nursery = TABLE.iter().filter(|row| row.kinds.contains(Kinds::NURSERY));
        let names: Vec<_> = of_nursery.flat_map(|row| row.calls).map(|(name, _)| *name).collect();
        for name in ["SYS_io_uring_setup", "SYS_io_uring_register", "SYS_io_uring_enter", "SYS_capset"] {
            assert!(!names.contains(&name), "{name}");
        }
    }

    #[test]
    fn reactors_open_nothing() {
        let of_reactors = TABLE.iter().filter(|row| row.kinds.contains(Kinds::REACTOR));
        let names: Vec<_> = of_reactors.flat_map(|row| row.calls).map(|(name, _)| *name).collect();
        for name in [
            "SYS_openat",
            "SYS_openat2",
            "SYS_socket",
            "SYS_connect",
            "SYS_io_uring_setup",
            "SYS_io_uring_register",
        ] {
            assert!(!names.contains(&name), "{name}");
        }
    }
}
