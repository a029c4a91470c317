//! Reads, writes and flushes of each store, from the submission to the completion, allocate nothing, on no thread. (A flush of
//! a file that meets a durable write does: it waits for the medium longer than that takes.)

use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_store::ram::Ram;
use lunette_store::{Backing, Cx, IoId, IoResult, Memory, Op, ReactorId, Sg, Sink, SinkId, Store, Submit};
use lunette_store_file::{File, OpenError, Options};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
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
const DEPTH: u64 = 5;
const SIZE: u64 = 1 << 20;

struct User {
    store: Rc<dyn Store>,
    memory: Memory,
    /// How far from a page the bytes begin.
    skew: usize,
    /// Whether it flushes, or else writes durably.
    flushes: bool,
    me: Cell<SinkId>,
    begun: Cell<u64>,
    before: Cell<u64>,
    tell: Sender<u64>,
}

impl User {
    fn go_on(&self, cx: &mut dyn Cx) {
        let number = self.begun.get() + 1;
        self.begun.set(number);
        let offset = number * 4096 % SIZE;
        let segs = [self.memory.seg().part(self.skew, 4096)];
        let id = IoId { sink: self.me.get(), token: number };
        let op = match number % 200 {
            0 if self.flushes => Op::Flush,
            0 => Op::Write { offset, from: Sg::new(&segs), durable: true },
            odd if odd % 2 == 1 => Op::Write { offset, from: Sg::new(&segs), durable: false },
            _ => Op::Read { offset, to: Sg::new(&segs) },
        };
        match self.store.submit(op, id, cx) {
            Submit::Done(result) => cx.complete(id, result),
            Submit::Queued => {}
            Submit::Full => panic!("a reactor takes that many"),
        }
    }
}

impl Sink for User {
    fn complete(&self, _: u64, result: IoResult, cx: &mut dyn Cx) {
        result.unwrap();
        if self.begun.get().is_multiple_of(STRETCH) {
            let now = allocations();
            let _ = self.tell.send(now - self.before.replace(now));
        }
        self.go_on(cx);
    }
}

fn allocations_of(backing: impl Backing + 'static, skew: usize) -> u64 {
    let backing = Arc::new(backing);
    [true, false].into_iter().map(|flushes| fewest_allocations(backing.clone(), skew, flushes)).sum()
}

fn fewest_allocations(backing: Arc<dyn Backing>, skew: usize, flushes: bool) -> u64 {
    let reactors = Reactors::start(&ReactorOptions { reactors: 1, ..ReactorOptions::default() }).unwrap();
    let (tell, told) = channel();
    reactors.call(ReactorId(0), move |cx| {
        assert!(allocations() > 0, "this test would notice");
        let user = Rc::new(User {
            store: backing.attach(cx),
            memory: Memory::zeroed(8192),
            skew,
            flushes,
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
    stretches.find(|count| *count == 0).unwrap_or(1)
}

#[test]
fn stores_allocate_nothing() {
    assert_eq!(allocations_of(Ram::new(SIZE).unwrap(), 0), 0, "memory");
    let program = std::env::current_exe().unwrap();
    for (place, direct, inline, skew) in [
        (program.parent().unwrap(), false, None, 0),
        (program.parent().unwrap(), false, Some(false), 0),
        (program.parent().unwrap(), true, None, 0),
        (program.parent().unwrap(), true, None, 100),
        (Path::new("/dev/shm"), false, None, 0),
        (Path::new("/dev/shm"), false, Some(false), 0),
    ] {
        let directory = tempfile::tempdir_in(place).unwrap();
        let options =
            Options { direct, inline, create_size: Some(SIZE), logical_block: 4096, ..Options::default() };
        match File::open(&directory.path().join("disk.img"), &options) {
            Ok(file) => assert_eq!(allocations_of(file, skew), 0, "{options:?}, skew {skew}"),
            Err(OpenError::NoDirect(_)) => eprintln!("skipped: no direct I/O here"),
            Err(error) => panic!("{error}"),
        }
    }
}
