//! A store in memory of its own: a sparse memory file.

use crate::{Backing, Caps, Cx, Discard, IoError, IoId, IoResult, Lane, Op, Sg, Store, Submit, seek};
use region::Region;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, SeekFrom};
use rustix::io::Errno;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use touched::CHUNK;

mod region;
mod touched;

/// Bytes in memory, taken as they are first written and given back when they are discarded; reading takes none. They end
/// with the process, unless another one goes on with them.
#[derive(Clone, Debug)]
pub struct Ram {
    map: Arc<Map>,
    caps: Caps,
}

#[derive(Debug)]
struct Map {
    file: OwnedFd,
    first: Region,
    /// Has the size changed by one at a time.
    resizing: Mutex<()>,
    /// For what takes long.
    lane: Lane,
}

impl Ram {
    /// A store of `size` bytes, all zero.
    ///
    /// # Errors
    /// What the operating system says when it cannot make or map a memory file of this size.
    pub fn new(size: u64) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("lunette-ram", flags)?;
        rustix::fs::ftruncate(&file, size)?;
        Self::of(file, size)
    }

    /// Goes on with the [memory](Backing::memory) of a store of `size` bytes that another process had.
    ///
    /// # Errors
    /// When it is no memory file of so many bytes that nobody else can make shorter, or cannot be mapped.
    pub fn adopt(file: OwnedFd, size: u64) -> io::Result<Self> {
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK)?;
        let length = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        if length < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let ram = Self::of(file, size)?;
        ram.map.look_for_data(size)?;
        Ok(ram)
    }

    fn of(file: OwnedFd, size: u64) -> io::Result<Self> {
        let first = Region::map(file.as_fd(), 0, size)?;
        let caps = Caps {
            size: size.into(),
            read_only: false,
            logical_block: 1,
            physical_block: 4096,
            max_transfer: u64::from(u32::MAX),
            volatile_cache: false,
            discard: Some(Discard { granularity: 4096, reads_zero: true }),
            fast_zero: true,
            rotational: false,
        };
        Ok(Self { map: Arc::new(Map { file, first, resizing: Mutex::default(), lane: Lane::new() }), caps })
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
            Op::Seek { offset, target } => seek(self.map.file.as_fd(), offset, target, self.caps.size.get()),
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

    fn lane(&self) -> Option<&Lane> {
        Some(&self.map.lane)
    }

    fn memory(&self) -> Option<BorrowedFd<'_>> {
        Some(self.map.file.as_fd())
    }

    fn is_resizable(&self) -> bool {
        !self.caps.read_only
    }

    /// The memory file never becomes shorter: a mapping beyond its end would be fatal to whoever is late.
    fn resize(&self, size: u64) -> Result<(), IoError> {
        let _one = self.map.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.caps.size.get();
        if self.caps.read_only {
            return if size == now { Ok(()) } else { Err(IoError::ReadOnly) };
        }
        if size < now {
            self.caps.size.set(size);
            self.map.punch(size, now - size).inspect_err(|_| self.caps.size.set(now))?;
        } else {
            self.map.grow(size)?;
            self.caps.size.set(size);
        }
        Ok(())
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
        let mut region = &self.first;
        for seg in to.iter() {
            let mut done = 0;
            while done < seg.len() {
                region = region.of(at);
                let part = seg.part(done, CHUNK - at % CHUNK);
                if region.holds(at) {
                    let ours = region.at(at, part.len()).cast_const();
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
        let mut region = &self.first;
        for seg in from.iter() {
            let mut done = 0;
            while done < seg.len() {
                region = region.of(at);
                let part = seg.part(done, region.end() - at);
                let ours = region.at(at, part.len());
                // SAFETY: as in `read`, the other way round.
                unsafe { std::ptr::copy(part.address().cast_const(), ours, part.len()) };
                at += part.len();
                done += part.len();
            }
        }
        self.each_region(offset as usize..at, Region::touch);
        from.len()
    }

    fn punch(&self, offset: u64, length: u64) -> IoResult {
        if length > 0 {
            self.each_region(offset as usize..(offset + length) as usize, Region::forget);
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.file, mode, offset, length).map_err(IoError::from)?;
        }
        Ok(0)
    }

    /// Takes note of what a file holds that somebody else has filled.
    fn look_for_data(&self, size: u64) -> io::Result<()> {
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                found => found?.min(size),
            };
            at = rustix::fs::seek(&self.file, SeekFrom::Hole(data))?.clamp(data, size);
            self.each_region(data as usize..at as usize, Region::touch);
        }
        Ok(())
    }

    /// Has room for `size` bytes.
    fn grow(&self, size: u64) -> Result<(), IoError> {
        let length = u64::try_from(rustix::fs::fstat(&self.file)?.st_size).unwrap_or(0);
        if size > length {
            rustix::fs::ftruncate(&self.file, size)?;
        }
        let last = self.first.last();
        let start = last.end() as u64;
        if size > start {
            // As much again as there is, so that there are never many.
            let region = Region::map(self.file.as_fd(), start, start.max(size - start))?;
            let _ = last.next.set(Box::new(region));
        }
        Ok(())
    }

    /// Calls `act` with each region of which a part is in `bytes`, and with that part.
    fn each_region(&self, bytes: Range<usize>, act: impl Fn(&Region, Range<usize>)) {
        let mut region = &self.first;
        let mut at = bytes.start;
        while at < bytes.end {
            region = region.of(at);
            let end = region.end().min(bytes.end);
            act(region, at..end);
            at = end;
        }
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
            steps in proptest::collection::vec((0u8..4, 0usize..600_000, 0usize..140_000, 1u8..), 1..16),
        ) {
            const SIZE: usize = 300_000;
            let ram = Ram::new(SIZE as u64).unwrap();
            let mut model = vec![0u8; SIZE];
            for (kind, from, length, fill) in steps {
                let size = from + length + 1;
                let end = model.len().min(from + length);
                let from = from.min(end);
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
                    2 => {
                        prop_assert_eq!(ram.resize(size as u64), Ok(()));
                        model.resize(size, 0);
                        prop_assert_eq!(Backing::caps(&ram).size.get(), size as u64);
                        let outside = Op::Zero { offset: size as u64, length: 1, unmap: false };
                        prop_assert_eq!(submit(&ram, outside), Submit::Done(Err(IoError::OutOfRange)));
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
    fn another_process_goes_on_with_the_same_bytes() {
        let ram = Ram::new(1 << 20).unwrap();
        assert_eq!(ram.resize(3 << 20), Ok(()));
        let ones = Memory::from_bytes(&[1; 4096]);
        let segs = [ones.seg()];
        let write =
            |ram: &Ram, offset| submit(ram, Op::Write { offset, from: Sg::new(&segs), durable: false });
        for offset in [300, 512 << 10, (3 << 20) - 4096] {
            write(&ram, offset);
        }
        let file = || Backing::memory(&ram).unwrap().try_clone_to_owned().unwrap();
        let next = Ram::adopt(file(), 3 << 20).unwrap();
        let bytes = |ram: &Ram| {
            let back = Memory::zeroed(3 << 20);
            submit(ram, Op::Read { offset: 0, to: Sg::new(&[back.seg()]) });
            back.to_vec()
        };
        assert_eq!(bytes(&next), bytes(&ram));
        assert_eq!(bytes(&next).iter().map(|byte| usize::from(*byte)).sum::<usize>(), 3 * 4096);
        assert_eq!(Store::caps(&next).size.get(), 3 << 20);
        write(&next, 1 << 20);
        assert!(rustix::fs::ftruncate(file(), 0).is_err(), "nobody can make it shorter");
    }

    #[test]
    fn what_is_no_memory_of_that_size_is_not_gone_on_with() {
        let ram = Ram::new(4096).unwrap();
        let file = || Backing::memory(&ram).unwrap().try_clone_to_owned().unwrap();
        assert!(Ram::adopt(file(), 4097).is_err() && Ram::adopt(file(), u64::MAX).is_err());
        let other = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(Ram::adopt(other.into(), 1).is_err());
        let flags = MemfdFlags::CLOEXEC;
        let unsealed = rustix::fs::memfd_create("test", flags).unwrap();
        assert!(Ram::adopt(unsealed, 0).is_err(), "others could cut it off");
    }

    #[test]
    fn what_is_cut_off_is_given_back_and_comes_back_as_zero() {
        let ram = Ram::new(1 << 20).unwrap();
        let ones = Memory::from_bytes(&[1; 1 << 20]);
        let segs = [ones.seg()];
        submit(&ram, Op::Write { offset: 0, from: Sg::new(&segs), durable: false });
        assert_eq!(ram.resize(4096 + 100), Ok(()));
        let left = blocks(&ram);
        assert!(left < 2048 / 2);
        assert_eq!(ram.resize(1 << 20), Ok(()));
        submit(&ram, Op::Read { offset: 0, to: Sg::new(&segs) });
        assert_eq!(ones.to_vec(), [vec![1; 4196], vec![0; (1 << 20) - 4196]].concat());
        assert!(blocks(&ram) <= left.max(128), "reading has taken nothing but what is looked at as one");
    }

    #[test]
    fn all_handles_grow_and_none_that_only_reads_makes_them() {
        let ram = Ram::new(4096).unwrap();
        let (handle, reader) = (ram.attach(Sim::new(1).cx(0)), ram.clone().read_only());
        assert_eq!(ram.resize(1 << 40), Ok(()));
        assert_eq!((handle.caps().size.get(), Store::caps(&reader).size.get()), (1 << 40, 1 << 40));
        let memory = Memory::from_bytes(&[7; 512]);
        let segs = [memory.seg()];
        let last = (1 << 40) - 512;
        submit(&ram, Op::Write { offset: last, from: Sg::new(&segs), durable: false });
        let back = Memory::zeroed(512);
        submit(&reader, Op::Read { offset: last, to: Sg::new(&[back.seg()]) });
        assert_eq!(back.to_vec(), [7; 512]);
        assert_eq!((reader.resize(4096), reader.resize(1 << 40)), (Err(IoError::ReadOnly), Ok(())));
        for size in [1 << 62, u64::MAX] {
            assert!(ram.resize(size).is_err());
        }
        assert_eq!(Backing::caps(&ram).size.get(), 1 << 40);
    }

    #[test]
    fn many_small_steps_make_few_mappings() {
        let ram = Ram::new(512).unwrap();
        for size in 1..2000u64 {
            assert_eq!(ram.resize(size * 4096), Ok(()));
        }
        let regions =
            std::iter::successors(Some(&ram.map.first), |region| region.next.get().map(|next| &**next));
        assert_eq!(regions.count(), 8);
    }

    #[test]
    fn a_read_only_view_refuses_writes() {
        let ram = Ram::new(4096).unwrap().read_only();
        let discard = Op::Discard { offset: 0, length: 512 };
        assert_eq!(submit(&ram, discard), Submit::Done(Err(IoError::ReadOnly)));
    }
}
