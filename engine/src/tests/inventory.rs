//! Logical units that come and go while initiators use others.

use super::masking::{luns, send, sense};
use super::*;
use InventoryChange::{Came, Went};
use TaskManagementFunction as Function;
use lunette_scsi::reservation::ReserveOutList;
use lunette_scsi::{AdditionalSense, Status};
use lunette_store::IoError;

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const REPORT_LUNS: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];

const INVENTORY: AdditionalSense = AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED;
const POWER_ON: AdditionalSense = AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED;
const MISSING: AdditionalSense = AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED;
const INQUIRY_DATA: AdditionalSense = AdditionalSense::INQUIRY_DATA_HAS_CHANGED;

/// What an initiator was told without asking.
#[derive(Default)]
struct Told(Mutex<Vec<InventoryChange>>);

impl AttentionObserver for Told {
    fn attention(&self, _: &LogicalUnit, _: u32, condition: AdditionalSense) {
        assert_ne!(condition, INVENTORY, "told once");
    }

    fn inventory_changed(&self, inventory: &Inventory, changes: &[InventoryChange]) {
        for change in changes {
            if let Came { lun } = *change {
                assert!(inventory.units().contains_key(&lun));
            }
        }
        self.0.lock().unwrap().extend(changes);
    }
}

/// A nexus on two reactors, which sees unit a as LUN 0 and has learnt that it is new; unit b is not seen yet.
struct Live {
    rig: Rig,
    b: Arc<LogicalUnit>,
    nexus: Arc<Nexus>,
    first: Initiator,
    second: Initiator,
    told: Arc<Told>,
}

fn toy(number: u64) -> Arc<LogicalUnit> {
    let identity = Identity::new(number.to_string(), Naa::locally_assigned(number));
    LogicalUnit::new("toy", identity, Box::new(Toy), Some(Arc::new(Held::new(1 << 20, ROOM))))
}

impl Live {
    fn new() -> Self {
        let mut rig = Rig::new(2);
        let told = Arc::new(Told::default());
        let nexus = Nexus::observed("iqn.guest,i,0x000000000001", rig.port.clone(), told.clone());
        let (first, second) = (rig.session(&nexus, 0), rig.session(&nexus, 1));
        let mut live = Self { rig, b: toy(2), nexus, first, second, told };
        assert_eq!(live.ready(0), Some(POWER_ON));
        assert_eq!(live.ready_by_second(0), None);
        live
    }

    fn change(&mut self, edit: impl FnOnce(&mut BTreeMap<u32, Arc<LogicalUnit>>)) {
        let poster = self.rig.sim.cx(0).poster();
        self.rig.port.luns().change(&*poster, edit);
    }

    fn attach(&mut self, lun: u32, unit: &Arc<LogicalUnit>) {
        self.change(|units| assert!(units.insert(lun, unit.clone()).is_none()));
    }

    fn detach(&mut self, lun: u32) {
        self.change(|units| assert!(units.remove(&lun).is_some()));
    }

    fn send(&mut self, lun: u32, cdb: &[u8], data_out: &[u8]) -> Option<(Outcome, Vec<u8>)> {
        send(&mut self.rig, &self.first, lun, cdb, data_out)
    }

    fn done(&mut self, lun: u32, cdb: &[u8]) -> (Outcome, Vec<u8>) {
        self.send(lun, cdb, &[]).expect("it ends by itself")
    }

    fn ready(&mut self, lun: u32) -> Option<AdditionalSense> {
        sense(&self.done(lun, &TEST_UNIT_READY).0)
    }

    fn ready_by_second(&mut self, lun: u32) -> Option<AdditionalSense> {
        sense(&send(&mut self.rig, &self.second, lun, &TEST_UNIT_READY, &[]).unwrap().0)
    }

    fn told(&self) -> Vec<InventoryChange> {
        std::mem::take(&mut *self.told.0.lock().unwrap())
    }
}

