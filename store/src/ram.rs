//! A store in memory of its own: a sparse memory file.

use crate::{Backing, Caps, Cx, Discard, IoError, IoId, IoResult, Op, Sg, Store, Submit};
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes in memory, taken as they are first written and given back when they are discarded. They end with the process.
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
            discard: Some(Discard {
                granularity: 4096,
                reads_zero: true,
            }),
            fast_zero: true,
            rotational: false,
        };
        Ok(Self {
            map: Arc::new(Map {
                file,
                address,
                length,
            }),
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
            Op::Read { offset, to } => Ok(self.map.copy(offset, to, Direction::Out)),
            Op::Write { offset, from, .. } => Ok(self.map.copy(offset, from, Direction::In)),
            Op::Flush => Ok(0),
            Op::Zero { offset, length, .. } | Op::Discard { offset, length } => {
                self.map.punch(offset, length)
            }
        }
    }
}

impl Backing for Ram {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn attach(&self, _cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(self.clone())
    }
}

impl Store for Ram {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn submit(&self, op: Op<'_>, _id: IoId, _cx: &mut dyn Cx) -> Submit {
        Submit::Done(self.run(op))
    }
}

enum Direction {
    In,
    Out,
}

impl Map {
    fn copy(&self, offset: u64, sg: Sg<'_>, direction: Direction) -> u64 {
        let mut at = offset as usize;
        for seg in sg.iter() {
            let ours = self.address.cast::<u8>().wrapping_add(at);
            debug_assert!(at + seg.len() <= self.length);
            // SAFETY: the range was checked against the size of the mapping, and the segment is mapped (`Seg::new`).
            // `copy` and not `copy_nonoverlapping`, for a guest's memory could be this very file.
            unsafe {
                match direction {
                    Direction::In => std::ptr::copy(seg.address().cast_const(), ours, seg.len()),
                    Direction::Out => std::ptr::copy(ours.cast_const(), seg.address(), seg.len()),
                }
            }
            at += seg.len();
        }
        sg.len()
    }

    fn punch(&self, offset: u64, length: u64) -> IoResult {
        if length > 0 {
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
    use crate::{Memory, SinkId, sim::Sim};

    fn submit(ram: &Ram, op: Op<'_>) -> Submit {
        Store::submit(
            ram,
            op,
            IoId {
                sink: SinkId(0),
                token: 0,
            },
            Sim::new(1).cx(0),
        )
    }

    #[test]
    fn ranges_outside_are_refused() {
        let ram = Ram::new(4096).unwrap();
        let memory = Memory::zeroed(512);
        let segs = [memory.seg()];
        let read = |offset| {
            submit(
                &ram,
                Op::Read {
                    offset,
                    to: Sg::new(&segs),
                },
            )
        };
        assert_eq!(read(3584), Submit::Done(Ok(512)));
        assert_eq!(read(3585), Submit::Done(Err(IoError::OutOfRange)));
        assert_eq!(read(u64::MAX), Submit::Done(Err(IoError::OutOfRange)));
    }

    #[test]
    fn zeroed_and_discarded_bytes_read_as_zero() {
        let ram = Ram::new(1 << 16).unwrap();
        let ones = Memory::from_bytes(&[1; 8192]);
        let segs = [ones.seg()];
        for op in [
            Op::Zero {
                offset: 100,
                length: 5000,
                unmap: false,
            },
            Op::Discard {
                offset: 100,
                length: 5000,
            },
        ] {
            submit(
                &ram,
                Op::Write {
                    offset: 0,
                    from: Sg::new(&segs),
                    durable: false,
                },
            );
            assert_eq!(submit(&ram, op), Submit::Done(Ok(0)));
            let back = Memory::zeroed(8192);
            submit(
                &ram,
                Op::Read {
                    offset: 0,
                    to: Sg::new(&[back.seg()]),
                },
            );
            let expected: Vec<u8> = (0..8192)
                .map(|n| u8::from(!(100..5100).contains(&n)))
                .collect();
            assert_eq!(back.to_vec(), expected);
        }
    }

    #[test]
    fn a_read_only_view_refuses_writes() {
        let ram = Ram::new(4096).unwrap().read_only();
        let discard = Op::Discard {
            offset: 0,
            length: 512,
        };
        assert_eq!(submit(&ram, discard), Submit::Done(Err(IoError::ReadOnly)));
    }
}
