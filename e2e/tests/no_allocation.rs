//! From the ring to the store and back, a READ or WRITE allocates nothing.
//!
//! The whole path of a virtual machine's command in this process, with an allocator that counts for each thread; the
//! virtual machine is another thread.

use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_guest::{Command, Data, Options, Piece, ScsiDriver, Waiting, Wanted};
use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_scsi::{Naa, Protocol};
use lunette_store::ram::Ram;
use lunette_store::{Backing, Cx, ReactorId};
use lunette_store_file::{File, Options as FileOptions};
use lunette_transport_vhost_user::{Options as ExportOptions, VhostUserExport};
use lunette_vhost_user::Features;
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
const DEPTH: u16 = 32;
const LENGTH: u32 = 8192;
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

/// Keeps the queue full of READ(10) or WRITE(10) with data in as many pieces.
fn transfer(driver: &mut ScsiDriver, opcode: u8, pieces: u32, count: usize) {
    let send = |driver: &mut ScsiDriver, slot: u16, n: usize| {
        let block = (n as u32 * 16) % (SIZE as u32 / 512 - 16);
        let lba = block.to_be_bytes();
        let cdb = [opcode, 0, lba[0], lba[1], lba[2], lba[3], 0, 0, (LENGTH / 512) as u8, 0];
        let data = driver.data(0, slot);
        let length = LENGTH / pieces;
        let piece = |n: u32| Piece { address: data.address() + u64::from(n * length), length };
        let list = [piece(0), piece(1), piece(2), piece(3)];
        let list = &list[..pieces as usize];
        let data = match opcode {
            0x28 => Data { data_in: list, data_out: &[] },
            _ => Data { data_out: list, data_in: &[] },
        };
        driver.submit(0, slot, &Command::new(&cdb), &data).unwrap();
    };
    for n in 0..usize::from(DEPTH) {
        send(driver, n as u16, n);
    }
    driver.flush(0).unwrap();
    for n in usize::from(DEPTH)..count + usize::from(DEPTH) {
        let done = driver.wait(0).unwrap();
        assert_eq!((done.response, done.status, done.residual), (0, 0, 0));
        if n < count {
            send(driver, done.slot, n);
            driver.flush(0).unwrap();
        }
    }
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

fn check(store: &str, packed: bool) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let reactors = Reactors::start(&ReactorOptions { reactors: 1, ..ReactorOptions::default() }).unwrap();
    let port = TargetPort::new("test", 1, Protocol::NONE, [(0, unit(open(folder.path(), store)))].into());
    let socket = folder.path().join("vm.sock");
    let export = VhostUserExport::new(ExportOptions::new(&socket), [(0, port)].into());
    let handle = export.start(reactors.poster(), &[ReactorId(0)]).unwrap();

    let mut wanted = Wanted::default();
    wanted.required.set(Features::RING_PACKED, packed);
    // The machine polls: what the transport keeps for a descriptor that it notifies often is no part of a command.
    let waiting = Waiting::Poll;
    let options = Options { wanted, slots: DEPTH, room: LENGTH as usize, waiting, ..Options::default() };
    let mut driver = ScsiDriver::connect(&socket, &options).unwrap();
    // The first command learns of the power-on.
    driver.execute(0, &Command::new(&[0; 6]), &[], 0).unwrap();
    for pieces in [1, 4] {
        for (name, opcode) in [("WRITE", 0x2a), ("READ", 0x28)] {
            let mut clean = 0;
            for _ in 0..STRETCHES {
                let before = allocations(&reactors);
                transfer(&mut driver, opcode, pieces, STRETCH);
                clean = if allocations(&reactors) == before { clean + 1 } else { 0 };
                if clean == CLEAN {
                    break;
                }
            }
            assert_eq!(clean, CLEAN, "{name} of {pieces} pieces, {store}, packed ring: {packed}");
        }
    }
    drop(driver);
    handle.stop();
}

#[test]
fn memory() {
    check("memory", false);
    check("memory", true);
}

#[test]
fn page_cache() {
    check("page cache", false);
}

#[test]
fn past_the_page_cache() {
    check("direct", true);
}
