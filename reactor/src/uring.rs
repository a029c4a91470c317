//! The kernel through io_uring.

use crate::kernel::{Event, Kernel, Wait};
use crate::sys;
use crate::transfer::{Action, Step, Transfer};
use crate::watches::WatchKey;
use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{Builder, IoUring, cqueue, opcode};
use lunette_store::{FileOp, Interest, IoError, IoId, Submit};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

const SUBMISSIONS: u32 = 256;
/// So many file operations are handed over together: a device that is idle should not wait for the last of a long burst.
const PORTION: usize = 8;
/// With no more operations than this under way, each is handed over at once.
const FEW: usize = 32;
/// Most events that one call of `collect` reports.
const MOST_EVENTS: usize = 64;

/// The upper two bits of `user_data` say what has completed, the rest which one.
const TAG_SHIFT: u32 = 62;
const FILE: u64 = 0;
const WATCH: u64 = 1;
const WAKE: u64 = 2;
const IGNORED: u64 = 3;

pub(crate) struct Uring {
    ring: IoUring,
    wake: RawFd,
    /// Operations under way, at addresses that do not change.
    transfers: Box<[Transfer]>,
    free: Vec<u32>,
    /// Watches that the kernel has not ended yet.
    armed: usize,
    /// An epoll set, always empty, that knows what can be watched: the ring reports a plain file as ready again and again.
    probe: OwnedFd,
    /// Watches on what cannot be watched.
    refused: Vec<WatchKey>,
    /// Entries that found no room in the submission queue.
    backlog: VecDeque<Entry>,
}

impl Uring {
    /// A ring for the calling thread, or why there is none.
    pub(crate) fn new(wake: RawFd, file_operations: u32) -> Result<Self, String> {
        Self::with(wake, file_operations, &CHOICES)
    }

    fn with(wake: RawFd, file_operations: u32, choices: &[Choice]) -> Result<Self, String> {
        let ring = set_up(file_operations, choices)?;
        let count = file_operations.max(1);
        let mut uring = Self {
            ring,
            wake,
            transfers: (0..count).map(|_| Transfer::idle()).collect(),
            free: (0..count).rev().collect(),
            armed: 0,
            probe: epoll::create(CreateFlags::CLOEXEC).map_err(|error| format!("epoll_create: {error}"))?,
            refused: Vec::new(),
            backlog: VecDeque::new(),
        };
        uring.arm_wake();
        uring.ring.submit().map_err(|error| format!("io_uring_enter: {error}"))?;
        Ok(uring)
    }

    fn push(&mut self, entry: Entry) {
        if !self.backlog.is_empty() {
            self.backlog.push_back(entry);
        } else if !self.try_push(&entry) {
            self.submit();
            if !self.try_push(&entry) {
                self.backlog.push_back(entry);
            }
        }
    }

