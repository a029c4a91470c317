//! Aborted reads whose memory is the transport's own.

use super::*;
use crate::{Aborted, GivenUp};
use TaskManagementFunction as Function;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A transport that gives up its memory.
#[derive(Default)]
struct Generous {
    log: Rc<Log>,
    /// The commands whose memory it was asked for.
    asked: RefCell<Vec<u64>>,
    /// How often the store has let go of what was given up.
    back: Rc<Cell<u32>>,
}

impl Responder for Generous {
    fn command_ended(&self, cookie: u64, completion: Completion, cx: &mut dyn Cx) {
        self.log.command_ended(cookie, completion, cx);
    }

    fn management_ended(&self, cookie: u64, response: ServiceResponse, cx: &mut dyn Cx) {
        self.log.management_ended(cookie, response, cx);
    }

    fn give_up(&self, cookie: u64) -> Option<GivenUp> {
        self.asked.borrow_mut().push(cookie);
        let back = self.back.clone();
        Some(Box::new(move |_| back.set(back.get() + 1)))
    }
}

/// An initiator that comes by such a transport, and has begun to read (1).
fn reading(rig: &mut Rig, reactor: usize) -> (Initiator, Rc<Generous>) {
    let transport = Rc::new(Generous::default());
    let responder: Rc<dyn Responder> = transport.clone();
    let nexus = Nexus::new("generous", rig.port.clone());
    let session = Session::open(nexus, Rc::downgrade(&responder), rig.sim.cx(reactor));
    let from = Initiator { reactor, session, log: transport.log.clone(), memory: Memory::zeroed(1) };
    rig.send(&from, 0, "simple", &READ.spec);
    rig.complete_all();
    from.events();
    rig.read(&from, 1, "simple");
    (from, transport)
}

const COMPLETE: ServiceResponse = ServiceResponse::FunctionComplete;

#[test]
fn a_read_ends_at_once_and_its_memory_stays_with_the_store() {
    let cases = [
        (Function::AbortTask, Aborted::ByItsNexus),
        (Function::AbortTaskSet, Aborted::ByItsNexus),
        (Function::LogicalUnitReset, Aborted::ByReset),
        (Function::ITNexusReset, Aborted::NexusLost),
    ];
    for (function, why) in cases {
        let mut rig = Rig::new(2);
        let (from, transport) = reading(&mut rig, 1);
        rig.manage(&from, function, 1);
        assert_eq!(rig.at_store(), 1);
        let ended = Event::Ended(1, Completion::Aborted(why));
        assert_eq!(from.events(), [ended, Event::Managed(1000, COMPLETE)], "{function:?}");
        assert_eq!((transport.asked.take(), transport.back.get()), (vec![1], 0));
        rig.complete_all();
        assert_eq!((from.events(), transport.back.get()), (vec![], 1));
    }
}

/// As all are once the unit has seen a claim.
#[test]
fn a_read_of_several_steps_keeps_its_range_until_the_store_lets_go() {
    let mut rig = Rig::new(1);
    let other = rig.initiator(0);
    assert_eq!(rig.send(&other, 9, "simple", &ranges::CLAIM.spec), None);
    rig.complete_all();
    assert_eq!(other.good(), [9]);
    let (from, transport) = reading(&mut rig, 0);
    assert_eq!(rig.send(&other, 10, "simple", &ranges::CLAIM.spec), None);
    rig.manage(&from, Function::AbortTask, 1);
    assert_eq!(rig.at_store(), 1);
    let ended = Event::Ended(1, Completion::Aborted(Aborted::ByItsNexus));
    assert_eq!(from.events(), [ended, Event::Managed(1000, COMPLETE)]);
    rig.complete_one(Ok(1));
    assert_eq!((transport.back.get(), rig.at_store()), (1, 1), "the claim is at work");
    rig.complete_all();
    assert_eq!((other.good(), from.events()), (vec![10], vec![]));
}

