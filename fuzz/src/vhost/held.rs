//! A store whose operations end when the fuzzer says so, in any order and with any result.

use lunette_store::{
    Backing, Caps, Cx, IoError, IoId, IoResult, Op, SgList, Store, Submit, local, local_or_insert,
};
use std::cell::RefCell;
use std::rc::Rc;

/// Keeps every operation, with its memory, until it is [released](release).
pub(super) struct Held(Caps);

/// Most operations that are kept; more find the store full.
const MOST: usize = 24;

struct Kept {
    id: IoId,
    memory: SgList,
    reads: bool,
    range: (u64, u64),
}

/// The operations of one reactor.
#[derive(Default)]
struct AllKept(RefCell<Vec<Kept>>);

impl Held {
    pub(super) fn new() -> Self {
        Self(Caps {
            size: 1 << 20,
            read_only: false,
            logical_block: 1,
            physical_block: 512,
            max_transfer: 1 << 16,
            volatile_cache: true,
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
        let all = local_or_insert::<AllKept>(cx, |_| Rc::default());
        let mut all = all.0.borrow_mut();
        if all.len() == MOST {
            return Submit::Full;
        }
        let mut memory = SgList::new();
        memory.assign(op.sg());
        all.push(Kept { id, memory, reads: matches!(op, Op::Read { .. }), range: op.range() });
        Submit::Queued
    }
}

/// How many operations a reactor holds.
pub(super) fn count(cx: &mut dyn Cx) -> usize {
    local::<AllKept>(cx).map_or(0, |all| all.0.borrow().len())
}

/// Ends one of the operations that a reactor holds, if there is any, after moving its bytes: all of them if it succeeds.
pub(super) fn release(cx: &mut dyn Cx, which: usize, failure: Option<IoError>) {
    let Some(all) = local::<AllKept>(cx) else { return };
    let mut all = all.0.borrow_mut();
    if all.is_empty() {
        return;
    }
    let index = which % all.len();
    let Kept { id, memory, reads, range: (offset, length) } = all.swap_remove(index);
    let wanted = match failure {
        None => length,
        Some(IoError::Short { moved }) => moved.min(length),
        Some(_) => length / 2,
    };
    if reads {
        memory.as_sg().copy_in(0, &vec![(offset / 512) as u8; wanted as usize]);
    } else {
        memory.as_sg().to_vec(wanted);
    }
    let result: IoResult = match failure {
        None => Ok(length),
        Some(IoError::Short { .. }) => Err(IoError::Short { moved: wanted }),
        Some(other) => Err(other),
    };
    cx.complete(id, result);
}
