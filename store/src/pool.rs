//! Page-aligned buffers of one reactor, in a few sizes and within a limit.

use crate::{Cx, Memory, Seg, Sg, SgList, local_or_insert};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

/// The sizes of buffers, in bytes.
pub const SIZES: [usize; 7] = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20];

/// The longest single buffer, in bytes.
pub const LARGEST: usize = SIZES[SIZES.len() - 1];

/// Bytes that buffers for `length` bytes occupy.
pub fn footprint(length: usize) -> usize {
    let rest = length % LARGEST;
    let last = if rest == 0 { 0 } else { SIZES.into_iter().find(|size| rest <= *size).unwrap_or(LARGEST) };
    length - rest + last
}

/// Hands out buffers and takes them back. Clones share the same buffers.
///
/// The bytes of a buffer are whatever its last user left there, who may have served somebody else: never send more of it
/// than was filled.
///
/// ```
/// use lunette_store::pool::{BufList, Pool};
/// let pool = Pool::new(8 << 20, 1 << 20);
/// let buffer = pool.take(5000).unwrap();
/// buffer.copy_in(0, b"hello");
/// assert_eq!((buffer.len(), pool.in_use()), (5000, 16 << 10));
///
/// let mut command = BufList::default();
/// assert!(pool.fill(&mut command, 3 << 20));
/// assert_eq!(command.sg().len(), 3 << 20);
/// ```
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    limit: usize,
    keep: usize,
    in_use: Cell<usize>,
    kept: Cell<usize>,
    free: [RefCell<Vec<Memory>>; SIZES.len()],
}

impl Pool {
    /// A pool that occupies at most `limit` bytes, and keeps some of them that nobody uses: at most `keep`, or as many as are
    /// in use, so that what a steady load gives back is there for what it takes next.
    pub fn new(limit: usize, keep: usize) -> Self {
        Self(Rc::new(Inner {
            limit,
            keep,
            in_use: Cell::new(0),
            kept: Cell::new(0),
            free: Default::default(),
        }))
    }

    /// The pool of this reactor; `make` is called for the first caller.
    pub fn of(cx: &mut dyn Cx, make: impl FnOnce() -> Self) -> Self {
        Self::clone(&local_or_insert(cx, |_| Rc::new(make())))
    }

    /// A buffer of `length` bytes, at most [`LARGEST`]; `None` when the pool has reached its limit: try again when a buffer
    /// has come back.
    ///
    /// # Panics
    /// If `length` is above [`LARGEST`].
    pub fn take(&self, length: usize) -> Option<PoolBuf> {
        assert!(length <= LARGEST, "no pool buffer of {length} bytes");
        let class = SIZES.iter().position(|size| length <= *size)?;
        let size = SIZES[class];
        let in_use = self.0.in_use.get() + size;
        let room = self.0.limit.checked_sub(in_use)?;
        let kept = self.0.free[class].borrow_mut().pop();
        let memory = match kept {
            Some(memory) => {
                self.0.kept.set(self.0.kept.get() - size);
                memory
            }
            None => {
                self.0.trim(room);
                Memory::zeroed(size)
            }
        };
        self.0.in_use.set(in_use);
        Some(PoolBuf { memory: Some(memory), class, length, pool: self.0.clone() })
    }

    /// Appends buffers for `length` bytes to `list`; when the pool cannot give all of them, none and `false`.
    pub fn fill(&self, list: &mut BufList, length: usize) -> bool {
        let before = list.buffers.len();
        let mut left = length;
        while left > 0 {
            match self.take(left.min(LARGEST)) {
                Some(buffer) => list.buffers.push(buffer),
                None => {
                    list.buffers.truncate(before);
                    return false;
                }
            }
            left = left.saturating_sub(LARGEST);
        }
        for buffer in &list.buffers[before..] {
            list.segs.push(buffer.seg());
        }
        true
    }

    /// Bytes that are handed out, counted by size of buffer.
    pub fn in_use(&self) -> usize {
        self.0.in_use.get()
    }
}

impl Inner {
    /// Gives back to the system what is kept beyond so many bytes, the largest first.
    #[cold]
    fn trim(&self, most: usize) {
        for (free, size) in self.free.iter().zip(SIZES).rev() {
            let mut free = free.borrow_mut();
            while self.kept.get() > most && free.pop().is_some() {
                self.kept.set(self.kept.get() - size);
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} bytes)", self.in_use(), self.0.limit)
    }
}

/// A buffer of a [`Pool`], which it goes back to when it is dropped. The owner keeps it until every operation on it has
/// completed.
pub struct PoolBuf {
    memory: Option<Memory>,
    class: usize,
    length: usize,
    pool: Rc<Inner>,
}

impl PoolBuf {
    /// How many bytes were asked for.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether no bytes were asked for.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes, for operations and sockets to fill and drain.
    pub fn seg(&self) -> Seg {
        self.memory.as_ref().expect("present until dropped").seg().part(0, self.length)
    }

    /// Copies `bytes` to position `at`; returns how many found room.
    pub fn copy_in(&self, at: usize, bytes: &[u8]) -> usize {
        Sg::new(&[self.seg()]).copy_in(at as u64, bytes)
    }

    /// Copies from position `at` into `bytes`; returns how many there were.
    pub fn copy_out(&self, at: usize, bytes: &mut [u8]) -> usize {
        Sg::new(&[self.seg()]).copy_out(at as u64, bytes)
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        let size = SIZES[self.class];
        let in_use = self.pool.in_use.get() - size;
        self.pool.in_use.set(in_use);
        self.pool.kept.set(self.pool.kept.get() + size);
        self.pool.free[self.class].borrow_mut().extend(self.memory.take());
        if self.pool.kept.get() > self.pool.keep.max(in_use) {
            self.pool.trim(self.pool.keep.max(in_use));
        }
    }
}

