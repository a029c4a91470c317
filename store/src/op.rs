//! What is asked of a store, what it answers, and what it can do.

use crate::{Cx, IoId, Lane, Sg, Size};
use std::os::fd::{BorrowedFd, RawFd};
use thiserror::Error;

/// One operation on a store. Offsets and lengths are in bytes and multiples of the store's logical block.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Fill `to` with the bytes from `offset` on.
    Read {
        /// First byte.
        offset: u64,
        /// Where the bytes go.
        to: Sg<'a>,
    },
    /// Store the bytes of `from` at `offset`.
    Write {
        /// First byte.
        offset: u64,
        /// Where the bytes come from.
        from: Sg<'a>,
        /// Complete only when the bytes survive a power loss (FUA).
        durable: bool,
    },
    /// Complete only when everything written and completed before survives a power loss.
    Flush,
    /// Make the bytes of a range read as zero.
    Zero {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Give the room back if the store can.
        unmap: bool,
    },
    /// The bytes of a range are not needed any more; afterwards they read as [`Discard::reads_zero`] says.
    Discard {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// Have the bytes of another file, which the kernel copies, or shares where the file system can. Fails with
    /// [`IoError::Unsupported`] where it can do neither: they have to be read and written then.
    Copy {
        /// First byte.
        offset: u64,
        /// The other file, as its store [gives it](Backing::descriptor); open for as long as the operation lasts.
        source: RawFd,
        /// First byte there.
        from: u64,
        /// Number of bytes.
        length: u64,
    },
    /// Find the first byte from `offset` on that is or is not kept; the size of the store if there is none. Fails with
    /// [`IoError::Unsupported`] where that cannot be told: all bytes count as kept then.
    Seek {
        /// Where to begin.
        offset: u64,
        /// What to find.
        target: SeekTarget,
    },
}

/// What [`Op::Seek`] looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekTarget {
    /// A byte for which room is taken.
    Data,
    /// A byte for which none is, and which reads as zero.
    Hole,
}

impl Op<'_> {
    /// First byte and number of bytes that the operation touches; `Flush` and `Seek` touch none.
    pub fn range(&self) -> (u64, u64) {
        match *self {
            Op::Read { offset, to } => (offset, to.len()),
            Op::Write { offset, from, .. } => (offset, from.len()),
            Op::Flush => (0, 0),
            Op::Seek { offset, .. } => (offset, 0),
            Op::Zero { offset, length, .. }
            | Op::Discard { offset, length }
            | Op::Copy { offset, length, .. } => (offset, length),
        }
    }

    /// The memory of a read or write; no bytes for the others.
    pub const fn sg(&self) -> Sg<'_> {
        match *self {
            Op::Read { to: sg, .. } | Op::Write { from: sg, .. } => sg,
            _ => Sg::empty(),
        }
    }

    /// The same operation with other memory; those without memory stay as they are.
    pub const fn with_sg<'b>(&self, sg: Sg<'b>) -> Op<'b> {
        match *self {
            Op::Read { offset, .. } => Op::Read { offset, to: sg },
            Op::Write { offset, durable, .. } => Op::Write { offset, from: sg, durable },
            Op::Flush => Op::Flush,
            Op::Zero { offset, length, unmap } => Op::Zero { offset, length, unmap },
            Op::Discard { offset, length } => Op::Discard { offset, length },
            Op::Copy { offset, source, from, length } => Op::Copy { offset, source, from, length },
            Op::Seek { offset, target } => Op::Seek { offset, target },
        }
    }

    /// Whether the operation changes the store's content.
    pub const fn is_write(&self) -> bool {
        matches!(self, Op::Write { .. } | Op::Zero { .. } | Op::Discard { .. } | Op::Copy { .. })
    }
}

/// What became of an operation: the number of bytes moved (reads and writes), or why not all of them were; for
/// [`Op::Seek`] the position.
pub type IoResult = Result<u64, IoError>;

