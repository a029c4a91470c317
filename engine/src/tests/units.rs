use super::*;
use crate::CommandFilter;
use lunette_scsi::{AdditionalSense, Sense, SenseKey, Status};

fn execute(rig: &mut Rig, from: &Initiator, lun: Lun, cdb: &[u8]) -> (Outcome, Vec<u8>) {
    let cdb = Cdb::new(cdb).unwrap();
    let frame = CommandFrame { tag: 1, cookie: 1, ..CommandFrame::new(lun, &cdb) };
    let memory = Memory::zeroed(4096);
    let data_in = [memory.seg()];
    let cx = rig.sim.cx(from.reactor);
    let Started::Ended(outcome) = from.session.execute(&frame, Sg::empty(), Sg::new(&data_in), cx) else {
        panic!()
    };
    let data = memory.to_vec()[..outcome.moved_in as usize].to_vec();
    (outcome, data)
}

fn sense(outcome: &Outcome) -> &Sense {
    assert_eq!(outcome.status, Status::CHECK_CONDITION);
    outcome.sense.as_ref().unwrap()
}

#[test]
fn a_missing_unit_says_so() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let nowhere = Lun::from_index(3);
    let (_, inquiry) = execute(&mut rig, &a, nowhere, &[0x12, 0, 0, 0, 36, 0]);
    assert_eq!(inquiry[0], 0x7f);
    let (outcome, _) = execute(&mut rig, &a, nowhere, &[0; 6]);
    assert_eq!(*sense(&outcome), Sense::illegal_request(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED));
    let (outcome, data) = execute(&mut rig, &a, nowhere, &[0x03, 0, 0, 0, 252, 0]);
    assert_eq!(outcome.status, Status::GOOD);
    assert_eq!((data[2] & 0xf, data[12]), (0x05, 0x25));
    let (_, luns) = execute(&mut rig, &a, nowhere, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(luns, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_well_known_unit_reports_the_luns() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let well_known = Lun::REPORT_LUNS_WLUN;
    let (_, inquiry) = execute(&mut rig, &a, well_known, &[0x12, 0, 0, 0, 36, 0]);
    assert_eq!(inquiry[0], 0x1e);
    let (_, luns) = execute(&mut rig, &a, well_known, &[0xa0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(luns[3], 16);
    assert_eq!(luns[16..18], [0xc1, 0x01]);
    let (outcome, _) = execute(&mut rig, &a, well_known, &[0; 6]);
    assert_eq!(outcome.status, Status::GOOD);
}

#[test]
fn a_unit_attention_waits_for_a_command_that_reports_it() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let lun = Lun::from_index(0);
    rig.unit.establish_attention(AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
    let (outcome, _) = execute(&mut rig, &a, lun, &[0x12, 0, 0, 0, 36, 0]);
    assert_eq!(outcome.status, Status::GOOD, "INQUIRY leaves it");
    let (outcome, _) = execute(&mut rig, &a, lun, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(outcome.status, Status::GOOD, "REPORT LUNS leaves it");
    let (outcome, _) = execute(&mut rig, &a, lun, &[0; 6]);
    assert_eq!(*sense(&outcome), Sense::unit_attention(AdditionalSense::CAPACITY_DATA_HAS_CHANGED));
    let (outcome, _) = execute(&mut rig, &a, lun, &[0; 6]);
    assert_eq!(outcome.status, Status::GOOD, "and it is gone");

    rig.unit.establish_attention(AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
    let (_, data) = execute(&mut rig, &a, lun, &[0x03, 1, 0, 0, 252, 0]);
    assert_eq!(data[..4], [0x72, SenseKey::UNIT_ATTENTION.0, 0x2a, 0x09]);
    let (outcome, _) = execute(&mut rig, &a, lun, &[0; 6]);
    assert_eq!(outcome.status, Status::GOOD, "REQUEST SENSE takes it");
}

#[test]
fn a_nexus_keeps_what_is_pending_when_its_sessions_end() {
    let mut rig = Rig::new(2);
    let nexus = Nexus::new("guest", rig.port.clone());
    let lun = Lun::from_index(0);
    let first = rig.open(&nexus, 0);
    first.session.close(1000, rig.sim.cx(0));
    rig.sim.settle();
    drop(first);
    rig.unit.establish_attention(AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
    let second = rig.session(&nexus, 1);
    let (outcome, _) = execute(&mut rig, &second, lun, &[0; 6]);
    assert_eq!(*sense(&outcome), Sense::unit_attention(AdditionalSense::CAPACITY_DATA_HAS_CHANGED));
    let (outcome, _) = execute(&mut rig, &second, lun, &[0; 6]);
    assert_eq!(outcome.status, Status::GOOD, "no power on is made up");
    let units = Arc::downgrade(&rig.unit);
    drop((second, nexus));
    drop(rig);
    assert_eq!(units.strong_count(), 0, "nobody keeps the other in a circle");
}

/// LUNs and conditions in the order in which they were told.
#[derive(Default)]
struct Told(Mutex<Vec<(u32, AdditionalSense)>>);

impl AttentionObserver for Told {
    fn attention(&self, _: &LogicalUnit, lun: u32, condition: AdditionalSense) {
        self.0.lock().unwrap().push((lun, condition));
    }

    fn inventory_changed(&self, _: &Inventory, _: &[InventoryChange]) {}
}

#[test]
fn an_observer_is_told_of_what_others_did_at_every_place_where_the_unit_is_seen() {
    let mut rig = Rig::new(1);
    let other = LogicalUnit::new("b", rig.unit.identity.clone(), Box::new(Toy), None);
    let units = BTreeMap::from([(0, rig.unit.clone()), (1, other), (7, rig.unit.clone())]);
    rig.port = TargetPort::new("toy,t,0x0001", 1, Protocol::ISCSI, units);
    let told = Arc::new(Told::default());
    let nexus = Nexus::observed("guest", rig.port.clone(), told.clone());
    let taken = || std::mem::take(&mut *told.0.lock().unwrap());
    let (reset, change) =
        (AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED, AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
    rig.unit.establish_attention(change, None);
    assert_eq!(taken(), [], "it has not met the unit");
    nexus.meet(Lun::from_index(7));
    let (a, b) = (rig.session(&nexus, 0), rig.initiator(0));
    rig.unit.establish_attention(change, Some(a.session.nexus()));
    rig.manage(&a, TaskManagementFunction::LogicalUnitReset, 0);
    rig.manage(&a, TaskManagementFunction::ITNexusReset, 0);
    rig.sim.settle();
    assert_eq!(taken(), [], "it did that itself");
    rig.manage(&b, TaskManagementFunction::LogicalUnitReset, 0);
    rig.unit.establish_attention(change, None);
    assert_eq!(taken(), [(0, reset), (7, reset), (0, change), (7, change)]);
}

#[test]
fn report_luns_takes_the_attention_that_asks_for_it() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.unit.establish_attention(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED, None);
    execute(&mut rig, &a, Lun::from_index(0), &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    let (outcome, _) = execute(&mut rig, &a, Lun::from_index(0), &[0; 6]);
    assert_eq!(outcome.status, Status::GOOD);
}

#[test]
fn changed_luns_are_told_of_once() {
    let mut rig = Rig::new(1);
    let other = LogicalUnit::new("b", rig.unit.identity.clone(), Box::new(Toy), None);
    let units = BTreeMap::from([(0, rig.unit.clone()), (1, other.clone())]);
    rig.port = TargetPort::new("toy,t,0x0001", 1, Protocol::ISCSI, units);
    let a = rig.initiator(0);
    let ready = |rig: &mut Rig, lun| {
        let outcome = execute(rig, &a, Lun::from_index(lun), &[0; 6]).0;
        outcome.sense.map(|sense| sense.additional)
    };
    assert_eq!(ready(&mut rig, 1), Some(AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED));
    for unit in [&rig.unit, &other] {
        unit.establish_attention(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED, None);
    }
    assert_eq!(ready(&mut rig, 0), Some(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED));
    assert_eq!((ready(&mut rig, 1), ready(&mut rig, 0)), (None, None));
}

#[test]
fn reserved_bits_and_unknown_commands_are_pointed_at() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let lun = Lun::from_index(0);
    let (outcome, _) = execute(&mut rig, &a, lun, &[0x00, 0, 0, 0x10, 0, 0]);
    assert_eq!(*sense(&outcome), Sense::invalid_field_in_cdb(3, Some(4)));
    let (outcome, _) = execute(&mut rig, &a, lun, &[0xc7, 0, 0, 0, 0, 0]);
    assert_eq!(*sense(&outcome), Sense::illegal_request(AdditionalSense::INVALID_COMMAND_OPERATION_CODE));
    let (outcome, _) = execute(&mut rig, &a, lun, &[0x00, 0, 0]);
    assert_eq!(sense(&outcome).additional, AdditionalSense::INVALID_FIELD_IN_CDB);
}

#[test]
fn units_with_the_same_commands_share_their_table() {
    let unit = |filter: &CommandFilter| {
        let identity = Identity::new("1", lunette_scsi::Naa::locally_assigned(1));
        LogicalUnit::filtered("toy", identity, Box::new(Toy), None, filter)
    };
    let (all, fewer) = (CommandFilter::default(), "deny:log-sense".parse().unwrap());
    let [a, b, c] = [&all, &all, &fewer].map(unit);
    assert!(std::ptr::eq(a.commands(), b.commands()));
    assert!(!std::ptr::eq(a.commands(), c.commands()));
    assert_eq!([&a, &c].map(|unit| unit.commands().rows_of(0x4d).len()), [1, 0]);
}
