//! A store whose operations end when the test says so.

use lunette_reactor::Reactors;
use lunette_store::{Backing, Caps, Cx, IoId, Op, ReactorId, SgList, Store, Submit, local, local_or_insert};
use std::cell::RefCell;
use std::rc::Rc;

/// Keeps every operation, with its memory, until [`release`].
pub(crate) struct Held(Caps);

/// The operations of one reactor.
#[derive(Default)]
struct Kept(RefCell<Vec<(IoId, SgList, u64)>>);

impl Held {
    pub(crate) fn new() -> Self {
        Self(Caps {
            size: 1 << 20,
            read_only: false,
            logical_block: 1,
            physical_block: 512,
            max_transfer: 1 << 20,
            volatile_cache: false,
            discard: None,
            fast_zero: false,
            rotational: false,
        })
    }
}

impl Backing for Held {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(Self(self.0.clone()))
    }
}

impl Store for Held {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let mut list = SgList::new();
        list.assign(op.sg());
        local_or_insert::<Kept>(cx, |_| Rc::default()).0.borrow_mut().push((id, list, op.range().0));
        Submit::Queued
    }
}

/// How many operations a reactor holds.
pub(crate) fn held(reactors: &Reactors, on: u16) -> usize {
    let count = |cx: &mut dyn Cx| local::<Kept>(cx).map_or(0, |kept| kept.0.borrow().len());
    reactors.call(ReactorId(on), count).unwrap()
}

/// Waits until a reactor holds an operation.
pub(crate) fn wait_held(reactors: &Reactors, on: u16) {
    while held(reactors, on) == 0 {
        std::thread::yield_now();
    }
}

/// Ends all operations of a reactor, after filling their memory with `byte`.
pub(crate) fn release(reactors: &Reactors, on: u16, byte: u8) {
    let end = move |cx: &mut dyn Cx| {
        let kept = local_or_insert::<Kept>(cx, |_| Rc::default()).0.take();
        for (id, list, _) in kept {
            let length = list.as_sg().len();
            list.as_sg().copy_in(0, &vec![byte; length as usize]);
            cx.complete(id, Ok(length));
        }
    };
    reactors.call(ReactorId(on), end).unwrap();
}

/// Ends operations of a reactor in an order that has nothing to do with that of their coming, until `left` remain, after
/// filling their memory with the number of their block. How many.
pub(crate) fn release_some(reactors: &Reactors, on: u16, left: usize) -> usize {
    let end = move |cx: &mut dyn Cx| {
        let kept = local_or_insert::<Kept>(cx, |_| Rc::default());
        let mut kept = kept.0.borrow_mut();
        let count = kept.len().saturating_sub(left);
        for n in 0..count {
            let next = (7 + 5 * n) % kept.len();
            let (id, list, offset) = kept.swap_remove(next);
            let length = list.as_sg().len();
            list.as_sg().copy_in(0, &vec![(offset / 512) as u8; length as usize]);
            cx.complete(id, Ok(length));
        }
        count
    };
    reactors.call(ReactorId(on), end).unwrap()
}