#[test]
fn the_unit_is_stuck_for_as_long_as_its_store_has_the_read() {
    let mut rig = Rig::new(1);
    rig.unit.set_stuck_after(Some(Duration::from_secs(8)));
    let (from, transport) = reading(&mut rig, 0);
    rig.manage(&from, Function::AbortTask, 1);
    let pass = |rig: &mut Rig, seconds| (0..seconds).for_each(|_| rig.pass(Duration::from_secs(1)));
    pass(&mut rig, 10);
    assert!(rig.unit.not_ready().is_some());
    rig.complete_all();
    assert_eq!(transport.back.get(), 1);
    pass(&mut rig, 2);
    assert!(rig.unit.not_ready().is_none());
}

#[test]
fn a_store_has_it_since_its_command_came() {
    let mut rig = Rig::new(1);
    rig.pass(Duration::from_secs(100));
    let (from, _transport) = reading(&mut rig, 0);
    rig.manage(&from, Function::AbortTask, 1);
    let held = |rig: &mut Rig| crate::held_by_stores(Duration::from_secs(10), rig.sim.cx(0)).len();
    rig.pass(Duration::from_secs(9));
    assert_eq!(held(&mut rig), 0);
    rig.pass(Duration::from_secs(1));
    assert_eq!(held(&mut rig), 1);
    rig.complete_all();
    assert_eq!(held(&mut rig), 0);
}

#[test]
fn a_session_ends_without_it_and_what_waits_for_room_comes_when_it_has_gone() {
    let mut rig = Rig::new(1);
    let other = rig.initiator(0);
    let (from, transport) = reading(&mut rig, 0);
    for tag in 2..=ROOM as u64 {
        rig.read(&from, tag, "simple");
    }
    rig.read(&other, 50, "simple");
    from.session.close(1000, rig.sim.cx(0));
    assert_eq!(rig.at_store(), ROOM);
    let events = from.events();
    assert_eq!((events.len(), events.last()), (ROOM + 1, Some(&Event::Managed(1000, COMPLETE))));
    assert_eq!(transport.asked.borrow().len(), ROOM);
    rig.complete_one(Ok(1));
    assert_eq!(rig.at_store(), ROOM, "the other's has come in its place");
    rig.complete_all();
    assert_eq!((other.good(), transport.back.get()), (vec![50], ROOM as u32));
}

#[test]
fn what_may_do_more_than_read_is_waited_for() {
    let mut rig = Rig::new(1);
    let (from, transport) = reading(&mut rig, 0);
    rig.complete_all();
    from.events();
    assert_eq!(rig.send(&from, 2, "simple", &TWO_STEPS.spec), None);
    rig.manage(&from, Function::LogicalUnitReset, 0);
    assert_eq!(rig.at_store(), 1);
    assert_eq!((from.events(), transport.asked.take()), (vec![], vec![]));
    rig.complete_all();
    assert_eq!(from.events().len(), 2);
}

/// Whether the unit was retired before or after the read was detached, and whether or not that was done already.
#[test]
fn who_ends_the_unit_waits_for_the_store() {
    for detached_first in [false, true] {
        let mut rig = Rig::new(1);
        let (from, transport) = reading(&mut rig, 0);
        rig.manage(&from, Function::AbortTask, 1);
        if detached_first {
            rig.sim.settle();
        }
        let is_over = Arc::<AtomicBool>::default();
        let over = is_over.clone();
        assert!(rig.unit.retire(&*rig.sim.cx(0).poster(), move || over.store(true, Ordering::Relaxed)));
        assert_eq!(rig.at_store(), 1);
        let ended = Event::Ended(1, Completion::Aborted(Aborted::ByItsNexus));
        assert_eq!(from.events(), [ended, Event::Managed(1000, COMPLETE)]);
        assert!(!is_over.load(Ordering::Relaxed), "the store has its memory: {detached_first}");
        rig.complete_all();
        assert!(is_over.load(Ordering::Relaxed) && transport.back.get() == 1);
    }
}