    fn try_push(&mut self, entry: &Entry) -> bool {
        // SAFETY: entries that name memory are made by `start` only. They point at segments, which stay mapped until the
        // operation's completion by the promise of `Seg::new`, and at the list of a transfer, which is neither moved nor
        // changed until then: `transfers` is never resized, a slot is free only after its completion, and `drop` waits.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                break;
            }
        }
    }

    fn arm_wake(&mut self) {
        self.push(poll(self.wake, libc::POLLIN, tagged(WAKE, 0)));
    }

    fn submit(&mut self) {
        check(self.ring.submit());
    }

    fn enter(&mut self, wait: Wait) {
        self.push_backlog();
        // What is still left must not wait for what the kernel has: that may never complete.
        let wait = if self.backlog.is_empty() { wait } else { Wait::No };
        let submission = self.ring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        check(match wait {
            Wait::No if idle => Ok(0),
            Wait::No => self.ring.submit(),
            Wait::Forever => self.ring.submit_and_wait(1),
            Wait::AtMost(timeout) => {
                let timeout = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&timeout);
                self.ring.submitter().submit_with_args(1, &args)
            }
        });
    }

    /// Submits the next piece of the operation in `slot`.
    fn start(&mut self, slot: u32, flags: Flags) {
        let transfer = &self.transfers[slot as usize];
        let (fd, offset) = (Fd(transfer.fd), transfer.offset);
        let segs = transfer.piece();
        let (list, count) = (sys::iovecs(segs), segs.len() as u32);
        let entry = match (transfer.action, transfer.run()) {
            (Action::Read, Some((address, length))) => {
                opcode::Read::new(fd, address, length).offset(offset).build()
            }
            (Action::Read, None) => opcode::Readv::new(fd, list, count).offset(offset).build(),
            (Action::Write { durable }, Some((address, length))) => opcode::Write::new(fd, address, length)
                .offset(offset)
                .rw_flags(sys::write_flags(durable))
                .build(),
            (Action::Write { durable }, None) => opcode::Writev::new(fd, list, count)
                .offset(offset)
                .rw_flags(sys::write_flags(durable))
                .build(),
            (Action::Sync, _) => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            (Action::Allocate { mode, length }, _) => {
                opcode::Fallocate::new(fd, length).offset(offset).mode(mode).build()
            }
        };
        self.push(entry.flags(flags).user_data(tagged(FILE, slot.into())));
        let portion = if self.transfers.len() - self.free.len() <= FEW { 1 } else { PORTION };
        if self.ring.submission().len() >= portion {
            self.submit();
        }
    }

    fn can_watch(&self, fd: RawFd) -> bool {
        let fd = sys::borrow(fd);
        let probed = epoll::add(&self.probe, fd, EventData::new_u64(0), EventFlags::empty());
        if probed.is_ok() {
            let _ = epoll::delete(&self.probe, fd);
        }
        probed != Err(Errno::PERM)
    }

    fn moving(&self) -> bool {
        self.free.len() < self.transfers.len()
    }

    fn completed(&mut self, entry: &cqueue::Entry) -> Option<Event> {
        let number = entry.user_data() & !(3 << TAG_SHIFT);
        let ended = !cqueue::more(entry.flags());
        match entry.user_data() >> TAG_SHIFT {
            FILE => self.moved(number as u32, entry.result()),
            WATCH => {
                let key = WatchKey::from_bits(number);
                self.armed -= usize::from(ended);
                Some(match entry.result() {
                    error if error < 0 => Event::Refused(key, IoError::from_errno(-error)),
                    _ if ended => Event::Last(key),
                    _ => Event::Ready(key),
                })
            }
            WAKE if ended => {
                self.arm_wake();
                None
            }
            _ => None,
        }
    }

    fn moved(&mut self, slot: u32, result: i32) -> Option<Event> {
        let transfer = &mut self.transfers[slot as usize];
        let answer = usize::try_from(result).map_err(|_| -result);
        match transfer.advance(answer) {
            Step::Continue => self.start(slot, Flags::empty()),
            // From a worker thread, which may block.
            Step::Retry => self.start(slot, Flags::ASYNC),
            Step::Done(result) => {
                let id = transfer.id;
                transfer.end();
                self.free.push(slot);
                return Some(Event::File(id, result));
            }
        }
        None
    }
}

impl Kernel for Uring {
    fn file(&mut self, op: FileOp<'_>, id: IoId) -> Option<Submit> {
        let Some(slot) = self.free.pop() else {
            return Some(Submit::Full);
        };
        self.transfers[slot as usize].start(op, id);
        self.start(slot, Flags::empty());
        Some(Submit::Queued)
    }

    fn arm(&mut self, key: WatchKey, fd: RawFd, interest: Interest) {
        if !self.can_watch(fd) {
            self.refused.push(key);
            return;
        }
        let events = match interest {
            Interest::Readable => libc::POLLIN | libc::POLLRDHUP,
            Interest::Writable => libc::POLLOUT,
        };
        self.armed += 1;
        self.push(poll(fd, events, tagged(WATCH, key.bits())));
    }

