//! Reading from a file, from the submission to the completion, allocates nothing.

use lunette_reactor::{Io, Options, Reactors};
use lunette_store::{Cx, FileOp, IoId, IoResult, Memory, ReactorId, Seg, Sg, Sink, SinkId, Submit};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

/// Until the queues have their room.
const WARM_UP: u64 = 1000;
const READS: u64 = 5000;

/// Reads again and again, alternately with one segment and with three, and publishes each burst.
struct Reader {
    fd: RawFd,
    segs: Vec<Seg>,
    _memory: Memory,
    me: Cell<SinkId>,
    before: Cell<u64>,
    tell: Sender<u64>,
}

impl Reader {
    fn read(&self, token: u64, cx: &mut dyn Cx) {
        let count = if token.is_multiple_of(2) { 1 } else { 3 };
        let op = FileOp::Read { fd: self.fd, offset: 0, to: Sg::new(&self.segs[..count]) };
        let sink = self.me.get();
        assert_eq!(cx.file(op, IoId { sink, token }), Submit::Queued);
        cx.defer(IoId { sink, token: 0 });
    }
}

impl Sink for Reader {
    fn complete(&self, token: u64, _: IoResult, cx: &mut dyn Cx) {
        match token {
            0 => return,
            WARM_UP => self.before.set(ALLOCATIONS.get()),
            READS => {
                let _ = self.tell.send(ALLOCATIONS.get() - self.before.get());
                return;
            }
            _ => (),
        }
        self.read(token + 1, cx);
    }
}

fn allocations(io: Io) -> u64 {
    let reactors = Reactors::start(&Options { reactors: 1, io, ..Options::default() }).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let fd = file.as_raw_fd();
    let (tell, told) = channel();
    reactors.call(ReactorId(0), move |cx| {
        assert!(ALLOCATIONS.get() > 0, "this test would notice");
        let memory = Memory::zeroed(3);
        let reader = Rc::new(Reader {
            fd,
            segs: (0..3).map(|n| memory.seg().part(n, 1)).collect(),
            _memory: memory,
            me: Cell::new(SinkId(0)),
            before: Cell::new(0),
            tell,
        });
        reader.me.set(cx.register(reader.clone()));
        reader.read(1, cx);
    });
    told.recv().unwrap()
}

#[test]
fn reads_allocate_nothing() {
    assert_eq!(allocations(Io::Auto), 0, "io_uring");
    assert_eq!(allocations(Io::Epoll), 0, "epoll");
}
