use super::*;
use crate::Run;
use TaskManagementFunction as Function;
use lunette_scsi::{AdditionalSense, Sense};
use lunette_store::IoError;
use std::collections::HashMap;

/// Reads byte 0, to which it has a claim; again if that fails, and then refuses it to all others.
pub(super) static CLAIM: Command<Toy> = Command {
    spec: CommandSpec::new(Opcode::COMPARE_AND_WRITE, &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0], Direction::None),
    decode: |_, _| Ok(Plan::run(0, claim)),
};

async fn claim(run: Run) -> Result<(), Sense> {
    let range = run.claim(0..1).await?;
    let memory = Rc::new(Memory::zeroed(1));
    if run.read(0, &memory, 1).await.is_ok() {
        return Ok(());
    }
    range.refuse_others(Sense::not_ready(REFUSED));
    run.read(0, &memory, 1).await.map(drop).map_err(|error| crate::sense_of(IoKind::Read, error))
}

const REFUSED: AdditionalSense = AdditionalSense::LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY;

fn claim_by(rig: &mut Rig, from: &Initiator, tag: u64) {
    assert_eq!(rig.send(from, tag, "simple", &CLAIM.spec), None);
}

/// A rig whose unit has seen a claim.
fn after_a_claim() -> (Rig, Initiator, Initiator) {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    claim_by(&mut rig, &a, 0);
    rig.complete_all();
    assert_eq!(a.good(), [0]);
    (rig, a, b)
}

#[test]
fn the_first_claim_waits_for_what_was_begun_before_on_any_reactor() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.read(&a, 1, "simple");
    rig.read(&b, 2, "simple");
    claim_by(&mut rig, &a, 3);
    // Another first claim, and one that comes after the gates have closed.
    claim_by(&mut rig, &b, 4);
    assert_eq!(rig.at_store(), 2);
    rig.read(&b, 5, "simple");
    assert_eq!(rig.at_store(), 3, "no claim stands yet");
    rig.complete_one(Ok(1));
    rig.complete_one(Ok(1));
    assert_eq!((a.good(), b.good(), rig.at_store()), (vec![1], vec![2], 1));
    for good in [(vec![], vec![5]), (vec![3], vec![]), (vec![], vec![4])] {
        rig.complete_one(Ok(1));
        assert_eq!((a.good(), b.good()), good);
    }
}

#[test]
fn reads_share_and_wait_behind_older_claims() {
    let (mut rig, a, b) = after_a_claim();
    rig.read(&a, 1, "simple");
    rig.read(&b, 2, "simple");
    assert_eq!(rig.at_store(), 2);
    claim_by(&mut rig, &b, 3);
    rig.read(&a, 4, "simple");
    rig.read(&b, 5, "simple");
    claim_by(&mut rig, &a, 6);
    assert_eq!(rig.at_store(), 2, "what came before the first claim");
    rig.complete_one(Ok(1));
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Ok(1));
    assert_eq!((a.good(), b.good(), rig.at_store()), (vec![1], vec![2], 1));
    rig.complete_one(Ok(1));
    assert_eq!((b.good(), rig.at_store()), (vec![3], 2));
    rig.complete_all();
    assert_eq!((a.good(), b.good()), (vec![4, 6], vec![5]));
}

#[test]
fn who_has_a_claim_can_refuse_it_to_others() {
    let (mut rig, a, b) = after_a_claim();
    claim_by(&mut rig, &a, 1);
    rig.read(&b, 2, "simple");
    claim_by(&mut rig, &b, 3);
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Err(IoError::Os(5)));
    let late = rig.send(&b, 4, "simple", &READ.spec).unwrap();
    assert_eq!((late.sense.unwrap().additional, rig.at_store()), (REFUSED, 1));
    let refused = |event| match event {
        Event::Ended(tag, Completion::Ended(outcome)) => (tag, outcome.sense.unwrap().additional),
        other => panic!("{other:?}"),
    };
    let events: HashMap<_, _> = b.events().into_iter().map(refused).collect();
    assert_eq!(events, HashMap::from([(2, REFUSED), (3, REFUSED)]));
    rig.complete_one(Ok(1));
    assert_eq!(a.good(), [1]);
    rig.read(&b, 5, "simple");
    rig.complete_all();
    assert_eq!(b.good(), [5]);
}

#[test]
fn one_who_is_aborted_gives_up_its_place() {
    let (mut rig, a, b) = after_a_claim();
    rig.read(&a, 1, "simple");
    claim_by(&mut rig, &b, 2);
    rig.read(&a, 3, "simple");
    assert_eq!(rig.at_store(), 1);
    rig.manage(&b, Function::AbortTask, 2);
    assert_eq!(rig.at_store(), 2);
    let complete = Event::Managed(1000, ServiceResponse::FunctionComplete);
    assert_eq!(b.events(), [Event::Ended(2, Completion::Aborted(crate::Aborted::ByItsNexus)), complete]);
    rig.complete_all();
    assert_eq!(a.good(), [1, 3]);
}

#[test]
fn one_that_has_to_wait_for_its_data_is_planned_again() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    let cdb = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let frame = CommandFrame { tag: 1, cookie: 1, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    let Admission::Admitted { task, .. } = a.session.admit(&frame, rig.sim.cx(0)) else { panic!() };
    claim_by(&mut rig, &b, 2);
    assert_eq!(rig.at_store(), 1, "the claim waits for no initiator");
    let into = [a.memory.seg()];
    assert!(matches!(a.session.start(task, Sg::empty(), Sg::new(&into), rig.sim.cx(0)), Started::Pending));
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Ok(1));
    assert_eq!((b.good(), rig.at_store()), (vec![2], 1));
    rig.complete_one(Ok(1));
    assert_eq!(a.good(), [1]);
}

#[test]
fn a_nexus_that_comes_later_heeds_claims_too() {
    let (mut rig, a, _) = after_a_claim();
    claim_by(&mut rig, &a, 1);
    let late = Nexus::new("late", rig.port.clone());
    let late = rig.session(&late, 1);
    assert!(rig.send(&late, 0, "simple", &READ.spec).is_some(), "a unit attention");
    rig.read(&late, 2, "simple");
    assert_eq!(rig.at_store(), 1);
    rig.complete_all();
    assert_eq!((a.good(), late.good()), (vec![1], vec![2]));
}
