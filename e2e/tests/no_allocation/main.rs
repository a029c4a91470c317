//! From the wire to the store and back, a READ or WRITE allocates nothing.
//!
//! The whole path of a command in this process, with an allocator that counts for each thread; the virtual machine or the
//! initiator is another thread.

mod iscsi;
mod virtual_machine;

use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit};
use lunette_reactor::Reactors;
use lunette_scsi::Naa;
use lunette_store::ram::Ram;
use lunette_store::{Backing, Cx, ReactorId};
use lunette_store_file::{File, Options as FileOptions};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

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

const SIZE: u64 = 16 << 20;
/// Commands of a stretch, how many stretches in a row must allocate nothing, and how many are tried: until lists and queues
/// have their room.
const STRETCH: usize = 2000;
const CLEAN: usize = 3;
const STRETCHES: usize = 20;

fn open(folder: &Path, store: &str) -> Arc<dyn Backing> {
    let options = |direct| FileOptions { create_size: Some(SIZE), direct, ..FileOptions::default() };
    match store {
        "memory" => Arc::new(Ram::new(SIZE).unwrap()),
        "page cache" => Arc::new(File::open(&folder.join("cached"), &options(false)).unwrap()),
        _ => Arc::new(File::open(&folder.join("direct"), &options(true)).unwrap()),
    }
}

fn unit(store: Arc<dyn Backing>) -> Arc<LogicalUnit> {
    let disk = Disk::new(&DiskOptions::default(), store.caps()).unwrap();
    LogicalUnit::new("disk", Identity::new("1", Naa::locally_assigned(1)), Box::new(disk), Some(store))
}

/// How often the reactor has allocated so far. The answer itself takes no allocation there.
fn allocations(reactors: &Reactors) -> u64 {
    let answer = Arc::new((AtomicU64::new(u64::MAX), thread::current()));
    let asked = answer.clone();
    let answer_it = move |_: &mut dyn Cx| {
        asked.0.store(ALLOCATIONS.get(), Ordering::Release);
        asked.1.unpark();
    };
    reactors.poster().post(ReactorId(0), Box::new(answer_it));
    loop {
        match answer.0.load(Ordering::Acquire) {
            u64::MAX => thread::park(),
            count => return count,
        }
    }
}

/// Makes stretches of commands until enough of them in a row have allocated nothing.
fn expect_clean(reactors: &Reactors, what: &str, mut stretch: impl FnMut()) {
    let mut clean = 0;
    for _ in 0..STRETCHES {
        let before = allocations(reactors);
        stretch();
        clean = if allocations(reactors) == before { clean + 1 } else { 0 };
        if clean == CLEAN {
            return;
        }
    }
    panic!("{what}: {clean} clean stretches at the end");
}
