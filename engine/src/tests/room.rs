use super::*;
use lunette_scsi::Status;
use std::time::Duration;

#[test]
fn a_full_store_is_a_full_task_set() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    for tag in 0..ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    let outcome = rig.send(&a, 100, "simple", &READ.spec).unwrap();
    assert_eq!((outcome.status, outcome.sense), (Status::TASK_SET_FULL, None));
    rig.complete_one(Ok(1));
    rig.read(&a, 101, "simple");
}

#[test]
fn a_command_of_several_steps_offers_its_step_again() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    for tag in 0..ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    assert_eq!(rig.send(&a, 100, "simple", &TWO_STEPS.spec), None);
    rig.sim.advance(Duration::from_millis(1));
    assert_eq!(rig.at_store(), ROOM, "still no room");
    rig.complete_one(Ok(1));
    assert_eq!(rig.at_store(), ROOM - 1);
    rig.sim.advance(Duration::from_millis(1));
    assert_eq!(rig.at_store(), ROOM, "the first step");
    rig.complete_all();
    assert_eq!(a.good().len(), ROOM + 1);
}

#[test]
fn a_command_that_waits_for_room_can_be_aborted() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    for tag in 0..ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    assert_eq!(rig.send(&a, 100, "simple", &TWO_STEPS.spec), None);
    rig.manage(&a, TaskManagementFunction::AbortTask, 100);
    rig.sim.advance(Duration::from_millis(1));
    assert_eq!(rig.at_store(), ROOM);
    let aborted = Event::Ended(100, Completion::Aborted(crate::Aborted::ByItsNexus));
    assert_eq!(a.events(), [aborted, Event::Managed(1000, ServiceResponse::FunctionComplete)]);
}
