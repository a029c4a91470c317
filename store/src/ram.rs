//! A store in memory of its own: a sparse memory file.

use crate::{Backing, Caps, Cx, Discard, IoError, IoId, IoResult, Lane, Op, Sg, Store, Submit, seek};
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use touched::{CHUNK, Touched};

mod touched;

/// Bytes in memory, taken as they are first written and given back when they are discarded; reading takes none. They end
/// with the process.
#[derive(Clone, Debug)]
pub struct Ram {
    map: Arc<Map>,
    caps: Caps,
}

#[derive(Debug)]
struct Map {
    file: OwnedFd,
    address: *mut c_void,
    length: usize,
    touched: Touched,
    /// For what takes long.
    lane: Lane,
}

// SAFETY: the address is only used to copy bytes in and out, as with memory that a guest shares with us: concurrent
// operations on overlapping ranges may mix their bytes, which is what SCSI says of such commands.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Ram {
    /// A store of `size` bytes, all zero.
    ///
    /// # Errors
    /// What the operating system says when it cannot make or map a memory file of this size.
    pub fn new(size: u64) -> io::Result<Self> {
        let length = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let file = rustix::fs::memfd_create("lunette-ram", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, size)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &file,
                0,
            )?
        };
        let caps = Caps {
            size,
            read_only: false,
            logical_block: 1,
            physical_block: 4096,
            max_transfer: u64::from(u32::MAX),
            volatile_cache: false,
            discard: Some(Discard { granularity: 4096, reads_zero: true }),
            fast_zero: true,
            rotational: false,
        };
        Ok(Self {
            map: Arc::new(Map { file, address, length, touched: Touched::new(size), lane: Lane::new() }),
            caps,
        })
    }

    /// The same memory, for readers only.
    pub fn read_only(mut self) -> Self {
        self.caps.read_only = true;
        self
    }

    fn run(&self, op: Op<'_>) -> IoResult {
        self.caps.check(&op)?;
        match op {
            Op::Read { offset, to } => Ok(self.map.read(offset, to)),
            Op::Write { offset, from, .. } => Ok(self.map.write(offset, from)),
            Op::Flush => Ok(0),
            Op::Zero { offset, length, .. } | Op::Discard { offset, length } => {
                self.map.punch(offset, length)
            }
            Op::Copy { .. } => Err(IoError::Unsupported),
            Op::Seek { offset, target } => seek(self.map.file.as_fd(), offset, target, self.caps.size),
        }
    }
}

impl Backing for Ram {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn attach(&self, _cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(self.clone())
    }
}

impl Store for Ram {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        // The kernel looks at every page on its way.
        if let Op::Seek { offset, target } = op {
            let ram = self.clone();
            cx.blocking_in(&self.map.lane, Box::new(move || ram.run(Op::Seek { offset, target })), id);
            return Submit::Queued;
        }
        Submit::Done(self.run(op))
    }
}

impl Map {
    /// Copies chunk by chunk: a page of a shared mapping is taken as soon as it is looked at, so chunks that hold nothing
    /// are not.
    fn read(&self, offset: u64, to: Sg<'_>) -> u64 {
        let mut at = offset as usize;
        for seg in to.iter() {
            let mut done = 0;
            while done < seg.len() {
                let part = seg.part(done, CHUNK - at % CHUNK);
                if self.touched.contains(at) {
                    let ours = self.at(at, part.len()).cast_const();
                    // SAFETY: both runs are mapped (`at`, `Seg::new`). `copy`, for a guest's memory could be this very
                    // file.
                    unsafe { std::ptr::copy(ours, part.address(), part.len()) };
                } else {
                    // SAFETY: the run is mapped and writable (`Seg::new`).
                    unsafe { std::ptr::write_bytes(part.address(), 0, part.len()) };
                }
                at += part.len();
                done += part.len();
            }
        }
        to.len()
    }

    fn write(&self, offset: u64, from: Sg<'_>) -> u64 {
        let mut at = offset as usize;
        for seg in from.iter() {
            let ours = self.at(at, seg.len());
            // SAFETY: as in `read`, the other way round.
            unsafe { std::ptr::copy(seg.address().cast_const(), ours, seg.len()) };
            at += seg.len();
        }
        self.touched.insert(offset as usize, at);
        from.len()
    }