    fn disarm(&mut self, key: WatchKey, _fd: RawFd) {
        // If the watch itself is not submitted yet, the two are together, one after the other; that the descriptor may
        // then name another file does no harm. (POLL_REMOVE would miss a watch that is just reporting.)
        let cancel = opcode::AsyncCancel::new(tagged(WATCH, key.bits())).build();
        self.push(cancel.user_data(tagged(IGNORED, 0)));
    }

    fn collect(&mut self, wait: Wait, events: &mut VecDeque<Event>) {
        self.enter(if self.refused.is_empty() { wait } else { Wait::No });
        let error = IoError::Os(libc::EPERM);
        events.extend(self.refused.drain(..).map(|key| Event::Refused(key, error)));
        for _ in 0..MOST_EVENTS {
            let Some(entry) = self.ring.completion().next() else {
                break;
            };
            events.extend(self.completed(&entry));
        }
    }

    fn busy(&self) -> bool {
        self.armed > 0 || self.moving()
    }
}

impl Drop for Uring {
    /// Waits for the operations that may still touch memory.
    fn drop(&mut self) {
        let mut events = VecDeque::new();
        while self.moving() {
            self.collect(Wait::Forever, &mut events);
            events.clear();
        }
    }
}

fn tagged(tag: u64, number: u64) -> u64 {
    tag << TAG_SHIFT | number
}

fn poll(fd: RawFd, events: i16, user_data: u64) -> Entry {
    opcode::PollAdd::new(Fd(fd), events as u32).multi(true).build().user_data(user_data)
}

/// Some errors say no more than "look at your completions and try again", or that there is no memory for now. Others mean that the
/// ring is broken or that completions are lost: then nobody knows what the kernel still does with which memory, so none of it can be
/// given back and no task ended, and the process ends. The next one goes on with what was in flight.
fn check(entered: io::Result<usize>) {
    if let Err(error) = entered {
        let errno = error.raw_os_error().unwrap_or_default();
        assert!(
            matches!(errno, libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY | libc::ENOMEM),
            "io_uring_enter: {error}"
        );
    }
}

type Choice = fn(&mut Builder) -> &mut Builder;

/// How a ring is set up, from the best to what every usable kernel knows.
const CHOICES: [Choice; 3] = [
    |builder| builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all(),
    |builder| builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all(),
    |builder| builder,
];

fn set_up(file_operations: u32, choices: &[Choice]) -> Result<IoUring, String> {
    let completions = file_operations.saturating_mul(2).clamp(2 * SUBMISSIONS, 1 << 15);
    let mut refusal = String::new();
    for choose in choices {
        let mut builder = IoUring::builder();
        match choose(builder.setup_cqsize(completions).setup_r_disabled()).build(SUBMISSIONS) {
            Ok(ring) => return usable(ring),
            Err(error) => {
                refusal = format!("io_uring_setup: {error}");
                if error.raw_os_error() != Some(libc::EINVAL) {
                    break;
                }
            }
        }
    }
    Err(refusal)
}

/// Multishot polls came with the kernel that first reported resource tags.
fn usable(ring: IoUring) -> Result<IoUring, String> {
    let params = ring.params();
    if params.is_feature_ext_arg() && params.is_feature_nodrop() && params.is_feature_resource_tagging() {
        restrict(&ring).map_err(|error| format!("io_uring_register: {error}"))?;
        Ok(ring)
    } else {
        Err("Linux 5.13 or later is needed".to_owned())
    }
}

