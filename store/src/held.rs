//! A store whose operations end when they are told to.
//!
//! For unit tests and fuzzers, as [`sim`](crate::sim): what happens between the start of an operation and its end can be
//! tried at leisure, and the ends may come in any order and with any result. The store keeps no bytes; who ends an
//! operation moves what it should have moved.
//!
//! ```
//! use lunette_store::{held::{self, Held}, sim::Sim, Backing, Cx, IoId, Memory, Op, Sg, SinkId, Submit};
//!
//! let mut sim = Sim::new(1);
//! let cx = sim.cx(0);
//! let store = Held::new(1 << 20, 1).attach(cx);
//! let memory = Memory::zeroed(2);
//! let to = [memory.seg()];
//! let read = Op::Read { offset: 512, to: Sg::new(&to) };
//! assert_eq!(store.submit(read, IoId { sink: SinkId(0), token: 7 }, cx), Submit::Queued);
//! assert_eq!(store.submit(read, IoId { sink: SinkId(0), token: 8 }, cx), Submit::Full);
//!
//! let operation = held::take(0, cx).expect("an operation is held");
//! assert_eq!((operation.id.token, operation.reads, operation.range), (7, true, (512, 2)));
//! operation.memory.as_sg().copy_in(0, b"hi");
//! cx.complete(operation.id, Ok(2));
//! assert_eq!(memory.to_vec(), b"hi");
//! assert_eq!(held::count(cx), 0);
//! ```

use crate::{Backing, Caps, Cx, IoError, IoId, Op, SgList, Store, Submit, local, local_or_insert};
use std::cell::RefCell;
use std::rc::Rc;

/// Keeps every operation, with its memory, until it is [taken](take).
#[derive(Clone)]
pub struct Held {
    caps: Caps,
    room: usize,
}

/// An operation that is held no more. It has to be [completed](Cx::complete) on the reactor that held it.
#[derive(Debug)]
pub struct Operation {
    /// What it is completed with.
    pub id: IoId,
    /// The memory of a read or write; no bytes for the others.
    pub memory: SgList,
    /// It is a read.
    pub reads: bool,
    /// First byte and number of bytes, as [`Op::range`] says them.
    pub range: (u64, u64),
}

/// The operations of one reactor.
#[derive(Default)]
struct Operations(RefCell<Vec<Operation>>);

impl Held {
    /// A store of `size` bytes with a volatile cache, and room for `room` operations on each reactor; those of other such
    /// stores count as well.
    pub fn new(size: u64, room: usize) -> Self {
        let caps = Caps {
            size: size.into(),
            read_only: false,
            logical_block: 1,
            physical_block: 512,
            max_transfer: 1 << 20,
            volatile_cache: true,
            discard: None,
            fast_zero: false,
            rotational: false,
        };
        Self { caps, room }
    }
}

impl Backing for Held {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn is_resizable(&self) -> bool {
        true
    }

    fn resize(&self, size: u64) -> Result<(), IoError> {
        self.caps.size.set(size);
        Ok(())
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(self.clone())
    }
}

impl Store for Held {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let operations = local_or_insert::<Operations>(cx, |_| Rc::default());
        let mut operations = operations.0.borrow_mut();
        if operations.len() >= self.room {
            return Submit::Full;
        }
        let mut memory = SgList::new();
        memory.assign(op.sg());
        let reads = matches!(op, Op::Read { .. });
        operations.push(Operation { id, memory, reads, range: op.range() });
        Submit::Queued
    }
}

/// How many operations the reactor of `cx` holds.
pub fn count(cx: &dyn Cx) -> usize {
    local::<Operations>(cx).map_or(0, |operations| operations.0.borrow().len())
}

/// Takes an operation from those that the reactor of `cx` holds, of which number 0 is the oldest.
pub fn take(index: usize, cx: &dyn Cx) -> Option<Operation> {
    let operations = local::<Operations>(cx)?;
    let mut operations = operations.0.borrow_mut();
    (index < operations.len()).then(|| operations.remove(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;
    use crate::{Memory, Sg, SinkId};

    fn id(token: u64) -> IoId {
        IoId { sink: SinkId(0), token }
    }

    #[test]
    fn operations_are_kept_in_order_on_their_reactor() {
        let mut sim = Sim::new(2);
        let held = Held::new(1 << 20, 3);
        let memory = Memory::zeroed(8);
        let segs = [memory.seg()];
        let write = Op::Write { offset: 16, from: Sg::new(&segs), durable: false };
        for (reactor, token) in [(0, 1), (1, 2), (0, 3), (0, 4)] {
            let cx = sim.cx(reactor);
            assert_eq!(held.attach(cx).submit(write, id(token), cx), Submit::Queued);
        }
        let cx = sim.cx(0);
        assert_eq!(held.attach(cx).submit(Op::Flush, id(5), cx), Submit::Full);
        assert_eq!((count(sim.cx(0)), count(sim.cx(1))), (3, 1));
        let mut take = |reactor, index| take(index, sim.cx(reactor)).map(|operation| operation.id.token);
        assert_eq!([take(0, 1), take(0, 2), take(0, 1), take(0, 0)], [Some(3), None, Some(4), Some(1)]);
        assert_eq!([take(1, 0), take(1, 0)], [Some(2), None]);
    }

    #[test]
    fn an_operation_says_what_it_is() {
        let mut sim = Sim::new(1);
        let cx = sim.cx(0);
        let store = Held::new(1 << 20, 2).attach(cx);
        let memory = Memory::from_bytes(b"abc");
        let segs = [memory.seg()];
        store.submit(Op::Write { offset: 5, from: Sg::new(&segs), durable: true }, id(0), cx);
        store.submit(Op::Zero { offset: 7, length: 9, unmap: false }, id(1), cx);
        let (write, zero) = (take(0, cx).unwrap(), take(0, cx).unwrap());
        assert_eq!(
            (write.reads, write.range, write.memory.as_sg().to_vec(9)),
            (false, (5, 3), b"abc".to_vec())
        );
        assert_eq!((zero.reads, zero.range, zero.memory.as_sg().len()), (false, (7, 9), 0));
    }
}