/// Why an operation did not do all that was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum IoError {
    /// The range lies outside the store.
    #[error("the range lies outside the store")]
    OutOfRange,
    /// The store is read-only.
    #[error("the store is read-only")]
    ReadOnly,
    /// There is no room left where the bytes are kept.
    #[error("no space left where the bytes are kept")]
    NoSpace,
    /// The store cannot do this operation.
    #[error("the store does not support the operation")]
    Unsupported,
    /// The operation was aborted before it was carried out.
    #[error("aborted")]
    Aborted,
    /// The store ended early: what it keeps its bytes in has become shorter.
    #[error("only {moved} bytes were there")]
    Short {
        /// Bytes that were moved.
        moved: u64,
    },
    /// The device or connection behind the store has gone.
    #[error("the device has gone")]
    Gone,
    /// The store has no room for another operation now; nothing was done.
    #[error("the store is busy")]
    Busy,
    /// The memory of the request is not there (`EFAULT`): its owner has taken it away. The store is sound.
    #[error("the memory of the request is gone")]
    Memory,
    /// Any other error number of the operating system.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
}

impl IoError {
    /// Whether the medium itself does not yield the bytes, now or later; what else goes wrong may pass.
    pub fn is_of_medium(&self) -> bool {
        use rustix::io::Errno;
        // What the kernel makes of errors of a medium, of a device, and of checksums.
        const LOST: [Errno; 5] = [Errno::IO, Errno::NODATA, Errno::REMOTEIO, Errno::BADMSG, Errno::ILSEQ];
        matches!(*self, Self::Os(errno) if LOST.contains(&Errno::from_raw_os_error(errno)))
    }

    /// The meaning of an error number (`errno`, positive).
    pub fn from_errno(errno: i32) -> Self {
        use rustix::io::Errno;
        match Errno::from_raw_os_error(errno) {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::NoSpace,
            Errno::ROFS => Self::ReadOnly,
            Errno::OPNOTSUPP | Errno::NOSYS => Self::Unsupported,
            Errno::NODEV | Errno::NXIO | Errno::NOMEDIUM => Self::Gone,
            Errno::CANCELED => Self::Aborted,
            Errno::FAULT => Self::Memory,
            _ => Self::Os(errno),
        }
    }
}

impl From<std::io::Error> for IoError {
    fn from(error: std::io::Error) -> Self {
        Self::from_errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<rustix::io::Errno> for IoError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::from_errno(error.raw_os_error())
    }
}

/// What happened to a submitted operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submit {
    /// It is done; no completion follows.
    Done(IoResult),
    /// It is on its way; [`Sink::complete`](crate::Sink::complete) will be called once with its id.
    Queued,
    /// There is no room for it now; nothing was done.
    Full,
}

/// What discarding does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Discard {
    /// Smallest useful range in bytes.
    pub granularity: u32,
    /// Discarded bytes read as zero.
    pub reads_zero: bool,
}

/// What a store can do. Asked, never guessed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Size in bytes. The only one that can [change](Backing::resize).
    pub size: Size,
    /// Writes fail with [`IoError::ReadOnly`].
    pub read_only: bool,
    /// Offsets and lengths are multiples of this many bytes.
    pub logical_block: u32,
    /// The unit that is written without reading the rest of it first, in bytes.
    pub physical_block: u32,
    /// Longest read or write in bytes.
    pub max_transfer: u64,
    /// A completed write may be lost with the power until a [`Op::Flush`].
    pub volatile_cache: bool,
    /// How ranges are given back; `None` if they cannot be.
    pub discard: Option<Discard>,
    /// [`Op::Zero`] is cheaper than writing zeroes.
    pub fast_zero: bool,
    /// There are moving parts: neighbouring blocks are cheaper.
    pub rotational: bool,
}