/// All that rings are for. The kernel refuses everything else, whoever fills the ring: what a ring does is checked by no filter
/// of system calls.
const OPERATIONS: [u8; 8] = [
    opcode::PollAdd::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// Lets the ring do what it is for, and begin.
fn restrict(ring: &IoUring) -> io::Result<()> {
    let flags = Restriction::sqe_flags_allowed(Flags::ASYNC.bits());
    let mut all: Vec<_> = OPERATIONS.into_iter().map(Restriction::sqe_op).chain([flags]).collect();
    ring.submitter().register_restrictions(&mut all)?;
    ring.submitter().register_enable_rings()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::{Memory, Sg, SinkId};
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn every_choice_of_flags_works() {
        let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let ready = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        for choice in CHOICES {
            let Ok(mut uring) = Uring::with(wake.as_raw_fd(), 4, &[choice]) else {
                continue;
            };
            let memory = Memory::zeroed(3);
            let segs = [memory.seg()];
            let id = IoId { sink: SinkId(0), token: 1 };
            let read = FileOp::Read { fd: file.as_raw_fd(), offset: 0, to: Sg::new(&segs) };
            let key = WatchKey::from_bits(7);
            assert_eq!(uring.file(read, id), Some(Submit::Queued));
            uring.arm(key, ready.as_raw_fd(), Interest::Readable);
            let mut events = VecDeque::new();
            while events.len() < 2 {
                uring.collect(Wait::Forever, &mut events);
            }
            assert!(events.contains(&Event::File(id, Ok(3))));
            assert!(events.contains(&Event::Ready(key)));
            assert_eq!(memory.to_vec(), b"abc");
            uring.disarm(key, ready.as_raw_fd());
            while uring.busy() {
                uring.collect(Wait::Forever, &mut events);
            }
        }
    }

    #[test]
    fn nothing_waits_behind_a_full_submission_queue() {
        let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let Ok(mut uring) = Uring::new(wake.as_raw_fd(), 4) else {
            return;
        };
        // What never happens fills the queue twice, and what is at once readable comes last.
        let never = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let ready = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
        let watch = |fd: &OwnedFd, number| poll(fd.as_raw_fd(), libc::POLLIN, tagged(WATCH, number));
        uring.backlog.extend((0..2 * u64::from(SUBMISSIONS)).map(|number| watch(&never, number)));
        uring.backlog.push_back(watch(&ready, u64::from(u32::MAX)));
        let mut events = VecDeque::new();
        while events.is_empty() {
            uring.collect(Wait::Forever, &mut events);
        }
        assert_eq!(events, [Event::Ready(WatchKey::from_bits(u32::MAX.into()))]);
    }

    #[test]
    fn a_long_burst_is_handed_over_in_portions() {
        let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let Ok(mut uring) = Uring::new(wake.as_raw_fd(), 64) else {
            return;
        };
        let file = tempfile::tempfile().unwrap();
        let id = IoId { sink: SinkId(0), token: 1 };
        let mut sync = || {
            assert_eq!(uring.file(FileOp::Sync { fd: file.as_raw_fd() }, id), Some(Submit::Queued));
            uring.ring.submission().len()
        };
        for _ in 0..FEW {
            assert_eq!(sync(), 0, "handed over at once");
        }
        for waiting in (1..PORTION).chain([0]).cycle().take(2 * PORTION + 1) {
            assert_eq!(sync(), waiting);
        }
    }

    #[test]
    fn a_ring_does_nothing_that_it_is_not_for() {
        let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        for choice in CHOICES {
            let Ok(mut uring) = Uring::with(wake.as_raw_fd(), 4, &[choice]) else {
                continue;
            };
            let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build();
            let linked = opcode::Fsync::new(Fd(wake.as_raw_fd())).build().flags(Flags::IO_LINK);
            for entry in [socket, opcode::Nop::new().build(), linked] {
                uring.push(entry.user_data(tagged(IGNORED, 0)));
                uring.ring.submit_and_wait(1).unwrap();
                let results: Vec<i32> = uring.ring.completion().map(|entry| entry.result()).collect();
                assert_eq!(results, [-libc::EACCES]);
            }
            assert!(uring.ring.submitter().register_files(&[wake.as_raw_fd()]).is_err());
        }
    }

    #[test]
    fn a_refusal_says_why() {
        let impossible: Choice = |builder| builder.setup_defer_taskrun().setup_sqpoll(1);
        let refusal = set_up(4, &[impossible]).err().unwrap();
        assert!(refusal.starts_with("io_uring_setup: "), "{refusal}");
    }
}
