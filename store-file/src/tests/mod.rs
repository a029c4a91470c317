//! Whole files, on a simulated reactor whose file operations are really carried out, or fail on purpose.

mod devices;
mod direct;
mod faults;
mod files;
mod opening;
mod sizes;

use crate::{File, Options, sys};
use lunette_store::sim::Sim;
use lunette_store::{
    Backing, Cx, FileOp, IoError, IoId, IoResult, Memory, Op, SeekTarget, Seg, Sg, Sink, SinkId, Store,
    Submit,
};
use rustix::fs::FallocateFlags;
use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tempfile::TempDir;

/// A directory on the file system that the tests were built on.
fn on_disk() -> TempDir {
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).unwrap()
}

/// A directory in memory.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// Waits for locks: a process that another test starts has a copy of every open file for a moment.
fn sized(size: u64) -> Options {
    let lock_wait = std::time::Duration::from_secs(600);
    Options { create_size: Some(size), lock_wait, ..Options::default() }
}

/// What the file operations did, and what goes wrong with the next ones.
#[derive(Default)]
struct Kernel {
    /// First letters: r, w, d (durable write), s, p (punch), z (zero range).
    done: String,
    allocate: Option<IoError>,
    write: Option<IoError>,
    sync: Option<IoError>,
    /// How many operations find no room.
    full: u32,
}

impl Kernel {
    fn run(&mut self, op: FileOp<'_>) -> Submit {
        if self.full > 0 {
            self.full -= 1;
            return Submit::Full;
        }
        Submit::Done(self.carry_out(op))
    }

    fn carry_out(&mut self, op: FileOp<'_>) -> IoResult {
        // SAFETY: stores keep their descriptors open until their operations have completed.
        let borrow = |fd| unsafe { BorrowedFd::borrow_raw(fd) };
        match op {
            FileOp::Read { fd, offset, to } => {
                self.done.push('r');
                sys::read_all(borrow(fd), offset, to)
            }
            FileOp::Write { fd, offset, from, durable } => {
                self.done.push(if durable { 'd' } else { 'w' });
                match self.write {
                    Some(error) => Err(error),
                    None => sys::write_all(borrow(fd), offset, from, durable),
                }
            }
            FileOp::Sync { fd } => {
                self.done.push('s');
                match self.sync {
                    Some(error) => Err(error),
                    None => Ok(rustix::fs::fdatasync(borrow(fd)).map(|()| 0)?),
                }
            }
            FileOp::Allocate { fd, mode, offset, length } => {
                let mode = FallocateFlags::from_bits_retain(mode as u32);
                let punch = mode.contains(FallocateFlags::PUNCH_HOLE);
                self.done.push(if punch { 'p' } else { 'z' });
                match self.allocate {
                    Some(error) => Err(error),
                    None => Ok(rustix::fs::fallocate(borrow(fd), mode, offset, length).map(|()| 0)?),
                }
            }
        }
    }
}

#[derive(Default)]
struct Log(RefCell<Vec<(u64, IoResult)>>);

impl Sink for Log {
    fn complete(&self, token: u64, result: IoResult, _cx: &mut dyn Cx) {
        self.0.borrow_mut().push((token, result));
    }
}

struct Rig {
    sim: Sim,
    kernel: Rc<RefCell<Kernel>>,
    store: Rc<dyn Store>,
    log: Rc<Log>,
    sink: SinkId,
}

impl Rig {
    fn new(file: &File) -> Self {
        let mut sim = Sim::new(1);
        let kernel = Rc::<RefCell<Kernel>>::default();
        let log = Rc::<Log>::default();
        let cx = sim.cx(0);
        let answering = kernel.clone();
        cx.answer_files(move |op| answering.borrow_mut().run(op));
        let sink = cx.register(log.clone());
        let store = file.attach(cx);
        Self { sim, kernel, store, log, sink }
    }

    fn create(path: &Path, options: &Options) -> Self {
        Self::new(&File::open(path, options).unwrap())
    }

    fn submit(&mut self, op: Op<'_>, token: u64) -> Submit {
        let sink = self.sink;
        self.store.submit(op, IoId { sink, token }, self.sim.cx(0))
    }

    /// Carries `op` out to the end.
    fn run(&mut self, op: Op<'_>) -> IoResult {
        match self.submit(op, 0) {
            Submit::Done(result) => result,
            Submit::Full => panic!("no room"),
            Submit::Queued => {
                self.sim.settle();
                let (token, result) = self.log.0.borrow_mut().pop().expect("completed");
                assert_eq!(token, 0);
                assert!(self.log.0.borrow().is_empty());
                result
            }
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> IoResult {
        let memory = Memory::from_bytes(bytes);
        self.run(write(offset, &[memory.seg()]))
    }

    fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        let memory = Memory::from_bytes(&vec![0xee; length]);
        assert_eq!(self.run(read(offset, &[memory.seg()])), Ok(length as u64));
        memory.to_vec()
    }

    fn done(&self) -> String {
        std::mem::take(&mut self.kernel.borrow_mut().done)
    }
}

fn read(offset: u64, segs: &[Seg]) -> Op<'_> {
    let to = Sg::new(segs);
    Op::Read { offset, to }
}

fn write(offset: u64, segs: &[Seg]) -> Op<'_> {
    Op::Write { offset, from: Sg::new(segs), durable: false }
}

fn durable(offset: u64, segs: &[Seg]) -> Op<'_> {
    Op::Write { offset, from: Sg::new(segs), durable: true }
}

fn zero(offset: u64, length: u64, unmap: bool) -> Op<'static> {
    Op::Zero { offset, length, unmap }
}

fn discard(offset: u64, length: u64) -> Op<'static> {
    Op::Discard { offset, length }
}

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 + 1).collect()
}

fn disk_image(directory: &TempDir) -> PathBuf {
    directory.path().join("disk.img")
}

fn cut(path: &Path, size: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(size).unwrap();
}