    /// The address of byte `offset`, of which `length` follow; the caller has checked the range.
    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(offset + length <= self.length);
        self.address.cast::<u8>().wrapping_add(offset)
    }

    fn punch(&self, offset: u64, length: u64) -> IoResult {
        if length > 0 {
            self.touched.remove(offset as usize, (offset + length) as usize);
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.file, mode, offset, length).map_err(IoError::from)?;
        }
        Ok(0)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped in `Ram::new` with this length; the last user of the mapping is gone.
        let _ = unsafe { rustix::mm::munmap(self.address, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, SeekTarget, SinkId, sim::Sim};
    use proptest::prelude::*;

    fn submit(ram: &Ram, op: Op<'_>) -> Submit {
        Store::submit(ram, op, IoId { sink: SinkId(0), token: 0 }, Sim::new(1).cx(0))
    }

    #[test]
    fn ranges_outside_are_refused() {
        let ram = Ram::new(4096).unwrap();
        let memory = Memory::zeroed(512);
        let segs = [memory.seg()];
        let read = |offset| submit(&ram, Op::Read { offset, to: Sg::new(&segs) });
        assert_eq!(read(3584), Submit::Done(Ok(512)));
        assert_eq!(read(3585), Submit::Done(Err(IoError::OutOfRange)));
        assert_eq!(read(u64::MAX), Submit::Done(Err(IoError::OutOfRange)));
    }

    #[test]
    fn zeroed_and_discarded_bytes_read_as_zero() {
        let ram = Ram::new(1 << 16).unwrap();
        let ones = Memory::from_bytes(&[1; 8192]);
        let segs = [ones.seg()];
        for op in
            [Op::Zero { offset: 100, length: 5000, unmap: false }, Op::Discard { offset: 100, length: 5000 }]
        {
            submit(&ram, Op::Write { offset: 0, from: Sg::new(&segs), durable: false });
            assert_eq!(submit(&ram, op), Submit::Done(Ok(0)));
            let back = Memory::zeroed(8192);
            submit(&ram, Op::Read { offset: 0, to: Sg::new(&[back.seg()]) });
            let expected: Vec<u8> = (0..8192).map(|n| u8::from(!(100..5100).contains(&n))).collect();
            assert_eq!(back.to_vec(), expected);
        }
    }

    fn blocks(ram: &Ram) -> i64 {
        rustix::fs::fstat(&ram.map.file).unwrap().st_blocks
    }

    #[test]
    fn reading_takes_no_memory() {
        let ram = Ram::new(1 << 30).unwrap();
        let buffer = Memory::from_bytes(&vec![0xff; 1 << 20]);
        let segs = [buffer.seg()];
        let read_all = || {
            for offset in (0..1u64 << 30).step_by(1 << 20) {
                let to = Sg::new(&segs);
                let read = Op::Read { offset, to };
                assert_eq!(submit(&ram, read), Submit::Done(Ok(1 << 20)));
            }
        };
        read_all();
        assert_eq!(blocks(&ram), 0);
        assert_eq!(buffer.to_vec(), vec![0; 1 << 20]);

        let write = Op::Write { offset: 1 << 20, from: Sg::new(&segs), durable: false };
        submit(&ram, write);
        assert_eq!(blocks(&ram), 2048);
        let discard = Op::Discard { offset: 0, length: 1 << 30 };
        submit(&ram, discard);
        read_all();
        assert_eq!(blocks(&ram), 0);
    }

    #[test]
    fn what_is_kept_is_found() {
        let ram = Ram::new(1 << 20).unwrap();
        let ones = Memory::from_bytes(&[1; 4096]);
        let segs = [ones.seg()];
        submit(&ram, Op::Write { offset: 512 << 10, from: Sg::new(&segs), durable: false });
        let seek = |offset, target| ram.run(Op::Seek { offset, target });
        assert_eq!((seek(0, SeekTarget::Hole), seek(0, SeekTarget::Data)), (Ok(0), Ok(512 << 10)));
        assert_eq!(seek(516 << 10, SeekTarget::Data), Ok(1 << 20));
        assert_eq!(submit(&ram, Op::Seek { offset: 0, target: SeekTarget::Data }), Submit::Queued);
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_vector(
            steps in proptest::collection::vec((0u8..3, 0usize..300_000, 0usize..140_000, 1u8..), 1..12),
        ) {
            const SIZE: usize = 300_000;
            let ram = Ram::new(SIZE as u64).unwrap();
            let mut model = vec![0u8; SIZE];
            for (kind, from, length, fill) in steps {
                let end = SIZE.min(from + length);
                let (offset, length) = (from as u64, (end - from) as u64);
                match kind {
                    0 => {
                        let bytes = Memory::from_bytes(&vec![fill; end - from]);
                        let segs = [bytes.seg().part(0, 70_000), bytes.seg().part(70_000, usize::MAX)];
                        let from = Sg::new(&segs);
                        submit(&ram, Op::Write { offset, from, durable: false });
                        model[offset as usize..end].fill(fill);
                    }
                    1 => {
                        submit(&ram, Op::Discard { offset, length });
                        model[from..end].fill(0);
                    }
                    _ => {
                        let back = Memory::from_bytes(&vec![fill; end - from]);
                        let segs = [back.seg().part(0, 333), back.seg().part(333, usize::MAX)];
                        submit(&ram, Op::Read { offset, to: Sg::new(&segs) });
                        prop_assert_eq!(back.to_vec(), &model[from..end]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_read_only_view_refuses_writes() {
        let ram = Ram::new(4096).unwrap().read_only();
        let discard = Op::Discard { offset: 0, length: 512 };
        assert_eq!(submit(&ram, discard), Submit::Done(Err(IoError::ReadOnly)));
    }
}
