//! Commands that another reactor takes when the nexus is lost already, and it has not heard of that.

use super::*;
use crate::local::Local;
use crate::testing::front_end::{CommandResult, Vring};
use lunette_store::{Cx, Sink};
use std::sync::mpsc;

/// Has the first command of a queue on another reactor taken after `end`, and returns what became of it.
fn taken_after(rig: &Rig, front: &mut FrontEnd, end: impl FnOnce(&mut FrontEnd)) -> CommandResult {
    let mut here: Vring = front.start(2, 0, 64);
    front.command(&mut here, &TEST_UNIT_READY, &[], 0);
    let there = front.start(3, 0x1_0000, 64);
    let (go, wait) = mpsc::channel::<()>();
    let take = move |cx: &mut dyn Cx| {
        let _ = wait.recv();
        let queues = Local::on(cx).queues.borrow().clone();
        let queue = queues.into_iter().find(|((_, index), _)| *index == 3).unwrap().1;
        queue.complete(0, Ok(0), cx);
    };
    rig.reactors.poster().post(ReactorId(1), Box::new(take));
    front.offer_command(&there, 0, DATA, &read_10(0, 1), &[], 512);
    end(front);
    let is_busy = |cx: &mut dyn Cx| Local::on(cx).connections.borrow().values().any(|one| one.is_busy());
    while !rig.reactors.call(ReactorId(0), is_busy).unwrap() {
        std::thread::yield_now();
    }
    drop(go);
    // There and back, and there again.
    [1, 0, 1].into_iter().for_each(|reactor| rig.reactors.call(ReactorId(reactor), |_| ()).unwrap());
    release(&rig.reactors, 1, 7);
    while rig.reactors.call(ReactorId(0), is_busy).unwrap() {
        std::thread::yield_now();
    }
    front.result(DATA, 0, 512)
}

#[test]
fn what_is_taken_late_is_aborted_with_its_connection() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let result = taken_after(&rig, &mut front, |front| front.hang_up());
    assert_eq!(result.response, 4, "RESET");
}

#[test]
fn what_is_taken_late_is_aborted_by_a_reset_and_does_not_hear_of_it() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let result = taken_after(&rig, &mut front, |front| {
        let message = front.protocol.reset_device();
        front.send(message);
    });
    assert_eq!(result.response, 4, "RESET");
    assert!(matches!(front.reply(), Some(Reply::Ack { success: true, .. })));
    let mut ring = front.start(2, 0x2_0000, 64);
    let first = front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    assert_eq!(first.sense[12..14], [0x29, 7], "I_T NEXUS LOSS OCCURRED");
}
