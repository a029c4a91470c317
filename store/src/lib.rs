//! What a backing store is.
//!
//! Everything that keeps bytes, a file, a cluster, memory, answers to the [`Store`] trait: an operation goes in with a
//! scatter-gather list ([`Sg`]) that points straight at the initiator's memory or at a pool buffer, and its result comes
//! back at once or as a completion on the same reactor. What a store needs from the operating system it asks of its
//! [`Cx`], which the reactor implements (and [`sim`] for tests, without a kernel, beside a store of theirs, [`held`]).
//!
//! This crate knows nothing of SCSI, of threads or of file formats.
//!
//! Entry types: [`Store`] and [`Backing`] (implement these for a new kind of store), [`Op`], [`Caps`], [`Sg`], [`Cx`],
//! [`ram::Ram`], the layers in [`layer`], [`Relay`] for stores that see their own completions, [`pool::Pool`], and
//! [`log::LineBudget`] for whoever logs what others do.
//!
//! ```
//! use lunette_store::{ram::Ram, sim::Sim, Backing, Memory, Op, Sg, Submit, IoId, SinkId};
//!
//! let ram = Ram::new(1 << 20)?;
//! let mut sim = Sim::new(1);
//! let cx = sim.cx(0);
//! let store = ram.attach(cx);
//! let id = IoId { sink: SinkId(0), token: 0 };
//!
//! let hello = Memory::from_bytes(b"hello");
//! let from = [hello.seg()];
//! let write = Op::Write { offset: 512, from: Sg::new(&from), durable: false };
//! assert_eq!(store.submit(write, id, cx), Submit::Done(Ok(5)));
//!
//! let back = Memory::zeroed(5);
//! let to = [back.seg()];
//! assert_eq!(store.submit(Op::Read { offset: 512, to: Sg::new(&to) }, id, cx), Submit::Done(Ok(5)));
//! assert_eq!(back.to_vec(), b"hello");
//! # Ok::<(), std::io::Error>(())
//! ```

mod cx;
pub mod held;
pub mod layer;
pub mod log;
mod op;
pub mod pool;
pub mod ram;
mod relay;
mod seek;
mod sg;
pub mod sim;
mod size;

pub use cx::{
    Cx, FileOp, Interest, IoId, Lane, Message, Post, ReactorId, Sink, SinkId, local, local_or_insert,
};
pub use op::{Backing, Caps, Discard, IoError, IoResult, Op, Room, SeekTarget, Store, Submit};
pub use relay::{Pending, Relay, attach_relay};
pub use seek::seek;
pub use sg::{Memory, Seg, Sg, SgList};
pub use size::Size;