impl fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolBuf({:?})", self.seg())
    }
}

/// The buffers of one command of any length, and the scatter-gather list over them. Its own room is kept by
/// [`clear`](Self::clear), so that a slot that is used again and again does not allocate.
#[derive(Default, Debug)]
pub struct BufList {
    buffers: Vec<PoolBuf>,
    segs: SgList,
}

impl BufList {
    /// The bytes of all buffers, in order.
    pub fn sg(&self) -> Sg<'_> {
        self.segs.as_sg()
    }

    /// Gives the buffers back.
    pub fn clear(&mut self) {
        self.segs.clear();
        self.buffers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;

    #[test]
    fn buffers_are_bounded_by_bytes_in_use() {
        let pool = Pool::new(80 << 10, 0);
        let one = pool.take(4097).unwrap();
        assert_eq!((one.len(), pool.in_use()), (4097, 16 << 10));
        let two = pool.take(64 << 10).unwrap();
        assert!(pool.take(1).is_none());
        drop(one);
        assert!(pool.take(16 << 10).is_some());
        drop(two);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn buffers_occupy_what_is_told() {
        for length in
            [0, 1, 4096, 4097, 65536, 65537, LARGEST - 1, LARGEST, LARGEST + 1, 5 * LARGEST + 70_000]
        {
            let (pool, mut list) = (Pool::new(1 << 30, 0), BufList::default());
            assert!(pool.fill(&mut list, length));
            assert_eq!(pool.in_use(), footprint(length), "{length}");
        }
    }

    #[test]
    fn buffers_are_used_again_up_to_the_bound() {
        let pool = Pool::new(1 << 20, 8 << 10);
        let three: Vec<_> = (0..3).map(|_| pool.take(4096).unwrap()).collect();
        let mut addresses: Vec<_> = three.iter().map(|b| b.seg().address()).collect();
        assert!(addresses.iter().all(|a| (*a as usize).is_multiple_of(4096)));
        drop(three);
        assert_eq!(pool.0.kept.get(), 8 << 10);
        addresses.truncate(2);
        let again = [pool.take(1).unwrap(), pool.take(1).unwrap()];
        assert!(again.iter().all(|b| addresses.contains(&b.seg().address())));
        assert_eq!(pool.0.kept.get(), 0);
    }

    #[test]
    fn what_is_kept_makes_room_for_other_sizes() {
        let pool = Pool::new(1 << 20, 1 << 20);
        let kept = || pool.0.kept.get();
        drop((0..8).map(|_| pool.take(128 << 10).unwrap()).collect::<Vec<_>>());
        assert_eq!(kept(), 1 << 20);
        let one = pool.take(4096).unwrap();
        assert_eq!((kept(), pool.in_use()), (7 << 17, 4096));
        let two = pool.take(512 << 10).unwrap();
        assert_eq!((kept(), pool.in_use()), (3 << 17, (512 << 10) + 4096));
        let three = pool.take(128 << 10).unwrap();
        assert_eq!(kept(), 2 << 17, "it was there");
        drop((one, two, three));
        assert!(kept() + pool.in_use() <= 1 << 20);
    }

    #[test]
    fn as_much_is_kept_as_is_in_use() {
        let pool = Pool::new(64 << 20, 1 << 20);
        let kept = || pool.0.kept.get();
        let mut busy: Vec<_> = (0..8).map(|_| pool.take(128 << 10).unwrap()).collect();
        busy.extend((0..8).map(|_| pool.take(1 << 20).unwrap()));
        busy.truncate(12);
        assert_eq!((kept(), pool.in_use()), (4 << 20, 5 << 20));
        busy.truncate(10);
        assert_eq!((kept(), pool.in_use()), (3 << 20, 3 << 20), "the rest has gone");
        let again: Vec<_> = (0..3).map(|_| pool.take(1 << 20).unwrap()).collect();
        assert_eq!(kept(), 0);
        drop(again);
        drop(busy);
        assert_eq!((kept(), pool.in_use()), (1 << 20, 0));
    }

    #[test]
    fn a_list_is_filled_wholly_or_not_at_all() {
        let pool = Pool::new(3 << 20, 0);
        let mut list = BufList::default();
        assert!(pool.fill(&mut list, (2 << 20) + 5));
        assert_eq!(list.sg().len(), (2 << 20) + 5);
        let in_use = pool.in_use();
        assert_eq!(in_use, footprint((2 << 20) + 5));
        assert!(!pool.fill(&mut list, 1 << 20));
        assert_eq!((list.sg().len(), pool.in_use()), ((2 << 20) + 5, in_use));
        assert_eq!(list.sg().copy_in((1 << 20) - 2, b"across"), 6);
        let mut back = [0; 6];
        list.sg().copy_out((1 << 20) - 2, &mut back);
        assert_eq!(&back, b"across");
        list.clear();
        assert_eq!((list.sg().len(), pool.in_use()), (0, 0));
    }

    #[test]
    fn one_pool_per_reactor() {
        let mut sim = Sim::new(2);
        let make = || Pool::new(1 << 20, 0);
        let first = Pool::of(sim.cx(0), make);
        let _buffer = first.take(1);
        assert_eq!(Pool::of(sim.cx(0), make).in_use(), 4096);
        assert_eq!(Pool::of(sim.cx(1), make).in_use(), 0);
    }
}
