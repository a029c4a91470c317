//! Units that live on some reactors only.

use super::*;
use crate::Aborted;
use TaskManagementFunction as Function;

const COMPLETE: Event = Event::Managed(1000, ServiceResponse::FunctionComplete);

/// A nexus on two reactors, and a unit that lives on the second.
fn rig() -> (Rig, Initiator, Initiator) {
    let mut rig = Rig::new(2);
    rig.unit.live_on([ReactorId(1)]);
    let nexus = Nexus::new("guest", rig.port.clone());
    let (away, home) = (rig.session(&nexus, 0), rig.open(&nexus, 1));
    (rig, away, home)
}

#[test]
fn a_command_from_elsewhere_is_executed_where_the_unit_lives() {
    let (mut rig, away, home) = rig();
    rig.read(&away, 1, "simple");
    rig.read(&home, 2, "simple");
    assert_eq!(rig.at_store(), 2);
    assert_eq!(rig.held(), [0, 2]);
    rig.complete_all();
    assert_eq!((away.good(), home.good()), (vec![1], vec![2]));
}

#[test]
fn an_answer_without_io_comes_back_as_well() {
    let (mut rig, away, _) = rig();
    assert_eq!(rig.send(&away, 1, "simple", spc(Opcode::INQUIRY)), None);
    rig.sim.settle();
    assert_eq!(away.good(), [1]);
}

fn spc(opcode: Opcode) -> &'static CommandSpec {
    let mut commands = crate::spc::COMMANDS.iter().map(|command| &command.spec);
    commands.find(|spec| spec.opcode == opcode).unwrap()
}

#[test]
fn what_is_away_and_has_not_begun_is_turned_back() {
    let (mut rig, away, home) = rig();
    rig.read(&away, 1, "simple");
    rig.read(&away, 2, "ordered");
    rig.sim.settle();
    rig.read(&home, 3, "simple");
    assert_eq!(rig.at_store(), 1);
    away.session.turn_back(rig.sim.cx(0));
    rig.sim.settle();
    let busy = Completion::Ended(Outcome::status(lunette_scsi::Status::BUSY));
    assert_eq!(away.events(), [Event::Ended(2, busy)]);
    rig.complete_all();
    assert_eq!((away.good(), home.good()), (vec![1], vec![3]));
}

#[test]
fn ordered_waits_for_what_the_same_queue_sent_before() {
    let (mut rig, away, _) = rig();
    rig.read(&away, 1, "simple");
    rig.read(&away, 2, "ordered");
    rig.read(&away, 3, "simple");
    for tag in 1..=3 {
        assert_eq!(rig.at_store(), 1);
        rig.complete_one(Ok(1));
        assert_eq!(away.good().last(), Some(&tag));
    }
}

#[test]
fn a_reserve_that_is_still_on_its_way_ends_with_a_reset_of_its_nexus() {
    let (mut rig, away, _) = rig();
    let other = rig.initiator(1);
    // It takes the unit attention.
    rig.read(&away, 6, "simple");
    assert_eq!(rig.send(&away, 7, "simple", spc(Opcode::RESERVE_10)), None);
    rig.manage(&away, Function::ITNexusReset, 0);
    rig.sim.settle();
    assert_eq!(away.events().last(), Some(&COMPLETE));
    rig.read(&other, 8, "simple");
    rig.complete_all();
    assert_eq!(other.good(), [8]);
}

#[test]
fn a_command_that_is_still_on_its_way_is_aborted() {
    let (mut rig, away, _) = rig();
    rig.read(&away, 7, "simple");
    rig.manage(&away, Function::AbortTask, 7);
    assert_eq!(rig.at_store(), 1);
    assert_eq!(away.events(), []);
    rig.complete_one(Ok(1));
    let events = away.events();
    assert!(events.contains(&Event::Ended(7, Completion::Aborted(Aborted::ByItsNexus))), "{events:?}");
    assert!(events.contains(&COMPLETE), "{events:?}");
}

#[test]
fn the_end_of_the_nexus_ends_its_commands_everywhere() {
    let (mut rig, away, home) = rig();
    rig.read(&away, 7, "simple");
    assert_eq!(rig.at_store(), 1);
    home.session.close(1000, rig.sim.cx(1));
    assert_eq!(rig.at_store(), 1);
    assert_eq!(home.events(), []);
    rig.complete_one(Ok(1));
    assert_eq!(home.events(), [COMPLETE]);
    assert_eq!(away.events(), [Event::Ended(7, Completion::Aborted(Aborted::NexusLost))]);
}

#[test]
fn the_end_of_the_nexus_overtakes_commands_on_their_way() {
    let mut rig = Rig::new(3);
    rig.unit.live_on([ReactorId(1)]);
    let nexus = Nexus::new("guest", rig.port.clone());
    let (away, closing) = (rig.session(&nexus, 0), rig.open(&nexus, 2));
    closing.session.close(1000, rig.sim.cx(2));
    while rig.sim.step(1) {}
    // Reactor 0 has not heard of it.
    rig.read(&away, 7, "simple");
    assert_eq!(rig.at_store(), 0);
    assert_eq!(away.events(), [Event::Ended(7, Completion::Aborted(Aborted::NexusLost))]);
    assert_eq!(closing.events(), [COMPLETE]);
    let again = rig.session(&nexus, 0);
    rig.read(&again, 8, "simple");
    assert_eq!(rig.at_store(), 1);
    rig.complete_all();
    assert_eq!(again.good(), [8]);
}

#[test]
fn a_transport_that_is_gone_is_not_answered() {
    let (mut rig, away, _) = rig();
    rig.read(&away, 1, "simple");
    drop(away);
    rig.complete_all();
    assert_eq!(rig.at_store(), 0);
}

#[test]
fn without_all_its_data_a_command_stays() {
    let (mut rig, away, _) = rig();
    let mut cdb = [0; 10];
    cdb[0] = READ.spec.opcode.0;
    let cdb = Cdb::new(&cdb).unwrap();
    let frame = CommandFrame { cookie: 5, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    let Admission::Admitted { task, .. } = away.session.admit(&frame, rig.sim.cx(0)) else { panic!() };
    let started = away.session.start(task, Sg::empty(), Sg::new(&[away.memory.seg()]), rig.sim.cx(0));
    assert!(matches!(started, Started::Pending));
    assert_eq!(rig.at_store(), 1);
    assert_eq!(rig.held(), [1, 0]);
    rig.complete_all();
    assert_eq!(away.good(), [5]);
}
