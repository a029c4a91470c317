//! Counters of what passes through.

use crate::{
    Backing, Caps, Cx, IoError, IoId, IoResult, Lane, Op, Pending, ReactorId, Relay, Room, Sink, Store,
    Submit, attach_relay,
};
use std::collections::HashMap;
use std::ops::{AddAssign, Index, IndexMut};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Counts the operations on another store.
pub struct Stats {
    inner: Arc<dyn Backing>,
    counters: Mutex<HashMap<ReactorId, Arc<Counters>>>,
}

/// The kinds of operations, see [`Op`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// [`Op::Read`].
    Read,
    /// [`Op::Write`].
    Write,
    /// [`Op::Flush`].
    Flush,
    /// [`Op::Zero`].
    Zero,
    /// [`Op::Discard`].
    Discard,
    /// [`Op::Seek`].
    Seek,
}

/// What was counted for one kind of operation. Only completed operations count.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Count {
    /// Operations that have completed, failed ones included.
    pub operations: u64,
    /// Bytes moved, zeroed or discarded by those that did not fail.
    pub bytes: u64,
    /// Operations that have failed.
    pub errors: u64,
}

/// The counters of all reactors together, at one moment; index it by [`Kind`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Snapshot([Count; Kind::ALL.len()]);

/// The counters of one reactor, which alone writes them.
#[derive(Default)]
struct Counters([[AtomicU64; 3]; Kind::ALL.len()]);

struct Attached {
    inner: Rc<dyn Store>,
    counters: Arc<Counters>,
    pending: Pending<Counted>,
}

struct Counted {
    id: IoId,
    kind: Kind,
    bytes: u64,
}

impl Stats {
    /// Counts what is done to `inner` through the result.
    pub fn new(inner: Arc<dyn Backing>) -> Self {
        Self { inner, counters: Mutex::default() }
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for counters in self.reactors().values() {
            for kind in Kind::ALL {
                sum[kind] += counters.get(kind);
            }
        }
        sum
    }

    fn reactors(&self) -> std::sync::MutexGuard<'_, HashMap<ReactorId, Arc<Counters>>> {
        self.counters.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Backing for Stats {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn is_lasting(&self) -> bool {
        self.inner.is_lasting()
    }

    fn lane(&self) -> Option<&Lane> {
        self.inner.lane()
    }

    fn room(&self) -> Result<Room, IoError> {
        self.inner.room()
    }

    fn is_resizable(&self) -> bool {
        self.inner.is_resizable()
    }

    fn resize(&self, size: u64) -> Result<(), IoError> {
        self.inner.resize(size)
    }

    fn measure(&self) -> Result<u64, IoError> {
        self.inner.measure()
    }

    fn has_failed(&self) -> bool {
        self.inner.has_failed()
    }

    fn set_failed(&self) {
        self.inner.set_failed();
    }

    fn keep_failure(&self, keep: Box<dyn Fn() + Send + Sync>) {
        self.inner.keep_failure(keep);
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        let counters = self.reactors().entry(cx.reactor()).or_default().clone();
        let attached = Attached { inner: self.inner.attach(cx), counters, pending: Pending::default() };
        attach_relay(cx, attached)
    }
}

impl Store for Attached {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let kind = Kind::of(&op);
        let bytes = op.range().1;
        let ours = self.pending.keep(Counted { id, kind, bytes });
        let submit = self.inner.submit(op, ours, cx);
        if submit != Submit::Queued {
            self.pending.take(ours.token);
        }
        if let Submit::Done(result) = submit {
            self.counters.add(kind, bytes, result);
        }
        submit
    }

    fn release(&self, cx: &mut dyn Cx) {
        self.inner.release(cx);
    }
}

impl Sink for Attached {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        let Some(Counted { id, kind, bytes }) = self.pending.take(token) else {
            return;
        };
        self.counters.add(kind, bytes, result);
        cx.complete(id, result);
    }
}

impl Relay for Attached {
    type Kept = Counted;

    fn pending(&self) -> &Pending<Counted> {
        &self.pending
    }
}

impl Counters {
    fn add(&self, kind: Kind, bytes: u64, result: IoResult) {
        let bump = |field: usize, by: u64| {
            let counter = &self.0[kind as usize][field];
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        };
        bump(0, 1);
        match result {
            Ok(_) => bump(1, bytes),
            Err(_) => bump(2, 1),
        }
    }

    fn get(&self, kind: Kind) -> Count {
        let [operations, bytes, errors] = &self.0[kind as usize];
        Count {
            operations: operations.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
            errors: errors.load(Ordering::Relaxed),
        }
    }
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Read, Self::Write, Self::Flush, Self::Zero, Self::Discard, Self::Seek];

    /// The kind of `op`.
    pub const fn of(op: &Op<'_>) -> Self {
        match op {
            Op::Read { .. } => Self::Read,
            Op::Write { .. } | Op::Copy { .. } => Self::Write,
            Op::Flush => Self::Flush,
            Op::Zero { .. } => Self::Zero,
            Op::Discard { .. } => Self::Discard,
            Op::Seek { .. } => Self::Seek,
        }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.errors += other.errors;
    }
}

impl Index<Kind> for Snapshot {
    type Output = Count;

    fn index(&self, kind: Kind) -> &Count {
        &self.0[kind as usize]
    }
}

impl IndexMut<Kind> for Snapshot {
    fn index_mut(&mut self, kind: Kind) -> &mut Count {
        &mut self.0[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::fault::Fault;
    use crate::{Memory, Sg, SinkId, ram::Ram, sim::Sim};
    use std::time::Duration;

    #[test]
    fn counts_operations_bytes_and_errors_of_all_reactors() {
        let ram = Arc::new(Ram::new(1 << 20).unwrap());
        let plan = "delay:5+eio:8192".parse().unwrap();
        let stats = Stats::new(Arc::new(Fault::new(ram, plan)));
        let mut sim = Sim::new(2);
        let id = IoId { sink: SinkId(u32::MAX), token: 0 };
        let memory = Memory::zeroed(4096);
        let segs = [memory.seg()];
        for reactor in 0..2 {
            let store = stats.attach(sim.cx(reactor));
            for offset in [0, 4096, 8192] {
                let to = Sg::new(&segs);
                let read = Op::Read { offset, to };
                assert_eq!(store.submit(read, id, sim.cx(reactor)), Submit::Queued);
            }
            store.submit(Op::Flush, id, sim.cx(reactor));
            assert_eq!(stats.snapshot()[Kind::Read].operations, 3 * reactor as u64);
            sim.advance(Duration::from_millis(5));
            sim.settle();
        }
        let snapshot = stats.snapshot();
        let reads = Count { operations: 6, bytes: 4 * 4096, errors: 2 };
        assert_eq!(snapshot[Kind::Read], reads);
        assert_eq!(snapshot[Kind::Flush].operations, 2);
        assert_eq!(snapshot[Kind::Write], Count::default());
    }
}
