use super::*;
use crate::Aborted;
use TaskManagementFunction as Function;
use lunette_scsi::AdditionalSense;
use lunette_store::IoError;

const COMPLETE: Event = Event::Managed(1000, ServiceResponse::FunctionComplete);

fn aborted(tag: u64, why: Aborted) -> Event {
    Event::Ended(tag, Completion::Aborted(why))
}

#[test]
fn abort_task_is_answered_when_the_store_has_let_go() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.read(&a, 1, "simple");
    rig.read(&a, 2, "simple");
    rig.manage(&a, Function::AbortTask, 1);
    assert_eq!(rig.at_store(), 2);
    assert_eq!(a.events(), []);
    rig.complete_one(Ok(1));
    assert_eq!(a.events(), [aborted(1, Aborted::ByItsNexus), COMPLETE]);
    rig.complete_all();
    assert_eq!(a.good(), [2]);
}

#[test]
fn abort_task_reaches_the_queues_of_other_reactors() {
    let mut rig = Rig::new(3);
    let nexus = Nexus::new("guest", rig.port.clone());
    let (control, queue) = (rig.open(&nexus, 0), rig.open(&nexus, 2));
    rig.read(&queue, 7, "simple");
    rig.manage(&control, Function::AbortTask, 7);
    assert_eq!(rig.at_store(), 1);
    assert_eq!(control.events(), []);
    rig.complete_one(Err(IoError::Os(5)));
    assert_eq!(queue.events(), [aborted(7, Aborted::ByItsNexus)]);
    assert_eq!(control.events(), [COMPLETE]);
}

#[test]
fn aborting_what_is_not_there_is_complete() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.read(&b, 1, "simple");
    rig.manage(&a, Function::AbortTask, 1);
    assert_eq!(rig.at_store(), 1);
    assert_eq!(a.events(), [COMPLETE]);
    rig.complete_all();
    assert_eq!(b.good(), [1], "another nexus's task with the same tag");
}

#[test]
fn a_dormant_task_is_aborted_at_once() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.read(&a, 1, "simple");
    rig.read(&a, 2, "ordered");
    rig.read(&a, 3, "simple");
    rig.manage(&a, Function::AbortTask, 2);
    assert_eq!(rig.at_store(), 2, "task 3 no longer waits for the ordered one");
    assert_eq!(a.events(), [aborted(2, Aborted::ByItsNexus), COMPLETE]);
    rig.complete_all();
    assert_eq!(a.good(), [1, 3]);
}

#[test]
fn a_task_that_waits_for_data_is_aborted_at_once() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let cdb = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let frame = CommandFrame { tag: 1, cookie: 1, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    let Admission::Admitted { task, .. } = a.session.admit(&frame, rig.sim.cx(0)) else { panic!() };
    rig.manage(&a, Function::AbortTaskSet, 0);
    rig.sim.settle();
    assert_eq!(a.events(), [aborted(1, Aborted::ByItsNexus), COMPLETE]);
    assert!(matches!(a.session.start(task, Sg::empty(), Sg::empty(), rig.sim.cx(0)), Started::Pending));
    assert_eq!(rig.at_store(), 0);
}

#[test]
fn a_command_of_several_steps_stops_at_its_next_step() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    assert_eq!(rig.send(&a, 1, "simple", &TWO_STEPS.spec), None);
    rig.manage(&a, Function::AbortTask, 1);
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Ok(1));
    assert_eq!(rig.at_store(), 0);
    assert_eq!(a.events(), [aborted(1, Aborted::ByItsNexus), COMPLETE]);

    assert_eq!(rig.send(&a, 2, "simple", &TWO_STEPS.spec), None);
    rig.complete_one(Ok(1));
    rig.complete_one(Ok(1));
    assert_eq!(a.good(), [2]);
}

#[test]
fn clear_task_set_tells_the_other_nexus() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.read(&a, 1, "simple");
    rig.read(&b, 2, "simple");
    rig.manage(&a, Function::ClearTaskSet, 0);
    rig.complete_all();
    assert_eq!(a.events(), [aborted(1, Aborted::ByItsNexus), COMPLETE]);
    assert_eq!(b.events(), [aborted(2, Aborted::ByAnotherNexus)]);
    let sense = rig.send(&b, 3, "simple", &READ.spec).unwrap().sense.unwrap();
    assert_eq!(sense.additional, AdditionalSense::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR);
    rig.read(&a, 4, "simple");
}

