//! Operations that a store holds on a reactor, from another thread.

use lunette_reactor::Reactors;
use lunette_store::held::{Operation, count, take};
use lunette_store::{Backing, Cx, IoError, ReactorId};
use std::sync::Arc;

/// A store that holds all operations.
pub(crate) fn store() -> Arc<dyn Backing> {
    Arc::new(lunette_store::held::Held::new(1 << 20, usize::MAX))
}

/// How many operations a reactor holds.
pub(crate) fn held(reactors: &Reactors, on: u16) -> usize {
    reactors.call(ReactorId(on), |cx| count(cx)).unwrap()
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
        while let Some(operation) = take(0, cx) {
            fill_and_end(&operation, byte, cx);
        }
    };
    reactors.call(ReactorId(on), end).unwrap();
}

/// Has all operations of a reactor fail.
pub(crate) fn fail(reactors: &Reactors, on: u16) {
    let end = move |cx: &mut dyn Cx| {
        while let Some(operation) = take(0, cx) {
            cx.complete(operation.id, Err(IoError::Os(5)));
        }
    };
    reactors.call(ReactorId(on), end).unwrap();
}

/// Ends operations of a reactor in an order that has nothing to do with that of their coming, until `left` remain, after
/// filling their memory with the number of their block. How many.
pub(crate) fn release_some(reactors: &Reactors, on: u16, left: usize) -> usize {
    let end = move |cx: &mut dyn Cx| {
        let ended = count(cx).saturating_sub(left);
        for n in 0..ended {
            let operation = take((7 + 5 * n) % count(cx), cx).unwrap();
            fill_and_end(&operation, (operation.range.0 / 512) as u8, cx);
        }
        ended
    };
    reactors.call(ReactorId(on), end).unwrap()
}

fn fill_and_end(operation: &Operation, byte: u8, cx: &mut dyn Cx) {
    let memory = operation.memory.as_sg();
    memory.copy_in(0, &vec![byte; memory.len() as usize]);
    cx.complete(operation.id, Ok(memory.len()));
}
