//! Logical units that end while others are served.

use super::masking::{send, sense};
use super::steps::SLEEP;
use super::*;
use crate::Steps;
use crate::engine::Engine;
use TaskManagementFunction as Function;
use lunette_scsi::{AdditionalSense, Status};
use lunette_store::layer::{fault::Fault, stats::Stats};
use lunette_store::{Backing, Caps, IoError, IoId, Op, Store, Submit};
use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const MISSING: AdditionalSense = AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED;

/// How often a unit was told to be in nobody's hands.
type Ends = Arc<AtomicUsize>;

impl Rig {
    fn retire(&mut self, unit: &LogicalUnit) -> Ends {
        let ends = Ends::default();
        let done = ends.clone();
        let retire = unit.retire(&*self.sim.cx(0).poster(), move || {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert!(retire, "it was not retired before");
        ends
    }

    fn take_out(&mut self) {
        self.port.luns().change(&*self.sim.cx(0).poster(), |units| units.clear());
    }
}

fn count(ends: &Ends) -> usize {
    ends.load(Ordering::Relaxed)
}

/// The commands that ended because their unit is gone, in order.
fn missing(of: &Initiator) -> Vec<u64> {
    let ended = of.events().into_iter().map(|event| match event {
        Event::Ended(tag, Completion::Ended(outcome)) if sense(&outcome) == Some(MISSING) => tag,
        other => panic!("{other:?}"),
    });
    ended.collect()
}

#[test]
fn everything_ends_before_a_unit_is_in_nobodys_hands() {
    let mut rig = Rig::new(3);
    let nexus = Nexus::new("guest", rig.port.clone());
    let (a, b) = (rig.open(&nexus, 0), rig.open(&nexus, 1));
    let idle = rig.open(&nexus, 2);
    // At the store, asleep, behind an ORDERED one, and without its data.
    rig.read(&a, 1, "simple");
    assert_eq!(rig.send(&a, 2, "simple", &SLEEP.spec), None);
    rig.read(&b, 3, "ordered");
    rig.read(&b, 4, "simple");
    let cdb = Cdb::new(&READ).unwrap();
    let frame = CommandFrame { tag: 5, cookie: 5, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    assert!(matches!(b.session.admit(&frame, rig.sim.cx(1)), Admission::Admitted { .. }));
    assert_eq!(rig.at_store(), 1);
    rig.take_out();
    let unit = rig.unit.clone();
    let ends = rig.retire(&unit);
    rig.sim.settle();
    assert_eq!((missing(&a), missing(&b)), (vec![2], vec![3, 4, 5]));
    assert_eq!(count(&ends), 0, "the store has the memory of one");
    rig.complete_all();
    assert_eq!(missing(&a), [1]);
    assert_eq!(count(&ends), 1);
    let weak = Arc::downgrade(&unit);
    drop(unit);
    assert_eq!(weak.strong_count(), 1, "that of the rig");
    assert!(!rig.unit.retire(&*rig.sim.cx(0).poster(), || panic!("it was retired before")));
    assert_eq!(sense(&send(&mut rig, &idle, 0, &TEST_UNIT_READY, &[]).unwrap().0), Some(MISSING));
}

#[test]
fn a_unit_that_is_still_to_be_seen_takes_no_commands() {
    let mut rig = Rig::new(2);
    let nexus = Nexus::new("guest", rig.port.clone());
    let (a, b) = (rig.open(&nexus, 0), rig.open(&nexus, 1));
    rig.read(&a, 1, "simple");
    let unit = rig.unit.clone();
    let ends = rig.retire(&unit);
    // Before any message has been read, and after.
    for _ in 0..2 {
        for from in [&a, &b] {
            assert_eq!(sense(&send(&mut rig, from, 0, &TEST_UNIT_READY, &[]).unwrap().0), Some(MISSING));
        }
        rig.complete_all();
        a.events();
    }
    let inquiry = send(&mut rig, &b, 0, &[0x12, 0, 0, 0, 36, 0], &[]).unwrap();
    assert_eq!((inquiry.0.status, inquiry.1[0]), (Status::GOOD, 0x7f), "as if it were not there");
    assert_eq!((count(&ends), Arc::strong_count(&unit)), (1, 3), "the rig's and the map's");
    let never_used = LogicalUnit::new("b", unit.identity.clone(), Box::new(Toy), None);
    let ends = rig.retire(&never_used);
    assert_eq!(count(&ends), 1, "at once");
}

#[test]
fn work_in_the_background_is_asked_to_end_and_none_begins() {
    let mut rig = Rig::new(2);
    rig.initiator(1);
    let unit = rig.unit.clone();
    let poster = rig.sim.cx(0).poster();
    let saved = Arc::new(Mutex::new(Vec::new()));
    let note = saved.clone();
    unit.begin(&*poster, async move |steps: Steps| {
        assert!(!steps.is_ending());
        let slept = steps.sleep(Duration::from_secs(3600)).await;
        note.lock().unwrap().push((slept, steps.is_ending()));
        // It can still use the store.
        let memory = Rc::new(Memory::zeroed(1));
        let read = steps.read(0, &memory, 1).await;
        let slept = steps.sleep(Duration::ZERO).await;
        note.lock().unwrap().push((read, slept.is_err()));
        Ok(())
    });
    rig.sim.settle();
    rig.take_out();
    let ends = rig.retire(&unit);
    assert_eq!((rig.at_store(), count(&ends)), (1, 0));
    rig.complete_one(Ok(1));
    assert_eq!(*saved.lock().unwrap(), [(Err(IoError::Aborted), true), (Ok(1), true)]);
    assert_eq!((count(&ends), Arc::strong_count(&unit)), (1, 2));
    let other = LogicalUnit::new("b", unit.identity.clone(), Box::new(Toy), None);
    other.begin(&*poster, async move |_| panic!("it begins"));
    let ends = rig.retire(&other);
    assert_eq!(count(&ends), 0, "it is on its way");
    rig.sim.settle();
    assert_eq!((count(&ends), Arc::strong_count(&other)), (1, 1));
    let begun = Arc::new(());
    let held = begun.clone();
    unit.begin(&*poster, async move |_| {
        drop(held);
        panic!("it begins");
    });
    rig.sim.settle();
    assert_eq!(Arc::strong_count(&begun), 1);
}

#[test]
fn a_copy_of_another_unit_does_not_keep_it() {
    let mut rig = Rig::new(1);
    let name = |number| Naa::locally_assigned(number);
    let unit = |number: u64| {
        let identity = Identity::new(number.to_string(), name(number));
        LogicalUnit::new("toy", identity, Box::new(Toy), Some(Arc::new(Held::new(1 << 20, ROOM))))
    };
    let (own, other) = (unit(1), unit(2));
    rig.port = TargetPort::new("t", 1, Protocol::ISCSI, [(0, own), (1, other.clone())].into_iter().collect());
    let copier = Nexus::new("copier", rig.port.clone());
    let copier = rig.session(&copier, 0);
    for lun in [0, 1] {
        send(&mut rig, &copier, lun, &TEST_UNIT_READY, &[]);
    }
    let list = super::masking::copy_list([1, 0]);
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x83, list.len() as u8);
    assert!(send(&mut rig, &copier, 0, &cdb, &list).is_none());
    assert_eq!(rig.at_store(), 1, "a read of the other unit");
    rig.port.luns().change(&*rig.sim.cx(0).poster(), |units| drop(units.remove(&1)));
    let ends = rig.retire(&other);
    rig.sim.settle();
    assert_eq!(count(&ends), 0);
    rig.complete_all();
    assert_eq!((count(&ends), Arc::strong_count(&other)), (1, 1));
    let events = copier.events();
    let [Event::Ended(5, Completion::Ended(outcome))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(outcome.sense.as_ref().map(|sense| sense.key), Some(lunette_scsi::SenseKey::COPY_ABORTED));
}

/// A store that is in somebody's hands as long as there is a handle.
struct Counting(Arc<()>, Caps);

struct Handle(#[expect(dead_code, reason = "it is counted")] Arc<()>, Caps);

impl Backing for Counting {
    fn caps(&self) -> &Caps {
        &self.1
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(Handle(self.0.clone(), self.1.clone()))
    }
}

impl Store for Handle {
    fn caps(&self) -> &Caps {
        &self.1
    }

    fn submit(&self, _: Op<'_>, _: IoId, _: &mut dyn Cx) -> Submit {
        Submit::Done(Ok(1))
    }
}

#[test]
fn no_reactor_has_anything_of_the_store_when_it_is_done() {
    let mut rig = Rig::new(2);
    let handles = Arc::new(());
    let store: Arc<dyn Backing> =
        Arc::new(Counting(handles.clone(), Backing::caps(&Held::new(1 << 20, ROOM)).clone()));
    let store = Arc::new(Stats::new(Arc::new(Fault::new(store, "delay:1".parse().unwrap()))));
    let unit = LogicalUnit::new("toy", rig.unit.identity.clone(), Box::new(Toy), Some(store));
    rig.port = TargetPort::new("toy,t,0x0001", 1, Protocol::ISCSI, [(0, unit.clone())].into());
    let nexus = Nexus::new("guest", rig.port.clone());
    for reactor in [0, 1] {
        let session = rig.session(&nexus, reactor);
        send(&mut rig, &session, 0, &TEST_UNIT_READY, &[]);
    }
    assert_eq!(Arc::strong_count(&handles), 4);
    rig.take_out();
    let seen = Arc::new(AtomicUsize::new(0));
    let (note, weak) = (seen.clone(), Arc::downgrade(&handles));
    unit.retire(&*rig.sim.cx(0).poster(), move || note.store(weak.strong_count(), Ordering::Relaxed));
    rig.sim.settle();
    assert_eq!(seen.load(Ordering::Relaxed), 2, "this and the store itself");
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % limit
    }
}

/// Commands hop to the unit, which comes and goes, is reset and ends.
fn hop_and_end(seed: u64) {
    let mut numbers = Numbers(seed);
    let mut rig = Rig::new(3);
    rig.unit.live_on([ReactorId(1)]);
    let nexus = Nexus::new("guest", rig.port.clone());
    let queues = [0, 1, 2].map(|at| rig.open(&nexus, at));
    let (mut sent, mut managed, mut ends) = ([0; 3], 0, None);
    for turn in 0..200 {
        let from = numbers.below(3) as usize;
        match numbers.below(20) {
            0..8 => {
                let command = if numbers.below(5) == 0 { &SLEEP.spec } else { &super::READ.spec };
                let attribute = ["simple", "simple", "ordered"][numbers.below(3) as usize];
                sent[from] += u32::from(rig.send(&queues[from], turn, attribute, command).is_none());
            }
            8 => {
                let unit = rig.unit.clone();
                rig.port.luns().change(&*rig.sim.cx(0).poster(), |units| match units.remove(&0) {
                    Some(_) => {}
                    None => drop(units.insert(0, unit)),
                });
            }
            9 => {
                let functions = [Function::LogicalUnitReset, Function::ITNexusReset, Function::AbortTaskSet];
                rig.manage(&queues[from], functions[numbers.below(3) as usize], 0);
                managed += 1;
            }
            10..12 => rig.complete(0, Ok(1)),
            12 if turn > 150 && ends.is_none() => ends = Some(rig.retire(&rig.unit.clone())),
            _ => drop(rig.sim.step(from)),
        }
    }
    let ends = ends.unwrap_or_else(|| rig.retire(&rig.unit.clone()));
    rig.complete_all();
    rig.pass(Duration::from_secs(10));
    rig.take_out();
    let told: Vec<Vec<Event>> = queues.iter().map(Initiator::events).collect();
    let ended = |events: &Vec<Event>| events.iter().filter(|event| matches!(event, Event::Ended(..))).count();
    let all: Vec<_> = told.iter().map(|events| ended(events) as u32).collect();
    assert_eq!(all, sent, "seed {seed}");
    let answers: usize = told.iter().map(|events| events.len() - ended(events)).sum();
    assert_eq!((answers, count(&ends), Arc::strong_count(&rig.unit)), (managed, 1, 1), "seed {seed}");
}

#[test]
fn commands_that_hop_end_with_their_unit() {
    (0..300).for_each(hop_and_end);
}

/// Units come, are used by two nexuses that stay, and end.
fn come_and_go(cycles: usize) {
    let mut rig = Rig::new(2);
    let nexuses = ["a", "b"].map(|name| Nexus::new(name, rig.port.clone()));
    let initiators = [0, 1].map(|at| rig.open(&nexuses[at], at));
    let poster = rig.sim.cx(0).poster();
    let kept = rig.unit.clone();
    let mut weak: Vec<Weak<LogicalUnit>> = Vec::new();
    let mut counts = Vec::new();
    for cycle in 0..cycles {
        let identity = Identity::new("2", Naa::locally_assigned(2));
        let unit = LogicalUnit::new("toy", identity, Box::new(Toy), Some(Arc::new(Held::new(1 << 20, ROOM))));
        rig.port.luns().change(&*poster, |units| drop(units.insert(1, unit.clone())));
        for from in &initiators {
            assert!(send(&mut rig, from, 1, &TEST_UNIT_READY, &[]).is_some());
        }
        assert!(send(&mut rig, &initiators[0], 1, &READ, &[]).is_none());
        rig.port.luns().change(&*poster, |units| drop(units.remove(&1)));
        let ends = rig.retire(&unit);
        rig.complete_all();
        assert_eq!((count(&ends), Arc::strong_count(&unit)), (1, 1), "in cycle {cycle}");
        initiators[0].events();
        weak = vec![Arc::downgrade(&unit)];
        let engines = [0, 1].map(|reactor| Engine::on(rig.sim.cx(reactor)).set_count());
        counts.push((engines, nexuses.each_ref().map(|nexus| nexus.itl_count()), kept.nexuses().len()));
        counts.dedup();
    }
    assert_eq!(counts.len(), 1, "{counts:?}");
    assert_eq!(weak[0].strong_count(), 0);
    let itls = nexuses.each_ref().map(|nexus| nexus.itl(&kept).unwrap());
    assert!(itls.iter().all(|itl| itl.attention().is_some()), "that the inventory has changed, once");
}

#[test]
fn units_that_come_and_go_leave_nothing_behind() {
    let full = std::env::var_os("LUNETTE_TEST_FULL").is_some();
    come_and_go(if full { 100_000 } else { 1000 });
}
