//! File operations, from the submission to the completion, allocate nothing, on no thread.

use lunette_reactor::{Io, Options, Reactors};
use lunette_store::{Cx, FileOp, IoId, IoResult, Lane, Memory, ReactorId, Seg, Sg, Sink, SinkId, Submit};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};

/// Counts what all threads allocate; that of the test only waits.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

// SAFETY: everything is passed on to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Operations in a row that must allocate nothing, and how many such stretches are tried: until queues have their room, and
/// all threads that may be needed run.
const STRETCH: u64 = 1000;
const STRETCHES: u64 = 50;
/// Operations under way at once.
const DEPTH: u64 = 5;

/// Reads and writes again and again, alternately with one segment and with three, and publishes each burst.
struct User {
    fd: RawFd,
    lane: Lane,
    segs: Vec<Seg>,
    _memory: Memory,
    me: Cell<SinkId>,
    begun: Cell<u64>,
    before: Cell<u64>,
    tell: Sender<u64>,
}

impl User {
    fn go_on(&self, cx: &mut dyn Cx) {
        let number = self.begun.get() + 1;
        self.begun.set(number);
        let (fd, offset) = (self.fd, 0);
        let list = Sg::new(&self.segs[..if number.is_multiple_of(2) { 1 } else { 3 }]);
        let read = FileOp::Read { fd, offset, to: list };
        let write = FileOp::Write { fd, offset, from: list, durable: false };
        let id = IoId { sink: self.me.get(), token: number };
        let submitted = match number % 4 {
            0 => cx.file(read, id),
            1 => cx.file_in(&self.lane, read, id),
            2 if number % 20 == 10 => cx.file_in(&self.lane, FileOp::Sync { fd }, id),
            _ => cx.file_in(&self.lane, write, id),
        };
        assert_eq!(submitted, Submit::Queued);
        cx.defer(IoId { token: 0, ..id });
    }
}

impl Sink for User {
    fn complete(&self, token: u64, _: IoResult, cx: &mut dyn Cx) {
        if token == 0 {
            return;
        }
        if self.begun.get().is_multiple_of(STRETCH) {
            let now = allocations();
            let _ = self.tell.send(now - self.before.replace(now));
        }
        self.go_on(cx);
    }
}

fn allocations_with(io: Io) -> u64 {
    let reactors = Reactors::start(&Options { reactors: 1, io, ..Options::default() }).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let fd = file.as_raw_fd();
    let (tell, told) = channel();
    reactors.call(ReactorId(0), move |cx| {
        assert!(allocations() > 0, "this test would notice");
        let memory = Memory::zeroed(3);
        let user = Rc::new(User {
            fd,
            lane: Lane::new(),
            segs: (0..3).map(|n| memory.seg().part(n, 1)).collect(),
            _memory: memory,
            me: Cell::new(SinkId(0)),
            begun: Cell::new(0),
            before: Cell::new(0),
            tell,
        });
        user.me.set(cx.register(user.clone()));
        (0..DEPTH).for_each(|_| user.go_on(cx));
    });
    // Telling allocates as well, but not in the middle of a stretch.
    let mut stretches = (0..STRETCHES).map(|_| told.recv().unwrap());
    stretches.find(|count| *count == 0).unwrap_or(u64::MAX)
}

#[test]
fn file_operations_allocate_nothing() {
    assert_eq!(allocations_with(Io::Auto), 0, "io_uring");
    assert_eq!(allocations_with(Io::Epoll), 0, "epoll");
}