#[test]
fn who_stands_still_notices_no_change() {
    let mut live = Live::new();
    let (a, b) = (live.rig.unit.clone(), live.b.clone());
    live.attach(7, &b);
    assert_eq!([live.ready(7), live.ready(0)], [Some(POWER_ON), Some(INVENTORY)]);
    assert_eq!(live.done(0, &RESERVE_6).0.status, Status::GOOD);
    live.told();
    let users = |unit: &LogicalUnit| unit.users().len();
    assert_eq!((users(&a), users(&b)), (1, 1));
    let poster = live.rig.sim.cx(0).poster();
    live.rig.port.luns().change_unnoticed(&*poster, |units| drop(units.remove(&0)));
    live.rig.sim.settle();
    assert_eq!((live.told(), users(&a), live.ready(7)), (vec![], 0, None));
    let other = Nexus::new(
        "iqn.other,i,0x000000000001",
        TargetPort::new("other", 2, Protocol::ISCSI, [(0, a.clone())].into()),
    );
    let other = live.rig.session(&other, 0);
    let ready = |live: &mut Live| sense(&send(&mut live.rig, &other, 0, &TEST_UNIT_READY, &[]).unwrap().0);
    assert_eq!([ready(&mut live), ready(&mut live)], [Some(POWER_ON), None], "what was reserved is free");
    live.rig.port.luns().change_unnoticed(&*poster, |units| drop(units.insert(0, a.clone())));
    assert_eq!((live.told(), live.ready(7)), (vec![], None));
    assert_eq!(live.ready(0), Some(POWER_ON), "who does not go on begins anew");
}

#[test]
fn a_unit_comes_and_goes_beside_another() {
    let mut live = Live::new();
    let b = live.b.clone();
    assert_eq!(live.ready(7), Some(MISSING));
    live.attach(7, &b);
    assert_eq!(live.told(), [Came { lun: 7 }]);
    assert_eq!(live.ready_by_second(0), Some(INVENTORY), "whoever asks first");
    assert_eq!(live.ready(0), None);
    assert_eq!([live.ready(7), live.ready(7)], [Some(POWER_ON), None], "nothing else: it is new");
    assert_eq!(luns(&live.done(0, &REPORT_LUNS).1), [0, 7]);
    live.detach(7);
    assert_eq!(live.told(), [Went { lun: 7 }]);
    // Before any message has been read.
    assert_eq!(live.ready_by_second(7), Some(MISSING));
    assert_eq!(live.ready(7), Some(MISSING));
    assert_eq!(luns(&live.done(0, &REPORT_LUNS).1), [0]);
    assert_eq!(live.ready(0), None, "the initiator has looked");
    live.rig.sim.settle();
    assert_eq!(live.nexus.itl_count(), 2, "with a, and with what stands for b");
}

#[test]
fn who_saw_nothing_and_who_sees_nothing_is_told() {
    let mut live = Live::new();
    let a = live.rig.unit.clone();
    live.detach(0);
    assert_eq!((live.told(), live.ready(0)), (vec![Went { lun: 0 }], Some(MISSING)));
    assert_eq!(luns(&live.done(0, &REPORT_LUNS).1), [0u8; 0]);
    live.attach(0, &a);
    assert_eq!((live.told(), live.ready(0)), (vec![Came { lun: 0 }], Some(POWER_ON)), "as if it were new");
    live.change(|_| ());
    assert_eq!((live.told(), live.ready(0)), (vec![], None), "nothing has changed");
}

#[test]
fn a_number_is_another_unit_at_once_and_what_has_begun_comes_to_its_end() {
    let mut live = Live::new();
    let (a, b) = (live.rig.unit.clone(), live.b.clone());
    assert!(live.send(0, &READ, &[]).is_none());
    live.change(|units| drop(units.insert(0, b)));
    assert_eq!(live.told(), [Went { lun: 0 }, Came { lun: 0 }]);
    assert_eq!(live.ready_by_second(0), Some(POWER_ON));
    assert!(live.send(0, &READ, &[]).is_none(), "of the new one");
    live.rig.sim.settle();
    let tasks = |unit: &LogicalUnit| unit.met().iter().filter(|(_, itl)| itl.has_left()).count();
    assert_eq!((tasks(&a), tasks(&live.b)), (1, 0), "what is between the two is kept for it");
    live.rig.complete_all();
    assert_eq!(live.first.good(), [5, 5]);
    assert_eq!(tasks(&a), 0);
}

