//! What other initiators hold back keeps no front end from what it has to wait for.

use super::*;
use crate::local::Local;
use crate::testing::front_end::Vring;
use lunette_store::Cx;

const NACA: u8 = 4;
const ORDERED: u8 = 1;
const BUSY: u8 = 8;

/// Two front ends of one unit. What the second has sent is suspended by an auto contingent allegiance of the first.
struct Pair {
    rig: Rig,
    other: Option<Handle>,
    first: (FrontEnd, Vring),
    second: (FrontEnd, Vring),
    _folder: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        let rig = Rig::held();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("other.sock");
        let other = start(&rig.reactors, &socket, &rig.targets);
        let ready = |socket: &Path| {
            let mut front = FrontEnd::ready(socket, MEMORY);
            let mut ring = front.start(2, 0, 64);
            front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
            (front, ring)
        };
        let (first, second) = (ready(&rig.socket), ready(&socket));
        let mut pair = Self { rig, other: Some(other), first, second, _folder: folder };
        pair.suspend();
        pair
    }

    fn suspend(&mut self) {
        let (front, ring) = &self.first;
        front.offer_command(ring, 0, DATA, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, NACA], &[], 512);
        wait_held(&self.rig.reactors, 0);
        self.second.0.attribute = ORDERED;
        self.second.0.offer_command(&self.second.1, 0, DATA, &read_10(0, 1), &[], 512);
        while !self.both_wait() {
            std::thread::yield_now();
        }
        held::fail(&self.rig.reactors, 0);
        let (front, ring) = &mut self.first;
        let (_, written) = front.used(ring);
        assert_eq!(front.result(DATA, written, 512).status, 2, "CHECK CONDITION");
        assert_eq!(held(&self.rig.reactors, 0), 0);
    }

    /// Whether both commands have been taken.
    fn both_wait(&self) -> bool {
        let waiting = |cx: &mut dyn Cx| {
            let queues = Local::on(cx).queues.borrow().clone();
            queues.values().map(|queue| queue.state().in_flight).sum::<u16>()
        };
        self.rig.reactors.call(ReactorId(0), waiting).unwrap() == 2
    }

    fn turned_back(&mut self) -> u8 {
        let (front, ring) = &mut self.second;
        let (_, written) = front.used(ring);
        front.result(DATA, written, 512).status
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Some(other) = self.other.take()
            && !std::thread::panicking()
        {
            other.stop();
        }
    }
}

#[test]
fn a_ring_stops_though_its_commands_are_suspended() {
    let mut pair = Pair::new();
    assert_eq!(pair.second.0.stop(2), 2);
    assert_eq!(pair.turned_back(), BUSY);
}

#[test]
fn memory_changes_though_commands_are_suspended() {
    let mut pair = Pair::new();
    let front = &mut pair.second.0;
    let memory = memfd(0x1000);
    let message = front.protocol.add_mem_reg(region(1 << 30, 0x1000, 0), memory);
    front.done(message);
    assert_eq!(pair.turned_back(), BUSY);
}