impl Caps {
    /// Checks that `op` is allowed here and lies inside.
    pub fn check(&self, op: &Op<'_>) -> Result<(), IoError> {
        if self.read_only && op.is_write() {
            return Err(IoError::ReadOnly);
        }
        let (offset, length) = op.range();
        match offset.checked_add(length) {
            Some(end) if end <= self.size.get() => Ok(()),
            _ => Err(IoError::OutOfRange),
        }
    }
}

/// What there is where a store that takes room as it is written to keeps its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Bytes that it could still take.
    pub free: u64,
    /// Bytes that it has taken.
    pub used: u64,
}

/// A store as one reactor uses it. The handle is kept until the last operation that was given to it has completed.
pub trait Store {
    /// What it can do.
    fn caps(&self) -> &Caps;

    /// Carries `op` out, now or later. `Queued` is followed by exactly one completion with `id` on the same reactor.
    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit;

    /// This is the last use of the handle, which has nothing under way: it lets go now of what it has on the reactor, and not
    /// only some time after it was dropped. A layer passes this on.
    fn release(&self, cx: &mut dyn Cx) {
        let _ = cx;
    }
}

/// A store as the whole program shares it: what each reactor gets its own [`Store`] handle from.
pub trait Backing: Send + Sync {
    /// What it can do.
    fn caps(&self) -> &Caps;

    /// Whether its bytes outlive the program.
    fn is_lasting(&self) -> bool {
        true
    }

    /// Where calls about it may block, and hold up nothing else; `None` if none does.
    fn lane(&self) -> Option<&Lane> {
        None
    }

    /// The file that keeps its bytes, each where it is, if one does: [`Op::Copy`] can have them from there.
    fn descriptor(&self) -> Option<RawFd> {
        None
    }

    /// The memory file that its bytes are in, if they end with the last process that has it.
    fn memory(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// How much room there is. May block, so it is to be asked in the store's [`lane`](Self::lane).
    ///
    /// # Errors
    /// [`IoError::Unsupported`] where that is not known.
    fn room(&self) -> Result<Room, IoError> {
        Err(IoError::Unsupported)
    }

    /// Whether [`resize`](Self::resize) can make it larger and smaller. Otherwise it only takes note of what others have done.
    fn is_resizable(&self) -> bool {
        false
    }

    /// Gives it another size, a multiple of its logical block, which survives a power loss when this returns; what is added
    /// reads as zero. Whoever makes it smaller has seen to it that nothing is under way beyond. May block, so it is to be
    /// called in the store's [`lane`](Self::lane).
    ///
    /// # Errors
    /// [`IoError::Unsupported`] if it is not [resizable](Self::is_resizable) and has not as many bytes by itself. What
    /// [`Caps::size`] says then is the size that it has.
    fn resize(&self, size: u64) -> Result<(), IoError> {
        let _ = size;
        Err(IoError::Unsupported)
    }

    /// How many bytes there really are: others may have changed that. Nothing goes by it before it was
    /// [`resize`](Self::resize)d to as many. May block, so it is to be called in the store's [`lane`](Self::lane).
    ///
    /// # Errors
    /// When it cannot be found out.
    fn measure(&self) -> Result<u64, IoError> {
        Ok(self.caps().size.get())
    }

    /// Whether bytes were lost, so that no flush succeeds any more.
    fn has_failed(&self) -> bool {
        false
    }

    /// Bytes were lost while another process had the store, which has told nobody that they are there: no flush succeeds. A store
    /// that does not remember such things ignores it.
    fn set_failed(&self) {}

    /// Has `keep` called once when bytes were lost, before anybody is told of that: it has whoever serves the store next know of it.
    /// It may block. To be said before the first handle; a store that does not remember such things ignores it.
    fn keep_failure(&self, keep: Box<dyn Fn() + Send + Sync>) {
        let _ = keep;
    }

    /// A handle for the reactor of `cx`.
    fn attach(&self, cx: &mut dyn Cx) -> std::rc::Rc<dyn Store>;
}