#[test]
fn a_unit_that_is_seen_twice_stays_where_it_is_still_seen() {
    let mut live = Live::new();
    let a = live.rig.unit.clone();
    live.attach(3, &a);
    assert_eq!([live.ready(0), live.ready(3)], [Some(INVENTORY), None]);
    assert_eq!(live.done(3, &RESERVE_6).0.status, Status::GOOD);
    live.detach(3);
    assert_eq!([live.ready(3), live.ready(0), live.ready(0)], [Some(MISSING), Some(INVENTORY), None]);
    let other = Nexus::new("iqn.other,i,0x000000000001", live.rig.port.clone());
    let other = live.rig.session(&other, 0);
    let conflicts = |live: &mut Live| {
        send(&mut live.rig, &other, 0, &TEST_UNIT_READY, &[]);
        let (outcome, _) = send(&mut live.rig, &other, 0, &TEST_UNIT_READY, &[]).unwrap();
        outcome.status == Status::RESERVATION_CONFLICT
    };
    assert!(conflicts(&mut live), "it is the same nexus still");
    // By another map as well.
    let map = live.rig.port.map([(0, a.clone())].into());
    live.detach(0);
    assert_eq!(live.rig.unit.ports().len(), 1);
    live.change(|units| drop(units.insert(0, a)));
    assert!(!conflicts(&mut live), "the reservation ended when the unit was not seen any more");
    drop(map);
}