#[test]
fn a_logical_unit_reset_aborts_everything_and_every_nexus_learns_of_it() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.read(&b, 2, "simple");
    rig.manage(&a, Function::LogicalUnitReset, 0);
    assert_eq!(rig.at_store(), 1);
    assert_eq!(a.events(), []);
    rig.complete_one(Ok(1));
    assert_eq!(a.events(), [COMPLETE]);
    assert_eq!(b.events(), [aborted(2, Aborted::ByReset)]);
    for initiator in [&a, &b] {
        let sense = rig.send(initiator, 3, "simple", &READ.spec).unwrap().sense.unwrap();
        assert_eq!(sense.additional, AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
        rig.read(initiator, 4, "simple");
    }
}

#[test]
fn query_task_says_whether_it_is_there() {
    let mut rig = Rig::new(2);
    let nexus = Nexus::new("guest", rig.port.clone());
    let (control, queue) = (rig.open(&nexus, 0), rig.open(&nexus, 1));
    rig.read(&queue, 7, "simple");
    let mut ask = |function, tag| {
        rig.manage(&control, function, tag);
        rig.sim.settle();
        control.events().pop()
    };
    let yes = Some(Event::Managed(1000, ServiceResponse::FunctionSucceeded { additional: [0; 3] }));
    assert_eq!(ask(Function::QueryTask, 7), yes);
    assert_eq!(ask(Function::QueryTask, 8), Some(COMPLETE));
    assert_eq!(ask(Function::QueryTaskSet, 0), yes);
}

#[test]
fn the_end_of_a_nexus_waits_for_its_memory() {
    let mut rig = Rig::new(2);
    let nexus = Nexus::new("guest", rig.port.clone());
    let (control, queue) = (rig.open(&nexus, 0), rig.open(&nexus, 1));
    rig.read(&queue, 1, "simple");
    control.session.close(1000, rig.sim.cx(0));
    assert_eq!(rig.at_store(), 1);
    assert_eq!(control.events(), []);
    rig.complete_one(Ok(1));
    assert_eq!(control.events(), [COMPLETE]);
    assert_eq!(queue.events(), [aborted(1, Aborted::NexusLost)]);
}

#[test]
fn functions_for_a_missing_unit_are_refused() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let management = Management { function: Function::LogicalUnitReset, lun: Lun::from_index(5), tag: 0 };
    a.session.manage(&management, 1000, rig.sim.cx(0));
    rig.sim.settle();
    assert_eq!(a.events(), [Event::Managed(1000, ServiceResponse::IncorrectLogicalUnitNumber)]);
}

#[test]
fn a_target_reset_reaches_every_unit_in_whatever_order_they_were_made() {
    let mut rig = Rig::new(2);
    let unit = || {
        let backing = Some(Arc::new(held::Held::new(1 << 20, ROOM)) as Arc<dyn lunette_store::Backing>);
        LogicalUnit::new("toy", Identity::new("1", Naa::locally_assigned(1)), Box::new(Toy), backing)
    };
    let (first, last) = (rig.unit.clone(), unit());
    let units = BTreeMap::from([(0, last), (1, first), (2, unit())]);
    rig.port = TargetPort::new("toy,t,0x0001", 1, Protocol::ISCSI, units);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    let cdb = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    for lun in 0..3 {
        for tag in [10, 20] {
            let frame = CommandFrame {
                tag: tag + lun,
                cookie: tag + lun,
                ..CommandFrame::new(Lun::from_index(lun as u32), &cdb)
            };
            a.session.execute(&frame, Sg::empty(), Sg::new(&[a.memory.seg()]), rig.sim.cx(0));
        }
    }
    assert!(rig.at_store() >= 3);
    a.events();
    rig.manage(&b, Function::TargetWarmReset, 0);
    rig.complete_all();
    let events = a.events();
    assert!(
        events.len() >= 3
            && events
                .iter()
                .all(|event| { matches!(event, Event::Ended(_, Completion::Aborted(Aborted::ByReset))) }),
        "{events:?}"
    );
    assert_eq!(b.events(), [COMPLETE]);
}