#[test]
fn what_an_initiator_has_asked_for_ends_but_not_its_registration() {
    let mut live = Live::new();
    let a = live.rig.unit.clone();
    assert!(live.send(0, &READ, &[]).is_none());
    // It reserves when it has its data, which is after the unit has gone.
    let cdb = Cdb::new(&RESERVE_6).unwrap();
    let frame = CommandFrame { cookie: 6, tag: 6, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    let Admission::Admitted { task, .. } = live.first.session.admit(&frame, live.rig.sim.cx(0)) else {
        panic!("not admitted")
    };
    let list = ReserveOutList::new(0, 0xa).encode();
    let registered = live.send(0, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list);
    assert_eq!(registered.unwrap().0.status, Status::GOOD);
    live.first.events();
    live.detach(0);
    live.first.session.start(task, Sg::empty(), Sg::empty(), live.rig.sim.cx(0));
    live.rig.sim.settle();
    assert!(!a.is_reserved(), "nobody would end it");
    assert_eq!(a.reservations().registrations().len(), 1);
    live.rig.complete_all();
    assert_eq!(live.first.good().last(), Some(&5), "what was under way is not disturbed");
}

#[test]
fn an_allegiance_ends_with_the_sight_of_its_unit_and_none_begins_later() {
    let mut read = READ;
    read[9] = 4;
    let mut live = Live::new();
    let a = live.rig.unit.clone();
    for fails_before in [true, false] {
        assert!(live.send(0, &read, &[]).is_none());
        if fails_before {
            live.rig.at_store();
            live.rig.complete_one(Err(IoError::Os(5)));
            assert!(a.has_allegiance());
        }
        live.detach(0);
        live.rig.at_store();
        live.rig.complete_one(Err(IoError::Os(5)));
        assert!(!a.has_allegiance());
        let events = live.first.events();
        let [Event::Ended(5, Completion::Ended(outcome))] = &events[..] else { panic!("{events:?}") };
        assert_eq!(sense(outcome), Some(AdditionalSense::UNRECOVERED_READ_ERROR), "which is told");
        live.attach(0, &a);
        live.ready(0);
    }
}

#[test]
fn the_end_of_a_nexus_reaches_what_it_has_at_units_that_it_does_not_see() {
    let mut live = Live::new();
    let (a, b) = (live.rig.unit.clone(), live.b.clone());
    for resets in [true, false] {
        live.change(|units| drop(units.insert(0, a.clone())));
        while live.ready(0).is_some() {}
        assert!(live.send(0, &READ, &[]).is_none());
        live.change(|units| drop(units.insert(0, b.clone())));
        live.rig.sim.settle();
        if resets {
            live.rig.manage(&live.second, Function::ITNexusReset, 0);
        } else {
            live.second.session.close(1000, live.rig.sim.cx(1));
        }
        assert_eq!(live.rig.at_store(), 1);
        assert_eq!(live.second.events(), [], "the store has the memory of the first");
        live.rig.complete_all();
        let aborted = Completion::Aborted(crate::Aborted::NexusLost);
        assert_eq!(live.first.events(), [Event::Ended(5, aborted)]);
        assert_eq!(live.second.events(), [Event::Managed(1000, ServiceResponse::FunctionComplete)]);
    }
}

#[test]
fn who_does_not_see_a_unit_any_more_is_pre_empted_there_like_others() {
    let mut live = Live::new();
    let a = live.rig.unit.clone();
    let map = live.rig.port.map([(0, a)].into());
    let other = Nexus::mapped("iqn.other,i,0x000000000001", live.rig.port.clone(), map, None);
    let other = live.rig.session(&other, 1);
    send(&mut live.rig, &other, 0, &TEST_UNIT_READY, &[]);
    let out = |action, key, action_key| {
        let kind = lunette_scsi::ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY.0;
        ([0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], ReserveOutList::new(key, action_key).encode())
    };
    let (cdb, list) = out(0, 0, 0xa);
    assert_eq!(live.send(0, &cdb, &list).unwrap().0.status, Status::GOOD);
    let (cdb, list) = out(0, 0, 0xb);
    assert_eq!(send(&mut live.rig, &other, 0, &cdb, &list).unwrap().0.status, Status::GOOD);
    assert!(live.send(0, &READ, &[]).is_none());
    live.detach(0);
    live.rig.sim.settle();
    let (cdb, list) = out(5, 0xb, 0xa);
    assert!(send(&mut live.rig, &other, 0, &cdb, &list).is_none(), "it waits for the store");
    live.rig.complete_all();
    let aborted = Completion::Aborted(crate::Aborted::ByAnotherNexus);
    assert_eq!(live.first.events(), [Event::Ended(5, aborted)]);
    assert_eq!(other.good(), [5]);
}

#[test]
fn a_unit_knows_the_ports_that_show_it() {
    let mut live = Live::new();
    let (a, b) = (live.rig.unit.clone(), live.b.clone());
    let second = TargetPort::in_group(2, "toy,t,0x0002", 2, Protocol::ISCSI, BTreeMap::new());
    let ports = |unit: &LogicalUnit| unit.ports().iter().map(|port| port.relative_id).collect::<Vec<_>>();
    let poster = live.rig.sim.cx(0).poster();
    assert_eq!((ports(&a), ports(&b)), (vec![1], vec![]));
    let map = second.map([(1, a.clone())].into());
    assert_eq!(live.ready(0), Some(INQUIRY_DATA), "there is another port");
    second.luns().change(&*poster, |units| drop(units.insert(0, a.clone())));
    assert_eq!(live.ready(0), None, "which is one however many maps it has");
    assert_eq!(a.port_groups().len(), 2);
    second.luns().change(&*poster, |units| units.clear());
    assert_eq!((ports(&a), live.ready(0)), (vec![1, 2], None));
    map.change(&*poster, |units| units.clear());
    assert_eq!((ports(&a), live.ready(0)), (vec![1], Some(INQUIRY_DATA)));
    assert_eq!(a.port_groups().len(), 1);
    live.attach(1, &b);
    drop(second.map([(1, b.clone())].into()));
    assert_eq!(ports(&b), [1], "a map that is no more shows nothing");
}

#[test]
fn nothing_is_left_of_sessions_nexuses_and_maps_that_are_gone() {
    let mut live = Live::new();
    let a = live.rig.unit.clone();
    let ports = Arc::strong_count(&live.rig.port);
    let sets = |live: &mut Live| crate::engine::Engine::on(live.rig.sim.cx(0)).set_count();
    let mut counts = Vec::new();
    for number in 0..50 {
        let port = TargetPort::new("toy,t,0x0003", 3, Protocol::ISCSI, [(0, a.clone())].into());
        let nexus = Nexus::new("iqn.other,i,0x000000000001", port);
        let session = live.rig.session(&nexus, 0);
        for lun in [0, 9] {
            send(&mut live.rig, &session, lun, &TEST_UNIT_READY, &[]);
        }
        drop((session, nexus));
        if number > 0 {
            counts.push((sets(&mut live), a.ports().len(), a.nexuses().len()));
        }
    }
    counts.dedup();
    assert_eq!(counts.len(), 1, "{counts:?}");
    assert_eq!(Arc::strong_count(&live.rig.port), ports);
}
